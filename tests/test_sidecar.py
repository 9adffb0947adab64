from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tusd import sidecar
from tusd.plugin import Final, Metadata, Partial, State, UploadId, UploadInfo

WHEN = datetime(2026, 5, 4, 3, 2, 1, 123456, UTC)
STORAGE = {"Type": "filestore", "Path": "/data/abc", "InfoPath": "/data/abc.info"}
PLAIN = UploadInfo(
    id=UploadId("abc"),
    length=11,
    metadata=Metadata({"filename": b"world.txt", "empty": b""}, "filename d29ybGQudHh0,empty"),
    created=WHEN,
    modified=WHEN,
    storage=STORAGE,
)


def again(info: UploadInfo) -> UploadInfo:
    return replace(sidecar.decode_sidecar(info.id, sidecar.encode_sidecar(info), 0).info, modified=info.modified)


def ours(info: UploadInfo, mark: int | None = None) -> dict[str, object]:
    found = json.loads(sidecar.encode_sidecar(info, mark))["tusd"]
    assert isinstance(found, dict)
    return found


def test_the_text_is_what_go_writes_and_one_object_more() -> None:
    text = sidecar.encode_sidecar(PLAIN).decode()
    assert text == (
        '{"ID":"abc","Size":11,"SizeIsDeferred":false,"Offset":0,"MetaData":{"filename":"world.txt","empty":""},'
        '"IsPartial":false,"IsFinal":false,"PartialUploads":null,'
        '"Storage":{"Type":"filestore","Path":"/data/abc","InfoPath":"/data/abc.info"},'
        '"tusd":{"created":"2026-05-04T03:02:01.123456+00:00","metadata":"filename d29ybGQudHh0,empty"}}'
    )


def test_a_deferred_length_is_as_go_writes_it() -> None:
    found = json.loads(sidecar.encode_sidecar(replace(PLAIN, length=None)))
    assert (found["Size"], found["SizeIsDeferred"]) == (0, True)


def test_a_final_upload_is_as_go_writes_it() -> None:
    found = json.loads(sidecar.encode_sidecar(replace(PLAIN, concat=Final((UploadId("a"), UploadId("b/c"))))))
    assert (found["IsPartial"], found["IsFinal"], found["PartialUploads"]) == (False, True, ["a", "b/c"])


def test_the_offset_is_not_kept() -> None:
    assert sidecar.encode_sidecar(PLAIN.at(5)) == sidecar.encode_sidecar(PLAIN)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"length": None},
        {"length": 0},
        {"concat": Partial()},
        {"concat": Final((UploadId("a"), UploadId("b")))},
        {"concat": Final(())},
        {"explicit": True, "state": State.FINISHING},
        {"explicit": True, "state": State.COMPLETE},
        {"explicit": True, "state": State.RECEIVING},
        {"expires": WHEN.astimezone(timezone(timedelta(hours=-7)))},
        {"max_length": 0},
        {"max_length": 2**60},
        {"notes": {"a": "ü", "b": ""}},
        {"metadata": Metadata()},
        {"metadata": Metadata({"a": b"1", "b": b"2"}, "a MQ==,  b Mg== ")},
        {"metadata": Metadata({"z": b"1", "a": b"2"}, "z MQ==,a Mg==")},
        {"metadata": Metadata({"raw": b"\xff\x00", "fine": b"\xef\xbf\xbd"}, "raw /wA=,fine 77+9")},
        {"metadata": Metadata({"set-by-a-hook": b"x"})},
        {"metadata": Metadata({"tags": b'<b>&\xe2\x80\xa8"\\'}, "tags PGI+JuKAqCJc")},
        {"storage": {}},
    ],
)
def test_everything_comes_back(changes: dict[str, object]) -> None:
    info = replace(PLAIN, **changes)  # type: ignore[arg-type]
    assert again(info) == info


@given(st.dictionaries(st.text(min_size=1), st.binary()), st.text(st.characters(codec="utf-8")))
def test_any_metadata_comes_back(values: dict[str, bytes], header: str) -> None:
    info = replace(PLAIN, metadata=Metadata(values, header))
    found = again(info)
    assert found == info
    assert list(found.metadata) == list(values)


def test_nothing_is_kept_that_need_not_be() -> None:
    plain = replace(PLAIN, metadata=Metadata())
    assert list(ours(plain)) == ["created"]
    assert list(ours(replace(plain, metadata=Metadata({"a": b"1"}, "a  MQ==")))) == ["created", "metadata"]
    assert list(ours(replace(plain, metadata=Metadata({"a": b"\xff"}, "a /w==")))) == ["created", "metadata", "binary"]
    assert list(ours(replace(plain, explicit=True))) == ["created", "state"]


