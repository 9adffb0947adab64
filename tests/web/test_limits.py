"""Clients that are slow, many, or send long heads."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from tusd.limiting import Allowance, FreeAllowance, Limiter
from tusd.protocol.messages import Head, Request
from tusd.web.rate import Rate

from .conftest import Serve
from .raw import chunked, patch, post, request
from .serving import Served
from .test_connections import EXPECT, SIZES, eventually

KIB = 1024
CHUNKED = {"Transfer-Encoding": "chunked"}


class Paced(Limiter):
    """Lets a piece pass every now and then."""

    paces = True

    def __init__(self, pause: float) -> None:
        self.pause = pause

    def admit(self, head: Head, request: Request) -> AbstractAsyncContextManager[Allowance]:
        return self._admit()

    @asynccontextmanager
    async def _admit(self) -> AsyncIterator[Allowance]:
        yield _Slowly(self.pause)


class _Slowly(FreeAllowance):
    def __init__(self, pause: float) -> None:
        self.pause = pause

    async def spend(self, n: int) -> None:
        await asyncio.sleep(self.pause)


# --- read_timeout: no byte for so long (stalls on both paths: test_connections)


@pytest.mark.parametrize("size", SIZES)
def test_a_body_that_is_stopped_by_a_limiter_does_not_time_out(serve: Serve, size: int) -> None:
    """We wait, and not for the client: all of its bytes came at once."""
    server = serve(read_timeout=0.2, min_transfer_rate=1000, limiters=[Paced(0.5)])
    body = os.urandom(size)
    path = server.create(size)
    assert server.ask(patch(path, 0, body)).status == 204
    assert server.stored(path) == body


@pytest.mark.parametrize("size", SIZES)
def test_a_stalled_body_times_out_behind_a_limiter(serve: Serve, size: int) -> None:
    server = serve(read_timeout=0.3, limiters=[Paced(0.01)])
    path = server.create(size)
    with server.connect() as connection:
        connection.send(patch(path, 0, os.urandom(size))[: -size // 2])
        answer = connection.answer()
        assert (answer.status, answer.code, answer["Upload-Offset"]) == (503, "ERR_READ_TIMEOUT", str(size // 2))
    began = time.monotonic()
    assert server.offset(path) == size // 2
    assert time.monotonic() - began < 0.5, "the lock was still held"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chunk", [False, True])
def test_a_body_that_is_asked_for_and_never_comes(serve: Serve, size: int, chunk: bool) -> None:
    server = serve(read_timeout=0.3)
    path = server.create(size)
    with server.connect() as connection:
        connection.send(patch(path, 0, headers={**EXPECT, **(CHUNKED if chunk else {})}, announce=None if chunk else size))
        assert connection.answer().status == 100
        answer = connection.answer()
        assert (answer.status, answer.code, answer["Upload-Offset"], answer.closes) == (503, "ERR_READ_TIMEOUT", "0", True)


# --- min_transfer_rate


@pytest.mark.parametrize("chunk", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_a_body_that_trickles_in_times_out_and_its_bytes_are_kept(serve: Serve, size: int, chunk: bool) -> None:
    """A byte at a time is never idle for `read_timeout`."""
    server = serve(read_timeout=0.4, min_transfer_rate=1000)
    path = server.create(size)
    with server.connect() as connection:
        connection.send(patch(path, 0, headers=CHUNKED) if chunk else patch(path, 0, announce=size))
        sent, deadline = 0, time.monotonic() + 3
        while connection.silent(0.05) and time.monotonic() < deadline:
            connection.send(b"1\r\nx\r\n" if chunk else b"x")
            sent += 1
        answer = connection.answer()
        assert (answer.status, answer.code, answer.closes) == (503, "ERR_READ_TIMEOUT", True), answer
        assert b"fewer than 1000 bytes a second" in answer.body
    assert 0 < int(answer["Upload-Offset"]) <= sent
    assert server.stored(path) == b"x" * int(answer["Upload-Offset"])


@pytest.mark.parametrize("size", [30 * KIB, 600 * KIB])
def test_a_body_that_is_just_fast_enough_is_taken(serve: Serve, size: int) -> None:
    server = serve(read_timeout=0.3, min_transfer_rate=size // 10)
    body = os.urandom(size)
    path = server.create(size)
    with server.connect() as connection:
        connection.send(patch(path, 0, body)[:-size])
        for n in range(10):
            connection.send(body[n * size // 10 : (n + 1) * size // 10])
            time.sleep(0.1)
        assert connection.answer().status == 204
    assert server.stored(path) == body


def test_without_a_rate_a_trickle_is_taken(serve: Serve) -> None:
    server = serve(read_timeout=0.3)
    path = server.create(10)
    with server.connect() as connection:
        connection.send(patch(path, 0, announce=10))
        for _ in range(10):
            time.sleep(0.1)
            connection.send(b"x")
        assert connection.answer().status == 204


def test_a_rate_counts_the_time_that_is_spent_waiting() -> None:
    rate = Rate(100, 10)
    rate.count(4, 500)
    assert not rate.too_low(0), "most of this window was not spent waiting: it goes on"
    rate.count(4, 500)
    assert not rate.too_low(2), "1000 bytes in 10 seconds"
    rate.count(3, 0)  # 2 of these 3 seconds belonged to the last window
    assert not rate.too_low(0)
    assert rate.too_low(5), "none in 6 seconds"
    rate.count(5, 0)
    rate.count(5, 501)
    assert not rate.too_low(0), "each window stands for itself"


# --- header_timeout


@pytest.mark.parametrize("begun", [b"", b"PATCH /files/x HTTP/1.1\r\nHost: a\r\nUpload-Off"])
def test_a_head_that_does_not_come(serve: Serve, begun: bytes) -> None:
    server = serve(header_timeout=0.4)
    with server.connect() as first, server.connect() as second:
        began = time.monotonic()
        first.send(begun)
        assert second.ask(request("OPTIONS", "/files/")).status == 200
        assert first.ended(2)
        assert 0.3 < time.monotonic() - began < 1.5
        if begun:
            second.send(begun)
            assert second.ended(2)
        else:
            assert second.silent(1), "an idle connection may be used again"
    eventually(0, server.connections)


def test_a_head_that_trickles_in(serve: Serve) -> None:
    server = serve(header_timeout=0.5)
    head = request("OPTIONS", "/files/", {"X-Long": "x" * 1000})
    with server.connect() as connection:
        began = time.monotonic()
        for at in range(len(head)):
            if not connection.silent(0.03):
                break
            connection.send(head[at : at + 1])
        assert time.monotonic() - began < 2
        assert connection.ended()


def test_a_slow_head_that_is_in_time(serve: Serve) -> None:
    server = serve(header_timeout=1)
    head = request("OPTIONS", "/files/")
    with server.connect() as connection:
        for _ in range(3):
            for at in range(0, len(head), 20):
                connection.send(head[at : at + 20])
                time.sleep(0.1)
            assert connection.answer().status == 200


def test_a_slow_body_is_no_slow_head(serve: Serve) -> None:
    server = serve(header_timeout=0.2)
    path = server.create(10)
    with server.connect() as connection:
        connection.send(patch(path, 0, announce=10))
        for _ in range(10):
            time.sleep(0.1)
            connection.send(b"x")
        assert connection.answer().status == 204


# --- write_timeout


def test_a_download_that_nobody_takes_is_ended(serve: Serve) -> None:
    server = serve(write_timeout=0.5)
    path = server.upload(os.urandom(20_000 * KIB))
    with server.connect(receive_buffer=4096) as connection:
        connection.send(request("GET", path))
        eventually(1, server.connections)
        began = time.monotonic()
        eventually(0, server.connections)
        assert 0.3 < time.monotonic() - began < 3
    assert server.ask(request("DELETE", path)).status == 204


def test_an_answer_that_is_left_on_a_closed_connection_is_ended(serve: Serve) -> None:
    """Nobody works on it any more; the bytes only wait in the buffer."""
    server = serve(write_timeout=0.5, keepalive_timeout=0.2)
    path = server.upload(os.urandom(200 * KIB))
    gets = request("GET", path) * 60
    with server.connect(receive_buffer=4096) as connection:
        connection.send(gets)
        eventually(0, server.connections, within=8)


def test_a_download_that_is_taken_slowly_goes_on(serve: Serve) -> None:
    """Far slower than the buffers on its way empty: only what is acknowledged shows that it moves."""
    server = serve(write_timeout=0.6)
    size = 6000 * KIB
    path = server.upload(os.urandom(size))
    with server.connect(receive_buffer=4096) as connection:
        connection.send(request("GET", path))
        deadline, taken = time.monotonic() + 3, 0
        while time.monotonic() < deadline:
            taken += len(connection.socket.recv(4096))
            time.sleep(0.02)
        assert taken < size // 4
        while taken < size:
            piece = connection.socket.recv(1 << 18)
            assert piece, f"ended after {taken} bytes"
            taken += len(piece)


# --- max_connections


def test_more_connections_than_allowed_are_told_to_come_again(serve: Serve) -> None:
    server = serve(max_connections=2)
    with server.connect() as first, server.connect() as second, server.connect() as third, server.connect() as fourth:
        for connection in (first, second):
            assert connection.ask(request("OPTIONS", "/files/")).status == 200
        answer = third.ask(post({"Upload-Length": 5}, b"hello"))
        assert (answer.status, answer.code, answer["Retry-After"]) == (503, "ERR_TOO_MANY_CONNECTIONS", "1")
        assert answer.closes
        assert third.ended()
        answer = fourth.ask(request("HEAD", "/files/x"))
        assert answer.status == 423, "clients take any other failure of a HEAD for a reason to start over"
        assert fourth.ended()
        assert first.ask(request("OPTIONS", "/files/")).status == 200
    eventually(0, server.connections)
    assert server.ask(request("OPTIONS", "/files/")).status == 200


def test_what_lies_outside_the_upload_path_is_answered_beyond_the_limit(serve: Serve) -> None:
    server = serve(max_connections=1)
    with server.connect() as first, server.connect() as second:
        assert first.ask(request("OPTIONS", "/files/")).status == 200
        assert second.ask(request("GET", "/hello")).status == 200


def test_connections_far_beyond_the_limit_are_ended_at_once(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tusd.web.connection._SPARE", 3)
    server = serve(max_connections=1)
    connections = [server.connect() for _ in range(10)]
    assert connections[0].ask(request("OPTIONS", "/files/")).status == 200
    eventually(4, server.connections)
    assert all(connection.ended() for connection in connections[4:])
    assert connections[3].ask(request("OPTIONS", "/files/")).status == 503
    for connection in connections:
        connection.close()


def test_a_connection_beyond_the_limit_may_not_stay_silent(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tusd.web.connection._SURPLUS_PATIENCE", 0.3)
    server = serve(max_connections=1, header_timeout=1.2)
    with server.connect() as first, server.connect() as second:
        assert first.ask(request("OPTIONS", "/files/")).status == 200
        assert second.ended(2)
        assert first.ask(request("OPTIONS", "/files/")).status == 200


# --- the head's size


@pytest.mark.parametrize("lines", [200, 2000])
def test_too_many_header_lines(serve: Serve, lines: int) -> None:
    server = serve(max_headers=100)
    with server.connect() as connection:
        assert connection.ask(request("OPTIONS", "/files/", [(f"X-{n}", "x") for n in range(80)])).status == 200
        answer = connection.ask(request("OPTIONS", "/files/", [(f"X-{n}", "x") for n in range(lines)]))
        assert (answer.status, answer.code) == (400, "ERR_INVALID_REQUEST")


def test_a_header_line_that_is_too_long(serve: Serve) -> None:
    server = serve(max_header_size=4096)
    answer = server.ask(request("OPTIONS", "/files/", {"X-Long": "x" * 5000}))
    assert (answer.status, answer.code) == (400, "ERR_INVALID_REQUEST")
    assert b"xxxx" not in answer.body


def test_a_head_that_is_too_long_in_all(serve: Serve) -> None:
    server = serve(max_head_size=32 * KIB)
    with server.connect() as connection:
        connection.send(b"OPTIONS /files/ HTTP/1.1\r\nHost: a\r\n")
        for n in range(20):
            if not connection.silent(0.05):
                break
            connection.send(f"X-{n}: {'x' * 4000}\r\n".encode())
        answer = connection.answer()
        assert (answer.status, answer.code, answer.closes) == (400, "ERR_INVALID_REQUEST", True)
        assert b"longer than 32768 bytes" in answer.body
    with server.connect() as connection:
        for _ in range(30):
            connection.send(b"OPTIONS /files/ HTTP/1.1\r\nHost: a\r\n")
            time.sleep(0.01)
            connection.send(b"X-Padding: " + b"x" * 3000 + b"\r\n\r\n")
            assert connection.answer().status == 200


def test_many_slow_heads_at_once_cost_little_and_are_ended(serve: Serve) -> None:
    server = serve(header_timeout=0.5)
    connections = [server.connect() for _ in range(300)]
    for connection in connections:
        connection.send(b"PATCH /files/x HTTP/1.1\r\n")
    assert server.ask(request("OPTIONS", "/files/")).status == 200
    eventually(0, server.connections)
    for connection in connections:
        connection.close()


def test_a_stalled_upload_does_not_keep_others_from_going_on(server: Served) -> None:
    path = server.create(1000 * KIB)
    with server.connect() as stalled:
        stalled.send(patch(path, 0, b"x" * 300 * KIB, announce=1000 * KIB))
        server.wait_for_offset(path, 300 * KIB)
        done = threading.Event()

        def other() -> None:
            if server.ask(patch(server.create(5), 0, headers=CHUNKED) + chunked(b"hello", 2)).status == 204:
                done.set()

        thread = threading.Thread(target=other)
        thread.start()
        thread.join(5)
        assert done.is_set()


def test_a_head_that_is_too_long_behind_a_request_that_is_still_answered(serve: Serve) -> None:
    server = serve(max_head_size=32 * KIB)
    path = server.create(5)
    release = server.hold(path)
    with server.connect() as connection:
        connection.send(patch(path, 0, b"hello"))
        time.sleep(0.1)
        lines = b"".join(b"X-%d: %s\r\n" % (n, b"a" * 30_000) for n in range(3))
        connection.send(b"OPTIONS /files/ HTTP/1.1\r\nHost: a\r\n" + lines)
        time.sleep(0.1)
        release.set()
        assert connection.answer().status == 204
        refused = connection.answer()
        assert (refused.status, refused.code, refused.closes) == (400, "ERR_INVALID_REQUEST", True)
        assert connection.ended()
