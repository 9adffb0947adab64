"""Keys: made of whatever clients and hooks say, never outside the prefix, never another upload's; and read back."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tusd.plugin import Metadata, UploadId, UploadInfo
from tusd_plugin_s3.keys import LONGEST, Keys, checked_prefix, checked_template

ID = "0123456789abcdef0123456789abcdef"
CREATED = datetime(2026, 11, 28, 23, 59, tzinfo=UTC)
ALL = "{date:%Y/%m/%d}/{id}/{filename}"


def info(upload_id: str = ID, *, created: datetime | None = None, **metadata: str | bytes) -> UploadInfo:
    values = {key: value.encode() if isinstance(value, str) else value for key, value in metadata.items()}
    return UploadInfo(id=UploadId(upload_id), length=None, created=created or CREATED, metadata=Metadata(values))


def test_gos_keys() -> None:
    keys = Keys("", "")
    assert keys.object(info()) == ID and keys.info(ID) == f"{ID}.info" and keys.go_tail(ID) == f"{ID}.part"
    apart = Keys("data/", "meta/")
    assert apart.object(info()) == f"data/{ID}" and apart.info(ID) == f"meta/{ID}.info"


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ({"filename": "cat.jpg"}, "cat.jpg"),
        ({"name": "cat.jpg"}, "cat.jpg"),
        ({"filename": "", "name": "cat.jpg"}, "cat.jpg"),
        ({}, "file"),
        ({"filename": "../../etc/passwd"}, ".._.._etc_passwd"),
        ({"filename": ".."}, "__"),
        ({"filename": "."}, "_"),
        ({"filename": "C:\\x\\y"}, "C:_x_y"),
        ({"filename": "a\r\nb\x00"}, "a__b_"),
        ({"filename": "Ünïcødé ☃.txt"}, "Ünïcødé ☃.txt"),
        ({"filename": b"\xff.bin"}, "\ufffd.bin"),
        ({"filename": "a.info"}, "a.info_"),
        ({"filename": "a.part"}, "a.part_"),
        ({"filename": "x.INFO"}, "x.INFO"),
        ({"filename": "{id}%s"}, "{id}_s"),
    ],
)
def test_a_file_name_is_made_safe(metadata: dict[str, str | bytes], name: str) -> None:
    named = {key: value.encode() if isinstance(value, str) else value for key, value in metadata.items()}
    upload = UploadInfo(id=UploadId(ID), length=None, created=CREATED, metadata=Metadata(named))
    assert Keys("p/", "p/", ALL).object(upload) == f"p/2026/11/28/{ID}/{name}"


def test_the_date_is_that_of_the_creation_in_utc() -> None:
    local = datetime(2026, 12, 31, 23, 30, tzinfo=timezone(timedelta(hours=-5)))
    assert Keys("", "", "{date:%Y-%m-%d}/{id}").object(info(created=local)) == f"2027-01-01/{ID}"


def test_a_long_name_is_cut_and_keeps_its_extension() -> None:
    key = Keys("", "", ALL).object(info(filename="ü" * 2000 + ".tar.gz"))
    assert LONGEST - 2 <= len(key.encode()) <= LONGEST and key.endswith("ü.gz")
    key = Keys("", "", ALL).object(info(filename="a." + "b" * 2000))
    assert len(key.encode()) <= LONGEST
    with pytest.raises(ValueError, match="longer than 1024 bytes"):
        Keys("p" * 200 + "/", "", ALL).object(info("i" * 900, filename="x" * 100))
    with pytest.raises(ValueError, match="longer than 1024 bytes"):
        Keys("p" * 200 + "/", "").object(info("i" * 900))


@given(
    st.text(max_size=300) | st.binary(max_size=300).map(lambda b: b.decode("latin-1")),
    st.sampled_from([ALL, "{id}.{filename}", "{filename}-{id}"]),
)
def test_no_name_makes_an_unsafe_key(name: str, template: str) -> None:
    key = Keys("p/", "i/", template).object(info(filename=name.encode("utf-8", "surrogatepass")))
    assert key.startswith("p/") and ID in key and len(key.encode()) <= LONGEST
    assert not re.search(r"[\x00-\x1f\x7f]", key) and "//" not in key
    assert not any(part in (".", "..") for part in key.split("/")) and not key.endswith((".info", ".part"))


@pytest.mark.parametrize(
    ("chosen", "wrong"),
    [
        ("", "it is empty"),
        ("/a", "it has a / at an end"),
        ("a/", "it has a / at an end"),
        ("a//b", "two in a row"),
        ("a/../b", "it has . or .. between slashes"),
        ("..", "it has . or .. between slashes"),
        ("a\x00", "it has control characters"),
        ("a\ud800", "it has control characters"),
        ("a.info", "keys that end in .info or .part"),
        ("b/a.part", "keys that end in .info or .part"),
        ("ü" * 512, "longer than 1024 bytes"),
    ],
)
def test_what_a_hook_chooses_is_checked(chosen: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=re.escape(wrong)):
        Keys("p/", "p/").chosen(chosen)


def test_what_a_hook_may_choose() -> None:
    assert Keys("p/", "p/").chosen("users/7/Photo 1.jpg") == "p/users/7/Photo 1.jpg"


def test_tails_say_where_they_begin() -> None:
    keys = Keys("p/", "i/")
    key = keys.tail("a.b", 5242880)
    assert re.fullmatch(r"i/a\.b\.5242880-[0-9a-f]{8}\.part", key) and key != keys.tail("a.b", 5242880)
    assert keys.begin("a.b", key) == 5242880 and key.startswith(keys.tails("a.b"))


@pytest.mark.parametrize(
    "key",
    [
        "i/a.info",
        "i/a.part",
        "i/a.1-0123456.part",
        "i/a.b.1-01234567.part",
        "p/a.1-01234567.part",
        "i/a.-1-01234567.part",
        "i/a.١-01234567.part",
    ],
)
def test_other_keys_are_no_tails(key: str) -> None:
    assert Keys("p/", "i/").begin("a", key) is None


@pytest.mark.parametrize(
    ("key", "upload"),
    [("i/x.info", "x"), ("i/a/b.info", "a/b"), ("i/.info", None), ("i/x", None), ("x.info", None), ("i/x.info.part", None)],
)
def test_the_id_of_an_info_key(key: str, upload: str | None) -> None:
    assert Keys("p/", "i/").upload(key) == upload


def test_good_prefixes_and_templates_stay_as_they_are() -> None:
    assert checked_prefix("") == "" and checked_prefix("übung/1") == "übung/1/"
    for template in ("{id}", ALL, "tenant/{id}.bin", "{date:%Y}{id}"):
        assert checked_template(template) == template


@pytest.mark.parametrize("ending", [".info", ".part"])
def test_an_id_that_ends_like_an_object_of_ours_shares_its_key_with_no_other(ending: str) -> None:
    ids = ["a" + ending + "_" * n for n in range(4)]
    assert len({Keys("p/", "p/").object(info(one)) for one in ids}) == 4
