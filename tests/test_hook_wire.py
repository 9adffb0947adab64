"""Events as JSON, as Go tusd writes them; and what is read of answers, or refused."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from tusd.errors import HookError
from tusd.hook_wire import answer_from_json, decode_answer, encode_event, event_as_json, headers_of, remote_address
from tusd.hooks import (
    EVENTS,
    NO_REQUEST,
    Changes,
    HookEvent,
    HookResponse,
    PostCreate,
    PostExpire,
    PostFail,
    PostFinish,
    PostReceive,
    PostTerminate,
    PreAccess,
    PreCreate,
    PreFinish,
    PreTerminate,
)
from tusd.model import Final, Metadata, Partial, UploadId, UploadInfo
from tusd.protocol.messages import Head

ID = "d" * 32
INFO = UploadInfo(
    id=UploadId("0b7c"),
    length=12,
    offset=5,
    metadata=Metadata({"filename": b"a.txt"}, "filename YS50eHQ="),
    storage={"Type": "filestore", "Path": "/data/0b7c", "InfoPath": "/data/0b7c.info"},
)
HEAD = Head(
    "PATCH",
    "/files/0b7c",
    CIMultiDict({"Host": "up.example", "tus-resumable": "1.0.0"}),
    "10.0.0.9",
    query="a=1&b=%20",
    peer_port=51544,
    client="10.0.0.9",
)
UPLOAD: dict[str, object] = {
    "ID": "0b7c",
    "Size": 12,
    "SizeIsDeferred": False,
    "Offset": 5,
    "MetaData": {"filename": "a.txt"},
    "IsPartial": False,
    "IsFinal": False,
    "PartialUploads": None,
    "Storage": {"Type": "filestore", "Path": "/data/0b7c", "InfoPath": "/data/0b7c.info"},
}
REQUEST = {
    "Method": "PATCH",
    "URI": "/files/0b7c?a=1&b=%20",
    "RemoteAddr": "10.0.0.9:51544",
    "Header": {"Host": ["up.example"], "Tus-Resumable": ["1.0.0"]},
}


def told(info: UploadInfo, kind: type[HookEvent] = PostCreate) -> dict[str, Any]:
    """What an event says of an upload."""
    upload: dict[str, Any] = json.loads(encode_event(kind(upload=info, head=HEAD)))["Event"]["Upload"]
    return upload


# --- events


@pytest.mark.parametrize(
    ("event", "upload", "more"),
    [
        (PreCreate(upload=replace(INFO, offset=0, storage={}), head=HEAD), {"ID": "", "Offset": 0, "Storage": None}, {}),
        (PostCreate(upload=INFO, head=HEAD), {}, {}),
        (PreAccess(upload=INFO, head=HEAD, access="read"), {}, {"Access": "read"}),
        (PostReceive(upload=INFO, head=HEAD), {}, {}),
        (PreFinish(upload=INFO.at(12), head=HEAD), {"Offset": 12}, {}),
        (PostFinish(upload=INFO.at(12), head=HEAD), {"Offset": 12}, {}),
        (
            PostFail(upload=INFO, head=HEAD, code="ERR_READ_TIMEOUT", message="too slow"),
            {},
            {"Error": {"Code": "ERR_READ_TIMEOUT", "Message": "too slow"}},
        ),
        (PreTerminate(upload=INFO, head=HEAD), {}, {}),
        (PostTerminate(upload=INFO, head=HEAD), {}, {}),
        (PostExpire(upload=INFO, head=HEAD, reason="evicted"), {}, {"Reason": "evicted"}),
    ],
    ids=lambda found: found.name if isinstance(found, HookEvent) else "",
)
def test_every_event_is_what_go_sends_and_our_own_besides(
    event: HookEvent, upload: dict[str, object], more: dict[str, object]
) -> None:
    event = replace(event, delivery_id=ID)
    expected = {
        "Type": event.name,
        "DeliveryID": ID,
        "Event": {"Upload": UPLOAD | upload, "HTTPRequest": REQUEST, **more},
    }
    assert json.loads(encode_event(event)) == expected
    assert event_as_json(event) == expected


def test_the_events_are_tested_all() -> None:
    (mark,) = test_every_event_is_what_go_sends_and_our_own_besides.pytestmark  # type: ignore[attr-defined]
    assert [type(event) for event, *_ in mark.args[1]] == list(EVENTS)


def test_it_is_one_line_of_ascii_with_gos_keys_in_gos_order() -> None:
    text = encode_event(PostFinish(upload=replace(INFO, metadata=Metadata({"n": "ü\n".encode()})), head=HEAD, delivery_id=ID))
    assert text == (
        b'{"Type":"post-finish","DeliveryID":"dddddddddddddddddddddddddddddddd","Event":{"Upload":{"ID":"0b7c","Size":12,'
        b'"SizeIsDeferred":false,"Offset":5,"MetaData":{"n":"\\u00fc\\n"},"IsPartial":false,"IsFinal":false,"PartialUploads":null,'
        b'"Storage":{"Type":"filestore","Path":"/data/0b7c","InfoPath":"/data/0b7c.info"}},"HTTPRequest":{"Method":"PATCH",'
        b'"URI":"/files/0b7c?a=1&b=%20","RemoteAddr":"10.0.0.9:51544","Header":{"Host":["up.example"],"Tus-Resumable":["1.0.0"]}}}}'
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"length": None}, {"Size": 0, "SizeIsDeferred": True}),
        ({"length": 0, "offset": 0}, {"Size": 0, "SizeIsDeferred": False, "Offset": 0}),
        ({"length": 2**63 - 1, "offset": 2**53 + 1}, {"Size": 9223372036854775807, "Offset": 9007199254740993}),
        ({"concat": Partial()}, {"IsPartial": True, "IsFinal": False, "PartialUploads": None}),
        (
            {"concat": Final((UploadId("a"), UploadId("b+1"), UploadId("a")))},
            {"IsPartial": False, "IsFinal": True, "PartialUploads": ["a", "b+1", "a"]},
        ),
        ({"metadata": Metadata()}, {"MetaData": {}}),
        ({"metadata": Metadata({"empty": b""}, "empty")}, {"MetaData": {"empty": ""}}),
        ({"metadata": Metadata({"k": "日本 ü 😀\0\n".encode()})}, {"MetaData": {"k": "日本 ü 😀\0\n"}}),
        ({"metadata": Metadata({"k": b"\xff\xfea\xc3"})}, {"MetaData": {"k": "\ufffd\ufffda\ufffd"}}),
        ({"storage": {}}, {"Storage": None}),
        ({"storage": {"Path": "/d\udcff/a"}}, {"Storage": {"Path": "/d\ufffd/a"}}),
        ({"id": UploadId("a/b+c~1")}, {"ID": "a/b+c~1"}),
    ],
)
def test_uploads_that_are_unusual(changes: dict[str, Any], expected: dict[str, object]) -> None:
    upload = told(replace(INFO, **changes))
    assert {key: upload[key] for key in expected} == expected
    assert list(upload) == list(UPLOAD)


def test_what_is_noted_stands_beside_the_upload() -> None:
    """It is not Go's. Nothing noted: nothing said."""
    event = event_as_json(PostCreate(upload=replace(INFO, notes={"owner": "ü", "raw": "\udcff"}), head=HEAD))["Event"]
    assert (event["Notes"], list(event)) == ({"owner": "ü", "raw": "\ufffd"}, ["Upload", "HTTPRequest", "Notes"])
    assert "Notes" not in event_as_json(PostCreate(upload=INFO, head=HEAD))["Event"]


