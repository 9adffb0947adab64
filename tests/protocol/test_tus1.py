"""tus 1.0.0 as tables: request -> what is asked for, outcome -> answer, error -> answer.

The sentences in quotation marks are of https://tus.io/protocols/resumable-upload.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.heads import BASE, BODY, ID, MOMENT, URL, check_sendable, fields, head, info

from tusd import errors
from tusd.errors import TusError
from tusd.model import Extension, Final, Metadata, Partial, State, UploadId, UploadInfo
from tusd.protocol.messages import (
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
    Read,
    Reading,
    Request,
    Response,
    Terminate,
    Terminated,
)
from tusd.protocol.rules import Policy, etag
from tusd.protocol.tus1 import Tus1
from tusd.protocol.urls import Origins

TUS = Tus1(Policy(), Origins())
UPLOAD = f"/files/{ID}"
PART_A, PART_B = UploadId("a"), UploadId("b/c")
PARTS = Final((PART_A, PART_B))
SHA1 = "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="
DIGEST = bytes.fromhex("2aae6c35c94fcfb415dbe95f408b9ce91ee846ed")
EXPIRES = "Sun, 01 Mar 2026 13:00:00 GMT"
HOUR = Tus1(Policy(expire_after=3600), Origins())


def without(*extensions: Extension) -> Tus1:
    return Tus1(Policy(extensions=frozenset(Extension) - set(extensions)), Origins())


def post(headers: dict[str, str]) -> Head:
    return head("POST", BASE, headers)


def patch(headers: dict[str, str], path: str = UPLOAD) -> Head:
    return head("PATCH", path, BODY | headers)


def create(length: int | None = 100, **given: object) -> Create:
    return Create(length=length, **given)  # type: ignore[arg-type]


def append(offset: int, size: int | None = 0, **given: object) -> Append:
    return Append(upload_id=ID, offset=offset, body=BodyPlan(size), **given)  # type: ignore[arg-type]


# --- reading


@pytest.mark.parametrize(
    ("request_", "asked"),
    [
        # OPTIONS: "the Server MUST ignore the header" Tus-Resumable
        (head("OPTIONS", tus=False), Discover()),
        (head("OPTIONS", headers={"Tus-Resumable": "0.2.2"}), Discover()),
        (head("OPTIONS", UPLOAD), Discover()),
        (head("OPTIONS", "/files/%2e%2e"), Discover()),
        # POST
        (post({"Upload-Length": "100"}), create()),
        (post({"Upload-Length": " 100\t"}), create()),
        (head("POST", "/files", {"Upload-Length": "100"}), create()),
        (post({"Upload-Length": "0"}), create(0)),
        (post({"Upload-Length": "9223372036854775807"}), create(2**63 - 1)),
        (post({"Upload-Defer-Length": "1"}), create(None)),
        (post({"Upload-Length": "100", "Content-Length": "0"}), create()),
        (post({"Upload-Length": "100", "Content-Type": "text/plain", "Content-Length": "0"}), create()),
        (post({"Upload-Length": "100", "Upload-Metadata": ""}), create()),
        (post({"Upload-Length": "1", "Upload-Metadata": "a YQ==,b"}), create(1, metadata=Metadata({"a": b"a", "b": b""}, "a YQ==,b"))),
        # creation-with-upload
        (post(BODY | {"Upload-Length": "100", "Content-Length": "5"}), create(body=BodyPlan(5))),
        (post(BODY | {"Upload-Length": "100"}), create(body=BodyPlan(0))),
        (post(BODY | {"Upload-Length": "100", "Transfer-Encoding": "chunked"}), create(body=BodyPlan(None))),
        (post(BODY | {"Upload-Defer-Length": "1", "Content-Length": "5"}), create(None, body=BodyPlan(5))),
        (
            post(BODY | {"Upload-Length": "100", "Content-Length": "5", "Upload-Checksum": SHA1}),
            create(body=BodyPlan(5, Checksum("sha1", DIGEST))),
        ),
        # concatenation
        (post({"Upload-Length": "100", "Upload-Concat": "partial"}), create(concat=Partial())),
        (post({"Upload-Defer-Length": "1", "Upload-Concat": "partial"}), create(None, concat=Partial())),
        (post({"Upload-Concat": f"final;http://up.example/files/a /files/{PART_B}"}), create(None, concat=PARTS)),
        (post({"Upload-Concat": "final;a b/c"}), create(None, concat=PARTS)),
        (post({"Upload-Concat": "final;/files/a /files/a"}), create(None, concat=Final((PART_A, PART_A)))),
        (post({"Upload-Concat": "final;/files/a", "Upload-Length": "7"}), create(None, concat=Final((PART_A,)))),
        (post({"Upload-Concat": "final;/files/a", "Upload-Defer-Length": "1"}), create(None, concat=Final((PART_A,)))),
        # PATCH
        (patch({"Upload-Offset": "40"}), append(40)),
        (patch({"Upload-Offset": "0", "Content-Length": "9"}), append(0, 9)),
        (patch({"Upload-Offset": "40", "Transfer-Encoding": "chunked"}), append(40, None)),
        (patch({"Upload-Offset": "40", "Transfer-Encoding": "chunked", "Content-Length": "9"}), append(40, None)),
        (patch({"Upload-Offset": "40", "Content-Type": "Application/Offset+Octet-Stream; q=1"}), append(40)),
        (patch({"Upload-Offset": "40", "Upload-Length": "100"}), append(40, length=100)),
        (
            patch({"Upload-Offset": "40", "Upload-Checksum": SHA1}),
            Append(upload_id=ID, offset=40, body=BodyPlan(0, Checksum("sha1", DIGEST))),
        ),
        (patch({"Upload-Offset": "40"}, UPLOAD + "/"), append(40)),
        (patch({"Upload-Offset": "40"}, "/files/%30123456789abcdef"), append(40)),
        # HEAD, GET, DELETE
        (head("HEAD", UPLOAD), Inspect(ID)),
        (head("HEAD", UPLOAD, tus=False), Inspect(ID)),
        (head("GET", UPLOAD), Read(ID)),
        (head("GET", UPLOAD, tus=False), Read(ID)),
        (
            head("GET", UPLOAD, {"Range": "r", "If-Range": "i", "If-Match": "m", "If-None-Match": "n", "If-Modified-Since": "s",
                                 "If-Unmodified-Since": "u"}),
            Read(ID, "r", "i", "m", "n", "s", "u"),
        ),
        (head("GET", UPLOAD, [("If-None-Match", "a"), ("If-None-Match", "b"), ("If-Match", "c"), ("If-Match", "d")]),
         Read(ID, if_none_match="a,b", if_match="c,d")),
        (head("DELETE", UPLOAD), Terminate(ID)),
        # X-HTTP-Method-Override
        (head("POST", UPLOAD, BODY | {"X-HTTP-Method-Override": "PATCH", "Upload-Offset": "40"}), append(40)),
        (head("POST", UPLOAD, BODY | {"X-HTTP-Method-Override": " patch ", "Upload-Offset": "40"}), append(40)),
        (head("POST", UPLOAD, {"X-HTTP-Method-Override": "DELETE"}), Terminate(ID)),
        (head("POST", UPLOAD, {"x-http-method-override": "Head"}), Inspect(ID)),
        (head("POST", UPLOAD, {"X-HTTP-Method-Override": "GET"}, tus=False), Read(ID)),
        (head("POST", BASE, {"X-HTTP-Method-Override": "OPTIONS"}, tus=False), Discover()),
        (head("POST", BASE, {"X-HTTP-Method-Override": "POST", "Upload-Length": "100"}), create()),
        # A GET stays a GET: it is safe (RFC 9110 section 9.2.1)
        (head("GET", UPLOAD, {"X-HTTP-Method-Override": "DELETE"}), Read(ID)),
        (head("HEAD", UPLOAD, {"X-HTTP-Method-Override": "DELETE"}), Inspect(ID)),
    ],
)  # fmt: skip
def test_read(request_: Head, asked: Request) -> None:
    assert TUS.read(request_) == asked


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        # "The Tus-Resumable header MUST be included in every request"
        (head("POST", BASE, {"Upload-Length": "1"}, tus=False), errors.UnsupportedVersion),
        (head("PATCH", UPLOAD, tus=False), errors.UnsupportedVersion),
        (head("DELETE", UPLOAD, tus=False), errors.UnsupportedVersion),
        (head("PUT", UPLOAD, tus=False), errors.UnsupportedVersion),
        (head("HEAD", UPLOAD, {"Tus-Resumable": "0.2.2"}), errors.UnsupportedVersion),
        (head("GET", UPLOAD, {"Tus-Resumable": "2.0.0"}), errors.UnsupportedVersion),
        (head("PATCH", UPLOAD, {"Tus-Resumable": "1.0"}), errors.UnsupportedVersion),
        (head("PATCH", UPLOAD, {"Tus-Resumable": "1.0.0,2.0.0"}), errors.UnsupportedVersion),
        (head("PATCH", UPLOAD, {"Tus-Resumable": ""}), errors.UnsupportedVersion),
        (head("PATCH", "/files/%2e%2e", {"Tus-Resumable": "0.2.2"}), errors.UnsupportedVersion),
        (head("POST", UPLOAD, {"X-HTTP-Method-Override": "PATCH"}, tus=False), errors.UnsupportedVersion),
        (head("PATCH", UPLOAD, [("Tus-Resumable", "1.0.0"), ("Tus-Resumable", "1.0.0")]), errors.InvalidRequest),
        # methods and paths
        (head("PUT", UPLOAD), errors.MethodNotAllowed),
        (head("POST", UPLOAD), errors.MethodNotAllowed),
        (head("PATCH", BASE), errors.MethodNotAllowed),
        (head("GET", BASE), errors.MethodNotAllowed),
        (head("HEAD", "/files"), errors.MethodNotAllowed),
        (head("DELETE", BASE), errors.MethodNotAllowed),
        (head("POST", BASE, {"X-HTTP-Method-Override": ""}), errors.MethodNotAllowed),
        (head("POST", UPLOAD, {"X-HTTP-Method-Override": "PATCH, DELETE"}), errors.MethodNotAllowed),
        (head("POST", UPLOAD, [("X-HTTP-Method-Override", "PATCH"), ("X-HTTP-Method-Override", "DELETE")]), errors.InvalidRequest),
        (head("PUT", UPLOAD, {"X-HTTP-Method-Override": "PATCH"}), errors.MethodNotAllowed),
        (head("PATCH", "/files/..%2fx"), errors.UploadNotFound),
        (head("HEAD", "/files/x.info"), errors.UploadNotFound),
        (head("GET", "/files/%00"), errors.UploadNotFound),
        (head("DELETE", "/files/%2e%2e%2fother%2fabc"), errors.UploadNotFound),
        # POST
        (post({}), errors.InvalidUploadLength),
        *((post({"Upload-Length": text}), errors.InvalidUploadLength)
          for text in ("", "-1", "+5", "5.0", "abc", "٥", "1 2", "9223372036854775808", "0x10")),
        (head("POST", BASE, [("Upload-Length", "5"), ("Upload-Length", "6")]), errors.InvalidRequest),
        (post({"Upload-Length": "abc", "Upload-Concat": "final;/files/a"}), errors.InvalidUploadLength),
        (post({"Upload-Defer-Length": "0"}), errors.InvalidUploadLengthDefer),
        (post({"Upload-Defer-Length": ""}), errors.InvalidUploadLengthDefer),
        (post({"Upload-Defer-Length": "true"}), errors.InvalidUploadLengthDefer),
        (post({"Upload-Defer-Length": "2", "Upload-Length": "5"}), errors.InvalidUploadLengthDefer),
        (post({"Upload-Defer-Length": "1", "Upload-Length": "5"}), errors.AmbiguousUploadLength),
        (post({"Upload-Length": "5", "Upload-Metadata": "a YQ==,a YQ=="}), errors.InvalidMetadata),
        (post({"Upload-Length": "5", "Upload-Metadata": "a" * 20_000}), errors.InvalidMetadata),
        (post({"Upload-Length": "5", "Host": "evil/x"}), errors.InvalidRequest),
        (post({"Upload-Length": "5", "Content-Length": "5"}), errors.InvalidContentType),
        (post({"Upload-Length": "5", "Content-Length": "5", "Content-Type": "application/octet-stream"}), errors.InvalidContentType),
        (post({"Upload-Length": "5", "Transfer-Encoding": "chunked"}), errors.InvalidContentType),
        (post(BODY | {"Upload-Length": "5", "Content-Length": "5", "Upload-Checksum": "md4 x"}), errors.UnsupportedChecksum),
        # concatenation
        (post({"Upload-Length": "5", "Upload-Concat": "parts"}), errors.InvalidConcat),
        (post({"Upload-Concat": "final;"}), errors.InvalidConcat),
        (post({"Upload-Concat": "final;/other/a"}), errors.InvalidConcat),
        (post({"Upload-Concat": "final;/files/a http://x/"}), errors.InvalidConcat),
        (post({"Upload-Concat": "final;/files/../other/a"}), errors.UploadNotFound),
        (post({"Upload-Concat": "final;/files/%2e%2e%2fother%2fa"}), errors.UploadNotFound),
        (post({"Upload-Concat": "partial"}), errors.InvalidUploadLength),
        (post(BODY | {"Upload-Concat": "final;/files/a", "Content-Length": "5"}), errors.ModifyFinal),
        (head("POST", BASE, [("Upload-Concat", "partial"), ("Upload-Concat", "partial")]), errors.InvalidRequest),
        # PATCH
        (head("PATCH", UPLOAD, {"Upload-Offset": "0"}), errors.InvalidContentType),
        (patch({"Upload-Offset": "0", "Content-Type": "application/octet-stream"}), errors.InvalidContentType),
        (patch({}), errors.InvalidOffset),
        *((patch({"Upload-Offset": text}), errors.InvalidOffset) for text in ("", "-1", "+5", "1.0", "x", "٥", "9223372036854775808")),
        (head("PATCH", UPLOAD, [*BODY.items(), ("Upload-Offset", "0"), ("Upload-Offset", "0")]), errors.InvalidRequest),
        (patch({"Upload-Offset": "0", "Upload-Length": "-1"}), errors.InvalidUploadLength),
        (patch({"Upload-Offset": "0", "Upload-Checksum": "SHA1 x"}), errors.UnsupportedChecksum),
        (patch({"Upload-Offset": "0", "Upload-Checksum": "sha1 x"}), errors.InvalidChecksum),
        (head("PATCH", UPLOAD, [*BODY.items(), ("Upload-Offset", "0"), ("Upload-Checksum", SHA1), ("Upload-Checksum", SHA1)]),
         errors.InvalidRequest),
    ],
)  # fmt: skip
def test_no_read(request_: Head, error: type[TusError]) -> None:
    with pytest.raises(error) as caught:
        TUS.read(request_)
    response = TUS.refuse(request_, caught.value)
    assert response.status == error.status
    assert "Location" not in fields(response.headers)
    check_sendable(response.headers)


@given(
    st.sampled_from(["POST", "PATCH", "HEAD", "GET", "DELETE", "OPTIONS", "PUT", ""]),
    st.one_of(st.just(BASE), st.just(UPLOAD), st.text().map(lambda text: BASE + text)),
    st.lists(
        st.tuples(
            st.sampled_from(
                """Tus-Resumable Upload-Length Upload-Offset Upload-Defer-Length Upload-Metadata Upload-Concat Upload-Checksum Content-Type
                Content-Length Transfer-Encoding X-HTTP-Method-Override Host Range If-None-Match If-Match""".split()
            ),
            st.one_of(
                st.text(max_size=20),
                st.sampled_from(
                    ["1", "0", "5", "partial", "final;/files/a", "PATCH", "DELETE", *BODY.values(), SHA1, "a YQ==", "1.0.0"]
                ),
            ),
        ),
        max_size=6,
    ),
)
def test_anything_is_read_or_refused(method: str, path: str, headers: list[tuple[str, str]]) -> None:
    request = head(method, path, headers)
    try:
        TUS.read(request)
    except TusError as error:
        check_sendable(TUS.refuse(request, error).headers)


@pytest.mark.parametrize(
    ("tus", "request_", "allow"),
    [
        (TUS, head("PUT", UPLOAD), "HEAD, PATCH, OPTIONS, GET, DELETE"),
        (TUS, head("PUT", BASE), "POST, OPTIONS"),
        (without(Extension.TERMINATION), head("DELETE", UPLOAD), "HEAD, PATCH, OPTIONS, GET"),
        (without(Extension.CREATION), head("POST", BASE, {"Upload-Length": "5"}), "OPTIONS"),
        (Tus1(Policy(downloads=False), Origins()), head("GET", UPLOAD), "HEAD, PATCH, OPTIONS, DELETE"),
    ],
)
def test_methods_that_are_off(tus: Tus1, request_: Head, allow: str) -> None:
    with pytest.raises(errors.MethodNotAllowed) as caught:
        tus.read(request_)
    response = tus.refuse(request_, caught.value)
    assert response.status == 405
    assert fields(response.headers)["Allow"] == allow


@pytest.mark.parametrize("concat", ["partial", "final;/files/a", "nonsense"])
def test_concatenation_that_is_off(concat: str) -> None:
    with pytest.raises(errors.ConcatenationUnsupported):
        without(Extension.CONCATENATION).read(post({"Upload-Length": "5", "Upload-Concat": concat}))


# --- writing


@dataclass
class Answer:
    """What a hook wants of the response."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None


