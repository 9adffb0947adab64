"""How long a client waits that comes back while its old connection is silently dead: `python -m tests.bench.handover`.

The old connection stays open and says nothing more, in every phase of a request. The second one asks for the offset (HEAD), or goes on
at once where it believes the upload to be (PATCH); the time runs from its sending to its answer. Needs Linux.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.proc import wait_for_workers, worker_of
from tests.web.raw import Connection, chunked, patch, post, request
from tests.web.serving import path_of
from tusd.testing.server import ServerProcess

KIB = 1024
LENGTH = 4096 * KIB
MORE = b"more"


@dataclass(frozen=True)
class Phase:
    """Where a client is when it falls silent."""

    sends: Callable[[str], bytes]
    """What it has sent of a PATCH at 0 of the upload at this path."""
    arrived: int
    """Bytes that are in the file then; -1: the server has said 100 Continue."""
    kept: int
    """Bytes that count."""


def _checksummed(path: str) -> bytes:
    head = patch(path, 0, headers={"Upload-Checksum": "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="}, announce=1024 * KIB)
    return head + b"x" * 512 * KIB


PHASES = {
    "large body": Phase(lambda path: patch(path, 0, announce=LENGTH) + b"x" * 1024 * KIB, 1024 * KIB, 1024 * KIB),
    "small body": Phase(lambda path: patch(path, 0, announce=1000) + b"x" * 500, 500, 500),
    "chunked body": Phase(
        lambda path: patch(path, 0, headers={"Transfer-Encoding": "chunked"}) + chunked(b"x" * 500, 100)[:-5], 500, 500
    ),
    "100 Continue": Phase(lambda path: patch(path, 0, headers={"Expect": "100-continue"}, announce=1000), -1, 0),
    "checksummed body": Phase(_checksummed, 512 * KIB, 0),
}
SECONDS = ("HEAD", "PATCH")


class HandOvers:
    """Clients of one server: old ones that fall silent, and one that comes back, to another worker where there are several."""

    def __init__(self, server: ServerProcess) -> None:
        wait_for_workers(server)
        self._server = server
        self._back: dict[int, Connection] = {}
        """Worker -> a connection to it."""
        while len(self._back) < server.config["server"].get("workers", 1):
            connection, worker = self._connect()
            if self._back.setdefault(worker, connection) is not connection:
                connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for connection in self._back.values():
            connection.close()

    def times(self, phase: Phase, second: str, rounds: int) -> list[float]:
        """Seconds that each of so many hand-overs took. Raises `AssertionError` when bytes are lost or the old request goes on."""
        return [self._one(phase, second) for _ in range(rounds)]

    def _one(self, phase: Phase, second: str) -> float:
        old, worker = self._connect()
        back = next((connection for other, connection in self._back.items() if other != worker), self._back[worker])
        path = path_of(back.ask(post({"Upload-Length": LENGTH})))
        with old:
            old.send(phase.sends(path))
            self._wait(old, path, phase)
            stream = request("HEAD", path) if second == "HEAD" else patch(path, phase.kept, MORE)
            began = time.perf_counter()
            back.send(stream)
            answer = back.answer(second)
            took = time.perf_counter() - began
            wanted = str(phase.kept + (0 if second == "HEAD" else len(MORE)))
            assert (answer.status, answer["Upload-Offset"]) == (200 if second == "HEAD" else 204, wanted), answer
            told = old.answer()
            assert (told.status, told.code) == (423, "ERR_UPLOAD_INTERRUPTED"), told
        assert self._file(path).read_bytes() == b"x" * phase.kept + (b"" if second == "HEAD" else MORE)
        back.ask(request("DELETE", path))
        return took

    def _connect(self) -> tuple[Connection, int]:
        """A connection, and the worker that has it."""
        connection = Connection((self._server.host, self._server.port))
        connection.ask(request("OPTIONS", "/files/"))  # so that it has been accepted
        return connection, worker_of(self._server, connection.socket)

    def _wait(self, old: Connection, path: str, phase: Phase) -> None:
        if phase.arrived < 0:
            assert old.answer().status == 100
            return
        deadline = time.monotonic() + 10
        while self._file(path).stat().st_size < phase.arrived:
            assert time.monotonic() < deadline, "the server did not write what was sent"
            time.sleep(0.001)

    def _file(self, path: str) -> Path:
        return self._server.directory / "data" / path.rpartition("/")[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300, help="hand-overs for each line")
    rounds = parser.parse_args().rounds
    print(f"milliseconds, {rounds} hand-overs each")
    print(f"{'loop':8} {'workers':8} {'old connection':18} {'second':7} {'p50':>7} {'p99':>7} {'max':>7}")
    for loop in ("uvloop", "asyncio"):
        for workers in (1, 2):
            config = {"server": {"loop": loop, "workers": workers}}
            with (
                tempfile.TemporaryDirectory() as directory,
                ServerProcess(Path(directory), config) as server,
                HandOvers(server) as clients,
            ):
                for name, phase in PHASES.items():
                    for second in SECONDS:
                        times = [1000 * took for took in clients.times(phase, second, rounds)]
                        p99 = statistics.quantiles(times, n=100, method="inclusive")[98]
                        figures = f"{statistics.median(times):7.1f} {p99:7.1f} {max(times):7.1f}"
                        print(f"{loop:8} {workers:<8} {name:18} {second:7} {figures}", flush=True)


if __name__ == "__main__":
    main()
