"""The IETF's draft on the wire: its examples, and what its sentences forbid.

Sentences in quotation marks are of draft-ietf-httpbis-resumable-upload; without a number, of its newest text (interop version 8).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterator

import pytest
from tests.web.conftest import Serve
from tests.web.raw import Answer, Connection, chunked, request
from tests.web.serving import Served, path_of

from tusd.errors import StorageUnavailable
from tusd.hooks import Dispatcher, HookEvent, HookResponse, PreFinish
from tusd.protocol.ietf import INTEROP, PARTIAL_UPLOAD, VERSIONS
from tusd.protocol.rules import Policy

CONTENT = b"0123456789"
PROBLEM = "https://iana.org/assignments/http-problem-types#"
ALL = list(VERSIONS)


def ietf(
    method: str, path: str, headers: dict[str, object] | None = None, body: bytes = b"", number: int = 8, **given: object
) -> bytes:
    """A request of the draft."""
    return request(method, path, {INTEROP: number, **(headers or {})}, body, tus=False, **given)  # type: ignore[arg-type]


def completes(value: bool, number: int = 8) -> dict[str, object]:
    version = VERSIONS[number]
    return {version.completeness: "?1" if value is not version.inverted else "?0"}


def post(headers: dict[str, object], body: bytes = b"", number: int = 8, *, all_: bool = True, **given: object) -> bytes:
    return ietf("POST", "/files/", {**completes(all_, number), **headers}, body, number, **given)


def patch(
    path: str,
    offset: int,
    body: bytes = b"",
    number: int = 8,
    *,
    all_: bool,
    headers: dict[str, object] | None = None,
    **given: object,
) -> bytes:
    fields = {"Upload-Offset": offset, **completes(all_, number), "Content-Type": PARTIAL_UPLOAD, **(headers or {})}
    return ietf("PATCH", path, fields, body, number, **given)


def finals(connection: Connection, method: str = "POST") -> Iterator[Answer]:
    """What comes, up to the final response."""
    while True:
        answer = connection.answer(method)
        yield answer
        if answer.status >= 200:
            return


def converse(server: Served, data: bytes) -> list[Answer]:
    """The interim responses and the final one."""
    with server.connect() as connection:
        connection.send(data)
        return list(finals(connection, data.partition(b" ")[0].decode()))


def begin(server: Served, body: bytes = b"", number: int = 8, **headers: object) -> str:
    """An upload that is not complete; its path."""
    *_, answer = converse(
        server, post({name.replace("_", "-"): value for name, value in headers.items()}, body, number, all_=False)
    )
    assert answer.status == 201, answer
    return path_of(answer)


def state(server: Served, path: str, number: int = 8) -> tuple[int, bool]:
    answer = server.ask(ietf("HEAD", path, number=number))
    assert answer.status == 204, answer
    version = VERSIONS[number]
    return int(answer["Upload-Offset"]), (answer[version.completeness] == "?1") is not version.inverted


@pytest.fixture
def limited(serve: Serve) -> Served:
    """A server that has limits to tell of."""
    return serve(policy=Policy(lock_timeout=5, max_size=1234567890, expire_after=3600))


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is told of every piece that was written."""
    monkeypatch.setattr("tusd.web.interim._EVERY", 0.0)


# --- the examples


def test_upload_creation_a(limited: Served) -> None:
    headers = {"Content-Disposition": "inline; filename=\"file name.jpg\"; filename*=UTF-8''file%20name.jpg", "Upload-Length": 10}
    with limited.connect() as connection:
        connection.send(post(headers, announce=10))
        first = connection.answer()  # as soon as the upload is there, before any byte
        assert first.status == 104
        assert first["Location"].startswith("http://tus.test/files/")
        assert re.fullmatch(r"max-size=1234567890, max-age=35\d\d", first["Upload-Limit"])
        assert first[INTEROP] == "8"
        connection.send(CONTENT)
        final = connection.answer()
    assert (final.status, final["Upload-Complete"], final["Location"]) == (201, "?1", first["Location"])
    assert final["Upload-Limit"] == "max-size=1234567890"
    assert limited.stored(path_of(final)) == CONTENT
    download = limited.ask(request("GET", path_of(final)))
    assert (download.body, download["Content-Disposition"]) == (CONTENT, 'attachment; filename="file name.jpg"')