def write(tus: Tus1, request: Head, outcome: Outcome) -> tuple[int, dict[str, str]]:
    response = tus.write(request, outcome)
    assert response.body == b""
    assert response.stream is None
    check_sendable(response.headers)
    found = fields(response.headers)
    assert found.pop("Tus-Resumable") == "1.0.0"
    return response.status, found


FRESH = info(offset=0)
DONE = info(offset=100, state=State.COMPLETE)
POST, PATCH, HEAD, GET, DELETE = post({}), patch({}), head("HEAD", UPLOAD), head("GET", UPLOAD), head("DELETE", UPLOAD)
FIXED = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("tus", "outcome", "status", "headers"),
    [
        # "The Server MUST set the Location header"
        (TUS, Created(FRESH, False), 201, {"Location": URL}),
        (TUS, Created(FRESH, True), 201, {"Location": URL, "Upload-Offset": "0"}),
        (TUS, Created(info(), True), 201, {"Location": URL, "Upload-Offset": "40"}),
        (HOUR, Created(FRESH, False), 201, {"Location": URL, "Upload-Expires": EXPIRES}),
        (HOUR, Created(DONE, True), 201, {"Location": URL, "Upload-Offset": "100"}),
        (TUS, Created(info(expires=FIXED), False), 201, {"Location": URL, "Upload-Expires": "Fri, 01 Jan 2027 00:00:00 GMT"}),
        (TUS, Created(info(id=UploadId("a;b/c+d@e")), False), 201, {"Location": "http://up.example/files/a;b/c+d@e"}),
    ],
)
def test_created(tus: Tus1, outcome: Created, status: int, headers: dict[str, str]) -> None:
    assert write(tus, POST, outcome) == (status, headers)


