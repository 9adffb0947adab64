"""Clients that say little or nothing, many at once: each is given up in its time, and the others do not wait for them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
from tests.proc import descriptors, need_proc, wait_for_workers
from tests.server.running import until
from tests.web.raw import Connection, patch, post, request
from tests.web.serving import path_of

from tusd.testing.server import TRACEBACK, ServerProcess

MANY = 150
CHUNKED = {"Transfer-Encoding": "chunked"}
DRIPS = {
    "chunk extensions": (b"5;", b"a"),
    "a chunk size": (b"", b"0"),
    "trailers": (b"5\r\nhello\r\n0\r\n", b"X: a\r\n"),
}


@pytest.fixture(scope="module", params=[1, 2], ids=["1 worker", "2 workers"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Waits a second for the next bytes of a body, and as long for a head."""
    need_proc()
    config = {"server": {"workers": request.param, "read_timeout": "1s", "header_timeout": "1s"}}
    with ServerProcess(tmp_path_factory.mktemp("slow"), config) as running:
        wait_for_workers(running)
        yield running
    assert TRACEBACK not in running.log


@pytest.mark.parametrize("announce", [1000, 1_000_000], ids=["small", "direct"])
def test_many_bodies_that_stall(server: ServerProcess, announce: int) -> None:
    """Each is told how far it came; meanwhile a request of somebody else is answered at once; afterwards nothing is left of them."""
    address = (server.host, server.port)
    with Connection(address) as good:
        assert good.ask(request("OPTIONS", "/files/")).status == 200  # it is accepted, and counted
        before = descriptors(server)
        paths = [path_of(good.ask(post({"Upload-Length": 1_000_000}))) for _ in range(MANY)]
        stalled = [Connection(address) for _ in paths]
        for connection, path in zip(stalled, paths, strict=True):
            connection.send(patch(path, 0, b"hello", announce=announce))
        for _ in range(20):
            began = time.monotonic()
            assert good.ask(request("OPTIONS", "/files/")).status == 200
            assert time.monotonic() - began < 0.5
            time.sleep(0.02)
        for connection in stalled:
            with connection:
                answer = connection.answer()
                assert (answer.status, answer.code, answer["Upload-Offset"]) == (503, "ERR_READ_TIMEOUT", "5"), answer
        for path in paths:
            assert good.ask(patch(path, 5, b"world")).status == 204
        until(lambda: descriptors(server) <= before)


@pytest.mark.parametrize("drip", DRIPS)
def test_a_body_of_drips_that_are_no_bytes_of_it(server: ServerProcess, drip: str) -> None:
    """They do not count: it stalls. The bytes before them are kept, and the upload goes on meanwhile."""
    beginning, drop = DRIPS[drip]
    with Connection((server.host, server.port)) as good, Connection((server.host, server.port)) as bad:
        path = path_of(good.ask(post({"Upload-Length": 100})))
        bad.send(patch(path, 0, beginning, CHUNKED))
        deadline = time.monotonic() + 8
        while bad.silent(0.1):
            assert time.monotonic() < deadline, "it may drip for ever"
            bad.send(drop)
        assert bad.answer().status in (400, 503)
        kept = int(good.ask(request("HEAD", path))["Upload-Offset"])
        assert kept == beginning.count(b"hello") * 5
        assert good.ask(patch(path, kept, b"x" * (100 - kept))).status == 204


def test_many_connections_that_say_nothing(server: ServerProcess) -> None:
    before = descriptors(server)
    silent = [Connection((server.host, server.port)) for _ in range(500)]
    with Connection((server.host, server.port)) as good:
        for _ in range(20):
            began = time.monotonic()
            assert good.ask(request("OPTIONS", "/files/")).status == 200
            assert time.monotonic() - began < 0.5
    for connection in silent:
        connection.close()
    until(lambda: descriptors(server) <= before)


HEADS = {"nothing": b"", "a line": b"PATCH /fi", "a head": b"PATCH /files/ HTTP/1.1\r\nHost: a\r\nX: "}


@pytest.mark.parametrize("head", HEADS)
def test_many_heads_that_drip(server: ServerProcess, head: str) -> None:
    """Byte by byte, and never whole: each is given up a second after it began, and the others do not wait."""
    address = (server.host, server.port)
    slow = [Connection(address) for _ in range(MANY)]
    for connection in slow:
        connection.send(HEADS[head])
    began, open_ = time.monotonic(), list(slow)
    with Connection(address) as good:
        while open_:
            assert time.monotonic() - began < 8, f"{len(open_)} of {MANY} may drip for ever"
            asked = time.monotonic()
            assert good.ask(request("OPTIONS", "/files/")).status == 200
            assert time.monotonic() - asked < 0.5
            for connection in list(open_):
                if connection.silent(0):
                    with contextlib.suppress(ConnectionError):
                        connection.send(HEADS[head][-1:] and b"x")
                else:
                    open_.remove(connection)
            time.sleep(0.1)
    assert time.monotonic() - began > 0.9, "they were not given their time"
    for connection in slow:
        with connection:
            try:
                assert connection.answer().status in (400, 408)
            except (EOFError, ConnectionError):
                pass  # closed without a word