def test_an_upload_has_no_id_before_it_is_created_whoever_has_chosen_one() -> None:
    assert told(INFO, PreCreate)["ID"] == ""


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("host", "Host"),
        ("x-request-id", "X-Request-Id"),
        ("X-REQUEST-ID", "X-Request-Id"),
        ("etag", "Etag"),
        ("x_own-header", "X_own-Header"),
        ("-x--y-", "-X--Y-"),
        ("x-1a", "X-1a"),
    ],
)
def test_headers_have_their_canonical_names(name: str, canonical: str) -> None:
    assert headers_of(Head("GET", "/", CIMultiDict({name: "1"}))) == {canonical: ["1"]}


def test_a_header_keeps_all_its_values_in_their_order() -> None:
    headers = CIMultiDict([("X-A", "1"), ("X-B", "2"), ("x-a", ""), ("X-A", "1")])
    assert headers_of(Head("GET", "/", headers)) == {"X-A": ["1", "", "1"], "X-B": ["2"]}


@pytest.mark.parametrize(
    ("sent", "expected"),
    [(b"caf\xc3\xa9", "café"), (b"caf\xe9", "caf\ufffd"), (b"\xff\xfe", "\ufffd\ufffd"), (b"\xc3(", "\ufffd(")],
)
def test_headers_that_are_not_utf_8_can_be_sent_on(sent: bytes, expected: str) -> None:
    headers = CIMultiDict({"X-A": sent.decode("utf-8", "surrogateescape")})
    found = headers_of(Head("GET", "/", headers))
    assert found == {"X-A": [expected]}
    assert json.dumps(found, ensure_ascii=False).encode()


