"""After any answer the next one is for the next request, or the connection is closed: bytes of a body are never taken for a request."""

from __future__ import annotations

import os
import time

import pytest

from tusd.protocol.rules import Policy

from .conftest import Serve
from .raw import OCTETS, Answer, Connection, chunked, patch, post, request
from .serving import Served

KIB = 1024
DIRECT = 256 * KIB
"""From this size on a body goes straight from the socket to the file."""


def refusals(path: str) -> dict[str, tuple[str, str, dict[str, object], int]]:
    """Requests that are refused before their body is read: name -> method, path, headers, status."""
    good: dict[str, object] = {"Content-Type": OCTETS}
    return {
        "no length": ("POST", "/files/", good, 400),
        "too long": ("POST", "/files/", {**good, "Upload-Length": 10**12}, 413),
        "another version": ("POST", "/files/", {**good, "Upload-Length": 5, "Tus-Resumable": "0.2.2"}, 412),
        "another type": ("POST", "/files/", {"Upload-Length": 10**8, "Content-Type": "text/plain"}, 415),
        "no such upload": ("PATCH", "/files/nothing", {**good, "Upload-Offset": 0}, 404),
        "wrong offset": ("PATCH", path, {**good, "Upload-Offset": 7}, 409),
        "no such method": ("PUT", "/files/", good, 405),
        "outside": ("POST", "/elsewhere", {}, 404),
    }


NAMES = list(refusals(""))


@pytest.fixture
def limited(serve: Serve) -> Served:
    return serve(policy=Policy(max_size=10**9))


