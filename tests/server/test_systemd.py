"""Service managers: what they are told, over a real datagram socket, and sockets that they hand over."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server.running import TUSD, Server, serving, tusd, until

from tusd.server.systemd import Inherited, Notifier


class Manager:
    """The listening end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.settimeout(10)

    def hear(self, wanted: str) -> dict[str, str]:
        """The next notification that is not the watchdog's; it must have this line."""
        while True:
            lines = self._socket.recv(4096).decode().split("\n")
            if lines != ["WATCHDOG=1"]:
                assert wanted in lines
                return dict(line.partition("=")[::2] for line in lines)

    def beats(self, seconds: float) -> int:
        """How often the watchdog is fed in that time."""
        self._socket.settimeout(0.01)
        deadline, count = time.monotonic() + seconds, 0
        while time.monotonic() < deadline:
            try:
                count += self._socket.recv(4096) == b"WATCHDOG=1"
            except TimeoutError:
                pass
        return count

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    with tempfile.TemporaryDirectory() as folder:
        if request.param == "abstract" and sys.platform != "linux":
            pytest.skip("only Linux has abstract sockets")
        address = f"{'@' if request.param == 'abstract' else ''}{folder}/notify"
        found = Manager(address)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield found
        found.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_start_reload_and_stop_are_told(tmp_path: Path, manager: Manager, workers: int) -> None:
    good = f"server: {{listen: '127.0.0.1:0', workers: {workers}}}\n"
    with serving(tmp_path, good) as server:
        told = manager.hear("READY=1")
        assert (told["MAINPID"], told["STATUS"]) == (str(server.process.pid), "serving")
        assert server.request("OPTIONS", "/files/").status == 200
        before = time.monotonic_ns() // 1000
        server.process.send_signal(signal.SIGHUP)
        told = manager.hear("RELOADING=1")
        assert before <= int(told["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert manager.hear("READY=1")["STATUS"] == "serving, generation 2"
        (tmp_path / "tusd.yaml").write_text("server: {lisen: x}")
        server.process.send_signal(signal.SIGHUP)
        manager.hear("RELOADING=1")
        assert manager.hear("READY=1")["STATUS"] == "serving; the last reload was refused, see the log"
        server.process.terminate()
        manager.hear("STOPPING=1")
        assert server.process.wait(15) == 0


def children(server: Server) -> list[int]:
    found = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    if not found.exists():
        pytest.skip("needs /proc to find the workers of a server")
    return [int(pid) for pid in found.read_text().split()]


def test_the_watchdog_is_fed_while_a_worker_answers(tmp_path: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    with serving(tmp_path, "server: {listen: '127.0.0.1:0', workers: 2}\n") as server:
        until(lambda: server.log.count("serving") == 2)
        assert manager.beats(2) in range(5, 12)
        first, second = children(server)
        os.kill(first, signal.SIGSTOP)
        manager.beats(0.5)
        assert manager.beats(1) >= 3
        os.kill(second, signal.SIGSTOP)
        manager.beats(0.5)
        assert manager.beats(1) == 0
        os.kill(first, signal.SIGCONT)
        os.kill(second, signal.SIGCONT)
        manager.beats(0.5)
        assert manager.beats(1) >= 3
        assert server.stop() == 0


PLUGIN = '''
import time
from tusd import plugin

class Block:
    """A route that blocks the event loop."""

    @plugin.hookimpl
    def add_routes(self, routes):
        async def block(head):
            time.sleep(1.5)
            return plugin.Response(200, [], b"")
        routes.get("/block", block)
'''


def test_the_watchdog_starves_with_the_event_loop(tmp_path: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    (tmp_path / "block.py").write_text(PLUGIN)
    with serving(tmp_path, "server: {listen: '127.0.0.1:0'}\nplugins: [{use: ./block.py}]\n") as server:
        assert manager.beats(1) >= 3
        host, port = server.url.split("/")[2].split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        connection.request("GET", "/block")
        time.sleep(0.3)
        manager.beats(0.1)
        assert manager.beats(0.8) == 0
        assert connection.getresponse().status == 200
        connection.close()
        assert manager.beats(1) >= 3


def test_a_watchdog_of_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000000"}
    assert Notifier(environ).alive_every == 0.5
    assert Notifier({**environ, "WATCHDOG_PID": str(os.getpid())}).alive_every == 0.5
    assert Notifier({**environ, "WATCHDOG_PID": "1"}).alive_every is None
    assert Notifier({"WATCHDOG_USEC": "1000000"}).alive_every is None
    Notifier(environ).ready("nobody hears it")


ACTIVATE = """
import os, socket, sys
listeners = [socket.create_server(("127.0.0.1", 0), backlog=64) for _ in range(2)]
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
with open("ports", "w") as ports:
    print(*(listener.getsockname()[1] for listener in listeners), file=ports)
import fcntl
for index, one in enumerate([*listeners, datagrams]):
    os.dup2(fcntl.fcntl(one.fileno(), fcntl.F_DUPFD, 50), 3 + index)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="3", LISTEN_FDNAMES="web:admin:datagrams")
os.execv(sys.argv[1], sys.argv[1:])
"""
COMMAND = [sys.executable, "-c", ACTIVATE, *TUSD]


@pytest.mark.parametrize(
    ("listen", "workers", "expected"),
    [
        ("listen: 'systemd:web'", 1, ({0}, set())),
        ("listen: systemd", 2, ({0, 1}, set())),
        ("listen: systemd, admin_listen: 'systemd:admin'", 1, ({0}, {1})),
        ("listen: ['systemd:admin', '127.0.0.1:0']", 2, ({1, 2}, set())),
    ],
)
def test_sockets_that_are_handed_over(tmp_path: Path, listen: str, workers: int, expected: tuple[set[int], set[int]]) -> None:
    config = f"server: {{{listen}, workers: {workers}}}\n"
    with serving(tmp_path, config, command=COMMAND) as server:
        ports = [int(port) for port in (tmp_path / "ports").read_text().split()]
        public, _, admin = server.said.partition("admin at")
        for index, port in enumerate(ports):
            assert (f":{port}/" in public, f":{port}/" in admin) == (index in expected[0], index in expected[1])
        assert public.count("http://") == len(expected[0])
        assert server.request("OPTIONS", "/files/").status == 200
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "reloaded" in server.log)
        assert server.request("OPTIONS", "/files/").status == 200
        assert server.stop() == 0


def test_a_socket_that_was_not_handed_over(tmp_path: Path) -> None:
    (tmp_path / "tusd.yaml").write_text("server: {listen: ['systemd:wbe', 'systemd:datagrams']}\n")
    activated = Path(tmp_path / "activate.py")
    activated.write_text(ACTIVATE)
    result = tusd("-c", "tusd.yaml", cwd=tmp_path, command=[sys.executable, str(activated), *TUSD])
    assert result.returncode == 2
    none = "of the sockets that were handed over (web, admin, datagrams) none is named"
    assert result.stderr.splitlines() == [
        f'tusd.yaml:1:19 server.listen[0]: cannot listen on systemd:wbe: {none} "wbe" that listens for streams; see FileDescriptorName=',
        f"tusd.yaml:1:34 server.listen[1]: cannot listen on systemd:datagrams: {none} "
        '"datagrams" that listens for streams; see FileDescriptorName=',
    ]


def test_sockets_of_another_process_are_not_ours() -> None:
    assert Inherited({"LISTEN_PID": "1", "LISTEN_FDS": "2"}).names == ()
    assert Inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"}).names == ()
    assert Inherited({"LISTEN_FDS": "2"}).names == ()
