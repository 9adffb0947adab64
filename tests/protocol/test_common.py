"""What all dialects have in common."""

from __future__ import annotations

import pytest
from tests.protocol.heads import head

from tusd.hooks import HookResponse
from tusd.protocol.common import body_size, merged, method_meant
from tusd.protocol.messages import Response


@pytest.mark.parametrize(
    ("method", "override", "meant"),
    [
        ("POST", None, "POST"),
        ("POST", "PATCH", "PATCH"),
        ("POST", " patch\t", "PATCH"),
        ("POST", "", ""),
        ("GET", "DELETE", "GET"),
        ("PATCH", "DELETE", "PATCH"),
    ],
)
def test_method_meant(method: str, override: str | None, meant: str) -> None:
    assert method_meant(head(method, headers={} if override is None else {"X-HTTP-Method-Override": override})) == meant


@pytest.mark.parametrize(
    ("headers", "size"),
    [
        ({}, 0),
        ({"Content-Length": "0"}, 0),
        ({"Content-Length": "12"}, 12),
        ({"Transfer-Encoding": "chunked"}, None),
        ({"Transfer-Encoding": "chunked", "Content-Length": "12"}, None),
    ],
)
def test_body_size(headers: dict[str, str], size: int | None) -> None:
    assert body_size(head("PATCH", headers=headers)) == size


def answer(answer: HookResponse | None, status: int = 201, body: bytes = b"") -> Response:
    return merged(Response(status, [("Location", "/x"), ("Upload-Offset", "5"), ("Content-Type", "a/b")], body), answer)


def test_without_a_hook_nothing_changes() -> None:
    assert answer(None) == Response(201, [("Location", "/x"), ("Upload-Offset", "5"), ("Content-Type", "a/b")])


def test_a_hook_may_add_and_replace() -> None:
    found = answer(HookResponse(status=202, headers={"X-A": "1", "content-type": "c/d"}, body="hi"))
    assert (found.status, found.body) == (202, b"hi")
    assert found.headers == [("Location", "/x"), ("Upload-Offset", "5"), ("X-A", "1"), ("content-type", "c/d")]


@pytest.mark.parametrize(
    "name",
    ["Location", "Upload-Offset", "upload-complete", "Upload-Limit", "Tus-X", "Access-Control-Y", "Content-Length", "Date"],
)
def test_headers_of_the_protocol_are_not_the_hooks(name: str) -> None:
    assert answer(HookResponse(headers={name: "stolen"})) == answer(None)


def test_what_must_not_be_cached_is_not_whatever_a_hook_says() -> None:
    private = HookResponse(headers={"cache-control": "private"})
    assert merged(Response(200, [("Cache-Control", "no-store")]), private).headers == [("Cache-Control", "no-store")]
    assert merged(Response(200), private).headers == [("cache-control", "private")]


def test_a_body_makes_200_of_204_and_is_text() -> None:
    found = merged(Response(204), HookResponse(body="ü"))
    assert found == Response(200, [("Content-Type", "text/plain; charset=utf-8")], "ü".encode())
    assert merged(Response(204), HookResponse(status=204, body="x")).status == 204