def test_locations_lead_back() -> None:
    location = write(TUS, POST, Created(FRESH, False))[1]["Location"]
    assert TUS.read(head("HEAD", location.removeprefix("http://up.example"))) == Inspect(ID)


@pytest.mark.parametrize(
    ("tus", "outcome", "headers"),
    [
        (TUS, Appended(info()), {"Upload-Offset": "40"}),
        (TUS, Appended(DONE), {"Upload-Offset": "100"}),
        (HOUR, Appended(info()), {"Upload-Offset": "40", "Upload-Expires": EXPIRES}),
        (HOUR, Appended(DONE), {"Upload-Offset": "100"}),
    ],
)
def test_appended(tus: Tus1, outcome: Appended, headers: dict[str, str]) -> None:
    assert write(tus, PATCH, outcome) == (204, headers)


STORE = {"Cache-Control": "no-store"}
CONCAT = {"Upload-Concat": "final;http://up.example/files/a http://up.example/files/b/c"}


@pytest.mark.parametrize(
    ("tus", "upload", "headers"),
    [
        (TUS, FRESH, {"Upload-Offset": "0", "Upload-Length": "100"}),
        (TUS, DONE, {"Upload-Offset": "100", "Upload-Length": "100"}),
        (TUS, info(length=0, offset=0, state=State.COMPLETE), {"Upload-Offset": "0", "Upload-Length": "0"}),
        (TUS, info(length=None), {"Upload-Offset": "40", "Upload-Defer-Length": "1"}),
        (HOUR, info(), {"Upload-Offset": "40", "Upload-Length": "100", "Upload-Expires": EXPIRES}),
        (HOUR, DONE, {"Upload-Offset": "100", "Upload-Length": "100"}),
        (
            TUS,
            info(metadata=Metadata({"a": b"a", "b": b""}, "a  YQ== , b")),
            {"Upload-Offset": "40", "Upload-Length": "100", "Upload-Metadata": "a  YQ== , b"},
        ),
        (
            TUS,
            info(metadata=Metadata({"a": b"a\r\n", "my key": b"x"})),
            {"Upload-Offset": "40", "Upload-Length": "100", "Upload-Metadata": "a YQ0K"},
        ),
        (TUS, info(concat=Partial()), {"Upload-Offset": "40", "Upload-Length": "100", "Upload-Concat": "partial"}),
        # "SHOULD NOT contain the Upload-Offset header unless the concatenation has been successfully finished"
        (TUS, info(concat=PARTS, offset=0), {"Upload-Length": "100"} | CONCAT),
        (TUS, info(concat=PARTS, offset=0, length=None), CONCAT),
        (TUS, info(concat=PARTS, offset=100, state=State.FINISHING), {"Upload-Length": "100"} | CONCAT),
        (TUS, info(concat=PARTS, offset=100, state=State.COMPLETE), {"Upload-Offset": "100", "Upload-Length": "100"} | CONCAT),
    ],
)
def test_inspected(tus: Tus1, upload: UploadInfo, headers: dict[str, str]) -> None:
    assert write(tus, HEAD, Inspected(upload)) == (200, headers | STORE)