def test_a_target_that_is_not_utf_8_can_be_sent_on() -> None:
    event = event_as_json(PostCreate(upload=INFO, head=replace(HEAD, path="/files/\udcff", query="\udcfe=1")))
    assert event["Event"]["HTTPRequest"]["URI"] == "/files/\ufffd?\ufffd=1"


@pytest.mark.parametrize(
    ("client", "peer", "port", "expected"),
    [
        ("10.0.0.9", "10.0.0.9", 51544, "10.0.0.9:51544"),
        ("::1", "::1", 51544, "[::1]:51544"),
        ("fe80::1%eth0", "fe80::1%eth0", 1, "[fe80::1%eth0]:1"),
        ("203.0.113.7", "10.0.0.2", 51544, "203.0.113.7:0"),
        ("2001:db8::7", "10.0.0.2", 51544, "[2001:db8::7]:0"),
        ("203.0.113.7", None, None, "203.0.113.7:0"),
        ("10.0.0.9", "10.0.0.9", None, "10.0.0.9:0"),
        (None, None, None, ""),
        (None, "10.0.0.9", 51544, ""),
    ],
)
def test_where_a_request_came_from(client: str | None, peer: str | None, port: int | None, expected: str) -> None:
    assert remote_address(replace(HEAD, client=client, peer=peer, peer_port=port)) == expected


def test_what_no_request_has_caused_has_an_empty_one() -> None:
    event = event_as_json(PostExpire(upload=INFO, head=NO_REQUEST, reason="expired"))
    assert event["Event"]["HTTPRequest"] == {"Method": "", "URI": "", "RemoteAddr": "", "Header": {}}


def test_delivery_ids_name_what_happens_once() -> None:
    def own(kind: type[HookEvent], info: UploadInfo = INFO) -> str:
        found = event_as_json(kind(upload=info, head=HEAD))["DeliveryID"]
        assert isinstance(found, str) and len(found) == 32 and set(found) <= set("0123456789abcdef")
        return found

    assert own(PreFinish) == own(PreFinish, INFO.at(12)), "tried again it is the same event"
    assert own(PreFinish) != own(PostFinish)
    assert own(PreFinish) != own(PreFinish, replace(INFO, id=UploadId("other")))
    assert own(PreFinish) != own(PreFinish, replace(INFO, created=datetime(2020, 1, 1, tzinfo=UTC))), "an id may come again"
    assert own(PostReceive) != own(PostReceive)


# --- answers


FULL: dict[str, Any] = {
    "HTTPResponse": {"StatusCode": 403, "Header": {"X-A": "1", "x-b": ""}, "Body": "no\n"},
    "RejectUpload": True,
    "StopUpload": True,
    "ChangeFileInfo": {
        "ID": "a/b+c",
        "MetaData": {"name": "ü", "empty": ""},
        "Storage": {"Path": "sub/dir"},
        "MaxSize": 2**53 + 1,
        "ExpiresAt": "2026-12-31T12:00:00.5+02:00",
        "ExpireAfter": 90,
        "ExpireFinishedAfter": 0.5,
        "Notes": {"owner": "anna"},
    },
}
MEANT = HookResponse(
    status=403,
    headers={"X-A": "1", "x-b": ""},
    body="no\n",
    reject=True,
    stop=True,
    change=Changes(
        id=UploadId("a/b+c"),
        metadata=Metadata({"name": "ü".encode(), "empty": b""}),
        storage={"Path": "sub/dir"},
        max_length=2**53 + 1,
        expires=datetime(2026, 12, 31, 10, 0, 0, 500_000, tzinfo=UTC),
        expire_after=90.0,
        expire_finished_after=0.5,
        notes={"owner": "anna"},
    ),
)
NAMES = ("HTTPResponse", "ChangeFileInfo")
MAPS = ("Header", "MetaData", "Storage", "Notes")