SIZES = [(name, size) for name in NAMES for size in (10, 60 * KIB, 100 * KIB)]
SIZES += [("too long", 100 * 1000 * KIB), ("outside", 100 * 1000 * KIB)]


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_a_refused_body_is_drained_or_the_connection_ends(limited: Served, name: str, size: int) -> None:
    """The client sends all of it and one more request behind it, until an answer comes."""
    path = limited.create(10**9)
    method, target, headers, status = refusals(path)[name]
    smuggled = request("DELETE", path)
    body = (smuggled * (size // len(smuggled) + 1))[:size]
    with limited.connect() as connection:
        stream = request(method, target, headers, body) + request("OPTIONS", "/files/")
        sent = connection.send_as_far_as_it_goes(stream)
        answer = connection.answer(method)
        assert answer.status == status, answer
        if answer.closes:
            assert connection.ended()
        else:
            connection.send(stream[sent:])  # it was answered before all was sent
            assert "Tus-Extension" in connection.answer()
    assert limited.offset(path) == 0, "bytes of a body were taken for a request"


@pytest.mark.parametrize("name", NAMES)
def test_a_refused_body_that_never_comes(limited: Served, name: str) -> None:
    path = limited.create(10**9)
    method, target, headers, status = refusals(path)[name]
    began = time.monotonic()
    with limited.connect() as connection:
        connection.send(request(method, target, headers, announce=100))
        assert connection.answer(method).status == status
        assert time.monotonic() - began < 1
        assert connection.ended(), "a body that does not come must not hold the connection"


@pytest.mark.parametrize("size", [1, DIRECT - 1, DIRECT, DIRECT + 1, 700 * KIB, 3000 * KIB])
def test_requests_behind_a_body_in_the_same_stream(server: Served, size: int) -> None:
    body = os.urandom(size)
    path = server.create(2 * size)
    with server.connect() as connection:
        connection.send(
            patch(path, 0, body) + request("HEAD", path) + patch(path, size, body) + request("GET", path) + request("HEAD", path)
        )
        assert connection.answer()["Upload-Offset"] == str(size)
        assert connection.answer("HEAD")["Upload-Offset"] == str(size)
        assert connection.answer()["Upload-Offset"] == str(2 * size)
        assert connection.answer().body == body + body
        assert connection.answer("HEAD")["Upload-Length"] == str(2 * size)


def test_many_requests_in_one_packet(server: Served) -> None:
    path = server.create(1000)
    with server.connect() as connection:
        connection.send(b"".join(patch(path, n, b"x") + request("HEAD", path) for n in range(300)))
        for n in range(300):
            assert connection.answer().status == 204
            assert connection.answer("HEAD")["Upload-Offset"] == str(n + 1)


@pytest.mark.parametrize("size", [300 * KIB, 512 * KIB, 600 * KIB, 1024 * KIB, 4096 * KIB])
@pytest.mark.parametrize("room", [0, 1])
def test_a_body_that_waits_for_the_lock(server: Served, size: int, room: int) -> None:
    """While it waits the parser fills up and pauses; whatever it holds then must reach the file, once and in order."""
    body = os.urandom(size)
    path = server.create(size + room)
    hold = server.hold(path)
    with server.connect() as connection:
        connection.send(patch(path, 0, body)[: -len(body)] + body[: 1024 * KIB])
        time.sleep(0.1)
        hold.set()
        connection.send(body[1024 * KIB :] + request("HEAD", path))
        answer = connection.answer()
        assert (answer.status, answer["Upload-Offset"]) == (204, str(size)), answer
        assert connection.answer("HEAD")["Upload-Offset"] == str(size)
    assert server.stored(path) == body


@pytest.mark.parametrize("cut", [DIRECT - 1, DIRECT, DIRECT + 1, 300 * KIB, 512 * KIB, 512 * KIB + 1, 1024 * KIB - 1])
def test_a_large_body_cut_anywhere(server: Served, cut: int) -> None:
    body = os.urandom(1024 * KIB)
    path = server.create(len(body))
    with server.connect() as connection:
        connection.send(patch(path, 0, body)[: -len(body)])
        time.sleep(0.02)
        connection.send(body[:cut])
        time.sleep(0.05)
        connection.send(body[cut:] + request("HEAD", path))
        assert connection.answer()["Upload-Offset"] == str(len(body))
        assert connection.answer("HEAD")["Upload-Offset"] == str(len(body))
    assert server.stored(path) == body


def test_one_byte_at_a_time(server: Served) -> None:
    path = server.create(11)
    stream = patch(path, 0, b"hello") + request("HEAD", path) + patch(path, 5, b"", {"Transfer-Encoding": "chunked"})
    stream += chunked(b" world", 2) + request("GET", path)
    with server.connect() as connection:
        for byte in stream:
            connection.send(bytes([byte]))
        assert connection.answer()["Upload-Offset"] == "5"
        assert connection.answer("HEAD")["Upload-Offset"] == "5"
        assert connection.answer()["Upload-Offset"] == "11"
        assert connection.answer().body == b"hello world"


def test_a_large_body_in_small_pieces_then_a_request_in_the_last(server: Served) -> None:
    body = os.urandom(400 * KIB)
    path = server.create(len(body))
    stream = patch(path, 0, body) + request("HEAD", path)
    with server.connect() as connection:
        for at in range(0, len(stream), 4001):
            connection.send(stream[at : at + 4001])
        assert connection.answer()["Upload-Offset"] == str(len(body))
        assert connection.answer("HEAD")["Upload-Offset"] == str(len(body))
    assert server.stored(path) == body


def test_the_wrong_offset_between_good_requests(server: Served) -> None:
    path = server.create(100)
    with server.connect() as connection:
        connection.send(patch(path, 0, b"a" * 50) + patch(path, 7, b"b" * 50) + patch(path, 50, b"c" * 50))
        assert connection.answer().status == 204
        refused = connection.answer()
        assert (refused.status, refused["Upload-Offset"]) == (409, "50")
        assert connection.answer()["Upload-Offset"] == "100"
    assert server.stored(path) == b"a" * 50 + b"c" * 50


def test_a_body_that_is_too_long_for_the_upload(server: Served) -> None:
    """413 before a byte is read; a large one ends the connection, and the client can read why."""
    path = server.create(10)
    body = b"x" * (10 * 1024 * KIB)
    with server.connect() as connection:
        connection.send_as_far_as_it_goes(patch(path, 0, body))
        answer = connection.answer()
        assert (answer.status, answer.code, answer.closes) == (413, "ERR_UPLOAD_SIZE_EXCEEDED", True)
        assert connection.ended()
    assert server.offset(path) == 0


@pytest.mark.parametrize("size", [1, 100, 300 * KIB, 2000 * KIB])
def test_chunked_bodies(server: Served, size: int) -> None:
    body = os.urandom(size)
    path = server.create(size)
    with server.connect() as connection:
        connection.send(patch(path, 0, headers={"Transfer-Encoding": "chunked"}) + chunked(body, 7777) + request("HEAD", path))
        assert connection.answer()["Upload-Offset"] == str(size)
        assert connection.answer("HEAD")["Upload-Offset"] == str(size)
    assert server.stored(path) == body


def test_a_chunked_body_with_nothing_in_it(server: Served) -> None:
    path = server.create(5)
    with server.connect() as connection:
        connection.send(patch(path, 0, headers={"Transfer-Encoding": "chunked"}) + b"0\r\n\r\n" + request("HEAD", path))
        assert connection.answer()["Upload-Offset"] == "0"
        assert connection.answer("HEAD")["Upload-Offset"] == "0"


@pytest.mark.parametrize("size", [10, 100 * KIB, 3000 * KIB])
def test_a_chunked_body_that_is_too_long(server: Served, size: int) -> None:
    """Its size is known only once it is too late: what fits is kept, the rest refused."""
    body = os.urandom(size)
    path = server.create(size - 3)
    with server.connect() as connection:
        connection.send_as_far_as_it_goes(
            patch(path, 0, headers={"Transfer-Encoding": "chunked"}) + chunked(body, 5000) + request("DELETE", path)
        )
        answer = connection.answer()
        assert (answer.status, answer["Upload-Offset"]) == (413, str(size - 3)), answer
        if answer.closes:
            assert connection.ended()
        else:
            assert connection.answer().status == 204
            return
    assert server.stored(path) == body[: size - 3]


WRONG_CHUNKS = {
    "size is no number": b"5\r\nhello\r\nzz\r\nworld\r\n0\r\n\r\n",
    "size is negative": b"5\r\nhello\r\n-1\r\nworld\r\n0\r\n\r\n",
    "size is short": b"5\r\nhello\r\n3\r\nworld\r\n0\r\n\r\n",
    "no line end": b"5\r\nhelloXX5\r\nworld\r\n0\r\n\r\n",
    "size is huge": b"5\r\nhello\r\nffffffffffffffffff\r\nworld\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", list(WRONG_CHUNKS))
@pytest.mark.parametrize("at_once", [True, False])
def test_wrong_chunks(server: Served, name: str, at_once: bool) -> None:
    path = server.create(100)
    with server.connect() as connection:
        head = patch(path, 0, headers={"Transfer-Encoding": "chunked"})
        if at_once or name == "no line end":
            connection.send(head + WRONG_CHUNKS[name] + request("DELETE", path))
        else:
            connection.send(head + b"5\r\nhello\r\n")
            server.wait_for_offset(path, 5)
            connection.send(WRONG_CHUNKS[name][len(b"5\r\nhello\r\n") :] + request("DELETE", path))
        try:
            answer = connection.answer()
        except (EOFError, ConnectionError):
            pass
        else:
            assert 400 <= answer.status < 500, answer
        assert connection.ended()
    offset = server.offset(path)
    assert server.stored(path)[:5] in (b"", b"hello")
    assert offset == len(server.stored(path))


def test_trailers_are_read_and_thrown_away(server: Served) -> None:
    path = server.create(5)
    with server.connect() as connection:
        connection.send(
            patch(path, 0, headers={"Transfer-Encoding": "chunked", "Trailer": "Upload-Checksum"})
            + b"5\r\nhello\r\n0\r\nUpload-Checksum: sha1 AAAA\r\n\r\n"
            + request("HEAD", path)
        )
        assert connection.answer().status == 204
        assert connection.answer("HEAD")["Upload-Offset"] == "5"


def answers(connection: Connection, count: int) -> list[Answer]:
    return [connection.answer() for _ in range(count)]


def test_creations_with_bodies_in_one_stream(server: Served) -> None:
    with server.connect() as connection:
        connection.send(b"".join(post({"Upload-Length": 3}, b"abc") for _ in range(20)))
        assert {answer["Upload-Offset"] for answer in answers(connection, 20)} == {"3"}


@pytest.mark.parametrize("half_closed", [False, True])
def test_many_requests_behind_one_whose_body_came_late(serve: Serve, half_closed: bool) -> None:
    """aiohttp's parser counts such a body as a request that waits."""
    server = serve()
    path = server.create(10)
    with server.connect() as connection:
        whole = patch(path, 0, b"0123456789")
        connection.send(whole[:-10])
        time.sleep(0.1)
        connection.send(whole[-10:])
        assert connection.answer().status == 204
        connection.send(request("HEAD", path) * 40)
        if half_closed:
            connection.half_close()
        assert [connection.answer("HEAD").status for _ in range(40)] == [200] * 40


def test_a_body_that_was_stopped_and_came_to_its_end_is_not_waited_for(serve: Serve) -> None:
    server = serve()
    body = os.urandom(4 * DIRECT)
    path = server.create(len(body))
    with server.connect() as connection:
        connection.send(patch(path, 0, body)[: -2 * DIRECT])
        server.wait_for_offset(path, DIRECT)
        assert server.offset(path) >= DIRECT
        assert connection.answer().status == 423
        began = time.monotonic()
        connection.send(body[-2 * DIRECT :])
        assert connection.ended()
        assert time.monotonic() - began < 0.4, "it lingered"


def test_nothing_follows_a_connect(serve: Serve) -> None:
    answer = serve().ask(request("CONNECT", "/elsewhere"))
    assert (answer.status, answer.closes) == (404, True)
