"""What clients do with connections: continue, keep, close, half-close, vanish, speak HTTP/1.0, come by a unix socket."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import weakref
from pathlib import Path

import pytest

from tusd.protocol.rules import Policy
from tusd.protocol.urls import Origins
from tusd.web.connection import Connection as ServerConnection

from .conftest import Serve
from .raw import OCTETS, Connection, chunked, patch, post, request
from .serving import Served

KIB = 1024
EXPECT = {"Expect": "100-continue"}
SIZES = [100, 2000 * KIB]
"""One body that goes through aiohttp's buffer, and one that goes straight to the file."""


def eventually(wanted: object, look: object, within: float = 5) -> None:
    """Wait until `look()` is `wanted`."""
    assert callable(look)
    deadline = time.monotonic() + within
    while (found := look()) != wanted:
        assert time.monotonic() < deadline, f"{found} instead of {wanted}"
        time.sleep(0.01)


# --- Expect: 100-continue (RFC 9110 section 10.1.1)


@pytest.mark.parametrize("size", SIZES)
def test_continue_comes_when_offset_and_lock_are_good(server: Served, size: int) -> None:
    body = os.urandom(size)
    path = server.create(size)
    with server.connect() as connection:
        connection.send(patch(path, 0, headers=EXPECT, announce=size))
        assert connection.answer().status == 100
        assert connection.silent()
        connection.send(body + request("HEAD", path))
        assert connection.answer().status == 204
        assert connection.answer("HEAD")["Upload-Offset"] == str(size)
    assert server.stored(path) == body


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("offset", "name", "status"), [(7, "", 409), (0, "gone", 404)])
def test_no_continue_for_a_body_that_is_refused(server: Served, size: int, offset: int, name: str, status: int) -> None:
    path = server.create(size) + name
    with server.connect() as connection:
        connection.send(patch(path, offset, headers=EXPECT, announce=size))
        answer = connection.answer()
        assert (answer.status, answer.closes) == (status, True)
        assert connection.ended()


def test_no_continue_while_another_holds_the_upload(serve: Serve) -> None:
    server = serve(policy=Policy(lock_timeout=0.3))
    path = server.create(100)
    hold = server.hold(path)
    with server.connect() as connection:
        connection.send(patch(path, 0, headers=EXPECT, announce=100))
        assert connection.silent(0.1)
        answer = connection.answer()
        assert (answer.status, answer.code, answer["Retry-After"]) == (423, "ERR_UPLOAD_LOCKED", "1")
    hold.set()


def test_continue_for_a_creation(server: Served) -> None:
    with server.connect() as connection:
        connection.send(post({"Upload-Length": 5, **EXPECT}, announce=5))
        assert connection.answer().status == 100
        connection.send(b"hello")
        answer = connection.answer()
        assert (answer.status, answer["Upload-Offset"]) == (201, "5")
        connection.send(post({"Upload-Length": 4, **EXPECT}, announce=5))
        assert connection.answer().status == 413


def test_a_client_that_does_not_wait_for_continue(server: Served) -> None:
    path = server.create(5)
    with server.connect() as connection:
        connection.send(patch(path, 0, b"hello", EXPECT) + request("HEAD", path))
        assert connection.answer().status == 100
        assert connection.answer().status == 204
        assert connection.answer("HEAD")["Upload-Offset"] == "5"


def test_continue_of_a_chunked_body(server: Served) -> None:
    path = server.create(5)
    with server.connect() as connection:
        connection.send(patch(path, 0, headers={**EXPECT, "Transfer-Encoding": "chunked"}))
        assert connection.answer().status == 100
        connection.send(chunked(b"hello", 2))
        assert connection.answer()["Upload-Offset"] == "5"


# --- HTTP/1.0, keep-alive, close