def respelt(answer: dict[str, Any], spell: Any) -> dict[str, Any]:
    """An answer with its keys written otherwise; those of maps of texts are the hook's own."""
    return {
        spell(key): respelt(value, spell) if isinstance(value, dict) and key not in MAPS else value
        for key, value in answer.items()
    }


@pytest.mark.parametrize("spell", [str, str.lower, str.upper, str.swapcase], ids=["as Go", "lower", "upper", "swapped"])
def test_everything_that_can_be_answered_in_any_case(spell: Any) -> None:
    assert decode_answer(json.dumps(respelt(FULL, spell)).encode()) == MEANT


@pytest.mark.parametrize("key", ["RejectUpload", "RejectTermination", "RejectAccess"])
def test_each_word_for_no_is_a_no(key: str) -> None:
    assert decode_answer(json.dumps({key: True}).encode()) == HookResponse(reject=True)
    others = {other: False for other in ("RejectUpload", "RejectTermination", "RejectAccess") if other != key}
    assert answer_from_json({**others, key: True}) == answer_from_json({key: True, **others}) == HookResponse(reject=True)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        " {\n}\t",
        "\ufeff{}",
        '{"RejectUpload": false, "StopUpload": false, "RejectTermination": false, "RejectAccess": false}',
        '{"HTTPResponse": {}, "ChangeFileInfo": {}}',
        '{"HTTPResponse": null, "ChangeFileInfo": null, "RejectUpload": null, "StopUpload": null}',
        '{"HTTPResponse": {"StatusCode": 0, "Header": null, "Body": ""}}',
        '{"HTTPResponse": {"StatusCode": null, "Header": {}, "Body": null}}',
        '{"ChangeFileInfo": {"ID": "", "MetaData": null, "Storage": null, "MaxSize": null, "ExpiresAt": null}}',
        '{"ChangeFileInfo": {"ExpireAfter": null, "ExpireFinishedAfter": null, "Notes": null}}',
        '{"": 1, "Type": "pre-create", "Event": {"Upload": []}, "HTTPResponse": {"Headers": {"X-A": 1}, "Trailer": []}}',
        '{"ChangeFileInfo": {"Size": "big", "Offset": -1}, "Reject": true, "reject_upload": true}',
    ],
)
def test_what_says_nothing(text: str) -> None:
    """Zeros and nulls as Go has them, and keys that nobody knows, whatever is in them."""
    assert decode_answer(text.encode()) == HookResponse()


def test_empty_maps_are_answers() -> None:
    """They clear what there was, as in Go."""
    change = decode_answer(b'{"ChangeFileInfo": {"MetaData": {}, "Storage": {}, "MaxSize": 0}}').change
    assert change == Changes(metadata=Metadata(), storage={}, max_length=0)


def kinds(*expected: type) -> list[tuple[str, str]]:
    """JSON values that are not of these types, and what they are called."""
    all_kinds: list[tuple[type, str, str]] = [
        (bool, "true", "true or false"),
        (int, "12", "a whole number"),
        (float, "1.5", "a number"),
        (str, '"secret"', "text"),
        (list, "[]", "a list"),
        (dict, "{}", "an object"),
    ]
    return [(text, name) for kind, text, name in all_kinds if kind not in expected]


