"""The file locker: the suite, and what it promises beyond it."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.needs import need

from tusd.builtin.file_locking import FileLocker, FileLocking
from tusd.errors import LockUnavailable, PluginError
from tusd.locking import Locker
from tusd.testing.door import Door, open_plugin
from tusd.testing.elsewhere import Elsewhere
from tusd.testing.faults import failing_call
from tusd.testing.locking import LockingSuite, cancel, hold, hold_for_ever, holding, open_files, stop_while_holding

LOGGER = logging.getLogger("tusd.test")


def contents(directory: Path) -> list[str]:
    """What is in a lock folder besides the pipes of those who use it."""
    return [name for name in os.listdir(directory) if not name.endswith(".fifo")]


class TestFileLocking(LockingSuite):
    plugin = FileLocking

    @pytest.fixture
    def options(self, tmp_path: Path) -> Mapping[str, object]:
        return {"directory": str(tmp_path / "locks")}

    async def left_behind(self, door: Door[Locker]) -> Sequence[object]:
        return contents(Path(str(door.options["directory"])))


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[FileLocker]:
    async with asyncio.timeout(20):
        locker = FileLocker(directory, LOGGER)
        try:
            yield locker
        finally:
            locker.close()


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory (tmpfs), where the system has such a place."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else tmp_path))
    yield folder
    shutil.rmtree(folder)


# --- in order, and fair


async def test_first_come_first_served(tmp_path: Path) -> None:
    async with opened(tmp_path) as locker:
        order = list[int]()

        async def take_a_turn(number: int) -> None:
            async with locker.lock("name", lambda: None):
                order.append(number)

        async with locker.lock("name", lambda: None):
            waiters = [asyncio.create_task(take_a_turn(number)) for number in range(50)]
            await asyncio.sleep(0)
            for number in (0, 10, 49):
                waiters[number].cancel()
        await asyncio.wait(waiters)
        assert order == [number for number in range(50) if number not in (0, 10, 49)]
        assert not locker.places


async def test_a_busy_process_leaves_turns_to_others(tmp_path: Path) -> None:
    async with opened(tmp_path) as busy, opened(tmp_path) as other:

        async def take_turns() -> None:
            while True:
                async with busy.lock("name", lambda: None):
                    await asyncio.sleep(0.001)

        tasks = [asyncio.create_task(take_turns()) for _ in range(20)]
        await asyncio.sleep(0.01)
        for _ in range(20):
            async with asyncio.timeout(0.5):
                await hold(other, "name")
        await cancel(*tasks)


async def test_a_stopped_holder_keeps_the_lock(tmp_path: Path) -> None:
    door: Door[Locker] = Door("locking", FileLocking, {"directory": str(tmp_path / "locks")}, tmp_path)
    async with opened(tmp_path / "locks") as locker, Elsewhere(door, stop_while_holding, "name", tmp_path / "pid") as other:
        await other.said("held")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await hold(locker, "name")
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGCONT)
        await hold(locker, "name")
        assert await other.result() is False


# --- messages that get lost


async def test_without_any_message_the_lock_is_had_soon(tmp_path: Path) -> None:
    async with opened(tmp_path) as one, opened(tmp_path) as other:
        for pipe in tmp_path.glob("*.fifo"):
            pipe.unlink()
        async with holding(one, "name") as wanted:
            waiter = asyncio.create_task(hold(other, "name"))
            await asyncio.sleep(0.15)
            assert not wanted.is_set()
        free = time.monotonic()
        await waiter
        assert time.monotonic() - free < 0.2


async def test_a_full_pipe_loses_messages_and_nothing_else(tmp_path: Path) -> None:
    async with opened(tmp_path) as one, opened(tmp_path) as other:
        for pipe in tmp_path.glob("*.fifo"):
            fd = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            with pytest.raises(BlockingIOError):
                while True:
                    os.write(fd, b"free " + b"0" * 32 + b"\n")
            os.close(fd)
        async with holding(one, "name") as wanted:
            waiter = asyncio.create_task(hold(other, "name"))
            async with asyncio.timeout(1):
                await wanted.wait()
        await waiter


async def test_nonsense_in_a_pipe_is_ignored(tmp_path: Path) -> None:
    async with opened(tmp_path) as locker:
        (pipe,) = tmp_path.glob("*.fifo")
        for nonsense in (b"\n", b"want\n", b"want a ../../b\n", b"free x y z\n", b"\xff\x00 \n", b"want half"):
            pipe.write_bytes(nonsense)
        await asyncio.sleep(0.01)
        await hold(locker, "name")
    assert os.listdir(tmp_path) == []


# --- what is in the folder


async def test_the_folder_is_empty_afterwards(tmp_path: Path) -> None:
    before = open_files()
    async with opened(tmp_path / "new" / "locks") as locker:
        assert [name[-5:] for name in os.listdir(tmp_path / "new" / "locks")] == [".fifo"]
        async with locker.lock("name", lambda: None):
            assert len(contents(tmp_path / "new" / "locks")) == 1
    assert os.listdir(tmp_path / "new" / "locks") == []
    assert open_files() == before


async def test_by_default_it_is_in_the_run_directory(tmp_path: Path) -> None:
    async with open_plugin("locking", FileLocking, {}, tmp_path) as locker:
        await hold(locker, "name")
        (pipe,) = tmp_path.rglob("*.fifo")
        assert pipe.parent.name == "locks"


async def test_what_dead_processes_left_is_removed_at_start(tmp_path: Path) -> None:
    (tmp_path / f"{'0' * 32}.lock").write_bytes(b"0123456789abcdef")
    os.mkfifo(tmp_path / "0123456789abcdef.fifo")
    os.mkfifo(tmp_path / "old.fifo.new")
    os.utime(tmp_path / "old.fifo.new", (0, 0))
    os.mkfifo(tmp_path / "young.fifo.new")  # a process that is just starting
    (tmp_path / "notes.txt").write_text("not ours")
    async with opened(tmp_path):
        assert sorted(contents(tmp_path)) == ["notes.txt", "young.fifo.new"]
        assert len(list(tmp_path.glob("*.fifo"))) == 1


async def test_a_start_disturbs_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path) as one, holding(one, "name") as wanted:
        async with opened(tmp_path) as other:
            await asyncio.sleep(0.05)
            assert not wanted.is_set()
            waiter = asyncio.create_task(hold(other, "name"))
            await asyncio.sleep(0.05)
            assert wanted.is_set() and not waiter.done()
            await cancel(waiter)


async def test_a_killed_process_leaves_its_file_to_the_next_holder(tmp_path: Path) -> None:
    door: Door[Locker] = Door("locking", FileLocking, {"directory": str(tmp_path / "locks")}, tmp_path)
    async with opened(tmp_path / "locks") as locker:
        async with Elsewhere(door, hold_for_ever, "name") as other:
            await other.said("held")
            waiter = asyncio.create_task(hold(locker, "name"))
            await other.said("wanted")
            await other.kill()
            killed = time.monotonic()
            await waiter
            assert time.monotonic() - killed < 0.5
        assert contents(tmp_path / "locks") == []
        async with opened(tmp_path / "locks"):
            assert len(os.listdir(tmp_path / "locks")) == 2, "the pipe of the killed process was left over a start"


async def test_tmpfs(memory_folder: Path) -> None:
    async with opened(memory_folder) as one, opened(memory_folder) as other:
        async with holding(one, "name") as wanted:
            waiter = asyncio.create_task(hold(other, "name"))
            await wanted.wait()
        await waiter
    assert os.listdir(memory_folder) == []


PID_1 = """
import asyncio, logging, os, sys
from pathlib import Path
from tusd.builtin.file_locking import FileLocker