def test_http_1_0(server: Served) -> None:
    """Closed after each answer unless asked for otherwise; no 100, no Host needed; the Location is a path then."""
    with server.connect() as connection:
        answer = connection.ask(request("POST", "/files/", {"Upload-Length": 5}, version="HTTP/1.0"))
        assert answer.status == 201
        assert answer["Location"].startswith("/files/")
        assert connection.ended()
    path = answer["Location"]
    with server.connect() as connection:
        headers = {"Upload-Offset": 0, "Content-Type": OCTETS, "Connection": "keep-alive", **EXPECT}
        answer = connection.ask(request("PATCH", path, headers, b"hello", version="HTTP/1.0"))
        assert (answer.status, answer["Connection"]) == (204, "keep-alive")
        answer = connection.ask(request("GET", path, version="HTTP/1.0"))
        assert answer.body == b"hello"
        assert connection.ended()


def test_a_connection_is_used_again(server: Served) -> None:
    with server.connect() as connection:
        for n in range(20):
            path = "/files/" + connection.ask(post({"Upload-Length": 3}))["Location"].rpartition("/")[2]
            assert connection.ask(patch(path, 0, b"abc")).status == 204
            assert connection.ask(patch(path, 1, b"abc")).status == 409
            assert connection.ask(request("HEAD", path)).status == 200
            assert connection.ask(request("GET", path)).body == b"abc"
            assert connection.ask(request("HEAD", f"/files/none{n}")).status == 404
        assert server.connections() == 1


@pytest.mark.parametrize("method", ["HEAD", "GET", "PATCH", "OPTIONS", "DELETE"])
def test_connection_close(server: Served, method: str) -> None:
    path = server.upload(b"hello")
    headers = {"Connection": "close", "Upload-Offset": 5, "Content-Type": OCTETS}
    with server.connect() as connection:
        answer = connection.ask(request(method, path, headers))
        assert answer.status in (200, 204)
        assert answer.closes
        assert connection.ended()


def test_an_idle_connection_ends(serve: Serve) -> None:
    server = serve(keepalive_timeout=0.3)
    with server.connect() as connection, server.connect() as silent, server.connect() as slow:
        slow.send(b"HEAD /files/x HTT")
        assert connection.ask(request("OPTIONS", "/files/")).status == 200
        assert connection.ended(2)
        assert silent.ended(2)
        assert slow.ended(2)


# --- clients that go away


@pytest.mark.parametrize("size", SIZES)
def test_a_whole_request_and_then_half_closed(server: Served, size: int) -> None:
    """All that was sent counts and is answered, also what came in the same packet as the end."""
    body = os.urandom(size)
    path = server.create(size)
    with server.connect() as connection:
        connection.send(patch(path, 0, body))
        connection.half_close()
        assert connection.answer()["Upload-Offset"] == str(size)
        assert connection.ended()
    assert server.stored(path) == body
    eventually(0, server.connections)


def test_many_requests_and_then_half_closed(server: Served) -> None:
    """Each is answered; one that is not whole ends the connection at once."""
    path = server.create(1000)
    with server.connect() as connection:
        connection.send(b"".join(patch(path, n, b"x") for n in range(100)))
        connection.half_close()
        for n in range(100):
            assert connection.answer()["Upload-Offset"] == str(n + 1)
        assert connection.ended()
    with server.connect() as connection:
        connection.send(request("HEAD", path) + request("HEAD", path)[:-2])
        connection.half_close()
        assert connection.answer("HEAD")["Upload-Offset"] == "100"
        assert connection.ended()
    eventually(0, server.connections)


def test_half_closed_while_it_waits_for_the_lock(serve: Serve) -> None:
    server = serve(policy=Policy(lock_timeout=0.3))
    path = server.create(100)
    hold = server.hold(path)
    with server.connect() as connection:
        connection.send(patch(path, 0, b"hello"))
        assert connection.silent(0.1)
        connection.half_close()
        answer = connection.answer()
        assert (answer.status, answer.code) == (423, "ERR_UPLOAD_LOCKED")
        assert connection.ended()
    hold.set()