WRONG = {
    "HTTPResponse": (kinds(dict), "an object"),
    "HTTPResponse.StatusCode": (kinds(int), "a whole number"),
    "HTTPResponse.Header": (kinds(dict), "an object of texts"),
    "HTTPResponse.Header.X-A": ([*kinds(str), ("null", "null")], "text"),
    "HTTPResponse.Body": (kinds(str), "text"),
    "RejectUpload": (kinds(bool), "true or false"),
    "RejectTermination": (kinds(bool), "true or false"),
    "RejectAccess": (kinds(bool), "true or false"),
    "StopUpload": (kinds(bool), "true or false"),
    "ChangeFileInfo": (kinds(dict), "an object"),
    "ChangeFileInfo.ID": (kinds(str), "text"),
    "ChangeFileInfo.MetaData": (kinds(dict), "an object of texts"),
    "ChangeFileInfo.MetaData.a": ([*kinds(str), ("null", "null")], "text"),
    "ChangeFileInfo.Storage": (kinds(dict), "an object of texts"),
    "ChangeFileInfo.Storage.Path": ([*kinds(str), ("null", "null")], "text"),
    "ChangeFileInfo.MaxSize": (kinds(int), "a whole number"),
    "ChangeFileInfo.ExpiresAt": (kinds(str), "text"),
    "ChangeFileInfo.ExpireAfter": (kinds(int, float), "a number"),
    "ChangeFileInfo.ExpireFinishedAfter": (kinds(int, float), "a number"),
    "ChangeFileInfo.Notes": (kinds(dict), "an object of texts"),
    "ChangeFileInfo.Notes.n": ([*kinds(str), ("null", "null")], "text"),
}


@pytest.mark.parametrize(
    ("path", "value", "found", "expected"),
    [(path, value, found, expected) for path, (values, expected) in WRONG.items() for value, found in values],
)
def test_a_wrong_type_is_refused_with_its_place(path: str, value: str, found: str, expected: str) -> None:
    text = value
    for key in reversed(path.split(".")):
        text = f'{{"{key}": {text}}}'
    with pytest.raises(HookError) as raised:
        decode_answer(text.encode())
    assert str(raised.value) == f"a hook's answer.{path} is {found}, not {expected}"


def test_every_key_is_tried_with_wrong_types() -> None:
    leaves = {f"{outer}.{inner}" for outer in NAMES for inner in FULL[outer]}
    assert leaves | set(FULL) | {"RejectTermination", "RejectAccess"} == {
        path for path in WRONG if path.count(".") < 2 or path in leaves
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not JSON: Expecting value: line 1 column 1"),
        (b"OK", "not JSON: Expecting value: line 1 column 1"),
        (b"<html>secret</html>", "not JSON: Expecting value: line 1 column 1"),
        (b"{} {}", "not JSON: Extra data: line 1 column 4"),
        (b'{"RejectUpload": true,}', "not JSON: .* line 1 column 2"),
        (b"{'RejectUpload': true}", "not JSON: .* line 1 column 2"),
        (b'{"RejectUpload": True}', "not JSON: Expecting value: line 1 column 18"),
        (b'{"HTTPResponse": {"Body": "a\nb"}}', "not JSON: Invalid control character at: line 1 column 29"),
        (b'{"RejectUpload": tru', "not JSON"),
        (b'{"ChangeFileInfo": {"ExpireAfter": NaN}}', "not JSON: NaN is not a number"),
        (b'{"Unknown": Infinity}', "not JSON: Infinity is not a number"),
        (b'{"Unknown": -Infinity}', "not JSON: -Infinity is not a number"),
        ('{"RejectUpload": true}'.encode("utf-16"), "not JSON"),
        (b"[" * 100_000, "not JSON: maximum recursion depth"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "not JSON: maximum recursion depth"),
        (b'{"ChangeFileInfo": {"MaxSize": 1' + b"0" * 5000 + b"}}", "not JSON: Exceeds the limit"),
        (b"null", "answer is null, not an object"),
        (b"[]", "answer is a list, not an object"),
        (b'"no"', "answer is text, not an object"),
        (b"true", "answer is true or false, not an object"),
        (b'{"ChangeFileInfo": {"ExpireAfter": 1' + b"0" * 400 + b"}}", r"answer\.ChangeFileInfo\.ExpireAfter is too large"),
        (
            b'{"HTTPResponse": {"Header": {"a b/\\u00fc\\n\\ud800": 1}}}',
            r"Header\.a%20b%2F%C3%BC%0A%EF%BF%BD is a whole number, not text",
        ),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_answer_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(HookError, match=message) as raised:
        decode_answer(text)
    assert "secret" not in str(raised.value)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    "time", ["tomorrow", "", "2026-12-31", "2026-12-31T12:00:00", "0001-01-01T00:00:00+14:00", "1e9", "2026-02-30T00:00:00Z"]
)
def test_a_time_has_its_day_and_zone(time: str) -> None:
    with pytest.raises(HookError, match=r"answer\.ChangeFileInfo\.ExpiresAt is not a time such as 2026-12-31T12:00:00Z$"):
        answer_from_json({"ChangeFileInfo": {"ExpiresAt": time}})


