"""Input that no client means: a clear 4xx or a closed connection, never a 500, never a lock that stays, never another request's answer."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from tests.web.raw import OCTETS, Answer, patch, post, request
from tests.web.serving import Served, path_of

VICTIM = b"the victim's bytes"


@pytest.fixture
def victim(server: Served) -> str:
    """An upload that nobody may touch."""
    return server.create(100)


def answers(server: Served, stream: bytes, *, most: int = 20) -> list[Answer]:
    """All that comes back for a stream, until the server closes or has no more to say."""
    found: list[Answer] = []
    method = stream.partition(b" ")[0].decode("latin-1")
    with server.connect(timeout=0.4) as connection:
        connection.send_as_far_as_it_goes(stream)
        try:
            while len(found) < most:
                found.append(connection.answer("GET" if found else method))
        except (EOFError, TimeoutError, ConnectionError):
            pass
    return found


def refused(server: Served, stream: bytes) -> None:
    """One 4xx, or 505 for another version of HTTP, or none; the server goes on."""
    found = answers(server, stream)
    assert len(found) <= 1, found
    assert all(400 <= answer.status < 500 or answer.status == 505 for answer in found), found
    assert server.ask(request("OPTIONS", "/files/")).status == 200


def untouched(server: Served, victim: str) -> None:
    """The victim is as it was, and its lock is free."""
    began = time.monotonic()
    assert server.offset(victim) == 0
    assert time.monotonic() - began < 1
    assert server.stored(victim) == b""


# --- heads that are too much

BOMBS = {
    "long header": request("HEAD", "/files/x", {"X-Bomb": "a" * 200_000}),
    "long name": request("HEAD", "/files/x", {"X" * 200_000: "a"}),
    "long target": request("HEAD", "/files/" + "a" * 200_000),
    "many headers": request("HEAD", "/files/x", [(f"X-{n}", n) for n in range(20_000)]),
    "one header many times": request("HEAD", "/files/x", [("X-Bomb", "a")] * 20_000),
    "no end": b"HEAD /files/x HTTP/1.1\r\n" + b"X-Bomb: a\r\n" * 50_000,
    "long method": b"A" * 200_000 + b" / HTTP/1.1\r\n\r\n",
    "long metadata": request("POST", "/files/", {"Upload-Length": 1, "Upload-Metadata": "a " + "YWFh" * 60_000}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_header_bombs(server: Served, name: str) -> None:
    refused(server, BOMBS[name])


# --- what is no HTTP

NO_HTTP = {
    "nothing": b"\r\n\r\n\r\n\r\n",
    "words": b"hello server\r\n\r\n",
    "tls": bytes.fromhex("1603010200010001fc0303") + os.urandom(200),
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "version 9": b"HEAD /files/x HTTP/9.9\r\nHost: a\r\n\r\n",
    "no version": b"HEAD /files/x\r\n\r\n",
    "no host": b"HEAD /files/x HTTP/1.1\r\nTus-Resumable: 1.0.0\r\n\r\n",
    "nul in the target": b"HEAD /files/\0x HTTP/1.1\r\nHost: a\r\n\r\n",
    "nul in a header": b"HEAD /files/x HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
    "nul in a name": b"HEAD /files/x HTTP/1.1\r\nHost: a\r\nX\0Y: a\r\n\r\n",
    "space before the colon": b"HEAD /files/x HTTP/1.1\r\nHost: a\r\nUpload-Length : 5\r\n\r\n",
    "no colon": b"HEAD /files/x HTTP/1.1\r\nHost: a\r\nUpload-Length 5\r\n\r\n",
    "empty name": b"HEAD /files/x HTTP/1.1\r\nHost: a\r\n: 5\r\n\r\n",
    "bare cr": b"HEAD /files/x HTTP/1.1\r\nHost: a\r\nX: a\rY: b\r\n\r\n",
    "connect": b"CONNECT example.com:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "target is a host": b"GET example.com:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "bad port": b"GET http://example.com:x/files/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "bad bracket": b"GET http://[::1/files/ HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("name", NO_HTTP)
def test_what_is_no_http(server: Served, name: str) -> None:
    refused(server, NO_HTTP[name])


def test_noise(server: Served) -> None:
    """Requests with random bytes replaced never fail the server. The seed is fixed: the same noise each time."""
    rng = random.Random(7)
    path = server.create(1000)
    seeds = [patch(path, 0, b"hello"), post({"Upload-Length": 5, "Upload-Metadata": "a YQ=="}, b"hello"), request("GET", path)]
    for _ in range(300):
        stream = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            stream[rng.randrange(len(stream))] = rng.randrange(256)
        with server.connect(timeout=2) as connection:
            connection.send(bytes(stream))
            connection.half_close()
            try:
                assert connection.answer("GET").status < 500
            except (EOFError, ConnectionError, AssertionError) as error:
                assert not isinstance(error, AssertionError) or "occurs 0 times" in str(error), stream
    assert server.offset(path) in (0, 5)


# --- ids

SECRET = b"what must not be read"
TRAVERSALS = [
    "../secret",
    "..%2fsecret",
    "%2e%2e/secret",
    "%2e%2e%2fsecret",
    "%252e%252e%252fsecret",
    "..%5csecret",
    "..\\secret",
    "%c0%ae%c0%ae/secret",
    "%uff0e%uff0e/secret",
    "./../secret",
    "a/../../secret",
    "a/%2e%2e/%2e%2e/secret",
    "//secret",
    "/../secret",
    "%2fetc%2fpasswd",
    "/etc/passwd",
    "%00",
    "a%00",
    "secret%00.txt",
    "..;/secret",
    "....//secret",
    "~",
    "~sweeper",
    ".hidden",
    ".",
    "..",
    "%2e",
    "a%0d%0aX-Injected:%20b",
    "%ff%fe",
    "a" * 300,
    "a/" * 400,
    "%",
    "%zz",
    "con",
    "x.info",
    "x.lock",
]


@pytest.mark.parametrize("name", TRAVERSALS)
def test_ids_that_lead_elsewhere(server: Served, name: str) -> None:
    (server.directory / "secret").write_bytes(SECRET)
    (server.directory / "secret.info").write_text('{"ID":"secret","Size":21,"Offset":21,"MetaData":{},"Storage":null}')
    before = snapshot(server.directory)
    target = "/files/" + name
    end = {"Connection": "close"}
    for stream in (
        request("HEAD", target, end),
        request("GET", target, end),
        request("DELETE", target, end),
        patch(target, 21, b"more", end),
        request("POST", target, {"X-HTTP-Method-Override": "DELETE", **end}),
        request("POST", "/files/", {"Upload-Concat": f"final;{target}", **end}),
        request("POST", "/files/", {"Upload-Concat": f"final;http://tus.test{target}", **end}),
    ):
        found = answers(server, stream)
        assert len(found) == 1
        for answer in found:
            assert 400 <= answer.status < 500, answer
            assert SECRET not in answer.body
            assert "X-Injected" not in answer
    assert snapshot(server.directory) == before


def snapshot(directory: Path) -> dict[str, bytes]:
    """Every file outside of the run folder."""
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file() and "run" not in path.parts[-3:]}


def test_files_beside_an_upload_are_no_uploads(server: Served) -> None:
    path = server.create(10)
    for suffix in (".info", ".info%00", ".lock", ".tmp", "/..", "/../", "/x"):
        assert server.ask(request("HEAD", path + suffix)).status in (400, 404)


# --- headers with something in them


@pytest.mark.parametrize(
    "raw", [b"a YQ==\r\nX-Injected: b", b"a YQ==\n X-Folded: b", b"a YQ==\r b", b"a\x00 YQ==", b"a \xff\xfe"]
)
def test_line_ends_in_metadata_never_reach_an_answer(server: Served, raw: bytes) -> None:
    head = b"POST /files/ HTTP/1.1\r\nHost: a\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 1\r\nUpload-Metadata: "
    for answer in answers(server, head + raw + b"\r\n\r\n"):
        assert answer.status < 500
        assert "X-Injected" not in answer
        if answer.status == 201:
            told = server.ask(request("HEAD", path_of(answer)))
            assert "X-Injected" not in told and "X-Folded" not in told


def test_control_characters_in_metadata_values_are_escaped(server: Served) -> None:
    names = "filename YQ0KWC1JbmplY3RlZDogYg==,filetype dGV4dC9wbGFpbg0KWC1JbmplY3RlZDogYg=="  # with CR, LF and a header in them
    created = server.ask(post({"Upload-Length": 1, "Upload-Metadata": names}, b"x"))
    answer = server.ask(request("GET", path_of(created)))
    assert answer.status == 200
    assert "X-Injected" not in answer
    assert answer["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize("host", ["a b", "a/b", "a\\b", "evil.test#", "a@b", "", "[::1", "a:b:c", "\u00e4", "a,b", '"'])
def test_a_host_that_is_none_creates_nothing(server: Served, host: str) -> None:
    found = answers(server, request("POST", "/files/", {"Host": host, "Upload-Length": 1}))
    assert all(400 <= answer.status < 500 for answer in found), found
    assert list((server.directory / "data").iterdir()) == []


DUPLICATES = ["Upload-Length", "Upload-Offset", "Tus-Resumable", "Upload-Defer-Length", "Upload-Concat", "Upload-Checksum"]


@pytest.mark.parametrize("name", DUPLICATES)
@pytest.mark.parametrize("same", [True, False])
def test_headers_that_may_occur_once(server: Served, victim: str, name: str, same: bool) -> None:
    values = {"Upload-Length": "100", "Upload-Offset": "0", "Tus-Resumable": "1.0.0", "Upload-Defer-Length": "1"}
    values |= {"Upload-Concat": "partial", "Upload-Checksum": "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="}
    value = values[name]
    method = "PATCH" if name in ("Upload-Offset", "Upload-Checksum", "Tus-Resumable") else "POST"
    headers = [(name, value), (name, value if same else value + "1"), ("Content-Type", OCTETS)]
    if method == "PATCH" and name != "Upload-Offset":
        headers.append(("Upload-Offset", "0"))
    if method == "POST" and name == "Upload-Concat":
        headers.append(("Upload-Length", "5"))
    answer = server.ask(request(method, victim if method == "PATCH" else "/files/", headers, b"hello"))
    assert answer.status in (400, 412), answer
    untouched(server, victim)
    assert len(list((server.directory / "data").iterdir())) == 2, "nothing but the victim is there"


# --- smuggling: two readings of where a body ends


def smuggle(victim: str, lines: str, body: bytes) -> bytes:
    """A PATCH of nothing with these framing headers, and behind it what must not be taken for a request of its own."""
    head = f"PATCH /files/nothing HTTP/1.1\r\nHost: a\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Type: {OCTETS}\r\n"
    return head.encode() + lines.encode() + b"\r\n" + body


SHAPES: dict[str, tuple[str, bytes]] = {
    "length and chunked": ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    "chunked and length": ("Transfer-Encoding: chunked\r\nContent-Length: 500\r\n", b"0\r\n\r\n"),
    "two lengths": ("Content-Length: 0\r\nContent-Length: 500\r\n", b""),
    "two lengths in one": ("Content-Length: 0, 500\r\n", b""),
    "length with a sign": ("Content-Length: +0\r\n", b""),
    "negative length": ("Content-Length: -1\r\n", b""),
    "length in hex": ("Content-Length: 0x0\r\n", b""),
    "length with a space in it": ("Content-Length: 0 0\r\n", b""),
    "length beyond everything": ("Content-Length: 99999999999999999999999\r\n", b""),
    "empty length": ("Content-Length:\r\n", b""),
    "length in other digits": ("Content-Length: \u0660\r\n", b""),
    "space before the colon": ("Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"),
    "another coding": ("Transfer-Encoding: gzip\r\n", b"0\r\n\r\n"),
    "chunked, then another": ("Transfer-Encoding: chunked, gzip\r\n", b"0\r\n\r\n"),
    "chunked twice": ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    "nearly chunked": ("Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"),
    "chunked with a tab": ("Transfer-Encoding:\x0bchunked\r\n", b"0\r\n\r\n"),
    "folded": ("Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n"),
    "chunk size with a sign": ("Transfer-Encoding: chunked\r\n", b"+0\r\n\r\n"),
    "chunk size in hex with a prefix": ("Transfer-Encoding: chunked\r\n", b"0x0\r\n\r\n"),
    "chunk ended by lf": ("Transfer-Encoding: chunked\r\n", b"0\n\n"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_smuggling_shapes(server: Served, victim: str, name: str) -> None:
    """Whoever reads them differently from a proxy in front would take the tail for a request. We refuse, and close."""
    lines, body = SHAPES[name]
    found = answers(server, smuggle(victim, lines, body) + request("DELETE", victim))
    assert all(400 <= answer.status < 500 for answer in found), found
    assert len(found) <= 1, found
    untouched(server, victim)


@pytest.mark.parametrize("name", ["lf only", "chunk extension"])
def test_shapes_that_are_read_in_one_way_only(server: Served, victim: str, name: str) -> None:
    if name == "lf only":
        stream = smuggle(victim, "Transfer-Encoding: chunked\r\n", b"3;x=y\r\nabc\r\n0\r\n\r\n").replace(b"\r\n", b"\n", 3)
    else:
        stream = smuggle(victim, "Transfer-Encoding: chunked\r\n", b'3;x="y"\r\nabc\r\n0\r\n\r\n')
    found = answers(server, stream)
    assert all(400 <= answer.status < 500 for answer in found), found
    untouched(server, victim)


@pytest.mark.parametrize("upgrade", ["websocket", "h2c", "tus", "h2c, websocket"])
@pytest.mark.parametrize("size", [18, 400_000])
def test_an_upgrade_that_is_not_made(server: Served, victim: str, upgrade: str, size: int) -> None:
    """The body still is a body (RFC 9110 section 7.8), and nothing may follow it."""
    smuggled = request("DELETE", victim)
    body = (smuggled * (size // len(smuggled) + 1))[:size]
    path = server.create(size)
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": upgrade, "HTTP2-Settings": "AAMAAABkAAQCAAAAAAIAAAAA"}
    with server.connect(timeout=2) as connection:
        connection.send(patch(path, 0, body, headers) + request("OPTIONS", "/files/"))
        answer = connection.answer()
        assert (answer["Upload-Offset"], answer.closes) == (str(size), True)
        assert connection.ended()
    assert server.stored(path) == body
    untouched(server, victim)


def test_a_method_override_cannot_be_used_to_read_another_body(server: Served, victim: str) -> None:
    """A HEAD by override has a body to skip like any other."""
    body = request("DELETE", victim)
    with server.connect() as connection:
        connection.send(request("POST", victim, {"X-HTTP-Method-Override": "HEAD"}, body) + request("OPTIONS", "/files/"))
        assert connection.answer()["Upload-Offset"] == "0"
        try:
            assert "Tus-Extension" in connection.answer()
        except EOFError:
            pass  # closed: no harm
    untouched(server, victim)


@pytest.mark.parametrize("method", ["HEAD", "GET", "DELETE", "OPTIONS", "PUT", "POST"])
def test_a_body_where_none_belongs(server: Served, victim: str, method: str) -> None:
    other = server.upload(b"hello")
    body = request("DELETE", victim)
    with server.connect() as connection:
        connection.send(request(method, other, {}, body) + request("OPTIONS", "/files/"))
        assert connection.answer(method).status < 500
        try:
            assert "Tus-Extension" in connection.answer()
        except EOFError:
            pass  # closed: no harm
    untouched(server, victim)


@pytest.mark.parametrize("value", [2**63, 2**64, 2**64 + 5, 10**30])
def test_numbers_beyond_63_bits(server: Served, victim: str, value: int) -> None:
    for stream in (
        post({"Upload-Length": value}),
        post({"Upload-Length": 5}, announce=value),
        patch(victim, value, b"x"),
        patch(victim, 0, announce=value),
        patch(victim, 0, b"x", {"Upload-Length": value}),
    ):
        refused(server, stream)
    untouched(server, victim)


def test_a_huge_body_is_refused_before_it_comes(server: Served, victim: str) -> None:
    began = time.monotonic()
    with server.connect() as connection:
        connection.send(patch(victim, 0, announce=2**63 - 1))
        assert connection.answer().status == 413
    assert time.monotonic() - began < 1
    untouched(server, victim)
