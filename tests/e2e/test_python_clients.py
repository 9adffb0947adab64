"""tuspy and aiotus."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import aiotus
import pytest
from tusclient.client import TusClient

from tusd.testing.server import ServerProcess

from .files import MIB, downloaded_sha256, offset, random_file, sha256

Start = Callable[..., ServerProcess]


@pytest.mark.parametrize("size", [1, MIB, 5 * MIB + 1])
def test_tuspy_uploads_with_checksums(tusd_server: Start, tmp_path: Path, size: int) -> None:
    server, file = tusd_server(), random_file(tmp_path / "file", size)
    with file.open("rb") as source:
        uploader = TusClient(server.url).uploader(
            file_stream=source, chunk_size=MIB, metadata={"filename": "ünï"}, upload_checksum=True
        )
        uploader.upload()
    assert uploader.url
    assert downloaded_sha256(uploader.url) == sha256(file)


def test_tuspy_resumes_after_the_server_was_killed(tusd_server: Start, tmp_path: Path) -> None:
    server, file = tusd_server(), random_file(tmp_path / "file", 6 * MIB)
    with file.open("rb") as source:
        uploader = TusClient(server.url).uploader(file_stream=source, chunk_size=MIB)
        uploader.upload(stop_at=3 * MIB)
    url = uploader.url
    assert url
    server.kill()
    server.start()
    with file.open("rb") as source:
        again = TusClient(server.url).uploader(file_stream=source, url=url, chunk_size=MIB)
        assert again.offset == 3 * MIB
        again.upload()
    assert downloaded_sha256(url) == sha256(file)


async def test_aiotus_uploads_and_reads_back_metadata(tusd_server: Start, tmp_path: Path) -> None:
    server, file = tusd_server(), random_file(tmp_path / "file", 3 * MIB + 1)
    with file.open("rb") as source:
        url = await aiotus.upload(server.url, source, {"filename": "ünï.bin".encode(), "binary": b"\xff\x00"}, chunksize=MIB // 2)
    assert url is not None
    assert await asyncio.to_thread(downloaded_sha256, str(url)) == sha256(file)
    found = await aiotus.metadata(url)
    assert found is not None
    assert dict(found) == {"filename": "ünï.bin".encode(), "binary": b"\xff\x00"}


async def test_aiotus_concatenates(tusd_server: Start) -> None:
    server = tusd_server()
    parts = [bytes([n]) * (MIB + n) for n in range(3)]
    url = await aiotus.upload_multiple(server.url, [io.BytesIO(part) for part in parts], {"filename": b"all"}, chunksize=MIB // 2)
    assert url is not None
    assert await asyncio.to_thread(downloaded_sha256, str(url)) == hashlib.sha256(b"".join(parts)).hexdigest()


def test_many_uploads_at_once(tusd_server: Start, tmp_path: Path) -> None:
    """200 uploads, all in flight at the same time, of different lengths."""
    server = tusd_server()

    async def main() -> None:
        datas = [hashlib.sha256(str(n).encode()).digest() * (4096 + n) for n in range(200)]
        urls = await asyncio.gather(
            *(
                aiotus.upload(server.url, io.BytesIO(data), {"n": str(n).encode()}, chunksize=50_000)
                for n, data in enumerate(datas)
            )
        )
        for data, url in zip(datas, urls, strict=True):
            assert url is not None
            assert offset(str(url)) == len(data)
            assert downloaded_sha256(str(url)) == hashlib.sha256(data).hexdigest()

    asyncio.run(main())