@given(st.dictionaries(st.text(max_size=5), st.binary(max_size=5)), st.text(max_size=20), st.text(min_size=1, max_size=9))
def test_whatever_files_of_other_servers_say_it_can_be_sent(values: dict[str, bytes], header: str, part: str) -> None:
    """A directory may be taken over: nothing in it has passed our parsers."""
    upload = info(metadata=Metadata(values, header), concat=Final((UploadId(part),)))
    check_sendable(TUS.write(HEAD, Inspected(upload)).headers)


def test_terminated() -> None:
    assert write(TUS, DELETE, Terminated()) == (204, {})


ALL_NAMES = (
    "creation,creation-with-upload,termination,concatenation,concatenation-unfinished,creation-defer-length,checksum,expiration"
)
ALGORITHMS = {"Tus-Checksum-Algorithm": "md5,sha1,sha256,sha512,crc32"}


@pytest.mark.parametrize(
    ("outcome", "headers"),
    [
        (Discovered(tuple(Extension), None), {"Tus-Extension": ALL_NAMES} | ALGORITHMS),
        (Discovered(tuple(Extension), 10), {"Tus-Extension": ALL_NAMES, "Tus-Max-Size": "10"} | ALGORITHMS),
        (
            Discovered((Extension.CREATION, Extension.EXPIRATION), 0),
            {"Tus-Extension": "creation,expiration", "Tus-Max-Size": "0"},
        ),
        # "If no extensions are supported, the Tus-Extension header MUST be omitted."
        (Discovered((), None), {}),
    ],
)
def test_discovered(outcome: Discovered, headers: dict[str, str]) -> None:
    """No spaces after commas: TUSKit does not trim."""
    assert write(TUS, head("OPTIONS", tus=False), outcome) == (
        200,
        {"Tus-Version": "1.0.0", "Upload-Limit": "min-size=0"} | headers,
    )


