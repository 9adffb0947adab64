"""The parts that need no server: checksums, names, what objects carry, manifests, which pieces count."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gcs_rig import new_info
from tusd.plugin import HookError, Metadata, UploadId
from tusd_plugin_gcs import GcsStorage, checksum
from tusd_plugin_gcs.bucket import Missing, Stat, shortened, without
from tusd_plugin_gcs.cloud import Related, crc32c
from tusd_plugin_gcs.headers import METADATA_LIMIT, object_fields, owner
from tusd_plugin_gcs.keys import check_length, checked_prefix, checked_template, new_key, safe_filename
from tusd_plugin_gcs.manifest import Chunk, Manifest, Sealed, read_manifest
from tusd_plugin_gcs.pieces import Unknown, find, longest

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)

# --- checksums


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_crcs_of_pieces_are_combined(pieces: list[bytes]) -> None:
    found = checksum.combined((len(piece), google_crc32c.value(piece)) for piece in pieces)
    assert found == google_crc32c.value(b"".join(pieces))
    assert checksum.decoded(checksum.encoded(found)) == found


def test_the_crc_of_very_many_bytes() -> None:
    """5 GiB of zeros: by doubling, and as the piece of one size behind others."""
    zeros, size = google_crc32c.value(b"\0" * 5), 5
    while size < 5 << 30:
        zeros, size = checksum.combined([(size, zeros), (size, zeros)]), size * 2
    half = checksum.combined([(size >> 1, 0)])
    assert half == 0, "nothing is added to nothing"
    first = google_crc32c.value(b"\0" * 1000)
    assert checksum.combined([(1000, first), (size, zeros)]) == checksum.combined([(size, zeros), (1000, first)])


def test_a_body_that_looks_like_the_end_of_a_request_is_sent_as_it_is() -> None:
    recorded = b"".join(Related({"name": "n"}, b"bytes", 5))
    body = Related({"name": "n"}, recorded, len(recorded))
    assert body.content_type.partition("boundary=")[2].encode() not in recorded


def test_a_body_is_sent_as_often_as_it_is_asked_for_and_never_copied_as_a_whole() -> None:
    data = bytearray(b"x" * (3 << 20))
    body = Related({"name": "n", "contentType": "text/plain"}, data, len(data))
    for _ in range(2):
        parts = list(body)
        assert sum(len(part) for part in parts) == len(body)
        assert max(len(part) for part in parts) == 1 << 18
        assert b"".join(parts[1:-1]) == data
    assert crc32c(data) == google_crc32c.value(bytes(data))


# --- names


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a.txt", "a.txt"),
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\a b.txt", "a b.txt"),
        ("..", "file"),
        ("", "file"),
        ("a/", "file"),
        ("line\nbreak\x00\u202e", "line_break__"),
        ("größe.txt", "größe.txt"),
        ("x" * 300 + ".tar.gz", "x" * 197 + ".gz"),
        ("y" * 300, "y" * 200),
        ("ü" * 300, "ü" * 100),
    ],
)
def test_what_a_client_calls_its_file_is_made_safe(name: str, safe: str) -> None:
    assert safe_filename(name).replace(".tar", "")[-60:] == safe.replace(".tar", "")[-60:]
    assert len(safe_filename(name).encode()) <= 200


def test_keys() -> None:
    info = new_info(1, id=UploadId("folder/id"), created=NOW, metadata=Metadata({"filename": b"../x.info"}))
    assert new_key("{id}", info) == "folder/id"
    assert new_key("{date:%Y/%m/%d}/{id}/{filename}", info) == "2026/11/28/folder/id/x.info_"
    assert new_key("{date}-{id}", info) == "2026-11-28-folder/id"
    assert new_key("{id}.bin", new_info(1)) == "upload.bin"


@pytest.mark.parametrize(
    "bad", ["", "x", "{filename}", "{id}/../x", "/{id}", "{id", "{id!r}", "{id.x}", "{0}", "{id}/{name}", "{id:>9}", "a//{id}"]
)
def test_templates_that_cannot_be_used(bad: str) -> None:
    with pytest.raises(ValueError):
        checked_template(bad)


def test_prefixes() -> None:
    assert checked_prefix("") == ""
    assert checked_prefix("a/b") == checked_prefix("a/b/") == "a/b/"
    for bad in ("/a", "a//b", "../a", "a\n", "x" * 300):
        with pytest.raises(ValueError):
            checked_prefix(bad)


def test_names_in_the_log_are_cut() -> None:
    assert shortened("uploads/0f1e2d3c4b5a69788796a5b4c3d2e1f0.info") == "uploads/0f1e2d3c…"
    assert shortened("short") == "short"
    assert shortened("a-chosen-secret/name") == "a-chosen…/name"
    for written in ("uploads/a-chosen-secret", "uploads%2Fa-chosen-secret"):
        assert (
            without(f"exceeded with url: /o/{written}?x", "uploads/a-chosen-secret")
            == "exceeded with url: /o/uploads/a-chosen…?x"
        )


# --- what objects carry


@pytest.mark.parametrize(
    ("filetype", "stored", "attached"),
    [
        ("image/png", "image/png", False),
        ("text/plain; charset=utf-8", "text/plain; charset=utf-8", False),
        ("text/html", "text/html", True),
        ("TEXT/HTML; charset=x", "TEXT/HTML; charset=x", True),
        ("image/svg+xml", "image/svg+xml", True),
        ("application/xhtml+xml", "application/xhtml+xml", True),
        ("text/javascript", "text/javascript", True),
        ("no type", "application/octet-stream", False),
        ("text/html\r\nX: y", "application/octet-stream", False),
        ("image/png;\r\n\r\na=b", "application/octet-stream", False),
        ("image/png;\u2028a=b", "application/octet-stream", False),
        ("", "application/octet-stream", False),
    ],
)
def test_types(filetype: str, stored: str, attached: bool) -> None:
    fields = object_fields(new_info(1, metadata=Metadata({"filetype": filetype.encode(), "filename": b'a"b.x'})), "run")
    assert fields["contentType"] == stored
    assert fields.get("contentDisposition", "").startswith("attachment; filename=\"a_b.x\"; filename*=UTF-8''a%22b.x") == attached


def test_metadata_is_cut_where_it_does_not_fit_any_more() -> None:
    values = {"a": b"1", "goog-x": b"1", "tusd-run": b"forged", "sp ace": b"1", "big": b"x" * 6000, "more": b"y" * 200, "z": b"1"}
    found = object_fields(new_info(1, metadata=Metadata(values)), "run")["metadata"]
    assert found == {"a": "1", "big": "x" * 6000, "tusd-upload": owner("upload"), "tusd-run": "run"}
    assert "upload" not in owner("upload"), "an id is a secret"
    assert METADATA_LIMIT + 1024 + 200 < 8192


# --- manifests


def test_a_manifest_comes_back_as_it_was_written() -> None:
    manifest = Manifest.new(NOW).with_chunks([Chunk(0, 5, 7), Chunk("3", 6, 8)], 4, NOW)
    assert read_manifest(manifest.more()) == manifest
    assert (manifest.offset, manifest.next) == (11, 4)
    sealed = manifest.with_object(Sealed(11, 9, 12))
    assert read_manifest(sealed.more()) == sealed
    assert (sealed.offset, sealed.chunks) == (11, ())
    assert read_manifest({}) is None
    assert manifest.chunk_name("p/id", "3") == "p/id_3"
    assert manifest.chunk_name("p/id", 3) == f"p/id_{manifest.run}_3"


@pytest.mark.parametrize(
    "bad",
    [
        [],
        "x",
        {},
        {"run": "0" * 16},
        {"run": "0" * 16, "next": True, "modified": 0},
        {"run": "0" * 16, "next": 0, "modified": 1e300},
    ],
)
def test_damaged_manifests(bad: Any) -> None:
    with pytest.raises(ValueError):
        read_manifest({"gcs": bad})


# --- which pieces count


def unknown(number: int, begin: int, size: int) -> Unknown:
    return Unknown(begin, Chunk(number, size, 0), NOW)


def test_the_pieces_that_lead_furthest_count() -> None:
    found = [unknown(0, 0, 10), unknown(1, 10, 5), unknown(2, 0, 15), unknown(3, 15, 5), unknown(4, 30, 5), unknown(5, 10, 100)]
    assert [one.chunk.number for one in longest(found, 0)] == [0, 5]
    assert [one.chunk.number for one in longest(found[:5], 0)] in ([0, 1, 3], [2, 3])
    assert [one.chunk.number for one in longest(found, 15)] == [3]
    assert longest(found, 12) == []
    assert longest([unknown(0, 0, 0)], 0) == []


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 4)), max_size=8), st.integers(0, 3))
def test_no_chain_leads_further(pieces: list[tuple[int, int]], offset: int) -> None:
    found = [unknown(n, begin, size) for n, (begin, size) in enumerate(pieces)]
    reached = {offset}
    while more := {one.begin + one.chunk.size for one in found if one.begin in reached} - reached:
        reached |= more
    chain = longest(found, offset)
    for one in chain:
        assert one.begin == offset
        offset += one.chunk.size
    assert offset == max(reached)


async def test_pieces_are_looked_for_up_to_the_first_that_is_not_there() -> None:
    there = {number: {"tusd-begin": str(number)} for number in range(3, 50) if number != 45}
    there[7] = {"tusd-begin": "7", "tusd-whole": "1"}
    there[8] = {}
    asked: list[int] = []

    async def stat(number: int) -> Stat:
        asked.append(number)
        if number not in there:
            raise Missing
        return Stat(str(number), 1, 0, 1, NOW, there[number])

    found, following = await find(stat, 3)
    assert following == 45
    assert [one.chunk.number for one in found] == [n for n in range(3, 45) if n not in (7, 8)]
    assert max(asked) < 45 + 16
    asked.clear()
    assert await find(stat, 100) == ([], 100)
    assert asked == [100], "as a rule it is one request"


# --- options


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"bucket": "gs://b"}, "without gs://"),
        ({"bucket": "b"}, "not the name"),
        ({"bucket": "bkt", "endpoint": "localhost:1"}, "http://host:port"),
        ({"bucket": "bkt", "kms_key": "k"}, "cryptoKeys"),
        ({"bucket": "bkt", "part_size": 1000}, "greater than"),
        ({"bucket": "bkt", "key": "{filename}"}, "must contain {id}"),
        ({"bucket": "bkt", "acl": "everybody"}, "authenticatedRead"),
        ({"bucket": "bkt", "anonymous": True, "service_account_file": "f"}, "exclude each other"),
    ],
)
def test_options_that_cannot_be_used(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said.replace("{", "\\{").replace("}", "\\}")):
        GcsStorage.Options(**wrong)


def test_names_that_are_too_long_are_the_fault_of_a_hook() -> None:
    check_length("p/", "x" * 900, "y" * 1000)
    with pytest.raises(HookError, match="1102 of 1024"):
        check_length("p/", "x", "y" * 1100)