def test_the_mark_comes_back() -> None:
    assert sidecar.decode_sidecar(PLAIN.id, sidecar.encode_sidecar(PLAIN), 0).mark is None
    assert ours(PLAIN, mark=0)["mark"] == 0
    assert sidecar.decode_sidecar(PLAIN.id, sidecar.encode_sidecar(PLAIN, 7), 0).mark == 7


def test_what_a_store_remembers_comes_back() -> None:
    more = {"s3": {"parts": [[1, 5, "x"]]}, "other": [1]}
    text = sidecar.encode_sidecar(replace(PLAIN, notes={"a": "b"}), 7, more)
    found = sidecar.decode_sidecar(PLAIN.id, text, 0)
    assert (found.mark, found.more, found.info.notes) == (7, more, {"a": "b"})
    assert sidecar.decode_sidecar(PLAIN.id, sidecar.encode_sidecar(PLAIN), 0).more == {}


def test_a_text_names_the_upload_that_it_was_written_for() -> None:
    assert sidecar.decode_sidecar(UploadId("other"), sidecar.encode_sidecar(PLAIN), 0).written_for == PLAIN.id


def test_a_text_of_go_is_read() -> None:
    text = (
        b'{"ID":"abc","Size":5,"SizeIsDeferred":false,"Offset":0,"MetaData":{"b":"\\u003ci\\u003e\\u0026\\u2028","a":"",'
        b'"c":"\xc3\xbc"},"IsPartial":true,"IsFinal":false,"PartialUploads":null,"Storage":{"InfoPath":"data/abc.info",'
        b'"Path":"data/abc","Type":"filestore"}}'
    )
    info, mark, written_for, more = sidecar.decode_sidecar(UploadId("abc"), text, WHEN.timestamp())
    assert (mark, written_for, more) == (None, "abc", {})
    assert dict(info.metadata) == {"b": "<i>&\u2028".encode(), "a": b"", "c": "ü".encode()}
    assert info.metadata.header == "b PGk+JuKAqA==,a,c w7w="
    assert (info.length, info.concat, info.created) == (5, Partial(), WHEN)
    assert (info.state, info.explicit, info.expires, info.max_length, info.notes) == (State.RECEIVING, False, None, None, {})
    assert info.storage == {"InfoPath": "data/abc.info", "Path": "data/abc", "Type": "filestore"}


def test_a_renamed_file_says_nothing_of_where_the_bytes_are() -> None:
    assert sidecar.decode_sidecar(UploadId("other"), sidecar.encode_sidecar(PLAIN), 0).info.storage == {}


def test_null_metadata_and_storage_of_go_are_empty() -> None:
    info = sidecar.decode_sidecar(
        UploadId("abc"), b'{"ID":"abc","Size":5,"MetaData":null,"Storage":null,"PartialUploads":null}', 0
    ).info
    assert (dict(info.metadata), info.metadata.header, info.storage, info.concat) == ({}, "", {}, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"ID":"abc","Size":5',
        "[]",
        "null",
        '"x"',
        '{"Size":-1}',
        '{"Size":"5"}',
        '{"Size":1.5}',
        '{"Size":true}',
        '{"MetaData":[1]}',
        '{"MetaData":{"a":1}}',
        '{"IsFinal":true,"PartialUploads":[1]}',
        '{"IsFinal":true,"PartialUploads":5}',
        '{"ID":"abc","Storage":{"Path":5}}',
        '{"tusd":5}',
        '{"tusd":{"created":"yesterday"}}',
        '{"tusd":{"created":"2026-05-04T03:02:01"}}',
        '{"tusd":{"created":5}}',
        '{"tusd":{"state":"lost"}}',
        '{"tusd":{"state":[]}}',
        '{"tusd":{"mark":-1}}',
        '{"tusd":{"max_length":"1"}}',
        '{"tusd":{"binary":{"a":"?"}}}',
        '{"tusd":{"metadata":5}}',
        '{"tusd":{"notes":{"a":null}}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_text_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        sidecar.decode_sidecar(UploadId("abc"), text.encode(), 0)


def test_bytes_that_are_no_text_are_a_value_error() -> None:
    with pytest.raises(ValueError):
        sidecar.decode_sidecar(UploadId("abc"), b"\xff\xfe\x00{", 0)
