"""tus 1.0.0, core protocol: one test for each thing that a server must do, over HTTP.

Source: https://tus.io/protocols/resumable-upload#core-protocol
"""

from __future__ import annotations

import pytest
from tests.web.conftest import Serve
from tests.web.raw import OCTETS, Answer, patch, post, request
from tests.web.serving import Served, path_of

from tusd.protocol.rules import Policy

GONE = "/files/0123456789abcdef0123456789abcdef"


def every_answer(server: Served) -> list[Answer]:
    """Answers of all kinds: good ones and refusals."""
    path = server.create(10)
    done = server.upload(b"done")
    return [
        server.ask(stream)
        for stream in (
            post({"Upload-Length": 5}),
            post({}),
            post({"Upload-Length": 5}, b"hello"),
            post({"Upload-Length": 4}, b"hello"),
            request("POST", "/files/", {"Upload-Length": 5, "Content-Type": "text/plain"}, b"hello"),
            patch(path, 0, b"hello"),
            patch(path, 0, b"hello"),
            patch(path, 5, b"helloworld"),
            patch(path, "x", b"hello"),
            patch(GONE, 0, b"hello"),
            request("PATCH", path, {"Upload-Offset": 5}, b"hello"),
            request("HEAD", path),
            request("HEAD", GONE),
            request("GET", done),
            request("GET", done, {"Range": "bytes=99-"}),
            request("GET", path),
            request("GET", GONE),
            request("PUT", path),
            request("GET", "/files/"),
            request("DELETE", path),
            request("DELETE", path),
            request("HEAD", path, {"Tus-Resumable": "9.9.9"}),
            request("POST", "/files/", tus=False),
        )
    ]


def test_every_answer_has_tus_resumable(server: Served) -> None:
    for answer in every_answer(server):
        assert answer["Tus-Resumable"] == "1.0.0", answer


@pytest.mark.parametrize("method", ["POST", "PATCH", "HEAD", "DELETE", "GET"])
@pytest.mark.parametrize("version", ["0.2.2", "1.0", "1.0.1", "2.0.0", "", "1.0.0, 0.2.2", "\u0661.0.0"])
def test_another_version_is_412_with_the_versions_and_nothing_is_done(server: Served, method: str, version: str) -> None:
    path = server.upload(b"hello")
    target = "/files/" if method == "POST" else path
    headers = {"Tus-Resumable": version, "Upload-Length": 5, "Upload-Offset": 5, "Content-Type": OCTETS}
    answer = server.ask(request(method, target, headers))
    assert (answer.status, answer["Tus-Version"]) == (412, "1.0.0")
    assert "Location" not in answer
    assert server.offset(path) == 5


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
def test_no_version_is_412_where_something_would_change(serve: Serve, method: str) -> None:
    server = serve(policy=Policy(ietf=False))  # a DELETE without a version is one of the IETF's draft
    path = server.create(5)
    headers = {"Upload-Length": 5, "Upload-Offset": 0, "Content-Type": OCTETS}
    answer = server.ask(request(method, "/files/" if method == "POST" else path, headers, tus=False))
    assert (answer.status, answer["Tus-Version"]) == (412, "1.0.0")
    assert server.offset(path) == 0


def test_options_tells_versions_extensions_algorithms_and_size(serve: Serve) -> None:
    server = serve(policy=Policy(max_size=1073741824))
    answer = server.ask(request("OPTIONS", "/files/", tus=False))
    assert answer.status in (200, 204)
    assert answer["Tus-Version"] == "1.0.0"
    assert answer["Tus-Max-Size"] == "1073741824"
    assert set(answer["Tus-Extension"].split(",")) == {
        "creation",
        "creation-with-upload",
        "creation-defer-length",
        "termination",
        "concatenation",
        "concatenation-unfinished",
        "checksum",
        "expiration",
    }
    assert answer["Tus-Checksum-Algorithm"].split(",") == ["md5", "sha1", "sha256", "sha512", "crc32"]


def test_options_tells_no_extensions_when_there_are_none(serve: Serve) -> None:
    server = serve(policy=Policy(extensions=frozenset()))
    answer = server.ask(request("OPTIONS", "/files/"))
    assert answer["Tus-Version"] == "1.0.0"
    for name in ("Tus-Extension", "Tus-Checksum-Algorithm", "Tus-Max-Size"):
        assert name not in answer


@pytest.mark.parametrize("version", ["1.0.0", "0.0.1", "nonsense"])
def test_options_ignores_tus_resumable(server: Served, version: str) -> None:
    assert server.ask(request("OPTIONS", "/files/", {"Tus-Resumable": version})).status in (200, 204)


@pytest.mark.parametrize("path", ["/files", "/files/", GONE])
def test_options_answers_for_every_url(server: Served, path: str) -> None:
    assert server.ask(request("OPTIONS", path))["Tus-Version"] == "1.0.0"


def test_head_tells_offset_and_length_even_at_0_and_at_the_end(server: Served) -> None:
    path = server.create(10)
    for sent in (b"", b"hello", b"world"):
        offset = server.offset(path)
        if sent:
            server.ask(patch(path, offset, sent))
        answer = server.ask(request("HEAD", path))
        assert answer.status == 200
        assert (answer["Upload-Offset"], answer["Upload-Length"]) == (str(offset + len(sent)), "10")


