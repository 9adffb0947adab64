"""One server for all workers of a test run, which ends when the last of them has gone, in whatever way.

The first worker that needs a server starts a *keeper*, a process of its own that starts the server and tells its address to
whoever connects. A worker stays connected while it needs the server. The system closes the connections of a worker that is
killed, so the keeper always learns when nobody is left: it kills what it has started, deletes its files and ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.services.servers import S3Server

ROOT = Path(__file__).parents[2]
START = 90.0
"""Seconds that a server may take to start: machines of CI are slow."""
ALONE = 30.0
"""Seconds that a keeper waits for its first user."""
PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>."""


class CannotStart(Exception):
    """A server did not start; says what it printed."""


@dataclass
class Children:
    """Processes of a service. They die with the keeper, and none outlives `end()`."""

    log: Path
    """Where they print to."""
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, *command: str, env: Mapping[str, str] | None = None) -> None:
        """Run a command that ends by itself; raise CannotStart if it fails."""
        process = self.spawn(*command, env=env)
        if process.wait(START) != 0:
            raise CannotStart(f"{command[0]} ended with {process.returncode}: {self.printed()}")
        self.running.remove(process)

    def spawn(
        self, *command: str, env: Mapping[str, str] | None = None, inherit: Sequence[socket.socket] = ()
    ) -> subprocess.Popen[bytes]:
        """Start a command that runs until the end; it inherits the sockets of `inherit` under their numbers."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(env or {})},
                pass_fds=[sock.fileno() for sock in inherit],
                preexec_fn=_die_with_parent,  # the keeper has one thread
            )
        self.running.append(process)
        return process

    def until(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready`; raise CannotStart if one of the processes ends before."""
        deadline = time.monotonic() + START
        while not ready():
            ended = next((process for process in self.running if process.poll() is not None), None)
            if ended is not None:
                raise CannotStart(f"{ended.args!r} ended with {ended.returncode}: {self.printed()}")
            if time.monotonic() > deadline:
                raise CannotStart(f"not ready after {START:.0f} seconds: {self.printed()}")
            time.sleep(0.02)

    def printed(self) -> str:
        """The end of what they have printed."""
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""

    def end(self) -> None:
        """Kill them, the last first, and wait for their ends."""
        for process in reversed(self.running):
            process.kill()
        while self.running:
            self.running.pop().wait()


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def answers(endpoint: str) -> bool:
    """Whether an HTTP server answers there, whatever it says."""
    host, _, port = endpoint.removeprefix("http://").partition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
            return connection.recv(5) == b"HTTP/"
    except OSError:
        return False


@contextlib.contextmanager
def running(service: str, directory: Path) -> Iterator[S3Server]:
    """The server of `service`, a module of this package with `start(directory, children)`.

    Whoever names the same directory gets the same server. It runs until all of them have left or ended; all of its files are
    below the directory, and its data is deleted at the end. Raises CannotStart.
    """
    directory.mkdir(parents=True, exist_ok=True)
    connection, said, keeper = _connect(service, directory)
    with connection:
        try:
            if error := said.get("error"):
                raise CannotStart(f"{service}: {error}")
            yield S3Server(**said)
        finally:
            with contextlib.suppress(OSError):  # somebody has killed the keeper
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)  # it closes when all is cleaned up, or at once where others stay
            if keeper is not None and keeper.poll() is None:
                keeper.returncode = 0  # it ends by itself, with the last of the others: Popen need not warn


Keeper = subprocess.Popen[bytes]


def _connect(service: str, directory: Path) -> tuple[socket.socket, Mapping[str, str], Keeper | None]:
    with (directory / f"{service}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system releases it if this process is killed
        address = directory / f"{service}.address"
        with contextlib.suppress(OSError, ValueError):  # none yet, or one that is ending
            return (*_ask(address), None)
        address.unlink(missing_ok=True)
        with (directory / f"{service}.log").open("ab") as log:
            keeper = subprocess.Popen(
                [sys.executable, "-m", "tests.services.keeper", service, str(directory)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for pytest, which then leaves
            )
        while not address.exists() and keeper.poll() is None:
            time.sleep(0.01)
        try:
            return (*_ask(address), keeper)
        except (OSError, ValueError) as error:
            keeper.kill()
            keeper.wait()
            raise CannotStart(f"the keeper of {service} has gone: {(directory / f'{service}.log').read_text()}") from error


def _ask(address: Path) -> tuple[socket.socket, Mapping[str, str]]:
    """Connect to a keeper and hear what it has to say; OSError or ValueError if there is none, or it is ending."""
    connection = socket.create_connection(("127.0.0.1", int(address.read_text())), timeout=2 * START)
    try:
        line = connection.makefile("rb").readline()
        said: Mapping[str, str] = json.loads(line)
    except BaseException:
        connection.close()
        raise
    return connection, said


def keep(service: str, directory: Path) -> None:
    """Start the service, tell everybody who connects about it, and end it when nobody is left."""
    files, address = directory / service, directory / f"{service}.address"
    children = Children(directory / f"{service}.log")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
        stack.callback(shutil.rmtree, files, ignore_errors=True)
        stack.callback(children.end)
        stack.callback(address.unlink, missing_ok=True)
        shutil.rmtree(files, ignore_errors=True)  # of a keeper that was killed
        files.mkdir()
        partial = address.with_suffix(".partial")
        partial.write_text(str(server.getsockname()[1]))
        partial.replace(address)
        try:
            said: Mapping[str, str] = asdict(importlib.import_module(f"tests.services.{service}").start(files, children))
        except CannotStart as error:
            said = {"error": str(error)}
        except Exception:
            said = {"error": traceback.format_exc()}
        last = _stay(server, json.dumps(said).encode() + b"\n")
        stack.pop_all().close()
        last.close()


def _stay(server: socket.socket, said: bytes) -> socket.socket:
    """Say it to everybody; returns the connection of the last who leaves, still open."""
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        users = 0
        while users or selector.select(ALONE):
            for key, _ in selector.select():
                if key.fileobj is server:
                    connection, _ = server.accept()
                    with contextlib.suppress(OSError):  # who has gone already is seen below
                        connection.sendall(said)
                    selector.register(connection, selectors.EVENT_READ)
                    users += 1
                    continue
                leaving = key.fileobj
                assert isinstance(leaving, socket.socket)
                selector.unregister(leaving)
                users -= 1
                if not users:
                    return leaving
                leaving.close()
    raise SystemExit("nobody has asked for it")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    keep(sys.argv[1], Path(sys.argv[2]))
