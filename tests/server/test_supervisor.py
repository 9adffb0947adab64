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
import contextlib, logging, os, select, signal, socket, sys, time
from pathlib import Path
from tusd.errors import StartError
from tusd.server.supervisor import ANSWER, LEAVE, READY, Job, Supervisor
from tusd.server.systemd import Notifier

directory, count, behaviour = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stderr)

def hear(supervisor):
    try:
        return supervisor.recv(1)
    except ConnectionResetError:  # it hung up before it had read our READY
        return b""

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
        with contextlib.suppress(BrokenPipeError):  # it stops already
            supervisor.send(READY)
        if behaviour == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(60)
        while (said := hear(supervisor)) == ANSWER:
            if behaviour != "mute":
                supervisor.send(ANSWER)
        if said == LEAVE:
            (directory / f"left-{os.getpid()}").touch()
            supervisor.settimeout(0.3)  # it drains
            try:
                hear(supervisor)
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
    until(supervised.all_started)
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


def reload(supervised: Supervised, behaviour: str) -> None:
    (supervised.directory / "next").write_text(behaviour)
    supervised.process.send_signal(signal.SIGHUP)


def generation(supervised: Supervised, number: int) -> list[int]:
    """The processes of a generation, as far as they have started."""
    starts = supervised.directory / f"generation-{number}"
    return [int(pid) for pid in starts.read_text().split()] if starts.exists() else []


def test_a_reload_starts_new_workers_and_lets_the_old_ones_drain(start: Callable[..., Supervised]) -> None:
    supervised = start(2)
    until(supervised.all_started)
    old = generation(supervised, 1)
    reload(supervised, "good")
    until(lambda: all(supervised.stopped_in_order(pid) for pid in old))
    assert all((supervised.directory / f"left-{pid}").exists() for pid in old)
    new = generation(supervised, 2)
    assert len(new) == 2
    assert all(alive(pid) for pid in new)
    supervised.process.terminate()
    status, said = supervised.end()
    assert status == 0
    assert "settled True" in said
    assert "worker ended" not in said
    assert not any((supervised.directory / f"left-{pid}").exists() for pid in new)


def test_a_hang_up_of_the_terminal_reaches_workers_only_through_the_supervisor(start: Callable[..., Supervised]) -> None:
    supervised = start(2)
    until(supervised.all_started)
    (supervised.directory / "next").write_text("good")
    os.killpg(supervised.process.pid, signal.SIGHUP)
    until(lambda: all(supervised.stopped_in_order(pid) for pid in generation(supervised, 1)))
    supervised.process.terminate()
    status, said = supervised.end()
    assert status == 0
    assert "worker ended" not in said


def test_a_bad_file_is_told_line_by_line_and_starts_nothing(start: Callable[..., Supervised]) -> None:
    supervised = start(2)
    until(supervised.all_started)
    old = generation(supervised, 1)
    reload(supervised, "bad")
    time.sleep(0.5)
    assert all(alive(pid) for pid in old)
    supervised.process.terminate()
    status, said = supervised.end()
    assert status == 0
    assert "not reloaded: tusd.yaml:1:1 storage: wrong\nnot reloaded: tusd.yaml:2:1 locking: wrong\n" in said
    assert "settled" not in said


@pytest.mark.parametrize(("behaviour", "why"), [("refuse", "cannot serve: storage: wrong"), ("raise", "broken plugin")])
def test_a_new_worker_that_cannot_serve_ends_the_reload(start: Callable[..., Supervised], behaviour: str, why: str) -> None:
    supervised = start(2)
    until(supervised.all_started)
    old = generation(supervised, 1)
    reload(supervised, behaviour)
    until(lambda: len(generation(supervised, 2)) == 1)
    time.sleep(0.5)
    assert all(alive(pid) for pid in old)
    reload(supervised, "good")
    until(lambda: all(supervised.stopped_in_order(pid) for pid in old))
    supervised.process.terminate()
    status, said = supervised.end()
    assert status == 0
    assert why in said
    assert (
        said.index("settled False")
        < said.index("not reloaded: a worker of the new generation ended")
        < said.index("settled True")
    )
    assert len(generation(supervised, 2)) == 1


def test_a_stop_while_a_new_generation_opens(start: Callable[..., Supervised], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATIENCE", "-4")
    supervised = start(2)
    until(supervised.all_started)
    reload(supervised, "hang")
    until(lambda: generation(supervised, 2))
    supervised.process.terminate()
    _, said = supervised.end()
    assert all(supervised.stopped_in_order(pid) for pid in generation(supervised, 1))
    assert said.count("worker killed") == 1
    assert not any(alive(pid) for pid in generation(supervised, 2))


def test_an_old_worker_that_does_not_end_is_killed(start: Callable[..., Supervised], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATIENCE", "-3.5")
    supervised = start(2, "deaf")
    until(supervised.all_started)
    old = generation(supervised, 1)
    reload(supervised, "good")
    until(lambda: not any(alive(pid) for pid in old))
    assert len(generation(supervised, 2)) == 2
    supervised.process.terminate()
    status, said = supervised.end()
    assert said.count("worker killed") == 2
    assert status == 0


def test_a_worker_that_dies_while_a_reload_runs_is_replaced_by_one_of_its_generation(start: Callable[..., Supervised]) -> None:
    supervised = start(2)
    until(supervised.all_started)
    reload(supervised, "hang")
    until(lambda: generation(supervised, 2))
    os.kill(generation(supervised, 1)[0], signal.SIGKILL)
    until(lambda: len(generation(supervised, 1)) == 3)
    (hanging,) = generation(supervised, 2)
    os.kill(hanging, signal.SIGKILL)
    reload(supervised, "good")  # which is done when the one before has failed
    until(lambda: len(generation(supervised, 3)) == 2)
    supervised.process.terminate()
    status, said = supervised.end()
    assert status == 0
    assert said.count("worker ended; another takes its place") == 1
    assert "not reloaded: a worker of the new generation ended (SIGKILL) before all served" in said
