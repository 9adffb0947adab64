"""The messages: those of Go tusd, all that JSON tells and more, and answers of any kind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from grpc_services import GO, GO_PROTO, HEAD, INFO, OURS, PACKAGE, answer, compiled, event
from tusd import plugin
from tusd.model import Final, Metadata, Partial, UploadId, UploadInfo
from tusd.plugin import (
    EVENTS,
    Changes,
    Head,
    HookError,
    HookEvent,
    HookResponse,
    PostExpire,
    PostFail,
    PostFinish,
    PreAccess,
    PreCreate,
)
from tusd_plugin_grpc_hooks.messages import decoded, encoded

RICH = replace(
    INFO, concat=Final(parts=(UploadId("a"), UploadId("b"))), storage={"Type": "filestore", "Path": "/x"}, notes={"a": "b"}
)
TOLD: list[HookEvent] = [
    PreAccess(upload=RICH, head=HEAD, access="append"),
    PostFail(upload=RICH, head=HEAD, code="ERR_READ_TIMEOUT", message="too slow"),
    PostExpire(upload=RICH, head=HEAD, reason="evicted"),
    *(event(kind, info=RICH) for kind in EVENTS if kind not in (PreAccess, PostFail, PostExpire)),
]


def fields(files: FileDescriptorSet) -> dict[tuple[str, str], FieldDescriptorProto]:
    """(message, field) -> the field, maps apart: their entries are messages, too."""
    return {
        (message.name, field.name): field
        for file in files.file
        for outer in file.message_type
        for message in (outer, *outer.nested_type)
        for field in message.field
    }


def test_what_is_shipped_is_the_compiled_file() -> None:
    shipped = FileDescriptorSet.FromString(resources.files("tusd_plugin_grpc_hooks").joinpath("hook.binpb").read_bytes())
    assert shipped == compiled(PACKAGE / "hook.proto"), "compile it: the README of the plugin says how"


def test_go_tusds_fields_are_as_they_are_there() -> None:
    ours, go = fields(compiled(PACKAGE / "hook.proto")), fields(compiled(GO_PROTO))
    assert len(go) > 30
    assert {key: field for key, field in ours.items() if key in go} == go
    added = {key: field.number for key, field in ours.items() if key not in go and key[0] in {message for message, _ in go}}
    assert len(added) > 8
    assert all(number >= 1000 for number in added.values()), added
    (service,), (theirs,) = (compiled(path).file[0].service for path in (PACKAGE / "hook.proto", GO_PROTO))
    assert service == theirs


def leaves(told: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """What JSON says: path in lower case -> value."""
    if isinstance(told, dict) and not path.endswith(("metadata", "storage", "header", "notes")):
        for name, value in told.items():
            yield from leaves(value, f"{path}.{name.lower()}" if path else name.lower())
    else:
        yield path, told


@pytest.mark.parametrize("one", TOLD, ids=lambda one: one.name)
def test_an_event_says_all_that_json_says(one: HookEvent) -> None:
    told = OURS.Request.FromString(encoded(one))
    checked = 0
    for path, value in leaves(plugin.event_as_json(one)):
        found = told
        for name in path.split("."):
            (field,) = (field for field in found.DESCRIPTOR.fields if field.name.lower() == name)
            found = getattr(found, field.name)
        if path.endswith(".header"):
            assert dict(found) == {name: values[0] for name, values in value.items()}
        elif value is not None:
            kind = type(value)
            assert kind(found) == value, path
        checked += 1
    assert checked >= 15


def test_an_upload_as_go_tusd_tells_it() -> None:
    told = GO.Request.FromString(encoded(event(PostFinish)))
    upload, request = told.event.upload, told.event.httpRequest
    assert (told.type, upload.id, upload.size, upload.offset) == ("post-finish", "abc", 12, 5)
    assert (upload.sizeIsDeferred, upload.isPartial, upload.isFinal, list(upload.partialUploads)) == (False, False, False, [])
    assert dict(upload.metaData) == {"name": "Grüße\n\"'"}
    assert dict(upload.storage) == {}
    assert (request.method, request.uri, request.remoteAddr) == ("POST", "/files/", "10.0.0.9:51544")
    assert dict(request.header) == {"X-Request-Id": "r1", "Host": "up.example"}


def test_an_upload_that_does_not_exist_yet_has_no_id_and_a_deferred_length_none() -> None:
    info = replace(INFO, length=None, concat=Partial())
    upload = OURS.Request.FromString(encoded(event(PreCreate, info=info))).event.upload
    assert (upload.id, upload.size, upload.sizeIsDeferred, upload.isPartial) == ("", 0, True, True)


def test_a_header_that_was_sent_twice() -> None:
    head = Head("POST", "/files/", CIMultiDict([("x-a", "1"), ("X-B", "2"), ("X-A", "3"), ("x-a", "4")]))
    request = OURS.Request.FromString(encoded(event(head=head))).event.httpRequest
    assert dict(request.header) == {"X-A": "1", "X-B": "2"}
    assert [(one.name, one.value) for one in request.furtherHeader] == [("X-A", "3"), ("X-A", "4")]


def test_the_largest_upload_and_bytes_that_are_not_utf8() -> None:
    head = Head("POST", "/files/\udcff", CIMultiDict({"x-a": "\udcfe"}), query="\udcff")
    info = replace(INFO, length=2**63 - 1, metadata=Metadata({"a": b"\xff"}), storage={"Path": "/\udcff/\ud800"})
    told = OURS.Request.FromString(encoded(event(PostFinish, head, info)))
    assert told.event.upload.size == 2**63 - 1
    assert dict(told.event.upload.storage) == {"Path": "/\ufffd/\ufffd"}
    assert (told.event.httpRequest.uri, dict(told.event.upload.metaData)) == ("/files/\ufffd?\ufffd", {"a": "\ufffd"})


def test_the_same_event_is_named_the_same() -> None:
    once = event(PostFinish)
    names = {OURS.Request.FromString(encoded(one)).deliveryId for one in (once, once, event(PostFinish))}
    assert len(names) == 1
    assert re.fullmatch("[0-9a-f]{32}", names.pop())


def test_an_answer_says_all_that_json_may_say() -> None:
    found = decoded(
        answer(
            rejectUpload=True,
            stopUpload=True,
            httpResponse={"statusCode": 403, "header": {"X-A": "1"}, "body": "no"},
            changeFileInfo={
                "id": "other",
                "metaData": {"a": "ü"},
                "storage": {"Path": "x"},
                "maxSize": 9,
                "expiresAt": "2030-01-02T03:04:05Z",
                "expireAfter": 60,
                "expireFinishedAfter": 0.5,
                "notes": {"n": "1"},
            },
        )
    )
    assert found == HookResponse(
        status=403,
        headers={"X-A": "1"},
        body="no",
        reject=True,
        stop=True,
        change=Changes(
            id=UploadId("other"),
            metadata=Metadata({"a": "ü".encode()}),
            storage={"Path": "x"},
            max_length=9,
            expires=datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
            expire_after=60,
            expire_finished_after=0.5,
            notes={"n": "1"},
        ),
    )


@pytest.mark.parametrize("field", ["rejectUpload", "rejectTermination", "rejectAccess"])
def test_every_refusal_refuses(field: str) -> None:
    assert decoded(answer(**{field: True})) == HookResponse(reject=True)


def test_nothing_said_is_nothing_changed() -> None:
    assert decoded(b"") is None
    assert decoded(answer(httpResponse={}, changeFileInfo={})) == HookResponse()
    assert decoded(answer(changeFileInfo={"metaData": {}})) == HookResponse()


def test_zero_and_no_metadata_can_be_said() -> None:
    assert decoded(answer(changeFileInfo={"maxSize": 0})) == HookResponse(change=Changes(max_length=0))
    assert decoded(answer(changeFileInfo={"clearMetaData": True})) == HookResponse(change=Changes(metadata=Metadata({})))
    both = decoded(answer(changeFileInfo={"clearMetaData": True, "metaData": {"a": "b"}}))
    assert both == HookResponse(change=Changes(metadata=Metadata({"a": b"b"})))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello", "not a HookResponse"),
        (b"\x0a\xff", "not a HookResponse"),
        (answer(httpResponse={"body": "12345"})[:-1], "not a HookResponse"),
        (answer(httpResponse={"body": "abc"}).replace(b"abc", b"a\xffc"), "not a HookResponse"),
        (answer(changeFileInfo={"metaData": {"a b": "1"}}), "the metadata key 'a b'"),
        (answer(changeFileInfo={"expiresAt": "tomorrow"}), "ExpiresAt is not a time"),
    ],
)
def test_what_is_no_answer_is_a_failure(data: bytes, message: str) -> None:
    with pytest.raises(HookError, match=re.escape(message)):
        decoded(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_a_failure(data: bytes) -> None:
    try:
        found = decoded(data)
    except HookError:
        return
    assert found is None or isinstance(found, HookResponse)


text = st.text(max_size=20)


@given(text, st.dictionaries(text, st.binary(max_size=20)), st.dictionaries(text, text), text)
def test_any_upload_can_be_told(name: str, metadata: dict[str, bytes], storage: dict[str, str], value: str) -> None:
    info = UploadInfo(id=UploadId(name), length=None, metadata=Metadata(metadata), storage=storage)
    head = Head("PATCH", f"/{name}", CIMultiDict({"x-a": value}))
    told = OURS.Request.FromString(encoded(PostFinish(upload=info, head=head)))
    assert told.event.upload.id == name
    assert set(told.event.upload.metaData) == set(metadata)