@pytest.mark.parametrize(
    "time", ["2026-12-31T12:00:00Z", "2026-12-31T12:00:00+00:00", "2026-12-31T13:30:00+01:30", "2026-12-31T12:00:00.000Z"]
)
def test_times_as_rfc_3339_writes_them(time: str) -> None:
    change = answer_from_json({"ChangeFileInfo": {"ExpiresAt": time}}).change
    assert change == Changes(expires=datetime(2026, 12, 31, 12, tzinfo=UTC))


@pytest.mark.parametrize("key", ["", "a b", "a,b", "ä", "a\n", "\x7f", "\ud800"])
def test_a_metadata_key_that_no_header_can_hold_is_refused(key: str) -> None:
    with pytest.raises(HookError, match="keys are ASCII without spaces and commas"):
        decode_answer(json.dumps({"ChangeFileInfo": {"MetaData": {key: "1"}}}).encode())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"RejectUpload": false, "RejectUpload": true}', HookResponse(reject=True)),
        (b'{"RejectUpload": true, "rejectupload": false}', HookResponse()),
        (b'{"RejectUpload": true, "rejectupload": null}', HookResponse(reject=True)),
        (b'{"HTTPResponse": {"Header": {"X-A": "1", "X-A": "2"}}}', HookResponse(headers={"X-A": "2"})),
        (b'{"HTTPResponse": {"Header": {"X-A": "1", "x-a": "2"}}}', HookResponse(headers={"X-A": "1", "x-a": "2"})),
    ],
)
def test_of_a_key_that_is_there_twice_the_last_counts(text: bytes, expected: HookResponse) -> None:
    assert decode_answer(text) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"caf\xe9", "caf\ufffd"),
        (b"\\ud800", "\ufffd"),
        (b"a\\udc80b", "a\ufffdb"),
        (b"\\ud83d\\ude00", "\U0001f600"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
        ("日本".encode(), "日本"),
    ],
)
def test_what_is_not_unicode_is_replaced_as_in_go(body: bytes, expected: str) -> None:
    """Everywhere: it could neither be sent to a client nor be kept."""
    texts = b'{"HTTPResponse":{"Body":"%b","Header":{"X-A":"%b"}},"ChangeFileInfo":{"ID":"%b","MetaData":{"a":"%b"},"Notes":{"n":"%b"}}}'
    answer = decode_answer(texts.replace(b"%b", body))
    assert answer.change is not None and answer.change.metadata is not None
    assert {answer.body, answer.headers["X-A"], answer.change.id, (answer.change.notes or {})["n"]} == {expected}
    assert answer.change.metadata == Metadata({"a": expected.encode()})


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"HTTPResponse": {"Header": {1: "a"}}}, r"answer\.HTTPResponse\.Header has a key that is a whole number, not text"),
        ({"HTTPResponse": {"Body": b"bytes"}}, r"answer\.HTTPResponse\.Body is bytes, not text"),
        ({"ChangeFileInfo": {"ExpiresAt": datetime(2026, 1, 1)}}, r"ExpiresAt is datetime, not text"),
        (("RejectUpload",), r"answer is tuple, not an object"),
    ],
)
def test_what_json_does_not_have_is_refused(found: object, message: str) -> None:
    """A function in Python may return it."""
    with pytest.raises(HookError, match=message):
        answer_from_json(found)
    assert answer_from_json({1: 2, None: 3}) == HookResponse(), "a key that nobody knows"


