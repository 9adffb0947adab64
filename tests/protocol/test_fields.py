"""Structured fields as the draft reads them: what is not what it should be counts as absent."""

from __future__ import annotations

import base64

import http_sf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from tusd.protocol import fields
from tusd.protocol.digests import NAMES
from tusd.protocol.messages import Checksum

SHA256, SHA512 = b"a" * 32, b"b" * 64


def headers(*values: str) -> CIMultiDict[str]:
    return CIMultiDict([("X", value) for value in values])


def digest(name: str, raw: bytes) -> str:
    return f"{name}=:{base64.b64encode(raw).decode()}:"


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        (["?1"], True),
        (["?0"], False),
        ([" ?1 "], True),
        (["?1;because=cat"], True),  # parameters that nobody knows are ignored (RFC 9651 section 3.1.2)
        ([], None),
        ([""], None),
        (["1"], None),
        (["0"], None),
        (["true"], None),
        (["?2"], None),
        (["?"], None),
        (["?1, ?1"], None),
        (["?1", "?1"], None),
        (["?1", "?0"], None),
        (['"?1"'], None),
        (["?1 x"], None),
        (["(?1)"], None),
        (["\u00b9"], None),
    ],
)
def test_booleans(values: list[str], meant: bool | None) -> None:
    assert fields.boolean(headers(*values), "X") is meant


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        (["0"], 0),
        (["42"], 42),
        (["007"], 7),
        (["999999999999999"], 999_999_999_999_999),
        (["42;a=1"], 42),
        ([], None),
        ([""], None),
        (["1000000000000000"], None),  # 16 digits
        (["-1"], None),
        (["+1"], None),
        (["1.0"], None),
        (["1e3"], None),
        (["?1"], None),
        (["@1"], None),
        (['"1"'], None),
        (["1, 1"], None),
        (["1", "1"], None),
        (["1", "2"], None),
        (["\u0661"], None),
        (["0x10"], None),
    ],
)
def test_integers(values: list[str], meant: int | None) -> None:
    assert fields.integer(headers(*values), "X") == meant


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        ([digest("sha-256", SHA256)], Checksum("sha256", SHA256)),
        ([digest("sha-512", SHA512)], Checksum("sha512", SHA512)),
        ([digest("sha-256", SHA256) + ", " + digest("sha-512", SHA512)], Checksum("sha512", SHA512)),
        ([digest("sha-256", SHA256), digest("sha-512", SHA512)], Checksum("sha512", SHA512)),  # a dictionary may be divided
        ([digest("md5", b"c" * 16) + ", " + digest("sha-256", SHA256)], Checksum("sha256", SHA256)),
        ([digest("sha-512", b"short") + ", " + digest("sha-256", SHA256)], Checksum("sha256", SHA256)),
        ([digest("sha-256", SHA256) + ";a"], Checksum("sha256", SHA256)),
        ([], None),
        (["sha-256"], None),
        (["sha-256=5"], None),
        (['sha-256="text"'], None),
        (["sha-256=(:YQ==:)"], None),
        (["sha-256=:!!:"], None),
        ([digest("sha-256", SHA256[1:])], None),
        ([digest("md5", b"c" * 16)], None),
        ([digest("sha-256", SHA256) + ","], None),
    ],
)
def test_digests(values: list[str], meant: Checksum | None) -> None:
    assert fields.digest(headers(*values), "X", NAMES) == meant


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        (["sha-256=1"], "sha256"),
        (["sha-512=3, sha-256=10"], "sha256"),
        (["sha-512=10, sha-256=3"], "sha512"),
        (["sha-512=5, sha-256=5"], "sha512"),
        (["sha-512=0, sha-256=1"], "sha256"),
        (["sha-512=0"], None),
        (["md5=10"], None),
        (["sha-256=-1"], None),
        (["sha-256"], None),
        (["sha-256=?1"], None),
        (["sha-256=(1)"], None),
        (["sha-256=1.5"], None),
        (["="], None),
        ([], None),
    ],
)
def test_wanted(values: list[str], meant: str | None) -> None:
    assert fields.wanted(headers(*values), "X", NAMES) == meant


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z-]{0,9}", fullmatch=True), st.integers(0, 10**15 - 1) | st.binary(max_size=40), min_size=1
    )
)
def test_dictionaries_read_as_they_are_written(members: dict[str, int | bytes]) -> None:
    parsed = http_sf.parse(fields.dictionary(members).encode(), tltype="dictionary")
    assert isinstance(parsed, dict)
    assert {name: value[0] for name, value in parsed.items() if isinstance(value, tuple)} == members


@given(st.lists(st.text(max_size=40) | st.text("?0123456789;:,=\"'()@ sha-256/+%\\", max_size=40), max_size=3))
def test_nothing_that_a_client_sends_is_an_error(values: list[str]) -> None:
    sent = headers(*values)
    assert fields.boolean(sent, "X") in (True, False, None)
    assert (fields.integer(sent, "X") or 0) >= 0
    fields.digest(sent, "X", NAMES)
    fields.wanted(sent, "X", NAMES)