# --- downloads


async def content() -> AsyncIterator[bytes]:
    yield b"x"


def reading(upload: UploadInfo = DONE, start: int = 0, stop: int = 100, *, partial: bool = False) -> Response:
    return TUS.write(GET, Reading(upload, start, stop, partial, content()))


def test_download() -> None:
    response = reading(
        info(offset=100, state=State.COMPLETE, metadata=Metadata({"filename": "é".encode(), "filetype": b"image/png"}))
    )
    assert response.status == 200
    assert response.length == 100
    assert response.stream is not None
    assert fields(response.headers) == {
        "Tus-Resumable": "1.0.0",
        "Accept-Ranges": "bytes",
        "Last-Modified": "Sun, 01 Mar 2026 12:00:00 GMT",
        "ETag": etag(DONE),
        "Content-Type": "image/png",
        "Content-Disposition": "inline; filename=\"_\"; filename*=UTF-8''%C3%A9",
    }


def test_part_of_a_download() -> None:
    response = reading(start=10, stop=20, partial=True)
    assert response.status == 206
    assert response.length == 10
    assert fields(response.headers)["Content-Range"] == "bytes 10-19/100"


def test_download_of_a_growing_upload() -> None:
    response = reading(info(), 0, 40)
    assert response.status == 200
    assert "ETag" not in fields(response.headers)


