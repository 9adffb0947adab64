"""`uploads.max_size` holds on every way in; and browsers on other sites see every header of every answer."""

from __future__ import annotations

import pytest
from tests.web.conftest import Serve
from tests.web.raw import OCTETS, chunked, patch, post, request
from tests.web.serving import Served, path_of

from tusd.protocol.cors import EXPOSE_HEADERS, Cors
from tusd.protocol.rules import Policy

from .test_core import every_answer

MAX = 1000
CHUNKED = {"Transfer-Encoding": "chunked"}


@pytest.fixture
def small(serve: Serve) -> Served:
    """A server that takes 1000 bytes for an upload."""
    return serve(policy=Policy(max_size=MAX))


def test_creation(small: Served) -> None:
    assert small.ask(post({"Upload-Length": MAX})).status == 201
    answer = small.ask(post({"Upload-Length": MAX + 1}))
    assert (answer.status, answer.code, answer["Tus-Max-Size"]) == (413, "ERR_MAX_SIZE_EXCEEDED", str(MAX))


@pytest.mark.parametrize("chunk", [False, True])
def test_creation_with_upload_of_deferred_length(small: Served, chunk: bool) -> None:
    def create(size: int) -> bytes:
        if chunk:
            return post({"Upload-Defer-Length": 1, "Content-Type": OCTETS, **CHUNKED}) + chunked(b"x" * size, 300)
        return post({"Upload-Defer-Length": 1}, b"x" * size)

    assert small.ask(create(MAX)).status == 201
    answer = small.ask(create(MAX + 1))
    assert answer.status == 413
    if "Location" in answer:
        assert small.offset(path_of(answer)) <= MAX


@pytest.mark.parametrize("chunk", [False, True])
def test_bytes_for_a_deferred_length(small: Served, chunk: bool) -> None:
    path = small.create(None)
    small.ask(patch(path, 0, b"x" * (MAX - 5)))
    body = b"x" * 6
    if chunk:
        answer = small.ask(patch(path, MAX - 5, headers=CHUNKED) + chunked(body, 4))
    else:
        answer = small.ask(patch(path, MAX - 5, body))
    assert answer.status == 413, answer
    assert small.offset(path) <= MAX
    assert len(small.stored(path)) <= MAX


def test_a_length_declared_late(small: Served) -> None:
    path = small.create(None)
    answer = small.ask(patch(path, 0, b"x", {"Upload-Length": MAX + 1}))
    assert (answer.status, answer.code) == (413, "ERR_MAX_SIZE_EXCEEDED")
    head = small.ask(request("HEAD", path))
    assert (head["Upload-Defer-Length"], head["Upload-Offset"]) == ("1", "0")
    assert small.ask(patch(path, 0, b"x", {"Upload-Length": MAX})).status == 204


@pytest.mark.parametrize("chunk", [False, True])
def test_a_known_length_is_a_limit_too(small: Served, chunk: bool) -> None:
    path = small.create(10)
    stream = patch(path, 0, headers=CHUNKED) + chunked(b"x" * 11, 4) if chunk else patch(path, 0, b"x" * 11)
    answer = small.ask(stream)
    assert (answer.status, answer.code) == (413, "ERR_UPLOAD_SIZE_EXCEEDED")
    assert small.offset(path) <= 10


def test_concatenation(small: Served) -> None:
    parts = [small.upload(b"x" * size, Upload_Concat="partial") for size in (500, 500, 1)]
    assert small.ask(request("POST", "/files/", {"Upload-Concat": f"final;{parts[0]} {parts[1]}"})).status == 201
    answer = small.ask(request("POST", "/files/", {"Upload-Concat": "final;" + " ".join(parts)}))
    assert (answer.status, answer.code) == (413, "ERR_MAX_SIZE_EXCEEDED")


def test_concatenation_of_unfinished_parts(small: Served) -> None:
    """Refused at once where the lengths are known; where they become known later, the final upload does not come about."""
    known = [small.create(600, Upload_Concat="partial") for _ in range(2)]
    assert small.ask(request("POST", "/files/", {"Upload-Concat": "final;" + " ".join(known)})).status == 413


ORIGIN = {"Origin": "https://app.example.com"}


def test_every_answer_can_be_read_by_browsers(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = server.ask

    def ask_from_a_page(stream: bytes) -> object:
        head, _, rest = stream.partition(b"\r\n")
        return plain(head + b"\r\nOrigin: https://app.example.com\r\n" + rest)

    monkeypatch.setattr(server, "ask", ask_from_a_page)
    answers = every_answer(server)
    assert len({answer.status for answer in answers}) >= 9, "many kinds of answers"
    for answer in answers:
        assert answer["Access-Control-Allow-Origin"] == "https://app.example.com", answer
        assert "origin" in answer["Vary"].lower()
        exposed = {name.strip() for name in answer["Access-Control-Expose-Headers"].split(",")}
        assert set(EXPOSE_HEADERS) <= exposed


def test_preflight(server: Served) -> None:
    headers = {**ORIGIN, "Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "upload-offset"}
    answer = server.ask(request("OPTIONS", "/files/", headers, tus=False))
    assert answer.status in (200, 204)
    for name in ("POST", "HEAD", "PATCH", "OPTIONS", "GET", "DELETE"):
        assert name in answer["Access-Control-Allow-Methods"]
    allowed = answer["Access-Control-Allow-Headers"].lower()
    for name in ("tus-resumable", "upload-offset", "upload-length", "upload-metadata", "upload-concat", "upload-checksum"):
        assert name in allowed
    assert int(answer["Access-Control-Max-Age"]) > 0


def test_an_origin_that_is_not_allowed(serve: Serve) -> None:
    server = serve(cors=Cors(allow_origins=(r"https://app\.example\.com",)))
    assert server.ask(request("OPTIONS", "/files/", ORIGIN)).status == 200
    for origin in ("https://app.example.com.evil.test", "https://appxexample.com", "null", "https://app.example.com\tx"):
        answer = server.ask(post({"Upload-Length": 5, "Origin": origin}))
        assert answer.status in (400, 403)
        assert "Access-Control-Allow-Origin" not in answer
        assert "Location" not in answer


def test_no_origin_no_headers(server: Served) -> None:
    assert not [name for name, _ in server.ask(request("OPTIONS", "/files/")).fields if name.startswith("Access-Control")]