def test_half_closed_without_a_word(server: Served) -> None:
    with server.connect() as connection:
        connection.half_close()
        assert connection.ended()
    with server.connect() as connection:
        assert connection.ask(request("OPTIONS", "/files/")).status == 200
        connection.half_close()
        assert connection.ended()
    eventually(0, server.connections)


@pytest.mark.parametrize("size", SIZES)
def test_half_closed_in_mid_body(server: Served, size: int) -> None:
    body = os.urandom(size)
    path = server.create(size)
    with server.connect() as connection:
        connection.send(patch(path, 0, body)[: -size // 2])
        server.wait_for_offset(path, size // 2)
        connection.half_close()
        eventually(0, server.connections)
        began = time.monotonic()
        assert server.offset(path) == size // 2
        assert time.monotonic() - began < 0.5, "the lock was still held"
    assert server.ask(patch(path, size // 2, body[size // 2 :])).status == 204
    assert server.stored(path) == body


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chunk", [False, True])
def test_a_client_that_vanishes_in_mid_body(server: Served, size: int, chunk: bool) -> None:
    body = os.urandom(size)
    path = server.create(size)
    connection = server.connect()
    if chunk:
        sent = chunked(body[: size // 2], size)[:-5]
        connection.send(patch(path, 0, headers={"Transfer-Encoding": "chunked"}) + sent)
    else:
        connection.send(patch(path, 0, body)[: -size // 2])
    server.wait_for_offset(path, size // 2)
    connection.reset()
    eventually(0, server.connections)
    began = time.monotonic()
    assert server.offset(path) == size // 2
    assert time.monotonic() - began < 0.5, "the lock was still held"
    assert server.ask(patch(path, size // 2, body[size // 2 :])).status == 204
    assert server.stored(path) == body


def test_a_client_that_sends_all_and_vanishes(server: Served) -> None:
    """Nobody waits for the answer, but the bytes are there."""
    body = os.urandom(3000 * KIB)
    path = server.create(len(body))
    with server.connect() as connection:
        connection.send(patch(path, 0, body))
    server.wait_for_offset(path, len(body))  # a HEAD would interrupt it, or come before it
    eventually(0, server.connections)
    assert server.offset(path) == len(body)
    assert server.stored(path) == body


def test_a_client_that_vanishes_while_it_waits_for_the_lock(server: Served) -> None:
    path = server.create(2000 * KIB)
    hold = server.hold(path)
    connections = [server.connect() for _ in range(20)]
    for connection in connections:
        connection.send(patch(path, 0, b"x" * 600 * KIB, announce=1000 * KIB))
    time.sleep(0.1)
    for connection in connections:
        connection.reset()
    hold.set()
    eventually(0, server.connections)
    offset = server.offset(path)
    assert offset == len(server.stored(path))


@pytest.mark.parametrize("size", SIZES)
def test_a_stalled_body_times_out_and_its_bytes_are_kept(serve: Serve, size: int) -> None:
    server = serve(read_timeout=0.3)
    body = os.urandom(size)
    path = server.create(size)
    with server.connect() as connection:
        began = time.monotonic()
        connection.send(patch(path, 0, body)[: -size // 2])
        answer = connection.answer()
        assert 0.25 < time.monotonic() - began < 1.5
        assert (answer.status, answer.code, answer["Upload-Offset"]) == (503, "ERR_READ_TIMEOUT", str(size // 2)), answer
        assert answer.closes
        assert connection.ended()
    assert server.offset(path) == size // 2


@pytest.mark.parametrize("size", SIZES)
def test_a_slow_body_does_not_time_out(serve: Serve, size: int) -> None:
    server = serve(read_timeout=0.3)
    body = os.urandom(size)
    path = server.create(size)
    with server.connect() as connection:
        connection.send(patch(path, 0, body)[: -len(body)])
        for n in range(5):
            connection.send(body[n * size // 5 : (n + 1) * size // 5])
            time.sleep(0.15)
        assert connection.answer()["Upload-Offset"] == str(size)
    assert server.stored(path) == body


# --- unix sockets


def test_a_unix_socket(serve: Serve) -> None:
    """Its peer has no address, and is trusted to say whom it speaks for."""
    server = serve(unix=True, origins=Origins(behind_proxy=True))
    body = os.urandom(600 * KIB)
    with server.connect() as connection:
        headers = {"Upload-Length": len(body), "X-Forwarded-Host": "up.example.com", "X-Forwarded-Proto": "https"}
        created = connection.ask(post(headers))
        assert created["Location"].startswith("https://up.example.com/files/")
        path = created["Location"].removeprefix("https://up.example.com")
        assert connection.ask(patch(path, 0, body)).status == 204
        assert connection.ask(request("GET", path)).body == body


# --- many


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def memory() -> int:
    """Bytes of this process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.parametrize("size", [200 * KIB, 1000 * KIB])
def test_200_stalled_uploads_and_then_all_of_them_resumed(server: Served, size: int) -> None:
    body = os.urandom(size)
    paths = [server.create(size) for _ in range(200)]
    server.ask(patch(server.create(size), 0, body))  # so that what is made once is there
    eventually(0, server.connections)
    files, before = open_files(), memory()
    connections: list[Connection] = []
    for path in paths:
        connections.append(server.connect(timeout=30))
        connections[-1].send(patch(path, 0, body)[: -size // 2])
    for path in paths:
        server.wait_for_offset(path, size // 2)
    assert memory() - before < 200 * size // 2 * 0.9, "what a stalled upload has sent is kept in memory"
    for connection in connections:
        connection.send(body[size // 2 :])
    for connection in connections:
        assert connection.answer().status == 204
        connection.close()
    eventually(0, server.connections)
    assert all(server.stored(path) == body for path in paths)
    eventually(files, open_files)


def test_no_file_stays_open_whatever_clients_do(server: Served) -> None:
    body = os.urandom(1000 * KIB)
    path, done = server.create(10**9), server.upload(body)
    eventually(0, server.connections)
    files = open_files()
    for n in range(20):
        for stream in (
            patch(path, 0, body)[:-5000],
            patch(path, 1, body),
            request("GET", done),
            post({"Upload-Length": 10}, b"hello", announce=10),
            patch(path, 0, headers={"Transfer-Encoding": "chunked"}) + b"5\r\nhello\r\nx",
            b"nonsense\r\n\r\n",
        ):
            connection = server.connect()
            connection.send_as_far_as_it_goes(stream)
            connection.reset() if n % 2 else connection.close()
    eventually(0, server.connections)
    eventually(files, open_files)
    assert server.offset(path) == len(server.stored(path))


def test_uploads_at_once_do_not_mix(server: Served) -> None:
    """All of them share one buffer."""
    bodies = [os.urandom(900 * KIB + n) for n in range(12)]
    paths = [server.create(len(body)) for body in bodies]
    statuses: list[int] = []

    def upload(path: str, body: bytes) -> None:
        with server.connect() as connection:
            stream = patch(path, 0, body)
            for at in range(0, len(stream), 65537):
                connection.send(stream[at : at + 65537])
            statuses.append(connection.answer().status)

    threads = [threading.Thread(target=upload, args=pair) for pair in zip(paths, bodies, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert statuses == [204] * 12
    assert [server.stored(path) for path in paths] == bodies


@pytest.mark.parametrize("size", [5, 400_000])
def test_a_closed_connection_is_gone_without_the_garbage_collector(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    alive: weakref.WeakSet[ServerConnection] = weakref.WeakSet()
    made = ServerConnection.connection_made

    def count(self: ServerConnection, transport: asyncio.BaseTransport) -> None:
        alive.add(self)
        made(self, transport)

    monkeypatch.setattr(ServerConnection, "connection_made", count)
    server = serve()
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            with server.connect() as connection:
                data = post({"Upload-Length": size}, b"x" * size)
                connection.send(data[:-size])
                time.sleep(0.02)
                connection.send(data[-size:])
                assert connection.answer().status == 201
        time.sleep(0.3)
        assert len(alive) == 0
    finally:
        gc.enable()
