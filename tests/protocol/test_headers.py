"""One parser, one formatter, for each header."""

from __future__ import annotations

import base64
import zlib
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from tests.protocol.heads import check_sendable

from tusd.errors import InvalidChecksum, InvalidConcat, InvalidMetadata, InvalidRequest, UnsupportedChecksum
from tusd.model import NO_METADATA, Metadata
from tusd.protocol import headers as h
from tusd.protocol.messages import Checksum

KEYS = st.text(st.sampled_from([chr(c) for c in range(0x21, 0x7F) if chr(c) != ","]), min_size=1, max_size=20)
VALUES = st.dictionaries(KEYS, st.binary(max_size=50), max_size=5)


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


# --- single


def test_single() -> None:
    assert h.single(CIMultiDict(), "Upload-Offset") is None
    assert h.single(CIMultiDict({"upload-offset": " 5\t"}), "Upload-Offset") == "5"
    with pytest.raises(InvalidRequest, match="Upload-Offset is sent more than once"):
        h.single(CIMultiDict([("Upload-Offset", "5"), ("upload-offset", "5")]), "Upload-Offset")


# --- numbers


@given(st.integers(0, 2**63 - 1), st.integers(0, 3))
def test_numbers(number: int, zeros: int) -> None:
    text = str(number)
    assert h.parse_number(text) == number
    padded = "0" * zeros + text
    assert h.parse_number(padded) == (number if len(padded) <= 19 else None)


@pytest.mark.parametrize(
    "text",
    ["", " ", "+5", "-1", "-0", "5.0", "5e3", "0x5", "1_000", "5 ", " 5", "5\n", "5,5", "٥", "５", "²", "5\x00", "NaN", str(2**63),
     str(2**64), "1" * 20, "1" * 5000],
)  # fmt: skip
def test_not_numbers(text: str) -> None:
    assert h.parse_number(text) is None


@given(st.text())
def test_any_text_is_a_number_or_not(text: str) -> None:
    number = h.parse_number(text)
    assert number is None or (text.isascii() and text.isdigit() and number == int(text))


# --- Upload-Metadata


def metadata(*lines: str, max_size: int = 1000) -> Metadata:
    return h.parse_metadata(CIMultiDict([("Upload-Metadata", line) for line in lines]), max_size)


def test_no_metadata() -> None:
    assert metadata() == NO_METADATA


@pytest.mark.parametrize(
    ("header", "values"),
    [
        ("", {}),
        (",", {}),
        (" , ,", {}),
        ("a", {"a": b""}),
        ("a ", {"a": b""}),
        ("a,b", {"a": b"", "b": b""}),
        ("a YQ==", {"a": b"a"}),
        ("a  YQ==", {"a": b"a"}),
        ("a YQ== ,\tb Yg==", {"a": b"a", "b": b"b"}),
        ("a YQ==,", {"a": b"a"}),
        ("a YQ==,A Yg==", {"a": b"a", "A": b"b"}),
        ("relativePath bnVsbA==,name w6k=,type", {"relativePath": b"null", "name": "é".encode(), "type": b""}),
        ("bytes /wAKDQ==", {"bytes": b"\xff\0\n\r"}),
        ("is_confidential", {"is_confidential": b""}),
        ("k=v YQ==", {"k=v": b"a"}),
    ],
)
def test_metadata(header: str, values: dict[str, bytes]) -> None:
    found = metadata(header)
    assert dict(found) == values
    assert list(found) == list(values)
    assert found.header == header.strip(" \t")
    assert h.echo_metadata(found) == found.header


def test_repeated_metadata_headers_are_one_list() -> None:
    found = metadata("a YQ==", "b Yg==")
    assert dict(found) == {"a": b"a", "b": b"b"}
    assert found.header == "a YQ==,b Yg=="


@pytest.mark.parametrize(
    "header",
    ["a YQ==,a YQ==", "a,a", "a YQ=", "a Y", "a YQ", "a YQ===", "a YQ==YQ==", "a Y Q==", "a YQ==\r\n", "a YQ==\x00", "a é", "a -_-_",
     "é YQ==", "\x7f YQ==", "a\tb YQ==", "a\x00", "a\r\nX: y", "a =", "a\x85", "a \u0661\u0661\u0661\u0661"],
)  # fmt: skip
def test_bad_metadata(header: str) -> None:
    with pytest.raises(InvalidMetadata):
        metadata(header)


def test_metadata_twice_in_two_headers() -> None:
    with pytest.raises(InvalidMetadata, match='"a" twice'):
        metadata("a YQ==", "b,a")


