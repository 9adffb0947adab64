"""Long values that are made to be slow: whatever a client sends, a header is read in a time that grows with its length only."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from tests.protocol.heads import BODY, head, info

from tusd.errors import TusError
from tusd.model import Extension, Metadata, State
from tusd.protocol import headers as h
from tusd.protocol.cors import Cors
from tusd.protocol.messages import Read
from tusd.protocol.rules import Policy, plan_read
from tusd.protocol.tus1 import Tus1
from tusd.protocol.urls import Origins, checked_id

SIZE = 64 * 1024
"""The most that `server.max_header_size` lets through by default."""
ALLOWED = 0.2
"""Seconds; each takes a few thousandths, and what is quadratic takes many times as long."""
PROXIES = Origins(behind_proxy=True, trusted_proxies=("0.0.0.0/0",))
TUS = Tus1(Policy(extensions=frozenset(Extension), max_metadata_size=SIZE), PROXIES)


def repeated(piece: str, begin: str = "", end: str = "") -> str:
    """A value of at most SIZE bytes, as the wire counts them."""
    return begin + piece * ((SIZE - len(begin + end)) // len(piece.encode("utf-8", "surrogateescape"))) + end


PIECES = [
    "a", "=", '"', "\\", '"\\', '\\"', ";", ",", " ", "\t", "(", "[", "/", "%", ":", "-", ".", "0", "a ", "a=", "a;", "a,", "a/", "a:", "a.",
    'a="', 'a=";', 'a="",', "a=a;", ";a=a", '; a="b"', "host=", 'host="', "host=a,", "proto=;", "1-2,", "%41", "%c3", "YQ==,", "a YQ==,",
    "\u0300\u0316", "\u00e4", "\udcff",
]  # fmt: skip
BEGINS = [
    "",
    "a",
    '"',
    "host=",
    'host="',
    "a/b",
    "a/b;",
    'a/b;c="',
    "bytes=",
    "final;",
    "final;http://a",
    "sha1 ",
    "Mon, 1 Jan 2024 ",
    "[",
]
VALUES = [repeated(piece, begin, end) for piece in PIECES for begin in BEGINS for end in ("", "!")]


def post(name: str) -> Callable[[str], object]:
    return lambda text: TUS.read(head("POST", headers={"Upload-Length": "1", **BODY, name: text}, peer="10.0.0.1"))


def get(name: str) -> Callable[[str], object]:
    done = info(state=State.COMPLETE, offset=100, metadata=Metadata())
    return lambda text: plan_read(Read(done.id, **{name: text}), done, Policy())


READERS: dict[str, Callable[[str], object]] = {
    "media type": lambda text: h.content_type(Metadata({"filetype": text.encode("utf-8", "surrogateescape")})),
    "date": h.parse_date,
    "echoed metadata": lambda text: h.echo_metadata(Metadata({"a": b"b"}, text)),
    "range": lambda text: h.parse_range(text, 1000),
    "number": h.parse_number,
    "id": checked_id,
    "path": lambda text: PROXIES.upload_id("/files/" + text),
    "part": PROXIES.part_id,
    "origin": lambda text: Cors(allow_origins=(".*", r"https://([a-z0-9-]+\\.)?example\\.com")).headers(
        head("POST", headers={"Origin": text})
    ),
    **{
        name: post(name)
        for name in (
            "Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto", "Host", "Content-Type", "Content-Length", "Tus-Resumable",
            "Upload-Checksum", "Upload-Concat", "Upload-Defer-Length", "Upload-Length", "Upload-Metadata", "X-HTTP-Method-Override",
        )
    },
    **{name: get(name) for name in ("range", "if_range", "if_match", "if_none_match", "if_modified_since", "if_unmodified_since")},
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_a_long_value_is_read_at_once(name: str) -> None:
    read = READERS[name]
    for text in VALUES:
        began = time.process_time()
        try:
            read(text)
        except TusError:
            pass  # refused: that is as good, when it is quick
        took = time.process_time() - began
        assert took < ALLOWED, f"{took:.1f} s for {text[:40]!r} ..."


def test_the_clock_would_show_what_is_quadratic() -> None:
    began = time.process_time()
    re.compile(r"[\w-]+=x").findall(repeated("a")[:16_000])
    assert time.process_time() - began > ALLOWED / 2
