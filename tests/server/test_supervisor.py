"""server/supervisor.py: workers are restarted, told to stop, and never outlive it. Its workers here only sleep."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAM = """
import logging, os, select, signal, socket, sys, time
from pathlib import Path
from tusd.errors import StartError
from tusd.server.supervisor import Job, Supervisor
from tusd.server.systemd import Notifier
from tusd.server.worker import ANSWER, LEAVE, READY

directory, count, behaviour = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stderr)

def job(generation, behaviour):
    def work(number, supervisor):
        with (directory / f"starts-{number}").open("a") as starts:
            starts.write(f"{os.getpid()}\\n")
        with (directory / f"generation-{generation}").open("a") as starts:
            starts.write(f"{os.getpid()}\\n")
        if behaviour == "refuse":
            raise StartError("storage: wrong")
        if behaviour == "raise":
            raise RuntimeError("broken plugin")
        if behaviour == "hang":
            time.sleep(60)
        supervisor.send(READY)
        if behaviour == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(60)
        while (said := supervisor.recv(1)) == ANSWER:
            if behaviour != "mute":
                supervisor.send(ANSWER)
        if said == LEAVE:
            (directory / f"left-{os.getpid()}").touch()
            supervisor.settimeout(0.3)  # it drains
            try:
                supervisor.recv(1)
            except TimeoutError:
                pass
        if behaviour == "slow":
            listener.close()
            time.sleep(1)
        (directory / f"stopped-{os.getpid()}").touch()
        return 0
    return Job(work, count, float(os.environ.get("PATIENCE", "5")))

generations = iter(range(2, 100))

def load():
    behaviour = (directory / "next").read_text()
    if behaviour == "bad":
        raise StartError("tusd.yaml:1:1 storage: wrong\\ntusd.yaml:2:1 locking: wrong")
    return job(next(generations), behaviour)

listener = socket.create_server(("127.0.0.1", 0))
(directory / "port").write_text(str(listener.getsockname()[1]))
supervisor = Supervisor(
    job(1, behaviour),
    load=load,
    settled=lambda accepted: logging.info("settled %s", accepted),
    close=listener.close,
    ready=lambda: print("ready", flush=True),
    notifier=Notifier(os.environ),
)
sys.exit(supervisor.run())
"""


class Supervised:
    """A supervisor in a process of its own."""

    def __init__(self, directory: Path, count: int, behaviour: str) -> None:
        self.directory = directory
        self.count = count
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(directory), str(count), behaviour],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def pids(self, number: int) -> list[int]:
        """The processes that have been worker `number`, in order."""
        starts = self.directory / f"starts-{number}"
        return [int(pid) for pid in starts.read_text().split()] if starts.exists() else []

    def all_started(self) -> bool:
        return all(self.pids(number) for number in range(self.count))

    def stopped_in_order(self, pid: int) -> bool:
        return (self.directory / f"stopped-{pid}").exists()

    def end(self) -> tuple[int, str]:
        """Wait for the end; its status and what it said."""
        _, said = self.process.communicate(timeout=15)
        return self.process.returncode, said


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    running: list[Supervised] = []

    def start(count: int = 2, behaviour: str = "good") -> Supervised:
        running.append(Supervised(tmp_path, count, behaviour))
        return running[-1]

    yield start
    for supervised in running:
        try:
            os.killpg(supervised.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # all have ended
        supervised.process.communicate()


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/status")
        return not status.exists() or "\nState:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_workers_in_order(start: Callable[..., Supervised], number: signal.Signals) -> None:
    supervised = start(3)
    until(supervised.all_started)
    supervised.process.send_signal(number)
    status, said = supervised.end()
    assert status == 0
    assert "stopping" in said
    for worker in range(3):
        assert supervised.stopped_in_order(supervised.pids(worker)[0])


def test_ready_is_told_once(start: Callable[..., Supervised]) -> None:
    supervised = start(3)
    until(supervised.all_started)
    supervised.process.terminate()
    out, _ = supervised.process.communicate(timeout=15)
    assert out == "ready\n"


def test_ctrl_c_in_a_terminal_reaches_workers_only_through_the_supervisor(start: Callable[..., Supervised]) -> None:
    supervised = start(2)
    until(supervised.all_started)
    os.killpg(supervised.process.pid, signal.SIGINT)
    status, said = supervised.end()
    assert status == 0
    assert "Traceback" not in said
    assert supervised.stopped_in_order(supervised.pids(1)[0])


def test_a_killed_worker_is_replaced(start: Callable[..., Supervised]) -> None:
    supervised = start(2)
    until(supervised.all_started)
    os.kill(supervised.pids(1)[0], signal.SIGKILL)
    until(lambda: len(supervised.pids(1)) == 2)
    assert len(supervised.pids(0)) == 1
    supervised.process.terminate()
    status, said = supervised.end()
    assert status == 0
    assert "worker ended; another takes its place" in said
    assert supervised.stopped_in_order(supervised.pids(1)[1])


def test_new_connections_are_refused_while_workers_end(start: Callable[..., Supervised], tmp_path: Path) -> None:
    supervised = start(2, "slow")
    until(supervised.all_started)
    port = int((tmp_path / "port").read_text())
    socket.create_connection(("127.0.0.1", port)).close()
    os.kill(supervised.pids(1)[0], signal.SIGKILL)
    until(lambda: len(supervised.pids(1)) == 2)
    socket.create_connection(("127.0.0.1", port)).close()  # it is open for workers that are restarted
    supervised.process.terminate()

    def refused() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return True
        return False

    until(refused)
    assert supervised.process.poll() is None
    assert not supervised.stopped_in_order(supervised.pids(0)[0])
    assert supervised.end()[0] == 0


def test_restarts_back_off(start: Callable[..., Supervised]) -> None:
    supervised = start(1, "raise")
    time.sleep(1.2)
    starts = len(supervised.pids(0))
    assert 2 <= starts <= 5
    supervised.process.terminate()
    status, said = supervised.end()
    assert status == 0
    assert "RuntimeError: broken plugin" in said


def test_a_start_that_is_refused_is_told_once_and_ends_it(start: Callable[..., Supervised]) -> None:
    status, said = start(4, "refuse").end()
    assert status == 2
    assert said == "storage: wrong\n"


def test_workers_end_when_the_supervisor_is_killed(start: Callable[..., Supervised]) -> None:
    supervised = start(2)
    until(supervised.all_started)
    pids = [supervised.pids(number)[0] for number in range(2)]
    supervised.process.kill()
    until(lambda: all(supervised.stopped_in_order(pid) for pid in pids))
    until(lambda: not any(alive(pid) for pid in pids))


def test_a_second_signal_kills(start: Callable[..., Supervised]) -> None:
    supervised = start(2, "deaf")
    until(supervised.all_started)
    supervised.process.terminate()
    assert supervised.process.stderr is not None
    assert select.select([supervised.process.stderr], [], [], 10)[0]
    assert supervised.process.stderr.readline() == "stopping\n"
    supervised.process.terminate()
    status, said = supervised.end()
    assert status == 1
    assert said.count("worker killed") == 2


def test_deaf_workers_are_killed_after_the_timeout(start: Callable[..., Supervised], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATIENCE", "-4.5")
    supervised = start(2, "deaf")
    until(supervised.all_started)
    supervised.process.terminate()
    status, said = supervised.end()
    assert status == 1
    assert said.count("worker killed") == 2
