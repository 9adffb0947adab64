"""What browsers on other sites may do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.heads import check_sendable, fields, head

from tusd.errors import OriginNotAllowed
from tusd.protocol.cors import Cors

ORIGIN = {"Origin": "https://app.example"}
CLIENTS_READ = """Location Upload-Offset Upload-Length Upload-Metadata Upload-Defer-Length Upload-Concat Upload-Expires Upload-Complete
Upload-Limit Upload-Draft-Interop-Version Tus-Version Tus-Resumable Tus-Max-Size Tus-Extension Tus-Checksum-Algorithm Retry-After""".split()
CLIENTS_SEND = """Authorization Content-Type Origin X-Requested-With X-Request-ID X-HTTP-Method-Override Tus-Resumable Upload-Offset
Upload-Length Upload-Metadata Upload-Defer-Length Upload-Concat Upload-Checksum Upload-Incomplete Upload-Complete
Upload-Draft-Interop-Version""".split()


def split(value: str) -> list[str]:
    return value.split(", ")


def test_off() -> None:
    assert Cors(enabled=False).headers(head("GET")) == []
    assert Cors(enabled=False, allow_origins=()).headers(head("OPTIONS", headers=ORIGIN)) == []


@pytest.mark.parametrize("method", ["OPTIONS", "POST", "HEAD", "PATCH", "DELETE"])
def test_requests_of_no_page(method: str) -> None:
    assert Cors(allow_origins=()).headers(head(method)) == []


def test_downloads_differ_by_origin_for_caches() -> None:
    assert Cors().headers(head("GET")) == [("Vary", "Origin")]


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PATCH", "DELETE", "PUT"])
def test_requests(method: str) -> None:
    found = fields(Cors().headers(head(method, headers=ORIGIN)))
    assert set(found) == {"Access-Control-Allow-Origin", "Vary", "Access-Control-Expose-Headers"}
    assert found["Access-Control-Allow-Origin"] == "https://app.example"
    assert found["Vary"] == "Origin"
    assert set(CLIENTS_READ) <= set(split(found["Access-Control-Expose-Headers"]))


def test_preflight() -> None:
    found = fields(Cors().headers(head("OPTIONS", headers=ORIGIN)))
    assert found["Access-Control-Allow-Origin"] == "https://app.example"
    assert found["Vary"] == "Origin"
    assert found["Access-Control-Max-Age"] == "86400"
    assert {"POST", "PUT", "HEAD", "PATCH", "OPTIONS", "GET", "DELETE"} == set(split(found["Access-Control-Allow-Methods"]))
    assert set(CLIENTS_SEND) <= set(split(found["Access-Control-Allow-Headers"]))
    assert set(CLIENTS_READ) <= set(split(found["Access-Control-Expose-Headers"]))
    assert "Access-Control-Allow-Credentials" not in found


def test_credentials_never_go_with_a_star() -> None:
    for method in ("OPTIONS", "PATCH"):
        found = fields(Cors(allow_credentials=True).headers(head(method, headers=ORIGIN)))
        assert found["Access-Control-Allow-Credentials"] == "true"
        assert "*" not in found.values()


def test_lists_are_added_to() -> None:
    cors = Cors(allow_methods=("PUT",), allow_headers=("X-Mine",), expose_headers=("X-Yours",), max_age=60)
    found = fields(cors.headers(head("OPTIONS", headers=ORIGIN)))
    assert split(found["Access-Control-Allow-Methods"])[-1] == "PUT"
    assert split(found["Access-Control-Allow-Headers"])[-1] == "X-Mine"
    assert split(found["Access-Control-Expose-Headers"])[-1] == "X-Yours"
    assert found["Access-Control-Max-Age"] == "60"
    assert "GET" in found["Access-Control-Allow-Methods"]
    assert "Upload-Length" in found["Access-Control-Allow-Headers"]


@pytest.mark.parametrize(
    ("patterns", "origin", "allowed"),
    [
        ((r"https://app\.example",), "https://app.example", True),
        ((r"https://app\.example",), "https://app.example.evil.test", False),
        ((r"https://app\.example",), "https://app.example:8443", False),
        ((r"https://app\.example",), "http://app.example", False),
        ((r"https://app\.example",), "xhttps://app.example", False),
        ((r"https?://app\.example", r"null"), "null", True),
        ((r"https://app\.example|https://b\.example",), "https://b.example.evil.test", False),
        ((r"https://.*\.example",), "https://a.example", True),
        ((".*",), "https://anything.test", True),
        ((".*",), "", True),
        ((), "https://app.example", False),
    ],
)
def test_patterns_are_for_the_whole_origin(patterns: tuple[str, ...], origin: str, allowed: bool) -> None:
    cors = Cors(allow_origins=patterns)
    request = head("POST", headers={"Origin": origin})
    if allowed:
        assert fields(cors.headers(request))["Access-Control-Allow-Origin"] == origin
    else:
        with pytest.raises(OriginNotAllowed):
            cors.headers(request)


@pytest.mark.parametrize(
    "origin", ["https://x\r\nX-Evil: 1", "https://x\n", "https://x\0", "https://\udcff", "https://é", "https://x\x7f", "a\tb"]
)
def test_an_origin_that_cannot_be_sent_back(origin: str) -> None:
    with pytest.raises(OriginNotAllowed):
        Cors(allow_origins=(r"(?s).*",)).headers(head("POST", headers={"Origin": origin}))


@given(st.text(st.characters()))
def test_whatever_the_origin_the_answer_can_be_sent(origin: str) -> None:
    try:
        check_sendable(Cors().headers(head("OPTIONS", headers={"Origin": origin})))
    except OriginNotAllowed:
        assert not (origin.isascii() and origin.isprintable())