def test_head_must_not_be_cached(server: Served) -> None:
    assert server.ask(request("HEAD", server.create(10)))["Cache-Control"] == "no-store"


def test_head_of_nothing_is_404_without_an_offset(server: Served) -> None:
    answer = server.ask(request("HEAD", GONE))
    assert answer.status == 404
    assert "Upload-Offset" not in answer


def test_patch_answers_204_with_the_new_offset(server: Served) -> None:
    path = server.create(11)
    for offset, body in ((0, b"hello"), (5, b""), (5, b" "), (6, b"world"), (11, b"")):
        answer = server.ask(patch(path, offset, body))
        assert (answer.status, answer["Upload-Offset"]) == (204, str(offset + len(body)))
    assert server.stored(path) == b"hello world"


@pytest.mark.parametrize("offset", [0, 4, 6, 10, 2**63 - 1])
def test_patch_elsewhere_is_409_and_changes_nothing(server: Served, offset: int) -> None:
    path = server.create(10)
    server.ask(patch(path, 0, b"hello"))
    answer = server.ask(patch(path, offset, b"x"))
    assert (answer.status, answer["Upload-Offset"]) == (409, "5")
    assert server.stored(path) == b"hello"


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream", "", "application/offset+octet-stream2"])
def test_patch_with_another_content_type_is_415(server: Served, kind: str) -> None:
    path = server.create(10)
    answer = server.ask(request("PATCH", path, {"Upload-Offset": 0, "Content-Type": kind}, b"hello"))
    assert (answer.status, answer.code) == (415, "ERR_INVALID_CONTENT_TYPE")
    assert server.offset(path) == 0


def test_patch_without_a_content_type_is_415(server: Served) -> None:
    assert server.ask(request("PATCH", server.create(10), {"Upload-Offset": 0}, b"hello")).status == 415


def test_patch_of_nothing_is_404(server: Served) -> None:
    assert server.ask(patch(GONE, 0, b"hello")).status == 404


@pytest.mark.parametrize("value", ["", "-1", "+1", "1.0", "0x5", "5 5", "5,5", "a", "\u0665", "9" * 19, "9" * 30, "1e1", " "])
def test_an_offset_that_is_no_number_is_400(server: Served, value: str) -> None:
    path = server.create(10)
    answer = server.ask(patch(path, value, b"hello"))
    assert (answer.status, answer.code) == (400, "ERR_INVALID_OFFSET")
    assert server.offset(path) == 0


def test_a_patch_without_an_offset_is_400(server: Served) -> None:
    answer = server.ask(request("PATCH", server.create(10), {"Content-Type": OCTETS}, b"hello"))
    assert (answer.status, answer.code) == (400, "ERR_INVALID_OFFSET")


def test_patch_past_the_length_is_413_and_changes_nothing(server: Served) -> None:
    path = server.create(10)
    answer = server.ask(patch(path, 0, b"x" * 11))
    assert (answer.status, answer.code) == (413, "ERR_UPLOAD_SIZE_EXCEEDED")
    assert server.offset(path) == 0


@pytest.mark.parametrize("method", ["PATCH", "HEAD", "DELETE", "patch"])
def test_method_override(server: Served, method: str) -> None:
    """The method of the request itself does not count."""
    path = server.create(5)
    headers = {"X-HTTP-Method-Override": method, "Upload-Offset": 0, "Content-Type": OCTETS}
    answer = server.ask(request("POST", path, headers, b"" if method == "HEAD" else b"hello"))
    if method == "HEAD":
        assert (answer.status, answer["Upload-Offset"]) == (200, "0")
    elif method == "DELETE":
        assert answer.status == 204
        assert server.ask(request("HEAD", path)).status == 404
    else:
        assert (answer.status, answer["Upload-Offset"]) == (204, "5")


@pytest.mark.parametrize("method", ["PUT", "GET", "NONSENSE", ""])
def test_method_override_with_what_is_not_allowed(server: Served, method: str) -> None:
    answer = server.ask(request("POST", "/files/", {"X-HTTP-Method-Override": method, "Upload-Length": 5}))
    assert answer.status == 405
    assert answer["Allow"]


def test_unknown_methods_are_405_with_those_that_are_known(server: Served) -> None:
    path = server.create(10)
    assert server.ask(request("PUT", path))["Allow"] == "HEAD, PATCH, OPTIONS, GET, DELETE"
    assert server.ask(request("PATCH", "/files/"))["Allow"] == "POST, OPTIONS"


def test_an_upload_from_its_creation_to_its_end(server: Served) -> None:
    """As a client does it, on one connection."""
    with server.connect() as connection:
        created = connection.ask(post({"Upload-Length": 11, "Upload-Metadata": "filename aGVsbG8udHh0"}))
        assert created["Location"] == "http://tus.test" + path_of(created)
        path = path_of(created)
        assert connection.ask(request("HEAD", path))["Upload-Offset"] == "0"
        assert connection.ask(patch(path, 0, b"hello"))["Upload-Offset"] == "5"
        assert connection.ask(request("HEAD", path))["Upload-Metadata"] == "filename aGVsbG8udHh0"
        assert connection.ask(patch(path, 5, b" world"))["Upload-Offset"] == "11"
        assert connection.ask(request("GET", path)).body == b"hello world"
        assert connection.ask(request("DELETE", path)).status == 204
        assert connection.ask(request("GET", path)).status == 404
