"""GET and HEAD on the wire: lengths that are true, ranges, conditions, clients that read slowly or leave."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

import pytest

from tusd.protocol.rules import Policy

from .conftest import Serve
from .raw import patch, post, request
from .serving import Served, path_of
from .test_connections import eventually, open_files

BODY = bytes(range(256)) * 4


def test_head_has_no_body_and_no_length_of_one(server: Served) -> None:
    """An empty Content-Length would speak of the download, which is not empty (RFC 9110 section 8.6)."""
    path = server.upload(BODY)
    with server.connect() as connection:
        for _ in range(3):
            answer = connection.ask(request("HEAD", path))
            assert answer.status == 200
            assert answer["Upload-Offset"] == answer["Upload-Length"] == str(len(BODY))
            assert answer.all("Content-Length") in ([], [str(len(BODY))])
            assert "Transfer-Encoding" not in answer


def test_a_refused_head_has_no_body(server: Served) -> None:
    with server.connect() as connection:
        for _ in range(3):
            assert connection.ask(request("HEAD", "/files/none")).status == 404
        assert connection.silent()


def test_head_behind_a_download_that_is_not_read(server: Served) -> None:
    """Its answer waits in a buffer that is not empty: another way through the code."""
    body = os.urandom(8_000_000)
    path = server.upload(body)
    with server.connect(receive_buffer=4096) as connection:
        connection.send(request("GET", path) + request("HEAD", path) + request("HEAD", "/files/no") + request("OPTIONS", path))
        time.sleep(0.1)
        assert connection.answer().body == body
        head = connection.answer("HEAD")
        assert head["Upload-Offset"] == str(len(body))
        assert head.all("Content-Length") in ([], [str(len(body))])
        assert connection.answer("HEAD").status == 404
        assert connection.answer().status == 200


def test_204_has_no_length(server: Served) -> None:
    """RFC 9110 section 8.6."""
    path = server.create(10)
    for answer in (server.ask(patch(path, 0, b"hello")), server.ask(request("DELETE", path))):
        assert answer.status == 204
        assert "Content-Length" not in answer
        assert "Transfer-Encoding" not in answer


RANGES: list[tuple[str, int, str | None, bytes]] = [
    ("bytes=0-0", 206, "bytes 0-0/1024", BODY[:1]),
    ("bytes=10-19", 206, "bytes 10-19/1024", BODY[10:20]),
    ("bytes=1000-", 206, "bytes 1000-1023/1024", BODY[1000:]),
    ("bytes=-24", 206, "bytes 1000-1023/1024", BODY[1000:]),
    ("bytes=-5000", 206, "bytes 0-1023/1024", BODY),
    ("bytes=1000-99999999999999999999", 200, None, BODY),
    ("bytes=1024-", 416, "bytes */1024", b""),
    ("bytes=-0", 416, "bytes */1024", b""),
    ("bytes=0-1,5-6", 200, None, BODY),
    ("bytes=9-3", 200, None, BODY),
    ("lines=1-2", 200, None, BODY),
    ("bytes=\u0661-2", 200, None, BODY),
]


@pytest.mark.parametrize(("asked", "status", "content_range", "body"), RANGES)
def test_ranges(server: Served, asked: str, status: int, content_range: str | None, body: bytes) -> None:
    path = server.upload(BODY)
    with server.connect() as connection:
        answer = connection.ask(request("GET", path, {"Range": asked}))
        assert answer.status == status
        assert answer.all("Content-Range") == ([content_range] if content_range else [])
        if status != 416:
            assert answer.body == body
            assert answer["Accept-Ranges"] == "bytes"
        assert connection.ask(request("OPTIONS", "/files/")).status == 200


def test_conditions(server: Served) -> None:
    path = server.upload(BODY)
    first = server.ask(request("GET", path))
    tag, date = first["ETag"], first["Last-Modified"]
    table: list[tuple[Mapping[str, object], int]] = [
        ({"If-None-Match": tag}, 304),
        ({"If-None-Match": f'"other", W/{tag}'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-Modified-Since": date}, 304),
        ({"If-Modified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"}, 200),
        ({"If-Modified-Since": "nonsense"}, 200),
        ({"If-Match": tag}, 200),
        ({"If-Match": '"other"'}, 412),
        ({"If-Unmodified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"}, 412),
        ({"If-Range": tag, "Range": "bytes=0-4"}, 206),
        ({"If-Range": '"other"', "Range": "bytes=0-4"}, 200),
    ]
    with server.connect() as connection:
        for headers, status in table:
            answer = connection.ask(request("GET", path, headers))
            assert answer.status == status, headers
            if status == 304:
                assert (answer.body, answer["ETag"]) == (b"", tag)
                assert "Content-Length" not in answer


def test_an_unfinished_upload_is_not_served(serve: Serve) -> None:
    server = serve()
    path = server.create(10)
    server.ask(patch(path, 0, b"hello"))
    answer = server.ask(request("GET", path))
    assert (answer.status, answer.code) == (409, "ERR_INCOMPLETE_UPLOAD")
    growing = serve(policy=Policy(unfinished_downloads=True))
    path = growing.create(10)
    growing.ask(patch(path, 0, b"hello"))
    assert growing.ask(request("GET", path)).body == b"hello"


def test_an_empty_upload(server: Served) -> None:
    answer = server.ask(request("GET", server.upload(b"")))
    assert (answer.status, answer.body, answer["Content-Length"]) == (200, b"", "0")


def test_what_a_browser_may_do_with_it(server: Served) -> None:
    names = "filename " + "w6Quc3ZnIg0K" + ",filetype aW1hZ2Uvc3ZnK3htbA=="  # ä.svg"\r\n, image/svg+xml
    created = server.ask(post({"Upload-Length": 2, "Upload-Metadata": names}, b"hi"))
    assert created.status == 201
    answer = server.ask(request("GET", path_of(created)))
    assert answer["Content-Type"] == "image/svg+xml"
    assert answer["Content-Disposition"].startswith("attachment;")
    assert "filename*=UTF-8''%C3%A4.svg%22%0D%0A" in answer["Content-Disposition"]
    assert answer["X-Content-Type-Options"] == "nosniff"


def test_a_slow_reader_gets_all_of_it(server: Served) -> None:
    body = os.urandom(3_000_000)
    path = server.upload(body)
    with server.connect(receive_buffer=4096) as connection:
        connection.send(request("GET", path))
        for _ in range(10):
            time.sleep(0.02)
            connection._more()
        assert connection.answer().body == body


def test_a_download_does_not_wait_for_an_upload_and_does_not_stop_it(serve: Serve) -> None:
    server = serve(policy=Policy(unfinished_downloads=True))
    path = server.create(10)
    with server.connect() as uploading:
        uploading.send(patch(path, 0, b"hello", announce=10))
        server.wait_for_offset(path, 5)
        assert server.ask(request("GET", path)).body == b"hello"
        uploading.send(b"world")
        assert uploading.answer().status == 204


@pytest.mark.parametrize("at", ["head", "middle"])
def test_a_client_that_leaves_a_download_frees_everything(server: Served, at: str) -> None:
    path = server.upload(os.urandom(30_000_000))
    eventually(0, server.connections)
    files = open_files()
    for n in range(20):
        connection = server.connect(receive_buffer=4096)
        connection.send(request("GET", path))
        if at == "middle":
            connection._more()
        connection.reset() if n % 2 else connection.close()
    eventually(0, server.connections)
    eventually(files, open_files)
    assert server.ask(request("DELETE", path)).status == 204


def test_a_route_of_a_plugin(server: Served) -> None:
    with server.connect() as connection:
        assert connection.ask(request("GET", "/hello")).body == b"hello\n"
        assert connection.ask(request("HEAD", "/hello")).status == 200
        assert connection.ask(request("POST", "/hello", {"Content-Length": 3}, b"abc"))["Allow"] == "GET, HEAD"
        assert connection.ask(request("GET", "/nothing")).status == 404