def test_unchanged_download() -> None:
    response = TUS.write(GET, Reading(DONE, 0, 100, False, None))
    assert response.status == 304
    assert response.stream is None
    assert set(fields(response.headers)) == {"Tus-Resumable", "Accept-Ranges", "Last-Modified", "ETag"}


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_whatever_the_metadata_a_download_can_be_sent(filename: bytes, filetype: bytes) -> None:
    upload = info(offset=100, state=State.COMPLETE, metadata=Metadata({"filename": filename, "filetype": filetype}))
    check_sendable(reading(upload).headers)


# --- hooks' answers


@pytest.mark.parametrize(
    ("outcome", "answer", "status", "body"),
    [
        (Created(FRESH, False), Answer(), 201, b""),
        (Created(FRESH, False), Answer(200, {}, "é"), 200, "é".encode()),
        (Created(FRESH, False), Answer(body="x"), 201, b"x"),
        (Appended(DONE), Answer(), 204, b""),
        (Appended(DONE), Answer(body="x"), 200, b"x"),
        (Appended(DONE), Answer(body=""), 204, b""),
        (Appended(DONE), Answer(202, {}, "x"), 202, b"x"),
        (Appended(DONE), Answer(204, {}, "x"), 204, b"x"),
        (Terminated(), Answer(200), 200, b""),
        (Appended(DONE), Answer(body="\ud800"), 200, b"?"),
    ],
)
def test_hooks_change_status_and_body(outcome: Created | Appended | Terminated, answer: Answer, status: int, body: bytes) -> None:
    outcome = replace(outcome, answer=answer)
    response = TUS.write(PATCH, outcome)
    assert (response.status, response.body) == (status, body)
    assert fields(response.headers).get("Content-Type") == ("text/plain; charset=utf-8" if body else None)