# --- any values

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
KEYS = st.text(st.sampled_from(string.ascii_letters + string.digits + "-_"), min_size=1)
MOMENTS = st.datetimes(timezones=st.just(UTC)).filter(lambda moment: moment.year > 1)


@st.composite
def answers(draw: st.DrawFn) -> tuple[dict[str, Any], HookResponse]:
    """An answer as JSON, and what it means."""
    status = draw(st.none() | st.integers(200, 599))
    headers = draw(st.dictionaries(KEYS, TEXTS))
    body = draw(st.none() | TEXTS.filter(bool))
    reject, stop = draw(st.booleans()), draw(st.booleans())
    texts = draw(st.none() | st.dictionaries(KEYS, TEXTS))
    expires = draw(st.none() | MOMENTS)
    seconds = st.none() | st.floats(allow_nan=False, allow_infinity=False)
    changes = Changes(
        id=draw(st.none() | KEYS.map(UploadId)),
        metadata=None if texts is None else Metadata({key: text.encode() for key, text in texts.items()}),
        storage=draw(st.none() | st.dictionaries(KEYS, TEXTS)),
        max_length=draw(st.none() | st.integers(0, 2**70)),
        expires=expires,
        expire_after=draw(seconds),
        expire_finished_after=draw(seconds),
        notes=draw(st.none() | st.dictionaries(KEYS, TEXTS)),
    )
    change = None if changes == Changes() else changes
    written = {
        "HTTPResponse": {"StatusCode": status, "Header": headers, "Body": body},
        "RejectUpload": reject,
        "StopUpload": stop,
        "ChangeFileInfo": {
            "ID": changes.id,
            "MetaData": texts,
            "Storage": changes.storage,
            "MaxSize": changes.max_length,
            "ExpiresAt": None if expires is None else expires.isoformat(),
            "ExpireAfter": changes.expire_after,
            "ExpireFinishedAfter": changes.expire_finished_after,
            "Notes": changes.notes,
        },
    }
    return written, HookResponse(status=status, headers=headers, body=body, reject=reject, stop=stop, change=change)


@given(answers(), st.booleans())
def test_any_answer_is_read_as_it_was_meant(answer: tuple[dict[str, Any], HookResponse], ascii_only: bool) -> None:
    written, meant = answer
    assert decode_answer(json.dumps(written, ensure_ascii=ascii_only).encode()) == meant


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from([*FULL, *FULL["ChangeFileInfo"], *FULL["HTTPResponse"]]), inner)
    ),
)


def sendable(read: Callable[[], HookResponse]) -> None:
    """It gives an answer that can be sent on, or a `HookError` whose text can be written to the log."""
    try:
        answer = read()
    except HookError as error:
        str(error).encode()
    else:
        "".join([answer.body or "", *answer.headers, *answer.headers.values()]).encode()


@given(JSON | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")))
def test_any_json_is_an_answer_or_a_hook_error(found: object) -> None:
    sendable(lambda: decode_answer(json.dumps(found).encode()))
    sendable(lambda: answer_from_json(found))


@given(st.binary())
def test_any_bytes_are_an_answer_or_a_hook_error(text: bytes) -> None:
    sendable(lambda: decode_answer(text))


@given(
    st.dictionaries(KEYS, st.binary()),
    st.none() | st.integers(0, 2**64),
    st.lists(st.tuples(KEYS, st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")))),
)
def test_any_event_is_unicode_and_comes_back(
    metadata: dict[str, bytes], length: int | None, headers: list[tuple[str, str]]
) -> None:
    info = replace(INFO, metadata=Metadata(metadata), length=length)
    event = PostCreate(upload=info, head=replace(HEAD, headers=CIMultiDict(headers)))
    back = json.loads(encode_event(event))
    assert back == event_as_json(event)
    assert json.dumps(back, ensure_ascii=False).encode()
    assert back["Event"]["Upload"]["MetaData"] == {key: value.decode("utf-8", "replace") for key, value in metadata.items()}
    assert sum(map(len, back["Event"]["HTTPRequest"]["Header"].values())) == len(headers)
