"""Whoever comes for an upload makes the request that holds it stop, at once and with its bytes kept."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from tusd.hooks import Dispatcher, HookEvent, HookResponse, PreFinish

from .conftest import Serve
from .raw import Answer, Connection, chunked, patch, post, request
from .serving import Served, path_of

KIB = 1024
SIZES = [100 * KIB, 4000 * KIB]
"""The plain path, and the direct one."""
AT_ONCE = 0.25
"""Seconds; it takes about a millisecond, on a machine that is busy with other tests more."""


def stalled(server: Served, path: str, body: bytes, sent: int) -> Connection:
    """A PATCH of which only a part has come."""
    connection = server.connect()
    stream = patch(path, 0, body)
    connection.send(stream[: len(stream) - len(body) + sent])
    server.wait_for_offset(path, sent)
    return connection


def interrupted(connection: Connection, offset: int) -> None:
    """The old request is told why it ended and what it stored."""
    answer = connection.answer()
    assert (answer.status, answer.code) == (423, "ERR_UPLOAD_INTERRUPTED"), answer
    assert (answer["Upload-Offset"], answer["Retry-After"], answer.closes) == (str(offset), "1", True)
    assert connection.ended()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("storage", ["file", "memory"])
def test_head_interrupts_a_stalled_body(serve: Serve, size: int, storage: str) -> None:
    server = serve(storage=storage)
    body = os.urandom(size)
    path = server.create(size)
    with server.connect() as old:
        old.send(patch(path, 0, body)[: -size // 2])
        time.sleep(0.1)
        began = time.monotonic()
        assert server.offset(path) == size // 2
        assert time.monotonic() - began < AT_ONCE
        interrupted(old, size // 2)
    assert server.ask(patch(path, size // 2, body[size // 2 :])).status == 204
    assert server.ask(request("GET", path)).body == body


@pytest.mark.parametrize("size", SIZES)
def test_patch_interrupts_a_stalled_body(server: Served, size: int) -> None:
    body = os.urandom(size)
    path = server.create(size)
    with stalled(server, path, body, size // 2) as old:
        began = time.monotonic()
        answer = server.ask(patch(path, size // 2, body[size // 2 :]))
        assert (answer.status, answer["Upload-Offset"]) == (204, str(size))
        assert time.monotonic() - began < AT_ONCE
        interrupted(old, size // 2)
    assert server.stored(path) == body


@pytest.mark.parametrize("size", SIZES)
def test_delete_interrupts_a_stalled_body(server: Served, size: int) -> None:
    body = os.urandom(size)
    path = server.create(size)
    with stalled(server, path, body, size // 2) as old:
        assert server.ask(request("DELETE", path)).status == 204
        interrupted(old, size // 2)
    assert server.ask(request("HEAD", path)).status == 404


def test_a_stalled_chunked_body(server: Served) -> None:
    path = server.create(100)
    with server.connect() as old:
        old.send(patch(path, 0, headers={"Transfer-Encoding": "chunked"}) + chunked(b"hello", 5)[:-5])
        server.wait_for_offset(path, 5)
        assert server.offset(path) == 5
        interrupted(old, 5)


def test_a_stalled_creation(server: Served) -> None:
    """Nobody knows its URL before the answer; but a hook or an operator may."""
    with server.connect() as old:
        old.send(post({"Upload-Length": 10}, b"hello", announce=10))
        deadline = time.monotonic() + 5
        while not (found := [p for p in (server.directory / "data").glob("*") if p.suffix == "" and p.stat().st_size == 5]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert server.offset("/files/" + found[0].name) == 5
        answer = old.answer()
        assert (answer.status, answer.code, answer["Upload-Offset"]) == (423, "ERR_UPLOAD_INTERRUPTED", "5")
        assert path_of(answer) == "/files/" + found[0].name


def test_a_body_with_a_checksum_is_dropped_as_a_whole(server: Served) -> None:
    size = 1000 * KIB
    path = server.create(size)
    with server.connect() as old:
        stream = patch(path, 0, b"x" * size, {"Upload-Checksum": "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="})
        old.send(stream[: -size // 2])
        server.wait_for_offset(path, size // 2)
        assert server.offset(path) == 0
        interrupted(old, 0)
    assert server.stored(path) == b""


@pytest.mark.parametrize("size", SIZES)
def test_a_client_that_goes_on_sending_can_read_why(server: Served, size: int) -> None:
    """It does not know yet: no reset may overtake the answer."""
    body = os.urandom(size)
    path = server.create(100 * size)
    with server.connect() as old:
        stream = patch(path, 0, body, announce=100 * size)
        old.send(stream)
        server.wait_for_offset(path, size)
        assert server.offset(path) == size
        old.send_as_far_as_it_goes(body * 20)
        time.sleep(0.2)
        old.send_as_far_as_it_goes(body * 20)
        answer = old.answer()
        assert (answer.status, answer["Upload-Offset"]) == (423, str(size))


def test_a_thousand_hand_overs(server: Served) -> None:
    """Offsets only grow, and what they say is there is there."""
    size, step = 300 * KIB, 1000
    body = os.urandom(size)
    path = server.create(size)
    offset, connections, times = 0, [], []
    while offset < size - step:
        connection = server.connect()
        connections.append(connection)
        stream = patch(path, offset, body[offset:])
        connection.send(stream[: len(stream) - (size - offset) + step])
        server.wait_for_offset(path, offset + step)
        began = time.monotonic()
        found = server.offset(path)
        times.append(time.monotonic() - began)
        assert found == offset + step
        offset = found
    for connection in connections:
        assert connection.answer().status == 423
        connection.close()
    assert server.stored(path) == body[:offset]
    assert sorted(times)[len(times) // 2] < 0.05, "the median hand-over"


class SlowFinish(Dispatcher):
    """A pre-finish hook that takes its time."""

    events = frozenset((PreFinish,))

    async def dispatch(self, event: HookEvent) -> HookResponse | None:
        await asyncio.sleep(0.4)
        return None


@pytest.mark.parametrize("size", SIZES)
def test_a_body_that_has_arrived_whole_is_not_interrupted(serve: Serve, size: int) -> None:
    """There is nothing left to stop: whoever waits gets the lock when the upload is complete."""
    server = serve(dispatchers=[SlowFinish()])
    body = os.urandom(size)
    path = server.create(size)
    with server.connect() as old:
        old.send(patch(path, 0, body))
        server.wait_for_offset(path, size)
        time.sleep(0.05)
        assert server.offset(path) == size
        answer: Answer = old.answer()
        assert (answer.status, answer["Upload-Offset"]) == (204, str(size)), answer
        assert not answer.closes
        assert old.ask(request("OPTIONS", "/files/")).status == 200