def test_hooks_add_headers() -> None:
    answer = Answer(headers={"X-Mine": "1", "content-type": "application/json", "Cache-Control": "private"}, body="{}")
    found = fields(TUS.write(POST, Created(FRESH, False, answer)).headers)
    assert found == {
        "Tus-Resumable": "1.0.0",
        "Location": URL,
        "X-Mine": "1",
        "content-type": "application/json",
        "Cache-Control": "private",
    }


OURS = """Location Upload-Offset upload-length Upload-Expires Upload-Anything Tus-Resumable tus-version Tus-Max-Size Content-Length
Transfer-Encoding Connection Keep-Alive Upgrade Trailer TE Date Server X-Content-Type-Options Access-Control-Allow-Origin
access-control-expose-headers""".split()


@pytest.mark.parametrize("name", OURS)
def test_hooks_never_replace_what_is_the_protocol_s_own(name: str) -> None:
    answer = Answer(headers={name: "evil"})
    assert "evil" not in fields(TUS.write(POST, Created(info(), True, answer)).headers).values()
    assert "evil" not in fields(TUS.refuse(POST, errors.UploadRejected(hook=answer)).headers).values()


def test_a_refusing_hook_answers() -> None:
    answer = Answer(422, {"Content-Type": "application/json", "Set-Cookie": "a=b"}, '{"no": 1}')
    response = TUS.refuse(POST, errors.UploadRejected(hook=answer))
    found = fields(response.headers)
    assert (response.status, response.body) == (422, b'{"no": 1}')
    assert found["Content-Type"] == "application/json"
    assert found["Set-Cookie"] == "a=b"
    assert found["Tus-Resumable"] == "1.0.0"


def test_a_refusing_hook_that_says_nothing() -> None:
    response = TUS.refuse(POST, errors.UploadRejected(hook=Answer()))
    assert (response.status, response.body) == (400, b"ERR_UPLOAD_REJECTED: upload has been rejected by server\n")


# --- refusing


def all_errors(kind: type[TusError] = TusError) -> list[type[TusError]]:
    children = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    return [kind, *(found for child in children for found in all_errors(child))]


def made(kind: type[TusError], upload: UploadInfo | None = None) -> TusError:
    error = errors.MethodNotAllowed("GET") if kind is errors.MethodNotAllowed else kind()
    error.info = upload
    return error


@pytest.mark.parametrize("kind", all_errors())
@pytest.mark.parametrize("method", ["POST", "PATCH", "HEAD", "GET", "DELETE"])
def test_every_refusal(kind: type[TusError], method: str) -> None:
    request = head(method, BASE if method == "POST" else UPLOAD)
    response = TUS.refuse(request, made(kind))
    found = fields(response.headers)
    check_sendable(response.headers)
    may_pass = kind.temporary or issubclass(kind, errors.Full | errors.HookError)
    assert response.status == (423 if may_pass and method == "HEAD" else kind.status)
    assert response.body == f"{kind.code}: {kind.message}\n".encode()
    assert found["Tus-Resumable"] == "1.0.0"
    assert found["Content-Type"] == "text/plain; charset=utf-8"
    assert found["Cache-Control"] == "no-store"
    assert ("Retry-After" in found) is kind.temporary
    assert ("Tus-Version" in found) is (kind is errors.UnsupportedVersion)
    assert ("Allow" in found) is (kind is errors.MethodNotAllowed)
    assert not {"Location", "Upload-Offset"} & set(found)


def test_temporary_failures_of_a_head_never_make_a_client_start_over() -> None:
    for request in (HEAD, head("POST", UPLOAD, {"X-HTTP-Method-Override": "head"})):
        response = TUS.refuse(request, errors.StorageUnavailable(retry_after=7))
        assert response.status == 423
        assert fields(response.headers)["Retry-After"] == "7"