async def main():
    assert os.getpid() == 1
    locker, wanted = FileLocker(Path(sys.argv[1]), logging.getLogger()), asyncio.Event()
    for _ in range(20):
        async with locker.lock("name", wanted.set):
            counter = Path(sys.argv[2])
            seen = int(counter.read_text())
            await asyncio.sleep(0.001)
            counter.write_text(str(seen + 1))
    locker.close()

asyncio.run(main())
"""


def test_every_process_has_pid_1(tmp_path: Path) -> None:
    """As in containers that share the folder."""
    unshare = [need("unshare", how="apt-get install util-linux"), "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("this system does not let users make process namespaces")
    (tmp_path / "counter").write_text("0")
    command = [*unshare, sys.executable, "-c", PID_1, str(tmp_path / "locks"), str(tmp_path / "counter")]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(30) for process in processes] == [0, 0, 0]
    assert (tmp_path / "counter").read_text() == "60"
    assert os.listdir(tmp_path / "locks") == []


# --- failures


async def test_a_folder_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PluginError, match=r"file/locks cannot hold locks: .*; name another one in locking\.directory"):
        async with open_plugin("locking", FileLocking, {"directory": str(tmp_path / "file" / "locks")}, tmp_path):
            pass


async def test_a_folder_removed_while_running(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(tmp_path / "locks") as locker:
        await locker.check()
        async with locker.lock("held", lambda: None) as lease:
            shutil.rmtree(tmp_path / "locks")
            lease.check()
        for failing in (hold(locker, "name"), locker.check()):
            with pytest.raises(LockUnavailable) as caught:
                await failing
            assert str(tmp_path) not in str(caught.value)
        assert "it was removed while the server ran: restart the server" in caplog.text and str(tmp_path) in caplog.text
        assert not locker.places


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EMFILE, errno.EIO])
async def test_any_call_fails(tmp_path: Path, code: int) -> None:
    """Whichever call of the system fails: the lock is had or `LockUnavailable` is raised, and nothing is held afterwards."""
    functions = [(os, name) for name in ("open", "pwrite", "pread", "read", "write", "fstat", "stat", "unlink")]
    refused = 0
    async with opened(tmp_path) as one, opened(tmp_path) as other:
        before = open_files()
        for nth in range(1, 1000):
            with failing_call(nth, functions, lambda: OSError(code, os.strerror(code))) as calls:
                try:
                    async with holding(one, "name"):
                        waiter = asyncio.create_task(hold(other, "name"))
                        behind = asyncio.create_task(hold(other, "name"))
                        await asyncio.sleep(0.004)
                    results = await asyncio.gather(waiter, behind, return_exceptions=True)
                    assert {type(result) for result in results} <= {type(None), LockUnavailable}
                    refused += any(results)
                except LockUnavailable:
                    refused += 1
            assert not one.places and not other.places
            assert open_files() == before
            await hold(one, "name")
            await hold(other, "name")
            assert contents(tmp_path) == []
            if not calls.failed:
                break
        assert refused >= 5
