"""Answers to what cannot be taken: one look for all, and nothing in them that is for the operator only."""

from __future__ import annotations

import logging
import re
from contextlib import suppress

import pytest

from tusd.errors import InternalError
from tusd.hooks import Dispatcher, HookEvent, HookResponse, PreCreate
from tusd.plugin import HookError

from .conftest import Serve
from .raw import chunked, patch, post, request
from .serving import Served

SECRET = "cannot reach http://internal:9/secret?token=1"


class Broken(Dispatcher):
    """Fails, and says more than clients may know."""

    events = frozenset({PreCreate})

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def dispatch(self, event: HookEvent) -> HookResponse | None:
        raise self.error


@pytest.mark.parametrize("error", [HookError(SECRET), InternalError(SECRET)])
@pytest.mark.parametrize("given", [None, "its-own.id", "not an id"])
def test_what_failed_inside_is_in_the_log_only(
    serve: Serve, caplog: pytest.LogCaptureFixture, error: InternalError, given: str | None
) -> None:
    server = serve(dispatchers=[Broken(error)])
    answer = server.ask(post({"Upload-Length": 5, **({} if given is None else {"X-Request-ID": given})}))
    assert answer.status == 500
    assert answer.body == f"{error.code}: {error.message}\n".encode()
    assert "secret" not in repr(answer)
    request_id = answer["X-Request-ID"]
    assert request_id == given or (given != "its-own.id" and re.fullmatch("[0-9a-f]{16}", request_id))
    told = [record.getMessage() for record in caplog.get_records("call") if SECRET in record.getMessage()]
    assert len(told) == 1
    assert request_id in told[0]


# --- transfer codings (RFC 9112 section 6.1)


@pytest.mark.parametrize("coding", ["gzip, chunked", "identity, chunked", "gzip,chunked", "x, chunked"])
@pytest.mark.parametrize("path", ["upload", "/hello"])
def test_a_body_with_another_transfer_coding_is_not_stored(server: Served, coding: str, path: str) -> None:
    upload = server.create(100)
    with server.connect() as connection:
        if path == "upload":
            stream = patch(upload, 0, headers={"Transfer-Encoding": coding})
        else:
            stream = request("GET", path, {"Transfer-Encoding": coding})
        connection.send(stream + chunked(b"hello", 5) + request("OPTIONS", "/files/"))
        answer = connection.answer()
        assert answer.closes
        if path == "upload":
            assert (answer.status, answer.code) == (501, "ERR_NOT_IMPLEMENTED")
        assert connection.ended()
    assert server.offset(upload) == 0


@pytest.mark.parametrize("coding", ["chunked", "Chunked", "chunked "])
def test_chunked_alone_is_taken(server: Served, coding: str) -> None:
    path = server.create(5)
    answer = server.ask(patch(path, 0, headers={"Transfer-Encoding": coding}) + chunked(b"hello", 2))
    assert (answer.status, answer.closes) == (204, False)
    assert server.stored(path) == b"hello"


# --- what cannot be parsed


@pytest.mark.parametrize(
    "stream",
    [
        b"hello server\r\n\r\n",
        b"HEAD /files/x HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        request("HEAD", "/files/x", {"X": "a" * 200_000}),
        request("OPTIONS", "/files/") + b"\0\0\r\n\r\n",
    ],
)
def test_a_malformed_request_is_answered_like_any_other(server: Served, stream: bytes) -> None:
    said = b""
    with server.connect(timeout=5) as connection:
        connection.send(stream)
        with suppress(ConnectionResetError):  # what a client gets behind the answer when it has sent more than was read
            while piece := connection.socket.recv(65536):
                said += piece
    head, _, body = said[said.rindex(b"HTTP/1.") :].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 400 Bad Request"
    fields = dict(line.split(": ", 1) for line in lines[1:])
    assert (fields["Server"], fields["Connection"], fields["Tus-Resumable"]) == ("tusd", "close", "1.0.0")
    assert fields["X-Content-Type-Options"] == "nosniff"
    assert fields["Cache-Control"] == "no-store"
    assert fields["Content-Length"] == str(len(body))
    assert body.startswith(b"ERR_INVALID_REQUEST: ")
    assert b"aiohttp" not in said


def test_an_answer_that_cannot_be_sent_looks_like_any_other(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("inner text")

    logging.getLogger("tusd.web").setLevel(logging.CRITICAL)  # a bug is an error in the log, which other tests forbid
    monkeypatch.setattr("tusd.web.handler.head_of", fail)
    try:
        answer = server.ask(request("OPTIONS", "/files/"))
    finally:
        logging.getLogger("tusd.web").setLevel(logging.NOTSET)
    assert (answer.status, answer["Server"], answer.closes) == (500, "tusd", True)
    assert answer.body == f"{InternalError.code}: {InternalError.message}\n".encode()