def test_metadata_is_limited() -> None:
    assert metadata("a YQ==", max_size=6)["a"] == b"a"
    with pytest.raises(InvalidMetadata, match="longer than 5"):
        metadata("a YQ==", max_size=5)
    with pytest.raises(InvalidMetadata, match="longer than 5"):
        metadata("a", "b", "c", "d", max_size=5)


@given(VALUES)
def test_metadata_round_trip(values: dict[str, bytes]) -> None:
    header = h.format_metadata(values)
    check_sendable([("Upload-Metadata", header)])
    found = metadata(header, max_size=10_000)
    assert dict(found) == values
    assert list(found) == list(values)
    assert h.echo_metadata(found) == header


@given(st.text(max_size=40))
def test_accepted_metadata_can_be_sent_back(header: str) -> None:
    try:
        found = metadata(header)
    except InvalidMetadata:
        return
    check_sendable([("Upload-Metadata", h.echo_metadata(found))])


@pytest.mark.parametrize(
    ("values", "header", "sent"),
    [
        ({"a": b"a"}, "", "a YQ=="),
        ({"a": b"a"}, "a  YQ== ,\tb", "a  YQ== ,\tb"),
        ({"a": b"a"}, "a YQ==\r\nX-Evil: 1", "a YQ=="),
        ({"a": b"a", "ü": b"b", "": b"c", "x y": b"d", "x,y": b"e", "x\r\ny": b"f"}, "", "a YQ=="),
        ({"ü": b"b"}, "ü Yg==", ""),
        ({}, "", ""),
    ],
)
def test_metadata_from_elsewhere(values: dict[str, bytes], header: str, sent: str) -> None:
    assert h.echo_metadata(Metadata(values, header)) == sent


@given(st.dictionaries(st.text(max_size=5), st.binary(max_size=5)), st.text(max_size=20))
def test_metadata_from_elsewhere_can_be_sent(values: dict[str, bytes], header: str) -> None:
    check_sendable([("Upload-Metadata", h.echo_metadata(Metadata(values, header)))])


# --- Upload-Concat


def test_concat_partial() -> None:
    assert h.parse_concat("partial") is None


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("final;/files/a", ["/files/a"]),
        ("final; /files/a", ["/files/a"]),
        ("final ;/files/a  /files/b ", ["/files/a", "/files/b"]),
        ("final;http://x/files/a;b", ["http://x/files/a;b"]),
        ("final;/files/a /files/a", ["/files/a", "/files/a"]),
    ],
)
def test_concat_final(text: str, urls: list[str]) -> None:
    assert h.parse_concat(text) == urls


@pytest.mark.parametrize(
    "text", ["", "final", "final;", "final; ", "Partial", "partial;", "partial;/files/a", "FINAL;/a", ";/a", "/a"]
)
def test_bad_concat(text: str) -> None:
    with pytest.raises(InvalidConcat, match='it is "partial", or "final;"'):
        h.parse_concat(text)


# --- Upload-Checksum

DIGESTS = {"md5": 16, "sha1": 20, "sha256": 32, "sha512": 64, "crc32": 4}


def test_algorithms() -> None:
    """sha1 is demanded; names have no capitals (tus 1.0.0, Checksum)."""
    assert set(h.ALGORITHMS) == set(DIGESTS)
    assert all(name.isascii() and name == name.lower() for name in h.ALGORITHMS)


@pytest.mark.parametrize("algorithm", h.ALGORITHMS)
@given(data=st.data())
def test_checksums(algorithm: str, data: st.DataObject) -> None:
    size = DIGESTS[algorithm]
    digest = data.draw(st.binary(min_size=size, max_size=size))
    assert h.parse_checksum(f"{algorithm} {b64(digest)}") == Checksum(algorithm, digest)  # type: ignore[arg-type]


def test_the_specification_s_checksum() -> None:
    assert h.parse_checksum("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=").digest.hex() == "2aae6c35c94fcfb415dbe95f408b9ce91ee846ed"
    assert h.parse_checksum(f"crc32  {b64(zlib.crc32(b'x').to_bytes(4, 'big'))}").algorithm == "crc32"


@pytest.mark.parametrize("text", ["", "SHA1 YQ==", "sha-1 YQ==", "sha1\tYQ==", "md4 YQ==", " sha1 YQ==", "sha1;x", "ſha1 YQ=="])
def test_unknown_algorithms(text: str) -> None:
    with pytest.raises(UnsupportedChecksum):
        h.parse_checksum(text)