@pytest.mark.parametrize("kind", all_errors(errors.TryLater))
def test_temporary(kind: type[TusError]) -> None:
    assert TUS.refuse(HEAD, made(kind)).status == 423


@pytest.mark.parametrize("kind", [errors.StorageFull, errors.QuotaExceeded])
def test_room_may_be_made(kind: type[TusError]) -> None:
    """A client that asks for the offset while there is no room must not begin again at byte 0."""
    for request in (HEAD, head("POST", UPLOAD, {"X-HTTP-Method-Override": "HEAD"})):
        assert TUS.refuse(request, made(kind)).status == 423
    assert TUS.refuse(PATCH, made(kind)).status == 507


@pytest.mark.parametrize("kind", [errors.InternalError, *all_errors(errors.InternalError)])
def test_what_happened_inside_is_not_told(kind: type[TusError]) -> None:
    response = TUS.refuse(PATCH, kind("cannot reach http://internal:9/secret?token=1"))
    assert response.body == f"{kind.code}: {kind.message}\n".encode()


@pytest.mark.parametrize(("seconds", "told"), [(None, "1"), (0, "1"), (0.2, "1"), (1.2, "2"), (30, "30"), (86400.0, "86400")])
def test_retry_after_is_whole_seconds(seconds: float | None, told: str) -> None:
    assert fields(TUS.refuse(PATCH, errors.UploadLocked(retry_after=seconds)).headers)["Retry-After"] == told


def test_an_error_that_is_not_temporary_may_say_when_to_come_back() -> None:
    assert fields(TUS.refuse(PATCH, errors.QuotaExceeded(retry_after=60)).headers)["Retry-After"] == "60"


def test_an_unsupported_version() -> None:
    """ "MUST respond with the 412 Precondition Failed status and MUST include the Tus-Version header"."""
    response = TUS.refuse(PATCH, errors.UnsupportedVersion())
    assert response.status == 412
    assert fields(response.headers)["Tus-Version"] == "1.0.0"


@pytest.mark.parametrize("kind", [kind for kind in all_errors() if kind.status != 404])
def test_a_failed_append_tells_the_offset(kind: type[TusError]) -> None:
    for request in (PATCH, head("POST", UPLOAD, {"X-HTTP-Method-Override": "PATCH"})):
        found = fields(HOUR.refuse(request, made(kind, info())).headers)
        assert found["Upload-Offset"] == "40"
        assert found["Upload-Expires"] == EXPIRES
        assert "Location" not in found


@pytest.mark.parametrize("offset", [0, 40])
@pytest.mark.parametrize("kind", [errors.UnexpectedEof, errors.StorageFull, errors.ChecksumMismatch, errors.UploadInterrupted])
def test_a_creation_that_failed_after_the_upload_was_there_tells_where(kind: type[TusError], offset: int) -> None:
    found = fields(TUS.refuse(POST, made(kind, info(offset=offset))).headers)
    assert found["Location"] == URL
    assert found["Upload-Offset"] == str(offset)


@pytest.mark.parametrize("request_", [HEAD, GET, DELETE, head("POST", UPLOAD, {"X-HTTP-Method-Override": "DELETE"})])
def test_other_failures_tell_no_offset(request_: Head) -> None:
    """ "If the resource is not found, the Server SHOULD return [...] without the Upload-Offset header"."""
    found = fields(TUS.refuse(request_, made(errors.UploadLocked, info())).headers)
    assert not {"Location", "Upload-Offset"} & set(found)


@pytest.mark.parametrize(("max_size", "told"), [(None, None), (10, "10")])
def test_a_length_that_is_too_large_is_told_the_limit(max_size: int | None, told: str | None) -> None:
    response = Tus1(Policy(max_size=max_size), Origins()).refuse(POST, errors.MaxSizeExceeded())
    assert response.status == 413
    assert fields(response.headers).get("Tus-Max-Size") == told


def test_a_range_that_cannot_be_satisfied() -> None:
    response = TUS.refuse(GET, made(errors.RangeNotSatisfiable, DONE))
    assert response.status == 416
    assert fields(response.headers)["Content-Range"] == "bytes */100"


def test_what_an_error_says_can_always_be_sent() -> None:
    assert TUS.refuse(PATCH, errors.InvalidRequest("\ud800")).body == b"ERR_INVALID_REQUEST: ?\n"


def test_expiry_slides() -> None:
    later = info(modified=MOMENT + timedelta(hours=1))
    assert write(HOUR, PATCH, Appended(later))[1]["Upload-Expires"] == "Sun, 01 Mar 2026 14:00:00 GMT"
