"""The process dies at any moment: what HEAD then says is there, is right, and the upload can be finished."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import random
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tusd.testing.server import ServerProcess

from .files import MIB, downloaded_sha256, offset, random_file, sha256

Start = Callable[..., ServerProcess]
TUS = {"Tus-Resumable": "1.0.0"}
BODY = {**TUS, "Content-Type": "application/offset+octet-stream"}


def create(server: ServerProcess, length: int) -> str:
    """A new upload's URL."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    connection.request("POST", server.base_path, headers={**TUS, "Upload-Length": str(length)})
    response = connection.getresponse()
    response.read()
    connection.close()
    assert response.status == 201
    url = response.headers["Location"]
    assert url
    return url


def send(url: str, data: bytes, at: int, headers: dict[str, str] | None = None, pace: float = 0) -> int | None:
    """PATCH the rest of `data`; the status, or None when the server went away."""
    parts = urlsplit(url)
    lines = [f"PATCH {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Upload-Offset: {at}", f"Content-Length: {len(data) - at}"]
    lines += [f"{name}: {value}" for name, value in {**BODY, **(headers or {})}.items()]
    with contextlib.suppress(OSError), socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        for start in range(at, len(data), 256 * 1024):
            connection.sendall(data[start : min(len(data), start + 256 * 1024)])
            time.sleep(pace)
        answer = connection.recv(65536)
        return int(answer.split()[1]) if answer else None
    return None


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_again_and_again_in_mid_upload(tusd_server: Start, tmp_path: Path, workers: int) -> None:
    server = tusd_server({"server": {"workers": workers}})
    file = random_file(tmp_path / "file", 40 * MIB)
    data = file.read_bytes()
    url = create(server, len(data))
    at, kills, dice = 0, 0, random.Random(workers)
    while at < len(data):
        killer = threading.Timer(dice.uniform(0.02, 0.2), server.kill) if kills < 6 else None
        if killer:
            killer.start()
        send(url, data, at, pace=0.01)
        if killer:
            killer.join()
            kills += 1
            server.start()
        now = offset(url)
        assert at <= now <= len(data), "an acknowledged byte was lost"
        on_disk = server.directory / "data" / urlsplit(url).path.rpartition("/")[2]
        assert on_disk.read_bytes() == data[:now]
        at = now
    assert kills == 6
    assert downloaded_sha256(url) == sha256(file)


def test_killed_while_a_body_with_a_checksum_runs(tusd_server: Start) -> None:
    """Nothing of a body counts whose checksum was never compared."""
    server = tusd_server()
    data = random.Random(1).randbytes(8 * MIB)
    url = create(server, len(data))
    first = data[: 2 * MIB]
    digest = base64.b64encode(hashlib.sha1(first, usedforsecurity=False).digest()).decode()
    assert send(url, first, 0, {"Upload-Checksum": f"sha1 {digest}"}) == 204
    whole = base64.b64encode(hashlib.sha256(data[2 * MIB :]).digest()).decode()
    killer = threading.Timer(0.15, server.kill)
    killer.start()
    assert send(url, data, 2 * MIB, {"Upload-Checksum": f"sha256 {whole}"}, pace=0.02) is None
    killer.join()
    on_disk = server.directory / "data" / urlsplit(url).path.rpartition("/")[2]
    assert on_disk.stat().st_size > 2 * MIB, "the kill came too early to prove anything"
    server.start()
    assert offset(url) == 2 * MIB
    assert send(url, data, 2 * MIB, {"Upload-Checksum": f"sha256 {whole}"}) == 204
    assert downloaded_sha256(url) == hashlib.sha256(data).hexdigest()


def test_a_large_upload(tusd_server: Start, tmp_path: Path) -> None:
    server, file = tusd_server(), random_file(tmp_path / "file", 300 * MIB)
    url = create(server, 300 * MIB)
    assert send(url, file.read_bytes(), 0) == 204
    assert downloaded_sha256(url) == sha256(file)
