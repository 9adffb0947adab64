"""A disk that makes writers wait holds up its own upload and no other."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest

from tusd.web.writing import Writer

from .conftest import Serve
from .raw import patch, request

MIB = 1 << 20


class SlowDisk:
    """Makes writes to one file wait; counts those that were made on the event loop's thread and on others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, pause: float) -> None:
        self.threads: list[str] = []
        self.waiting = threading.Event()
        self._pwrite = os.pwrite
        self._name = name
        self.pause = pause
        monkeypatch.setattr("tusd.web.writing.os.pwrite", self)

    def __call__(self, fd: int, piece: memoryview, offset: int) -> int:
        if os.path.basename(os.readlink(f"/proc/self/fd/{fd}")) == self._name:
            self.threads.append(threading.current_thread().name)
            self.waiting.set()
            time.sleep(self.pause)
        return self._pwrite(fd, piece, offset)


pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to tell files apart")


@pytest.mark.parametrize("size", [3 * MIB, 200_000])
def test_other_uploads_go_on(serve: Serve, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    server = serve()
    body = os.urandom(size)
    slow, other = server.create(size), server.create(10)
    disk = SlowDisk(monkeypatch, slow.rpartition("/")[2], 0.2)
    with server.connect() as writing, server.connect() as asking:
        sending = threading.Thread(target=writing.send, args=(patch(slow, 0, body),))
        sending.start()
        assert disk.waiting.wait(5)
        asking.ask(request("HEAD", other))  # the first write is made by the event loop: nobody knew yet
        waits = []
        while len(server.stored(slow)) < size:
            began = time.monotonic()
            assert asking.ask(request("HEAD", other)).status == 200
            waits.append(time.monotonic() - began)
        sending.join()
        assert writing.answer().status == 204
    assert server.stored(slow) == body
    if size > MIB:
        assert len(disk.threads) > 3
        assert max(waits) < 0.15, "a HEAD of another upload waited for the disk"
        assert [name for name in disk.threads if not name.startswith("write")] == ["server"]


def test_a_fast_disk_again_is_written_from_the_loop(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tusd.web.writing._PERIOD", 0.3)
    server = serve()
    body = os.urandom(8 * MIB)
    path = server.create(len(body))
    disk = SlowDisk(monkeypatch, path.rpartition("/")[2], 0.06)
    with server.connect() as connection:
        sending = threading.Thread(target=connection.send, args=(patch(path, 0, body)[: 4 * MIB],))
        sending.start()
        server.wait_for_offset(path, 3 * MIB, within=10)
        sending.join()
        disk.pause = 0
        time.sleep(0.5)
        slow = len(disk.threads)
        connection.send(patch(path, 0, body)[4 * MIB :])
        assert connection.answer().status == 204
    assert server.stored(path) == body
    assert disk.threads[slow + 2 :] == ["server"] * len(disk.threads[slow + 2 :])


async def test_who_is_cancelled_waits_for_the_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch, "file", 0.2)
    writer = Writer()
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        assert await writer.write(fd, memoryview(b"abc"), 0) == 3
        assert writer.slow
        task = asyncio.create_task(writer.write(fd, memoryview(b"def"), 3))
        async with asyncio.timeout(5):
            while len(disk.threads) < 2:  # noqa: ASYNC110  the thread cannot set an event of this loop
                await asyncio.sleep(0.01)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.01)
            assert not task.done()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert os.pread(fd, 10, 0) == b"abcdef"
    finally:
        writer.close()
        os.close(fd)


async def test_a_full_disk_is_told_from_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tusd.web.writing._LONG", 0.0)
    writer = Writer()
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    await writer.write(fd, memoryview(b"abc"), 0)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        await writer.write(fd, memoryview(b"def"), 3)
    writer.close()