def test_upload_creation_b(limited: Served) -> None:
    announced, final = converse(limited, post({"Upload-Length": 10}, CONTENT[:4], all_=False))
    assert (announced.status, final.status, final["Upload-Complete"]) == (104, 201, "?0")
    assert final["Location"] == announced["Location"]  # "MUST contain an identical Location value"
    assert final["Upload-Limit"].startswith("max-size=1234567890, max-age=")
    assert state(limited, path_of(final)) == (4, False)


class Judge(Dispatcher):
    """Answers every pre-finish in one way."""

    def __init__(self, answer: HookResponse | Exception) -> None:
        self.events = frozenset({PreFinish})
        self.answer = answer

    async def dispatch(self, event: HookEvent) -> HookResponse | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_upload_creation_c(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Thanks to the interim response containing the upload resource URI, the client can resume the upload."""
    judge = Judge(StorageUnavailable())
    server = serve(dispatchers=[judge])
    announced, final = converse(server, post({"Upload-Length": 10}, CONTENT))
    assert (announced.status, final.status, final["Upload-Complete"]) == (104, 503, "?0")
    path = path_of(announced)
    pending = server.ask(ietf("HEAD", path))
    assert (pending.status, "Retry-After" in pending) == (503, True)
    judge.answer = HookResponse()
    assert state(server, path) == (10, True)
    assert server.ask(patch(path, 10, all_=True)).status == 201


def test_upload_creation_d(serve: Serve) -> None:
    """The server is uninterested in more, and the upload is complete in its perspective."""
    server = serve(dispatchers=[Judge(HookResponse(reject=True, status=400, body="corrupted gzip"))])
    announced, final = converse(server, post({"Content-Encoding": "gzip"}, CONTENT))
    assert (announced.status, final.status, final["Upload-Complete"], final.body) == (104, 400, "?1", b"corrupted gzip")
    assert server.ask(ietf("HEAD", path_of(announced))).status == 404


def test_offset_retrieval(limited: Served) -> None:
    path = begin(limited, CONTENT[:4], Upload_Length=10)
    for method in ("HEAD", "GET"):
        answer = limited.ask(ietf(method, path))
        assert answer.status == 204
        assert (answer["Upload-Complete"], answer["Upload-Offset"], answer["Upload-Length"]) == ("?0", "4", "10")
        assert answer["Upload-Limit"].startswith("max-size=1234567890, max-age=3")
        assert answer["Cache-Control"] == "no-store"
        assert answer.body == b""


@pytest.mark.usefixtures("often")
def test_upload_append_a(server: Served) -> None:
    path = begin(server, CONTENT)
    size = 1 << 20
    with server.connect() as connection:
        connection.send(patch(path, 10, all_=False, announce=size))
        for _ in range(4):
            connection.send(b"x" * (size // 4))
            time.sleep(0.02)
        *interim, final = finals(connection)
    assert (final.status, final["Upload-Complete"]) == (204, "?0")
    assert interim
    offsets = [int(answer["Upload-Offset"]) for answer in interim]
    assert offsets == sorted(offsets)
    assert 10 < offsets[0] < offsets[-1] <= 10 + size
    for answer in interim:
        assert (answer.status, answer[INTEROP], "Location" in answer) == (104, "8", False)


def test_upload_append_b(serve: Serve) -> None:
    metadata = HookResponse(status=200, headers={"Content-Type": "application/json"}, body='{"metadata": {}}')
    server = serve(dispatchers=[Judge(metadata)])
    path = begin(server, CONTENT[:4])
    final = server.ask(patch(path, 4, CONTENT[4:], all_=True))
    assert (final.status, final["Upload-Complete"], final["Content-Type"]) == (200, "?1", "application/json")
    assert json.loads(final.body) == {"metadata": {}}
    # The same answer as of one request, "if it had processed the entire representation in the initial request".
    *_, at_once = converse(server, post({}, CONTENT))
    mine, theirs = ({name for name, _ in answer.fields} for answer in (final, at_once))
    assert (at_once.status, at_once.body, mine) == (200, final.body, theirs)


def test_upload_cancellation(server: Served) -> None:
    path = begin(server, CONTENT)
    assert server.ask(ietf("DELETE", path)).status == 204
    assert [server.ask(ietf(method, path)).status for method in ("HEAD", "DELETE")] == [404, 404]
    assert server.ask(patch(path, 10, b"x", all_=True)).status == 404


def test_mismatching_offset(server: Served) -> None:
    path = begin(server, CONTENT[:5])
    for offset in (0, 4, 6):
        answer = server.ask(patch(path, offset, b"56789", all_=True))
        assert (answer.status, answer["Upload-Offset"], answer["Upload-Complete"]) == (409, "5", "?0")
        assert answer["Content-Type"] == "application/problem+json"
        told = json.loads(answer.body)
        assert told["type"] == PROBLEM + "mismatching-upload-offset"
        assert (told["expected-offset"], told["provided-offset"]) == (5, offset)
    assert state(server, path) == (5, False)


def test_inconsistent_length(server: Served) -> None:
    path = begin(server, CONTENT[:5], Upload_Length=10)
    for data in (
        patch(path, 5, b"567", all_=True),
        patch(path, 5, b"5", all_=False, headers={"Upload-Length": 11}),
        patch(path, 5, b"56789x", all_=False),
        post({"Upload-Length": 11}, CONTENT),
    ):
        answer = server.ask(data)
        assert (answer.status, answer["Upload-Complete"]) == (400, "?0")
        assert json.loads(answer.body)["type"] == PROBLEM + "inconsistent-upload-length"
    assert state(server, path) == (5, False)


# --- every version


@pytest.mark.parametrize("number", ALL)
def test_an_upload_in_three_requests(server: Served, number: int) -> None:
    version = VERSIONS[number]
    first = server.ask(post({}, number=number, all_=False))
    assert (first.status, first["Upload-Offset"], first[INTEROP]) == (201, "0", str(number))
    path = path_of(first)
    assert state(server, path, number) == (0, False)
    middle = server.ask(patch(path, 0, CONTENT[:5], number, all_=False))
    incomplete = "?1" if version.inverted else "?0"
    assert (middle.status, middle["Upload-Offset"]) == (201 if number < 7 else 204, "5")
    assert middle[version.completeness] == incomplete
    assert state(server, path, number) == (5, False)
    last = server.ask(patch(path, 5, CONTENT[5:], number, all_=True))
    # up to -05: "The response MUST NOT include the Upload-Complete header field with the value of false."
    assert (last.status, last["Upload-Offset"], last[version.completeness] != incomplete) == (201, "10", True)
    assert state(server, path, number) == (10, True)
    assert server.stored(path) == CONTENT


@pytest.mark.parametrize("number", ALL)
@pytest.mark.usefixtures("often")
def test_an_upload_in_one_request(server: Served, number: int) -> None:
    content = bytes(1 << 20)
    with server.connect() as connection:
        connection.send(post({}, number=number, announce=len(content)))
        first = connection.answer()
        assert (first.status, first[INTEROP], "Upload-Offset" in first) == (104, str(number), False)
        for at in range(0, len(content), len(content) // 4):
            connection.send(content[at : at + len(content) // 4])
            time.sleep(0.02)
        *interim, final = finals(connection)
        assert bool(interim) is (number >= 5)  # -03: "Add upload progress notifications via informational responses"
        assert all("Location" not in answer for answer in interim)
        assert connection.silent()  # nothing after the final response
    assert (final.status, final["Location"], final["Upload-Offset"]) == (201, first["Location"], str(len(content)))
    assert state(server, path_of(final), number) == (len(content), True)


@pytest.mark.parametrize("number", ALL)
def test_a_creation_by_put_and_by_chunks(server: Served, number: int) -> None:
    headers = {**completes(True, number), "Transfer-Encoding": "chunked"}
    announced, final = converse(server, ietf("PUT", "/files/", headers, chunked(CONTENT, 3), number))
    assert (announced.status, final.status) == (104, 201)
    assert server.stored(path_of(final)) == CONTENT
    path = begin(server, CONTENT[:2], number)
    data = patch(path, 2, chunked(CONTENT[2:], 3), number, all_=True, headers={"Transfer-Encoding": "chunked"})
    assert server.ask(data).status == 201
    assert state(server, path, number) == (10, True)


@pytest.mark.parametrize("number", ALL)
def test_a_broken_creation_is_resumed(server: Served, number: int) -> None:
    connection = server.connect()
    connection.send(post({}, number=number, announce=10))
    path = path_of(connection.answer())
    connection.send(CONTENT[:4])
    server.wait_for_offset(path, 4)
    connection.reset()
    assert state(server, path, number) == (4, False)
    assert server.ask(patch(path, 4, CONTENT[4:], number, all_=True)).status == 201
    assert server.stored(path) == CONTENT


@pytest.mark.parametrize("number", [3, 4, 5, 6])
@pytest.mark.parametrize("method", ["HEAD", "DELETE"])
def test_old_versions_refuse_fields_of_a_body(server: Served, number: int, method: str) -> None:
    path = begin(server, CONTENT, number)
    fields: list[dict[str, object]] = [{"Upload-Offset": 10}, completes(True, number)]
    for headers in fields:
        assert server.ask(ietf(method, path, headers, number=number)).status == 400
    assert state(server, path, number) == (10, False)


# --- 104


def test_no_104_where_none_is_expected(serve: Serve) -> None:
    server, never = serve(), serve(informational=False)
    fields: dict[str, object] = {"Upload-Complete": "?1"}
    for where, data in (
        (server, request("POST", "/files/", fields, CONTENT, tus=False)),  # "missing"
        (server, ietf("POST", "/files/", fields, CONTENT, 9)),  # "or mismatching"
        (server, ietf("POST", "/files/", fields, CONTENT, 2)),
        (server, ietf("POST", "/files/", {**fields, "Tus-Resumable": "1.0.0", "Upload-Length": 10}, b"")),
        (never, post({}, CONTENT)),
        (server, post({}, all_=False)),  # nothing is to come: the answer says it
        (server, post({}, CONTENT, version="HTTP/1.0")),
    ):
        answers = converse(where, data)
        assert [answer.status for answer in answers if answer.status < 200] == [], data
        assert all(INTEROP in answer for answer in answers) or b"Tus-Resumable" in data


def test_104_and_100(server: Served) -> None:
    """The server MUST NOT omit the 100 (Continue) response because it has sent an interim response with a 104."""
    with server.connect() as connection:
        connection.send(post({"Expect": "100-continue"}, announce=10))
        assert [connection.answer().status for _ in range(2)] == [104, 100]
        connection.send(CONTENT)
        final = connection.answer()
    assert (final.status, final["Upload-Complete"]) == (201, "?1")


def test_a_refused_creation_is_told_before_its_body(limited: Served) -> None:
    with limited.connect() as connection:
        connection.send(post({"Expect": "100-continue", "Upload-Length": 1234567891}, announce=1234567891))
        answer = connection.answer()
    assert (answer.status, answer["Upload-Limit"], answer.closes) == (413, "max-size=1234567890, max-age=3600", True)


def test_requests_in_one_packet(server: Served) -> None:
    with server.connect() as connection:
        connection.send(post({}, b"one") + post({}, b"two") + ietf("OPTIONS", "/files/") + post({}, b"three", all_=False))
        answers = [answer for _ in range(4) for answer in finals(connection)]
    assert [answer.status for answer in answers] == [104, 201, 104, 201, 204, 104, 201]
    stored = [server.stored(path_of(answer)) for answer in answers if answer.status == 201]
    assert stored == [b"one", b"two", b"three"]
    for announced, final in (answers[0:2], answers[2:4], answers[5:7]):
        assert announced["Location"] == final["Location"]


@pytest.mark.usefixtures("often")
def test_a_client_that_does_not_read_is_waited_for_by_nobody(server: Served) -> None:
    """It fills the connection with answers that it leaves there, and uploads on; another client notices nothing."""
    path, size = begin(server), 4 << 20
    with server.connect(receive_buffer=2048) as connection:
        for _ in range(40):
            connection.send(ietf("OPTIONS", "/files/", {"Origin": "https://app.example"}))
        connection.send(patch(path, 0, all_=False, announce=size))
        for _ in range(64):
            connection.send(bytes(size // 64))
        began = time.monotonic()
        server.wait_for_offset(path, size)
        assert state(server, begin(server, CONTENT)) == (10, False)
        assert time.monotonic() - began < 5
    assert state(server, path) == (size, False)


# --- concurrency


@pytest.mark.parametrize("number", ALL)
def test_a_head_ends_the_request_before_it(server: Served, number: int) -> None:
    with server.connect() as connection:
        connection.send(post({"Upload-Length": 10} if number >= 6 else {}, number=number, announce=10))
        path = path_of(connection.answer())
        connection.send(CONTENT[:4])
        server.wait_for_offset(path, 4)
        assert state(server, path, number) == (4, False)
        old = connection.answer()
        assert (old.status, "Retry-After" in old) == (503, True)  # a client that still listens may resume
    assert server.ask(patch(path, 4, CONTENT[4:], number, all_=True)).status == 201


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_a_patch_or_delete_ends_the_request_before_it(server: Served, method: str) -> None:
    path = begin(server)
    with server.connect() as connection:
        connection.send(patch(path, 0, all_=True, announce=10))
        connection.send(CONTENT[:4])
        server.wait_for_offset(path, 4)
        answer = server.ask(patch(path, 4, CONTENT[4:], all_=True) if method == "PATCH" else ietf("DELETE", path))
        assert answer.status == (201 if method == "PATCH" else 204)
        assert connection.answer().status == 503
    if method == "PATCH":
        assert server.stored(path) == CONTENT
    else:
        assert server.ask(ietf("HEAD", path)).status == 404


def test_an_upload_that_is_held_is_503_on_every_method(serve: Serve) -> None:
    server = serve(policy=Policy(lock_timeout=0.1))
    path = begin(server, CONTENT[:4])
    release = server.hold(path)
    try:
        for data in (ietf("HEAD", path), ietf("GET", path), patch(path, 4, b"x", all_=False), ietf("DELETE", path)):
            answer = server.ask(data)
            assert (answer.status, answer["Retry-After"]) == (503, "1")
    finally:
        release.set()


# --- completeness


def test_all_bytes_are_not_all_sent(server: Served) -> None:
    """The offset could match the length, but the upload can still be incomplete."""
    path = begin(server, CONTENT, Upload_Length=10)
    assert state(server, path) == (10, False)
    assert server.offset(path) == 10  # for a client of tus 1.0
    assert server.ask(request("GET", path)).status == 409
    assert server.ask(patch(path, 10, all_=False)).status == 204
    assert state(server, path) == (10, False)
    for _ in range(2):  # its answer may be lost
        done = server.ask(patch(path, 10, all_=True))
        assert (done.status, done["Upload-Complete"]) == (201, "?1")
    assert server.ask(request("GET", path)).body == CONTENT
    again = server.ask(patch(path, 10, b"x", all_=False))
    assert (again.status, again["Upload-Complete"]) == (400, "?0")
    assert json.loads(again.body)["type"] == PROBLEM + "completed-upload"


def test_from_tus_to_the_draft_and_back(server: Served) -> None:
    octets = "application/offset+octet-stream"
    path = server.create(10)
    assert server.ask(patch(path, 0, CONTENT[:5], all_=False)).status == 204
    tus = server.ask(request("PATCH", path, {"Upload-Offset": 5, "Content-Type": octets}, CONTENT[5:]))
    assert tus.status == 204
    assert state(server, path) == (10, True)
    path = server.create(10)
    assert server.ask(request("PATCH", path, {"Upload-Offset": 0, "Content-Type": octets}, CONTENT[:5])).status == 204
    assert server.ask(patch(path, 5, CONTENT[5:], all_=True)).status == 201
    assert server.offset(path) == 10


def test_a_body_that_never_ends_where_it_should(server: Served) -> None:
    path = begin(server, CONTENT[:5], Upload_Length=10)
    data = patch(path, 5, chunked(b"56789x", 6), all_=True, headers={"Transfer-Encoding": "chunked"})
    answer = server.ask(data)
    assert (answer.status, answer["Upload-Complete"]) == (400, "?0")
    assert json.loads(answer.body)["type"] == PROBLEM + "inconsistent-upload-length"
    assert server.ask(ietf("HEAD", path)).status == 404  # "rejecting any further interaction with it"


def test_the_finished_standard(server: Served) -> None:
    """Implementations of the final RFC will not [...] check the existence of the version's header field."""
    first = server.ask(request("POST", "/files/", {"Upload-Complete": "?0"}, CONTENT[:4], tus=False))
    assert (first.status, first["Upload-Complete"]) == (201, "?0")
    path = path_of(first)
    for _ in range(2):
        answer = server.ask(request("HEAD", path, tus=False))
        assert (answer.status, answer["Upload-Offset"], answer["Upload-Complete"]) == (204, "4", "?0")
    fields = {"Upload-Complete": "?1", "Upload-Offset": 4, "Content-Type": PARTIAL_UPLOAD}
    assert server.ask(request("PATCH", path, fields, CONTENT[4:], tus=False)).status == 201
    assert server.ask(request("DELETE", path, tus=False)).status == 204


# --- limits and digests


def test_limits_of_one_request(serve: Serve) -> None:
    server = serve(policy=Policy(lock_timeout=5, min_append_size=3, max_append_size=6))
    assert server.ask(ietf("OPTIONS", "/files/"))["Upload-Limit"] == "max-append-size=6, min-append-size=3"
    assert server.ask(request("OPTIONS", "/files/", tus=False))["Upload-Limit"] == "max-append-size=6, min-append-size=3"
    path = begin(server)
    assert server.ask(patch(path, 0, b"01", all_=False)).status == 400
    for data in (patch(path, 0, b"0123456", all_=False), post({}, b"0123456")):
        answer = server.ask(data)
        assert (answer.status, answer["Upload-Limit"]) == (413, "max-append-size=6, min-append-size=3")
    streamed = server.ask(patch(path, 0, chunked(CONTENT, 4), all_=False, headers={"Transfer-Encoding": "chunked"}))
    assert (streamed.status, streamed["Upload-Offset"]) == (413, "6")
    assert server.ask(patch(path, 6, b"678", all_=False)).status == 204
    assert server.ask(patch(path, 9, b"9", all_=True)).status == 201
    assert server.stored(path) == CONTENT


def digest(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def test_content_digest(server: Served) -> None:
    path = begin(server, CONTENT[:5], Content_Digest=digest(CONTENT[:5]))
    wrong = server.ask(patch(path, 5, b"5678x", all_=True, headers={"Content-Digest": digest(b"56789")}))
    assert (wrong.status, wrong["Upload-Offset"], wrong["Upload-Complete"]) == (400, "5", "?0")
    connection = server.connect()
    connection.send(patch(path, 5, b"56", all_=True, headers={"Content-Digest": digest(b"56789")}, announce=5))
    server.wait_for_offset(path, 7)
    connection.reset()
    assert state(server, path) == (7, False)
    assert server.ask(patch(path, 7, b"789", all_=True, headers={"Content-Digest": digest(b"789")})).status == 201
    assert server.stored(path) == CONTENT


def test_representation_digest(server: Served) -> None:
    *_, wanted = converse(server, post({"Want-Repr-Digest": "sha-256=1"}, CONTENT))
    assert wanted["Repr-Digest"] == digest(CONTENT)
    path = begin(server, CONTENT[:4], Repr_Digest=digest(CONTENT))
    right = server.ask(patch(path, 4, CONTENT[4:], all_=True))
    assert (right.status, right["Repr-Digest"]) == (201, digest(CONTENT))
    path = begin(server, CONTENT[:4], Repr_Digest=digest(CONTENT))
    wrong = server.ask(patch(path, 4, b"45678x", all_=True))
    assert (wrong.status, wrong["Upload-Complete"]) == (400, "?1")
    assert server.ask(ietf("HEAD", path)).status == 404