@pytest.mark.parametrize(
    "text",
    ["sha1", "sha1 ", "sha1 YQ==", "sha1 ====", "sha1 é", "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0", "md5 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
     "sha1 Kq5sNclPz7QV2 +lfQIuc6R7oRu0=", "sha1 Kq5sNclPz7QV2-lfQIuc6R7oRu0=", "sha1 2aae6c35c94fcfb415dbe95f408b9ce91ee846ed"],
)  # fmt: skip
def test_bad_digests(text: str) -> None:
    with pytest.raises(InvalidChecksum):
        h.parse_checksum(text)


# --- Content-Type


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("application/offset+octet-stream", True),
        ("Application/Offset+Octet-Stream", True),
        (" application/offset+octet-stream ; charset=utf-8", True),
        ("application/offset+octet-stream;", True),
        ("application/octet-stream", False),
        ("application/offset+octet-streams", False),
        ("text/plain; x=application/offset+octet-stream", False),
        ("", False),
        (None, False),
    ],
)
def test_offset_octet_stream(text: str | None, ours: bool) -> None:
    assert h.is_offset_octet_stream(text) is ours


# --- dates


@given(
    st.datetimes(
        datetime(1970, 1, 1), datetime(9999, 12, 30), timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])
    )
)
def test_dates_round_trip(moment: datetime) -> None:
    text = h.format_date(moment)
    assert text.endswith(" GMT")
    assert h.parse_date(text) == moment.replace(microsecond=0)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
        ("Sunday, 06-Nov-94 08:49:37 GMT", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
        ("Sun Nov  6 08:49:37 1994", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
        ("Sun, 06 Nov 1994 08:49:37 -0000", datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)),
        ("", None),
        ("0", None),
        ("yesterday", None),
        ("Sun, 31 Feb 2020 00:00:00 GMT", None),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", None),
        ("Mon, 01 Jan 2020 00:00:00 +9999", None),
        ("Mon, 01 Jan 2020 00:00:00 +99999999999999999999", None),
    ],
)
def test_dates(text: str, moment: datetime | None) -> None:
    """All three forms of RFC 9110 section 5.6.7."""
    assert h.parse_date(text) == moment


@given(
    st.one_of(
        st.text(max_size=40),
        st.from_regex(
            r"[A-Z][a-z]{2}, [0-9]{1,3} [A-Z][a-z]{2} [0-9]{1,12} [0-9]{1,3}(:[0-9]{1,3}){0,3} ([A-Z]{3}|[+-][0-9]{1,12})"
        ),
        st.lists(st.sampled_from(["Mon,", "1", "-", "Jan", "2020", ":", "99", "+", "GMT", " "]), max_size=9).map(" ".join),
    )
)
def test_any_text_is_a_date_or_not(text: str) -> None:
    moment = h.parse_date(text)
    assert moment is None or moment.tzinfo is not None


# --- Content-Type and Content-Disposition of downloads


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({}, "application/octet-stream"),
        ({"filetype": b"image/png"}, "image/png"),
        ({"type": b"image/png"}, "image/png"),
        ({"type": b"image/png", "filetype": b"text/plain"}, "text/plain"),
        ({"filetype": b"text/plain; charset=utf-8"}, "text/plain; charset=utf-8"),
        ({"filetype": b'text/plain;x="a b"'}, 'text/plain;x="a b"'),
        ({"filetype": b"image/svg+xml"}, "image/svg+xml"),
    ],
)
def test_content_type(values: dict[str, bytes], found: str) -> None:
    assert h.content_type(Metadata(values)) == found


@pytest.mark.parametrize(
    "value",
    [b"", b"png", b"image/", b"/png", b"image/png\n", b"image/png\r\nX-Evil: 1", b"text/plain;\r\n x=y", b"text/plain\r\n;x=y",
     b"text/plain;\x0bx=y", b'text/plain;x="a\r\nb"', b'text/plain;x="\xe2\x82\xac"', b'text/plain;x="\xff"', b'text/plain;x="\xc2\x85"',
     b'text/plain;x="a\\"b"', b'text/plain;x="a', "bild/pnğ".encode(), b"a b/c", b"image/png,text/html", b"image/png;"],
)  # fmt: skip
def test_not_a_content_type(value: bytes) -> None:
    assert h.content_type(Metadata({"filetype": value})) == "application/octet-stream"


@pytest.mark.parametrize("media_type", ["text/plain", "image/png", "TEXT/PLAIN ; charset=utf-8", "video/mp4", "audio/ogg"])
def test_shown_inline(media_type: str) -> None:
    assert h.content_disposition(NO_METADATA, media_type) == "inline"


