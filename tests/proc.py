"""What /proc tells of a server's processes: needs Linux."""

from __future__ import annotations

import contextlib
import re
import socket
from pathlib import Path

import pytest

from tests.server.running import until
from tusd.testing.server import ServerProcess


def need_proc() -> None:
    """Skip a test where there is no /proc."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc, which Linux has")


def family(server: ServerProcess) -> list[int]:
    """The server's process and all that it has started, children behind their parents."""
    assert server.process is not None
    found, todo = [], [server.process.pid]
    while todo:
        pid = todo.pop()
        found.append(pid)
        with contextlib.suppress(OSError):  # it has ended
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                todo += [int(child) for child in children.read_text().split()]
    return found


def wait_for_workers(server: ServerProcess) -> None:
    """Until all of its workers serve: it answers with the first."""
    until(lambda: server.log.count("INFO serving") >= server.config["server"].get("workers", 1))


def descriptors(server: ServerProcess) -> int:
    """Files, sockets and pipes that are open in all of its processes."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in family(server))


def memory(server: ServerProcess) -> int:
    """Resident bytes of all of its processes."""
    total = 0
    for pid in family(server):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1]) * 1024
    return total


def worker_of(server: ServerProcess, client: socket.socket) -> int:
    """The process that serves this connection, which it must have accepted: best ask it something before."""
    if server.config["server"].get("workers", 1) == 1:
        return family(server)[0]
    wanted = f"socket:[{_inode(server.port, client.getsockname()[1])}]"
    for pid in family(server):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                if fd.readlink().name == wanted:
                    return pid
    raise AssertionError("no process of the server has this connection")


def _inode(port: int, client_port: int) -> str:
    """Of the server's end of a connection over IPv4."""
    line = re.search(rf":{port:04X} \S+:{client_port:04X} .*", Path("/proc/net/tcp").read_text())
    assert line is not None, "the server has not accepted this connection"
    return line[0].split()[8]
