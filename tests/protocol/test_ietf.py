"""The IETF's draft as tables: request -> what is asked for, outcome -> answer, error -> answer, version by version.

The sentences in quotation marks are of draft-ietf-httpbis-resumable-upload; without a number, of its newest text (interop version 8).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.heads import BASE, ID, URL, check_sendable, fields, head, info

from tusd import errors
from tusd.errors import TusError
from tusd.hooks import HookResponse
from tusd.model import Extension, State, UploadInfo, utcnow
from tusd.protocol import digests
from tusd.protocol.ietf import INTEROP, PARTIAL_UPLOAD, VERSIONS, Ietf, limits
from tusd.protocol.messages import (
    Announced,
    Append,
    Appended,
    BodyPlan,
    Checksum,
    Create,
    Created,
    Discover,
    Discovered,
    Head,
    Inspect,
    Inspected,
    Outcome,
    Progress,
    Request,
    Response,
    Terminate,
    Terminated,
)
from tusd.protocol.rules import Policy
from tusd.protocol.urls import Origins

UPLOAD = f"/files/{ID}"
ALL = list(VERSIONS)
STRICT = [number for number in ALL if VERSIONS[number].strict]
HELLO = hashlib.sha256(b"hello").digest()
HELLO_FIELD = f"sha-256=:{base64.b64encode(HELLO).decode()}:"
PROBLEM = "https://iana.org/assignments/http-problem-types#"


def dialect(number: int = 8, policy: Policy | None = None) -> Ietf:
    return Ietf(policy or Policy(), Origins(), VERSIONS[number])


def without(*extensions: Extension) -> Policy:
    return Policy(extensions=frozenset(Extension) - set(extensions))


def request(
    method: str, path: str, headers: dict[str, str] | Iterable[tuple[str, str]], number: int | None = 8, **given: object
) -> Head:
    found = list(headers.items() if isinstance(headers, dict) else headers)
    if number is not None:
        found.append((INTEROP, str(number)))
    return head(method, path, found, tus=False, **given)  # type: ignore[arg-type]


def completes(value: bool, number: int = 8) -> dict[str, str]:
    """The field of a version, with what it has to say."""
    version = VERSIONS[number]
    return {version.completeness: "?1" if value is not version.inverted else "?0"}


def post(headers: dict[str, str], number: int = 8, size: int | None = 0, *, all_: bool = True, method: str = "POST") -> Head:
    return request(method, BASE, completes(all_, number) | _sized(size) | headers, number)


def patch(headers: dict[str, str], number: int = 8, size: int | None = 5, *, all_: bool = True) -> Head:
    given = {"Upload-Offset": "40", "Content-Type": PARTIAL_UPLOAD} | completes(all_, number) | _sized(size) | headers
    return request("PATCH", UPLOAD, {name: value for name, value in given.items() if value != "-"}, number)


def _sized(size: int | None) -> dict[str, str]:
    return {"Transfer-Encoding": "chunked"} if size is None else {"Content-Length": str(size)}


def body(size: int | None, checksum: Checksum | None = None, limit: int | None = None) -> BodyPlan:
    return BodyPlan(size, checksum, keeps_cut=True, limit=limit)


def create(length: int | None, plan: BodyPlan | None = None, *, all_: bool = True, **given: object) -> Create:
    return Create(length=length, body=plan, completes=all_, **given)  # type: ignore[arg-type]


def append(length: int | None, size: int | None = 5, *, all_: bool = True, **given: object) -> Append:
    return Append(upload_id=ID, offset=40, body=body(size, **given), length=length, completes=all_)  # type: ignore[arg-type]


# --- reading


@pytest.mark.parametrize("number", ALL)
@pytest.mark.parametrize(
    ("headers", "size", "all_", "asked"),
    [
        # "the length is then the sum of the current offset and the Content-Length header field value"
        ({}, 5, True, create(5, body(5))),
        ({"Upload-Length": "5"}, 5, True, create(5, body(5))),
        ({"Upload-Length": "9"}, 5, False, create(9, body(5), all_=False)),
        ({"Upload-Length": "5"}, 5, False, create(5, body(5), all_=False)),  # "the upload can still be incomplete"
        ({}, 5, False, create(None, body(5), all_=False)),
        ({}, None, True, create(None, body(None))),
        ({"Upload-Length": "9"}, None, True, create(9, body(None))),
        # "the client intends to upload an empty representation"
        ({}, 0, True, create(0)),
        ({}, 0, False, create(None, all_=False)),
        ({"Upload-Length": "9"}, 0, False, create(9, all_=False)),
        # "Other values MUST cause the entire header field to be ignored"
        ({"Upload-Length": "-9"}, 0, False, create(None, all_=False)),
        ({"Upload-Length": "?1"}, 5, True, create(5, body(5))),
        # what only tus 1.0 has means nothing
        ({"Upload-Metadata": "a b", "Upload-Concat": "x", "Upload-Defer-Length": "7"}, 5, True, create(5, body(5))),
    ],
)
def test_creation(number: int, headers: dict[str, str], size: int | None, all_: bool, asked: Create) -> None:
    for method in ("POST", "PUT"):
        assert dialect(number).read(post(headers, number, size, all_=all_, method=method)) == asked


@pytest.mark.parametrize("number", ALL)
@pytest.mark.parametrize(
    ("headers", "size", "all_", "asked"),
    [
        ({}, 5, True, append(45)),
        ({}, 5, False, append(None, all_=False)),
        ({}, 0, True, append(40, 0)),
        ({}, 0, False, append(None, 0, all_=False)),
        ({}, None, True, append(None, None)),
        ({"Upload-Length": "45"}, 5, True, append(45)),
        ({"Upload-Length": "45"}, 5, False, append(45, all_=False)),
        ({"Upload-Length": "99"}, 5, False, append(99, all_=False)),
        ({"Upload-Length": "99"}, None, True, append(99, None)),
        ({"Upload-Length": "x"}, 5, False, append(None, all_=False)),
    ],
)
def test_append(number: int, headers: dict[str, str], size: int | None, all_: bool, asked: Append) -> None:
    assert dialect(number).read(patch(headers, number, size, all_=all_)) == asked


@pytest.mark.parametrize("number", ALL)
@pytest.mark.parametrize(
    ("method", "path", "asked"),
    [
        ("HEAD", UPLOAD, Inspect(ID)),
        ("GET", UPLOAD, Inspect(ID)),  # "a HEAD or GET request to the upload resource"
        ("HEAD", UPLOAD + "/", Inspect(ID)),
        ("DELETE", UPLOAD, Terminate(ID)),
        ("OPTIONS", BASE, Discover()),
        ("OPTIONS", UPLOAD, Discover()),
    ],
)
def test_without_a_body(number: int, method: str, path: str, asked: Request) -> None:
    assert dialect(number).read(request(method, path, {}, number)) == asked
    assert dialect(number).read(request("POST", path, {"X-HTTP-Method-Override": method.lower()}, number)) == asked


def test_the_finished_standard_names_no_version() -> None:
    assert dialect().read(request("POST", BASE, {"Upload-Complete": "?1", "Content-Length": "5"}, None)) == create(5, body(5))
    assert dialect().read(request("HEAD", UPLOAD, {}, None)) == Inspect(ID)


@pytest.mark.parametrize("number", ALL)
@pytest.mark.parametrize("said", ["", "1", "true", "?2", "?1, ?1", '"?1"', "yes"])
def test_a_completeness_that_is_no_boolean_is_refused(number: int, said: str) -> None:
    name = VERSIONS[number].completeness
    for asked in (post({name: said}, number), patch({name: said}, number)):
        with pytest.raises(errors.InvalidRequest, match=name):
            dialect(number).read(asked)


@pytest.mark.parametrize("number", ALL)
def test_a_completeness_that_is_said_twice_is_refused(number: int) -> None:
    name = VERSIONS[number].completeness
    twice = [(name, "?1"), (name, "?1"), ("Upload-Offset", "0"), ("Content-Type", PARTIAL_UPLOAD), ("Content-Length", "5")]
    for method, path in (("PATCH", UPLOAD), ("POST", BASE)):
        with pytest.raises(errors.InvalidRequest):
            dialect(number).read(request(method, path, twice, number))


@pytest.mark.parametrize("number", ALL)
def test_without_completeness(number: int) -> None:
    missing = patch({VERSIONS[number].completeness: "-"}, number)
    if number >= 7:  # "The request MUST include the Upload-Complete header field"
        with pytest.raises(errors.InvalidRequest, match="Upload-Complete"):
            dialect(number).read(missing)
    else:  # -01: "with the Upload-Incomplete header being omitted or set to false"
        assert dialect(number).read(missing) == append(45)
    with pytest.raises(errors.InvalidRequest, match=VERSIONS[number].completeness):
        dialect(number).read(request("POST", BASE, {"Content-Length": "5"}, number))


@pytest.mark.parametrize("number", ALL)
@pytest.mark.parametrize("said", ["-", "", "x", "-1", "1.0", "40, 40", "1000000000000000"])
def test_an_append_needs_an_offset(number: int, said: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="Upload-Offset"):
        dialect(number).read(patch({"Upload-Offset": said}, number))


@pytest.mark.parametrize("number", ALL)
@pytest.mark.parametrize(
    ("said", "right"),
    [
        (PARTIAL_UPLOAD, True),
        ("Application/Partial-Upload; charset=x", True),
        ("application/offset+octet-stream", False),
        ("", False),
        ("-", False),
        ("text/plain, application/partial-upload", False),
    ],
)
def test_the_media_type_of_an_append(number: int, said: str, right: bool) -> None:
    asked = patch({"Content-Type": said}, number)
    if right or number < 6:
        assert dialect(number).read(asked) == append(45)
    else:
        with pytest.raises(errors.InvalidContentType, match=PARTIAL_UPLOAD):
            dialect(number).read(asked)


@pytest.mark.parametrize("number", ALL)
@pytest.mark.parametrize("method", ["HEAD", "GET", "DELETE"])
@pytest.mark.parametrize("name", ["Upload-Offset", "Upload-Length", "completeness"])
def test_fields_of_a_body_where_there_is_none(number: int, method: str, name: str) -> None:
    name = VERSIONS[number].completeness if name == "completeness" else name
    asked = request(method, UPLOAD, {name: "0"}, number)
    if number in STRICT:  # -05: "The server MUST reject requests with either of these fields"
        with pytest.raises(errors.InvalidRequest, match=name):
            dialect(number).read(asked)
    else:
        assert dialect(number).read(asked) in (Inspect(ID), Terminate(ID))


@pytest.mark.parametrize("number", ALL)
def test_a_creation_with_an_offset(number: int) -> None:
    asked = post({"Upload-Offset": "0"}, number, 5)
    if number in STRICT:  # -05: "The request MUST NOT include the Upload-Offset header field"
        with pytest.raises(errors.InvalidRequest, match="Upload-Offset"):
            dialect(number).read(asked)
    else:
        assert dialect(number).read(asked) == create(5, body(5))
    assert STRICT == [3, 4, 5, 6]


@pytest.mark.parametrize("number", ALL)
@pytest.mark.parametrize(
    ("stated", "size", "all_"),
    [("4", 5, True), ("6", 5, True), ("0", 5, True), ("4", 5, False), ("0", 1, False)],
)
def test_lengths_that_contradict_each_other(number: int, stated: str, size: int, all_: bool) -> None:
    with pytest.raises(errors.InvalidUploadLength):  # "their indicated lengths MUST match"
        dialect(number).read(post({"Upload-Length": stated}, number, size, all_=all_))
    with pytest.raises(errors.InvalidUploadLength):
        dialect(number).read(patch({"Upload-Length": str(int(stated) + 40)}, number, size, all_=all_))


@pytest.mark.parametrize(
    ("method", "path", "policy", "allow"),
    [
        ("GET", BASE, Policy(), "POST, PUT, OPTIONS"),
        ("PATCH", BASE, Policy(), "POST, PUT, OPTIONS"),
        ("DELETE", BASE, Policy(), "POST, PUT, OPTIONS"),
        ("POST", BASE, without(Extension.CREATION), "OPTIONS"),
        ("PUT", BASE, without(Extension.CREATION), "OPTIONS"),
        ("POST", UPLOAD, Policy(), "HEAD, GET, PATCH, OPTIONS, DELETE"),
        ("PUT", UPLOAD, Policy(), "HEAD, GET, PATCH, OPTIONS, DELETE"),
        ("DELETE", UPLOAD, without(Extension.TERMINATION), "HEAD, GET, PATCH, OPTIONS"),
    ],
)
def test_methods_that_are_not_there(method: str, path: str, policy: Policy, allow: str) -> None:
    with pytest.raises(errors.MethodNotAllowed) as caught:
        dialect(8, policy).read(request(method, path, {"Upload-Complete": "?1"}))
    assert caught.value.allow == allow
    assert fields(dialect(8, policy).refuse(request(method, path, {}), caught.value).headers)["Allow"] == allow


def test_what_cannot_be_an_upload_is_not_found() -> None:
    with pytest.raises(errors.UploadNotFound):
        dialect().read(request("HEAD", "/files/..%2Fetc", {}))


def test_a_location_that_cannot_be_told_fails_before_anything_is_created() -> None:
    for asked in (post({"Host": "a b"}), patch({"Host": "a b"})):
        with pytest.raises(errors.InvalidRequest, match="Host"):
            dialect().read(asked)


@pytest.mark.parametrize(
    ("headers", "metadata"),
    [
        ({}, {}),
        ({"Content-Type": "image/png"}, {"filetype": b"image/png"}),
        (
            {"Content-Type": "text/plain; charset=utf-8", "Content-Disposition": 'inline; filename="a b.txt"'},
            {"filename": b"a b.txt", "filetype": b"text/plain; charset=utf-8"},
        ),
        (
            {"Content-Disposition": "inline; filename=\"file name.jpg\"; filename*=UTF-8''f%C3%BCr.jpg"},
            {"filename": "für.jpg".encode()},
        ),
        ({"Content-Disposition": "attachment"}, {}),
    ],
)
def test_metadata(headers: dict[str, str], metadata: dict[str, bytes]) -> None:
    asked = dialect().read(post(headers))
    assert isinstance(asked, Create)
    assert dict(asked.metadata) == metadata


def test_metadata_has_an_end_and_is_said_once() -> None:
    with pytest.raises(errors.InvalidMetadata, match="Content-Disposition"):
        dialect(8, Policy(max_metadata_size=20)).read(post({"Content-Disposition": "inline; filename=abcdef"}))
    twice = [("Content-Type", "a/b"), ("Content-Type", "c/d"), ("Upload-Complete", "?1")]
    with pytest.raises(errors.InvalidRequest, match="Content-Type"):
        dialect().read(request("POST", BASE, twice))


@pytest.mark.parametrize(
    ("value", "checksum"),
    [
        (HELLO_FIELD, Checksum("sha256", HELLO)),
        ("md5=:AAAA:, " + HELLO_FIELD, Checksum("sha256", HELLO)),
        ("sha-256=:AAAA:", None),
        ("nonsense", None),
    ],
)
def test_content_digest(value: str, checksum: Checksum | None) -> None:
    assert dialect().read(patch({"Content-Digest": value})) == append(45, checksum=checksum)
    assert dialect().read(post({"Content-Digest": value}, size=5)) == create(5, body(5, checksum))
    unable = dialect(8, without(Extension.CHECKSUM))  # a store that cannot take a body back
    assert unable.read(patch({"Content-Digest": value})) == append(45)


def test_a_digest_of_nothing_is_compared_too() -> None:
    empty = Checksum("sha256", hashlib.sha256(b"").digest())
    field = f"sha-256=:{base64.b64encode(empty.digest).decode()}:"
    assert dialect().read(post({"Content-Digest": field})) == create(0, body(0, empty))


@pytest.mark.parametrize(
    ("headers", "note"),
    [
        ({}, None),
        ({"Repr-Digest": HELLO_FIELD}, digests.promise(Checksum("sha256", HELLO))),
        ({"Want-Repr-Digest": "sha-256=5, sha-512=1"}, "sha256:"),
        ({"Want-Repr-Digest": "md5=9"}, None),
        ({"Repr-Digest": HELLO_FIELD, "Want-Repr-Digest": "sha-512=9"}, digests.promise(Checksum("sha256", HELLO))),
        ({"Repr-Digest": "sha-256=:AAAA:", "Want-Repr-Digest": "sha-512=9"}, "sha512:"),
    ],
)
def test_representation_digests_come_with_the_creation(headers: dict[str, str], note: str | None) -> None:
    assert dialect().read(post(headers)) == create(0, digest=note)
    assert dialect().read(patch(headers)) == append(45)  # there, Repr-Digest is of the patch document (RFC 9530 section 3.1)


@pytest.mark.parametrize(
    ("size", "all_", "error"),
    [
        (5, False, errors.InvalidRequest),
        (5, True, None),  # "or to requests completing the upload"
        (0, False, None),  # "does not apply to upload creation requests with no content"
        (10, False, None),
        (100, False, None),
        (100, True, None),
        (101, False, errors.MaxSizeExceeded),
        (101, True, errors.MaxSizeExceeded),
        (None, False, None),
        (None, True, None),
    ],
)
def test_limits_of_one_request(size: int | None, all_: bool, error: type[TusError] | None) -> None:
    limited = dialect(8, Policy(min_append_size=10, max_append_size=100))
    for asked in (patch({}, size=size, all_=all_), post({}, size=size, all_=all_)):
        if error is None:
            read = limited.read(asked)
            assert isinstance(read, Append | Create)
            assert read.body is None or read.body.limit == 100
        else:
            with pytest.raises(error):
                limited.read(asked)


# --- writing


def write(number: int, asked: Head, outcome: Outcome, policy: Policy | None = None) -> tuple[int, dict[str, str], bytes]:
    return shown(dialect(number, policy).write(asked, outcome))


def shown(response: Response) -> tuple[int, dict[str, str], bytes]:
    check_sendable(response.headers)
    return response.status, fields(response.headers), response.body


def state(offset: int, complete: bool, number: int) -> dict[str, str]:
    return {INTEROP: str(number), "Upload-Offset": str(offset)} | completes(complete, number)


DONE = info(offset=100, state=State.COMPLETE)
OPEN = info(offset=100, state=State.OPEN, explicit=True)


@pytest.mark.parametrize("number", ALL)
@pytest.mark.parametrize("upload", [info(), OPEN, DONE, info(length=None)], ids=["receiving", "open", "complete", "deferred"])
def test_answers_about_an_upload(number: int, upload: UploadInfo) -> None:
    complete = upload is DONE
    common = state(upload.offset, complete, number)
    located = common | {"Location": URL, "Upload-Limit": "min-size=0"}
    assert write(number, post({}, number), Created(upload, True)) == (201, located, b"")
    incomplete = 201 if number < 7 else 204  # up to -05: "MUST acknowledge it by responding with the 201 (Created)"
    # "the response that matches what the resource [...] would have generated" for the whole in the initial request
    expected = (201, located, b"") if complete else (incomplete, common, b"")
    assert write(number, patch({}, number), Appended(upload)) == expected
    told = {} if upload.length is None else {"Upload-Length": "100"}
    for method in ("HEAD", "GET"):
        assert write(number, request(method, UPLOAD, {}, number), Inspected(upload)) == (
            204,
            common | told | {"Upload-Limit": "min-size=0", "Cache-Control": "no-store"},
            b"",
        )


@pytest.mark.parametrize("number", ALL)
def test_answers_without_an_upload(number: int) -> None:
    common = {INTEROP: str(number)}
    assert write(number, request("DELETE", UPLOAD, {}, number), Terminated()) == (204, common, b"")
    lifetime = "expires" if number < 7 else "max-age"
    policy = Policy(max_size=10, expire_after=60.5)
    assert write(number, request("OPTIONS", BASE, {}, number), Discovered((), 10), policy) == (
        204,
        common | {"Upload-Limit": f"max-size=10, {lifetime}=60", "Accept-Patch": PARTIAL_UPLOAD},
        b"",
    )
    nothing = write(number, request("OPTIONS", BASE, {}, number), Discovered((), None), without(Extension.CREATION))
    assert nothing == (204, common | {"Accept-Patch": PARTIAL_UPLOAD}, b"")


def test_a_digest_is_told_when_the_upload_is_complete() -> None:
    notes = {digests.KEY: digests.promise(Checksum("sha256", HELLO))}
    done, part = replace(DONE, notes=notes), replace(OPEN, notes=notes)
    asked: list[tuple[Head, type[Appended] | type[Inspected]]] = [(patch({}), Appended), (request("HEAD", UPLOAD, {}), Inspected)]
    for request_, outcome in asked:
        assert write(8, request_, outcome(done))[1]["Repr-Digest"] == HELLO_FIELD
        assert "Repr-Digest" not in write(8, request_, outcome(part))[1]


def test_a_hook_answers_for_the_resource() -> None:
    answer = HookResponse(status=200, headers={"Content-Type": "application/json", "Upload-Complete": "?0"}, body='{"id": 7}')
    for outcome in (Appended(DONE, answer), Created(DONE, True, answer)):
        status, found, text = write(8, patch({}), outcome)
        assert (status, found["Content-Type"], found["Upload-Complete"], text) == (200, "application/json", "?1", b'{"id": 7}')


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("policy", "upload", "expected"),
    [
        (Policy(), None, "min-size=0"),  # "it MUST use min-size=0 instead of an empty header value"
        (Policy(), info(), "min-size=0"),
        (Policy(max_size=50), None, "max-size=50"),
        (Policy(max_size=50), info(max_length=7), "max-size=7"),
        (Policy(max_size=50), info(max_length=70), "max-size=50"),
        (Policy(), info(max_length=70), "max-size=70"),
        (Policy(max_size=10**18), None, "max-size=999999999999999"),
        (Policy(max_append_size=9, min_append_size=3), info(), "max-append-size=9, min-append-size=3"),
        (Policy(max_append_size=10**18), None, "max-append-size=999999999999999"),
        (Policy(expire_after=90.9), None, "max-age=90"),
        (Policy(expire_after=1e300), None, "max-age=999999999999999"),
        (Policy(expire_after=90, extensions=frozenset()), None, "min-size=0"),
        (Policy(expire_after=3600), info(), "max-age=3000"),
        (Policy(expire_after=300), info(), "max-age=0"),
        (Policy(expire_after=3600), info(offset=100, state=State.COMPLETE), "min-size=0"),
        (Policy(), info(expires=info().modified + HOUR), "max-age=3000"),
    ],
)
def test_upload_limit(policy: Policy, upload: UploadInfo | None, expected: str) -> None:
    now = None if upload is None else upload.modified + timedelta(minutes=10)
    assert limits(policy, upload, now) == expected
    assert limits(policy, upload, now, "expires") == expected.replace("max-age", "expires")


# --- news


@pytest.mark.parametrize("number", ALL)
def test_news(number: int) -> None:
    asked = post({}, number)
    found = fields(dialect(number, Policy(max_size=200)).interim(asked, Announced(info())))
    # "MUST also send a header field Upload-Draft-Interop-Version [...] to the 104"
    assert found == {"Location": URL, "Upload-Limit": "max-size=200", INTEROP: str(number)}
    progress = fields(dialect(number).interim(asked, Progress(17)))
    assert progress == ({"Upload-Offset": "17", INTEROP: str(number)} if number >= 5 else {})


def test_who_hears_news() -> None:
    quiet = Ietf(Policy(), Origins(), informational=False)
    assert dialect().tells(post({}))
    assert not dialect().tells(request("POST", BASE, {"Upload-Complete": "?1"}, None))  # "missing or mismatching"
    assert not quiet.tells(post({}))


# --- refusing


def refuse(number: int, asked: Head, error: TusError, policy: Policy | None = None) -> tuple[int, dict[str, str], dict[str, Any]]:
    status, found, text = shown(dialect(number, policy).refuse(asked, error))
    assert text.endswith(b"\n")
    assert found.pop("Content-Type") == "application/problem+json"
    assert found.pop("Cache-Control") == "no-store"
    assert found.pop(INTEROP) == str(number)
    problem = json.loads(text)
    assert (problem.pop("status"), problem.pop("code")) == (status, error.code)
    return status, found, problem


def problem(kind: str, title: str, error: TusError, **more: object) -> dict[str, object]:
    return {"type": kind if kind == "about:blank" else PROBLEM + kind, "title": title, "detail": str(error), **more}


@pytest.mark.parametrize("number", ALL)
def test_a_mismatched_offset(number: int) -> None:
    for upload in (info(), OPEN, DONE):
        error = errors.MismatchedOffset(info=upload, provided=7)
        status, found, told = refuse(number, patch({}, number), error)
        # "with a 409 (Conflict) status code and the Upload-Complete header field set to false. The response MUST include the
        # correct offset"
        assert (status, found) == (409, {"Upload-Offset": str(upload.offset)} | completes(False, number))
        more = {"expected-offset": upload.offset, "provided-offset": 7}
        assert told == problem("mismatching-upload-offset", "Mismatching Upload Offset", error, **more)


@pytest.mark.parametrize("number", ALL)
def test_lengths_that_do_not_fit(number: int) -> None:
    gone = errors.UploadSizeExceeded()
    gone.gone = True
    for error in (errors.InvalidUploadLength("why", info=info()), errors.UploadSizeExceeded(info=info()), gone):
        status, found, told = refuse(number, patch({}, number), error)
        assert status == 400
        assert found == completes(False, number) | ({} if error is gone else {"Upload-Offset": "40"})
        assert told == problem("inconsistent-upload-length", "Inconsistent Upload Length Values", error)


@pytest.mark.parametrize("number", ALL)
def test_a_complete_upload_takes_no_more(number: int) -> None:
    error = errors.UploadCompleted(info=DONE)
    status, found, told = refuse(number, patch({}, number), error)
    # "Upload-Complete can be false in response to an invalid operation performed on a completed upload"
    assert (status, found) == (400, {"Upload-Offset": "100"} | completes(False, number))
    assert told == problem("completed-upload", "Upload Is Completed", error)


@pytest.mark.parametrize("error", [errors.MaxSizeExceeded(), errors.UploadSizeExceeded(info=info(length=None))])
def test_too_large(error: TusError) -> None:
    policy = Policy(max_size=50, max_append_size=20)
    status, found, _ = refuse(8, patch({}), error, policy)
    assert (status, found["Upload-Limit"], found["Upload-Complete"]) == (413, "max-size=50, max-append-size=20", "?0")


def every_error() -> list[TusError]:
    kinds = [kind for section in TusError.__subclasses__() for kind in (section, *section.__subclasses__())]
    ours = [kind for kind in kinds if kind.__module__ == errors.__name__]
    return [errors.MethodNotAllowed("POST") if kind is errors.MethodNotAllowed else kind() for kind in ours]


@pytest.mark.parametrize("number", ALL)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "HEAD", "GET", "DELETE", "OPTIONS"])
def test_every_error_has_an_answer(number: int, method: str) -> None:
    for error in every_error():
        status, found, told = refuse(number, request(method, UPLOAD, {}, number), error)
        if error.temporary:
            assert (status, found["Retry-After"]) == (503, "1")
        else:
            assert "Retry-After" not in found
            assert status >= 500 if error.status >= 500 else 400 <= status < 460
        over = isinstance(error, errors.UploadRejected | errors.DigestMismatch)
        if method in ("POST", "PUT", "PATCH") or over:  # "SHOULD include the Upload-Complete header field in the response"
            name, said = next(iter(completes(over, number).items()))
            assert found[name] == said
        else:
            assert VERSIONS[number].completeness not in found
        assert told["type"] == "about:blank" or told["type"].startswith(PROBLEM)
        assert told["title"]


def test_what_a_bug_says_stays_in_the_log() -> None:
    _, _, told = refuse(8, patch({}), errors.HookError("the password is 12345"))
    assert told["detail"] == errors.HookError.message


def test_a_wait_is_rounded_up() -> None:
    assert refuse(8, patch({}), errors.UploadLocked(retry_after=2.1))[1]["Retry-After"] == "3"
    assert refuse(8, patch({}), errors.QuotaExceeded(retry_after=60))[:2] == (507, {"Retry-After": "60", "Upload-Complete": "?0"})


def test_a_creation_that_failed_after_the_upload_was_there_says_where() -> None:
    for method in ("POST", "PUT"):
        _, found, _ = refuse(8, post({}, method=method), errors.ReadTimeout(info=info()))
        assert found == {"Retry-After": "1", "Upload-Complete": "?0", "Upload-Offset": "40", "Location": URL}


def test_a_wrong_media_type_tells_the_right_one() -> None:
    status, found, _ = refuse(8, patch({}), errors.InvalidContentType())
    assert (status, found["Accept-Patch"]) == (415, PARTIAL_UPLOAD)


def test_a_hook_that_refuses_has_its_own_words() -> None:
    error = errors.UploadRejected(hook=HookResponse(status=422, body="no cats"))
    status, found, text = shown(dialect().refuse(post({}), error))
    assert (status, found["Content-Type"], text) == (422, "text/plain; charset=utf-8", b"no cats")
    assert found["Upload-Complete"] == "?1"
    typed = errors.UploadRejected(hook=HookResponse(headers={"Content-Type": "text/html"}, body="<p>"))
    assert shown(dialect().refuse(post({}), typed))[1]["Content-Type"] == "text/html"
    silent = errors.UploadRejected(hook=HookResponse())
    assert refuse(8, post({}), silent)[2]["title"] == "Bad Request"


# --- whatever comes


NAMES = ["Upload-Complete", "Upload-Incomplete", "Upload-Offset", "Upload-Length", "Content-Type", "Content-Length"]
NAMES += ["Content-Digest", "Repr-Digest", "Want-Repr-Digest", "Content-Disposition", "X-HTTP-Method-Override", "Host"]
VALUES = st.sampled_from(["?1", "?0", "0", "5", "40", PARTIAL_UPLOAD, HELLO_FIELD, "sha-256=3", "inline; filename=x", "PATCH"])
WILD = st.text(st.characters(max_codepoint=0x2FF, exclude_characters="\r\n\0"), max_size=30)


@given(
    st.sampled_from(ALL),
    st.sampled_from(["POST", "PUT", "PATCH", "HEAD", "GET", "DELETE", "OPTIONS", "FOO"]),
    st.sampled_from([BASE, UPLOAD, "/files/%00", "/files"]),
    st.lists(st.tuples(st.sampled_from(NAMES), VALUES | WILD), max_size=8),
)
def test_any_request_is_read_or_refused(number: int, method: str, path: str, headers: list[tuple[str, str]]) -> None:
    asked = request(method, path, headers, number)
    spoken = dialect(number, Policy(max_append_size=20, min_append_size=3, max_size=1000, expire_after=10))
    try:
        read = spoken.read(asked)
    except TusError as error:
        shown(spoken.refuse(asked, error))
        return
    if isinstance(read, Create):
        assert read.completes is not None
        check_sendable(spoken.write(asked, Created(info(metadata=read.metadata, modified=utcnow()), True)).headers)
        assert read.length is None or read.body is None or read.body.size is None or read.body.size <= read.length
    elif isinstance(read, Append):
        assert read.completes is not None
        assert read.offset >= 0