@pytest.mark.parametrize(
    "media_type",
    ["text/html", "image/svg+xml", "application/xhtml+xml", "text/xml", "application/pdf", "text/javascript", "application/octet-stream",
     "text/html;text/plain", "text/plainer", "multipart/x-mixed-replace"],
)  # fmt: skip
def test_never_inline(media_type: str) -> None:
    assert h.content_disposition(NO_METADATA, media_type) == "attachment"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.txt", 'attachment; filename="a.txt"'),
        ("a b;c.txt", 'attachment; filename="a b;c.txt"'),
        ("naïve €.txt", "attachment; filename=\"na_ve _.txt\"; filename*=UTF-8''na%C3%AFve%20%E2%82%AC.txt"),
        ('a"b\\c', "attachment; filename=\"a_b_c\"; filename*=UTF-8''a%22b%5Cc"),
        ("100%41", "attachment; filename=\"100_41\"; filename*=UTF-8''100%2541"),
        ("a\r\nX-Evil: 1", "attachment; filename=\"a__X-Evil: 1\"; filename*=UTF-8''a%0D%0AX-Evil%3A%201"),
        ("\0", "attachment; filename=\"_\"; filename*=UTF-8''%00"),
    ],
)
def test_content_disposition(name: str, found: str) -> None:
    assert h.content_disposition(Metadata({"filename": name.encode()}), "text/html") == found
    assert h.content_disposition(Metadata({"name": name.encode()}), "text/html") == found


def test_filename_goes_before_name() -> None:
    assert h.content_disposition(Metadata({"name": b"n", "filename": b"f"}), "image/png") == 'inline; filename="f"'
    assert h.content_disposition(Metadata({"name": b"n", "filename": b""}), "image/png") == 'inline; filename="n"'


def test_a_name_that_is_not_utf_8() -> None:
    assert h.content_disposition(Metadata({"filename": b"a\xff"}), "x/y").endswith("filename*=UTF-8''a%EF%BF%BD")


@given(
    st.dictionaries(st.sampled_from(["filename", "name", "filetype", "type"]), st.one_of(st.binary(), st.text().map(str.encode)))
)
def test_downloads_can_be_sent_whatever_the_metadata(values: dict[str, bytes]) -> None:
    found = Metadata(values)
    media_type = h.content_type(found)
    check_sendable([("Content-Type", media_type), ("Content-Disposition", h.content_disposition(found, media_type))])


# --- Range


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-9", (0, 10)),
        ("bytes=0-", (0, 100)),
        ("bytes=99-", (99, 100)),
        ("bytes=90-1000", (90, 100)),
        ("bytes=0-9999999999999999999", (0, 100)),
        ("bytes=-1", (99, 100)),
        ("bytes=-1000", (0, 100)),
        ("Bytes=5-6", (5, 7)),
        (" bytes=5-6 ", (5, 7)),
        ("bytes=100-", (100, 100)),
        ("bytes=100-200", (100, 100)),
        ("bytes=-0", (100, 100)),
        ("bytes=-", None),
        ("bytes=", None),
        ("bytes=6-5", None),
        ("bytes=a-b", None),
        ("bytes=0-1,3-4", None),
        ("bytes=0-1,", None),
        ("bytes= 0-1", None),
        ("bytes=+1-2", None),
        ("bytes=--1", None),
        ("bytes=٠-١", None),
        ("bytes=0-" + "9" * 5000, None),
        ("items=0-1", None),
        ("0-1", None),
        ("", None),
    ],
)
def test_ranges(text: str, found: tuple[int, int] | None) -> None:
    assert h.parse_range(text, 100) == found


@pytest.mark.parametrize("text", ["bytes=0-", "bytes=0-0", "bytes=-5"])
def test_no_range_of_nothing(text: str) -> None:
    assert h.parse_range(text, 0) == (0, 0)


@given(st.integers(0, 50), st.one_of(st.none(), st.integers(0, 60)), st.one_of(st.none(), st.integers(0, 60)))
def test_ranges_are_slices(size: int, first: int | None, last: int | None) -> None:
    whole = bytes(range(size))
    found = h.parse_range(f"bytes={'' if first is None else first}-{'' if last is None else last}", size)
    if first is None and last is None:
        assert found is None
    elif first is None:
        assert last is not None
        assert found is not None
        assert whole[slice(*found)] == whole[max(0, size - last) :]
    elif last is not None and last < first:
        assert found is None
    else:
        assert found is not None
        assert whole[slice(*found)] == whole[first : None if last is None else last + 1]
