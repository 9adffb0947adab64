"""What an object carries."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tusd.plugin import Metadata, UploadId, UploadInfo
from tusd_plugin_s3.headers import METADATA_MOST, carried
from tusd_plugin_s3.options import Options


def carries(metadata: dict[str, str | bytes], **options: Any) -> dict[str, Any]:
    values = {key: value.encode() if isinstance(value, str) else value for key, value in metadata.items()}
    return carried(
        UploadInfo(id=UploadId("a"), length=1, metadata=Metadata(values)),
        Options.model_validate({"bucket": "uploads", **options}),
    )


@pytest.mark.parametrize(
    ("metadata", "media_type"),
    [
        ({"filetype": "image/png"}, "image/png"),
        ({"type": "text/plain; charset=utf-8"}, "text/plain; charset=utf-8"),
        ({}, "application/octet-stream"),
        ({"filetype": "nonsense"}, "application/octet-stream"),
        ({"filetype": "text/html\r\nX-Evil: 1"}, "application/octet-stream"),
        ({"filetype": "a/" + "b" * 300}, "application/octet-stream"),
        ({"filetype": b"\xff/\xff"}, "application/octet-stream"),
    ],
)
def test_content_type(metadata: dict[str, str | bytes], media_type: str) -> None:
    assert carries(metadata)["ContentType"] == media_type


@pytest.mark.parametrize(
    ("metadata", "disposition"),
    [
        ({"filetype": "text/html", "filename": "a.html"}, 'attachment; filename="a.html"'),
        ({"filetype": "image/svg+xml", "name": "a.svg"}, 'attachment; filename="a.svg"'),
        ({"filetype": "text/html"}, "attachment"),
        ({}, "attachment"),
        ({"filetype": "TEXT/HTML; x=y"}, "attachment"),
        ({"filetype": "text/html", "filename": 'ü"\r\n%'}, "attachment; filename=\"_____\"; filename*=UTF-8''%C3%BC%22%0D%0A%25"),
        ({"filetype": "image/png", "filename": "a.png"}, None),
        ({"filetype": "Text/Plain; charset=utf-8"}, None),
    ],
)
def test_types_that_run_scripts_are_offered_as_files(metadata: dict[str, str | bytes], disposition: str | None) -> None:
    assert carries(metadata).get("ContentDisposition") == disposition


def test_metadata_as_go_sends_it() -> None:
    sent = carries({"filename": "naïve ☃.txt", "Empty": "", "bad name": "x", "ключ": "y", "bin": b"\xff\x00", "a_b-c": " z "})
    assert sent["Metadata"] == {"filename": "na?ve ?.txt", "empty": "", "bin": "??", "a_b-c": "z"}


def test_metadata_ends_where_s3_takes_no_more() -> None:
    sent = carries({"a": "x" * 1000, "b": "y" * 1000, "c": "z" * 100, "d": "w"})["Metadata"]
    assert list(sent) == ["a", "b"]
    assert list(carries({"a": "x" * (METADATA_MOST - 1), "b": ""})["Metadata"]) == ["a"]


@given(st.dictionaries(st.text(min_size=1, max_size=40), st.binary(max_size=3000), max_size=6))
def test_nothing_makes_a_header_that_cannot_be_sent(metadata: dict[str, str | bytes]) -> None:
    sent = carries(metadata)
    for name, text in sent.get("Metadata", {}).items():
        assert name.isascii() and text.isascii() and (text.isprintable() or not text)
    assert sum(len(name) + len(text) for name, text in sent.get("Metadata", {}).items()) <= METADATA_MOST


def test_what_the_options_say() -> None:
    sent = carries(
        {},
        storage_class="STANDARD_IA",
        acl="public-read",
        tags={"team": "a&b", "näme": "ü ="},
        encryption={"algorithm": "aws:kms", "kms_key": "key-1", "bucket_key": True},
    )
    assert sent["StorageClass"] == "STANDARD_IA" and sent["ACL"] == "public-read"
    assert sent["Tagging"] == "team=a%26b&n%C3%A4me=%C3%BC%20%3D"
    assert (sent["ServerSideEncryption"], sent["SSEKMSKeyId"], sent["BucketKeyEnabled"]) == ("aws:kms", "key-1", True)
    assert carries({}, encryption={})["ServerSideEncryption"] == "AES256"
    assert set(carries({})) == {"ContentType", "ContentDisposition"}
