"""tus 1.0.0, extensions: one test for each thing that a server must do, over HTTP.

Source: https://tus.io/protocols/resumable-upload#protocol-extensions
"""

from __future__ import annotations

import base64
import hashlib
import time
import zlib
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import pytest
from tests.web.conftest import Serve
from tests.web.raw import OCTETS, Answer, chunked, patch, post, request
from tests.web.serving import Served, path_of

from tusd.model import Extension
from tusd.protocol.rules import Policy


def only(*extensions: Extension) -> Policy:
    """A policy with these extensions on."""
    return Policy(extensions=frozenset(extensions))


# --- creation


def test_creation_answers_201_with_a_location(server: Served) -> None:
    answer = server.ask(post({"Upload-Length": 100}))
    assert answer.status == 201
    assert answer["Location"].startswith("http://tus.test/files/")
    assert "Upload-Offset" not in answer
    head = server.ask(request("HEAD", path_of(answer)))
    assert (head["Upload-Offset"], head["Upload-Length"]) == ("0", "100")
    assert "Upload-Defer-Length" not in head


def test_creation_works_with_and_without_the_slash(server: Served) -> None:
    for path in ("/files", "/files/"):
        assert server.ask(post({"Upload-Length": 100}, path=path)).status == 201


@pytest.mark.parametrize("value", ["", "-1", "+5", "5.0", "0x5", "a", "\u0665", str(2**63), "9" * 40, "5 5", "5,5"])
def test_a_length_that_is_no_number_is_400(server: Served, value: str) -> None:
    answer = server.ask(post({"Upload-Length": value}))
    assert (answer.status, answer.code) == (400, "ERR_INVALID_UPLOAD_LENGTH")
    assert "Location" not in answer


def test_creation_needs_a_length(server: Served) -> None:
    assert server.ask(post({})).code == "ERR_INVALID_UPLOAD_LENGTH"


def test_the_longest_length(server: Served) -> None:
    path = server.create(2**63 - 1)
    assert server.ask(request("HEAD", path))["Upload-Length"] == str(2**63 - 1)


def test_an_empty_upload_is_complete_at_once(server: Served) -> None:
    path = server.create(0)
    head = server.ask(request("HEAD", path))
    assert (head["Upload-Offset"], head["Upload-Length"]) == ("0", "0")
    assert server.ask(request("GET", path)).body == b""


@pytest.mark.parametrize(
    "metadata",
    ["filename d29ybGQucGRm,is_confidential", "a YQ==, b Yg==", "key ", "empty", "a,b,c", "bin /+8A", "x-y_z.1 YQ=="],
)
def test_head_answers_the_metadata_as_it_was_given(server: Served, metadata: str) -> None:
    path = server.create(10, Upload_Metadata=metadata)
    assert server.ask(request("HEAD", path))["Upload-Metadata"] == metadata.strip()


@pytest.mark.parametrize("metadata", ["", ",", " , "])
def test_no_metadata_is_no_metadata(server: Served, metadata: str) -> None:
    assert server.ask(post({"Upload-Length": 1, "Upload-Metadata": metadata})).status == 201


@pytest.mark.parametrize("metadata", ["a YQ==,a Yg==", "a ???", "a YQ", "\u00e4 YQ==", "a Y Q==", "a YQ==\x01", "a \u00e4"])
def test_wrong_metadata_is_400(server: Served, metadata: str) -> None:
    answer = server.ask(post({"Upload-Length": 1, "Upload-Metadata": metadata}))
    assert answer.status == 400
    assert "Location" not in answer


def test_metadata_is_limited(server: Served) -> None:
    assert server.ask(post({"Upload-Length": 1, "Upload-Metadata": "a " + "YWFh" * 5000})).code == "ERR_INVALID_METADATA"


def test_creation_can_be_off(serve: Serve) -> None:
    answer = serve(policy=only(Extension.TERMINATION)).ask(post({"Upload-Length": 1}))
    assert (answer.status, answer["Allow"]) == (405, "OPTIONS")


# --- creation-with-upload


@pytest.mark.parametrize("body", [b"h", b"hello", b"hello world"])
@pytest.mark.parametrize("chunk", [False, True])
def test_creation_with_a_body_answers_the_offset(server: Served, body: bytes, chunk: bool) -> None:
    if chunk:
        stream = post({"Upload-Length": 11, "Content-Type": OCTETS, "Transfer-Encoding": "chunked"}) + chunked(body, 3)
    else:
        stream = post({"Upload-Length": 11}, body)
    answer = server.ask(stream)
    assert (answer.status, answer["Upload-Offset"]) == (201, str(len(body)))
    assert server.offset(path_of(answer)) == len(body)
    assert server.stored(path_of(answer)) == body


def test_creation_with_an_announced_but_empty_body(server: Served) -> None:
    answer = server.ask(request("POST", "/files/", {"Upload-Length": 5, "Content-Type": OCTETS}))
    assert (answer.status, answer["Upload-Offset"]) == (201, "0")


def test_creation_with_a_body_of_another_type_is_415(server: Served) -> None:
    answer = server.ask(request("POST", "/files/", {"Upload-Length": 5, "Content-Type": "text/plain"}, b"hello"))
    assert answer.status == 415


def test_creation_with_a_body_that_is_too_long_creates_nothing(server: Served) -> None:
    answer = server.ask(post({"Upload-Length": 4}, b"hello"))
    assert (answer.status, answer.code) == (413, "ERR_UPLOAD_SIZE_EXCEEDED")
    assert "Location" not in answer
    assert list((server.directory / "data").iterdir()) == []


def test_creation_with_upload_can_be_off_and_is_off_without_creation(serve: Serve) -> None:
    server = serve(policy=only(Extension.CREATION))
    assert server.ask(post({"Upload-Length": 5}, b"hello")).status == 501
    assert server.ask(post({"Upload-Length": 5})).status == 201
    told = serve(policy=only(Extension.CREATION_WITH_UPLOAD, Extension.TERMINATION)).ask(request("OPTIONS", "/files/"))
    assert told["Tus-Extension"] == "termination"


# --- creation-defer-length


def test_a_deferred_length_is_told_until_it_is_known(server: Served) -> None:
    path = server.create(None)
    head = server.ask(request("HEAD", path))
    assert (head["Upload-Offset"], head["Upload-Defer-Length"]) == ("0", "1")
    assert "Upload-Length" not in head
    assert server.ask(patch(path, 0, b"hello")).status == 204
    assert server.ask(request("HEAD", path))["Upload-Defer-Length"] == "1"
    assert server.ask(patch(path, 5, b" wor", {"Upload-Length": 11})).status == 204
    head = server.ask(request("HEAD", path))
    assert (head["Upload-Offset"], head["Upload-Length"]) == ("9", "11")
    assert "Upload-Defer-Length" not in head
    assert server.ask(patch(path, 9, b"ld", {"Upload-Length": 11})).status == 204
    assert server.ask(request("GET", path)).body == b"hello world"


def test_a_length_declared_with_an_empty_body_ends_the_upload(server: Served) -> None:
    path = server.create(None)
    server.ask(patch(path, 0, b"hello"))
    assert server.ask(patch(path, 5, b"", {"Upload-Length": 5}))["Upload-Offset"] == "5"
    assert server.ask(request("GET", path)).body == b"hello"


@pytest.mark.parametrize("length", ["4", "12", "x", "-1", str(2**63)])
def test_a_length_once_set_does_not_change(server: Served, length: str) -> None:
    path = server.create(11)
    answer = server.ask(patch(path, 0, b"hello", {"Upload-Length": length}))
    assert (answer.status, answer.code) == (400, "ERR_INVALID_UPLOAD_LENGTH")
    head = server.ask(request("HEAD", path))
    assert (head["Upload-Offset"], head["Upload-Length"]) == ("0", "11")


def test_a_declared_length_is_not_less_than_what_is_stored(server: Served) -> None:
    path = server.create(None)
    server.ask(patch(path, 0, b"hello"))
    assert server.ask(patch(path, 5, b"", {"Upload-Length": 4})).code == "ERR_INVALID_UPLOAD_LENGTH"
    assert server.ask(request("HEAD", path))["Upload-Defer-Length"] == "1"


@pytest.mark.parametrize("value", ["0", "2", "true", "", "1,1"])
def test_defer_length_has_one_value(server: Served, value: str) -> None:
    assert server.ask(post({"Upload-Defer-Length": value})).code == "ERR_INVALID_UPLOAD_LENGTH_DEFER"


def test_a_length_and_none_is_400(server: Served) -> None:
    assert server.ask(post({"Upload-Defer-Length": 1, "Upload-Length": 5})).code == "ERR_AMBIGUOUS_UPLOAD_LENGTH"


def test_a_creation_with_a_body_and_a_deferred_length(server: Served) -> None:
    answer = server.ask(post({"Upload-Defer-Length": 1}, b"hello"))
    assert (answer.status, answer["Upload-Offset"]) == (201, "5")
    assert server.ask(request("HEAD", path_of(answer)))["Upload-Defer-Length"] == "1"


# --- expiration


def test_expiry_is_told_in_the_answers_to_post_patch_and_head(serve: Serve) -> None:
    server = serve(policy=Policy(expire_after=3600))
    created = server.ask(post({"Upload-Length": 10}))
    path = path_of(created)
    for answer in (created, server.ask(patch(path, 0, b"hello")), server.ask(request("HEAD", path))):
        left = parsedate_to_datetime(answer["Upload-Expires"]).timestamp() - time.time()
        assert 3500 < left <= 3601
        assert answer["Upload-Expires"].endswith(" GMT")
    done = server.ask(patch(path, 5, b"world"))
    assert "Upload-Expires" not in done, "what is complete does not expire"


def test_no_expiry_is_told_when_nothing_expires(server: Served) -> None:
    assert "Upload-Expires" not in server.ask(post({"Upload-Length": 10}))


def test_an_expired_upload_is_404(serve: Serve) -> None:
    server = serve(policy=Policy(expire_after=0.3))
    path = server.create(10)
    assert server.ask(patch(path, 0, b"hello")).status == 204
    time.sleep(0.5)
    for stream in (request("HEAD", path), patch(path, 5, b"world"), request("DELETE", path), request("GET", path)):
        assert server.ask(stream).status == 404


# --- checksum

ALGORITHMS: dict[str, Callable[[bytes], bytes]] = {
    "md5": lambda body: hashlib.md5(body).digest(),
    "sha1": lambda body: hashlib.sha1(body).digest(),
    "sha256": lambda body: hashlib.sha256(body).digest(),
    "sha512": lambda body: hashlib.sha512(body).digest(),
    "crc32": lambda body: zlib.crc32(body).to_bytes(4, "big"),
}


def checksum(algorithm: str, body: bytes) -> str:
    """The value of Upload-Checksum."""
    return f"{algorithm} {base64.b64encode(ALGORITHMS[algorithm](body)).decode()}"


@pytest.mark.parametrize("size", [0, 1, 100_000, 600_000])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("chunk", [False, True])
def test_a_right_checksum_is_204_and_a_wrong_one_460(server: Served, algorithm: str, size: int, chunk: bool) -> None:
    """After a mismatch nothing of the body is kept, and the connection goes on."""
    body = b"\xa5" * size
    path = server.create(2 * size + 1)

    def append(offset: int, sum_: str) -> bytes:
        if not chunk:
            return patch(path, offset, body, {"Upload-Checksum": sum_})
        return patch(path, offset, headers={"Upload-Checksum": sum_, "Transfer-Encoding": "chunked"}) + (chunked(body, 9999))

    with server.connect() as connection:
        right = connection.ask(append(0, checksum(algorithm, body)))
        assert (right.status, right["Upload-Offset"]) == (204, str(size))
        wrong = connection.ask(append(size, checksum(algorithm, body + b"x")))
        assert (wrong.status, wrong.code, wrong["Upload-Offset"]) == (460, "ERR_CHECKSUM_MISMATCH", str(size))
        assert server.stored(path) == body
        assert connection.ask(request("HEAD", path))["Upload-Offset"] == str(size)
        assert connection.ask(append(size, checksum(algorithm, body)))["Upload-Offset"] == str(2 * size)
    assert server.stored(path) == body + body


@pytest.mark.parametrize(
    "value", ["sha3 YQ==", "SHA1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=", "sha1", "sha1 ???", "sha1 YQ==", "", "crc32 "]
)
def test_a_checksum_that_cannot_be_checked_is_400_and_nothing_is_kept(server: Served, value: str) -> None:
    path = server.create(10)
    answer = server.ask(patch(path, 0, b"hello", {"Upload-Checksum": value}))
    assert (answer.status, answer.code) in ((400, "ERR_INVALID_CHECKSUM"), (400, "ERR_UNSUPPORTED_CHECKSUM"))
    assert server.offset(path) == 0


def test_a_checksum_of_the_body_of_a_creation(server: Served) -> None:
    good = server.ask(post({"Upload-Length": 5, "Upload-Checksum": checksum("sha1", b"hello")}, b"hello"))
    assert (good.status, good["Upload-Offset"]) == (201, "5")
    bad = server.ask(post({"Upload-Length": 5, "Upload-Checksum": checksum("sha1", b"world")}, b"hello"))
    assert bad.status == 460
    assert server.offset(path_of(bad)) == 0, "the upload exists, with nothing in it"


def test_a_checksum_may_be_of_the_last_body(server: Served) -> None:
    path = server.create(5)
    assert server.ask(patch(path, 0, b"hello", {"Upload-Checksum": checksum("sha1", b"hallo")})).status == 460
    assert server.ask(request("GET", path)).status == 409
    assert server.ask(patch(path, 0, b"hello", {"Upload-Checksum": checksum("sha1", b"hello")})).status == 204
    assert server.ask(request("GET", path)).body == b"hello"


def test_checksum_can_be_off(serve: Serve) -> None:
    server = serve(policy=only(Extension.CREATION))
    path = server.create(5)
    assert server.ask(patch(path, 0, b"hello", {"Upload-Checksum": checksum("sha1", b"hello")})).status == 501
    assert server.offset(path) == 0


# --- termination


@pytest.mark.parametrize("sent", [b"", b"hello", b"hello world"])
def test_a_terminated_upload_is_gone(server: Served, sent: bytes) -> None:
    path = server.create(11)
    server.ask(patch(path, 0, sent))
    assert server.ask(request("DELETE", path)).status == 204
    streams = [request("HEAD", path), request("DELETE", path), request("GET", path), patch(path, len(sent), b"x")]
    assert [server.ask(stream).status for stream in streams] == [404] * 4
    assert list((server.directory / "data").iterdir()) == [], "its resources are freed"


def test_termination_can_be_off(serve: Serve) -> None:
    server = serve(policy=only(Extension.CREATION))
    path = server.create(5)
    answer = server.ask(request("DELETE", path))
    assert (answer.status, answer["Allow"]) == (405, "HEAD, PATCH, OPTIONS, GET")
    assert server.offset(path) == 0


# --- concatenation


def concat(server: Served, parts: str, **headers: object) -> Answer:
    """Ask for a final upload."""
    return server.ask(request("POST", "/files/", {"Upload-Concat": parts, **headers}))


def final_when_complete(server: Served, path: str) -> Answer:
    """HEAD until the concatenation is done."""
    deadline = time.monotonic() + 10
    while "Upload-Offset" not in (head := server.ask(request("HEAD", path))):
        assert time.monotonic() < deadline, head
        time.sleep(0.02)
    return head


def test_a_final_upload_is_its_parts_in_the_order_named(server: Served) -> None:
    a, b = server.upload(b"hello", Upload_Concat="partial"), server.upload(b" world", Upload_Concat="partial")
    for value, expected in (
        (f"final;{a} {b}", b"hello world"),
        (f"final;{b} {a}", b" worldhello"),
        (f"final;http://tus.test{a} {b}", b"hello world"),
        (f"final;{a} {a}", b"hellohello"),
    ):
        answer = concat(server, value)
        assert answer.status == 201, answer
        head = server.ask(request("HEAD", path_of(answer)))
        assert head["Upload-Offset"] == head["Upload-Length"] == str(len(expected))
        assert head["Upload-Concat"].startswith("final;")
        assert [url.removeprefix("http://tus.test") for url in head["Upload-Concat"][6:].split(" ")] == [
            url.removeprefix("http://tus.test") for url in value[6:].split(" ")
        ]
        assert server.ask(request("GET", path_of(answer))).body == expected


def test_a_partial_upload_says_so_and_tells_its_offset(server: Served) -> None:
    path = server.create(5, Upload_Concat="partial")
    head = server.ask(request("HEAD", path))
    assert (head["Upload-Concat"], head["Upload-Offset"], head["Upload-Length"]) == ("partial", "0", "5")


def test_patch_of_a_final_upload_is_403_and_changes_nothing(server: Served) -> None:
    part = server.upload(b"hello", Upload_Concat="partial")
    final = path_of(concat(server, f"final;{part}"))
    for offset in (0, 5):
        answer = server.ask(patch(final, offset, b"x"))
        assert (answer.status, answer.code) == (403, "ERR_MODIFY_FINAL")
    assert server.ask(request("GET", final)).body == b"hello"
    assert server.ask(request("GET", part)).body == b"hello"


def test_metadata_of_parts_is_not_the_final_ones(server: Served) -> None:
    part = server.upload(b"hello", Upload_Concat="partial", Upload_Metadata="a YQ==")
    assert "Upload-Metadata" not in server.ask(request("HEAD", path_of(concat(server, f"final;{part}"))))
    own = path_of(concat(server, f"final;{part}", **{"Upload-Metadata": "b Yg=="}))
    assert server.ask(request("HEAD", own))["Upload-Metadata"] == "b Yg=="


def test_a_final_upload_may_be_asked_for_before_its_parts_are_complete(server: Served) -> None:
    a, b = server.create(5, Upload_Concat="partial"), server.create(6, Upload_Concat="partial")
    server.ask(patch(a, 0, b"hel"))
    answer = concat(server, f"final;{a} {b}")
    assert answer.status == 201
    final = path_of(answer)
    head = server.ask(request("HEAD", final))
    assert head["Upload-Length"] == "11", "it can be calculated"
    assert "Upload-Offset" not in head
    assert server.ask(request("GET", final)).status == 409
    assert server.ask(patch(final, 0, b"x")).status == 403
    server.ask(patch(b, 0, b" world"))
    server.ask(patch(a, 3, b"lo"))
    assert final_when_complete(server, final)["Upload-Offset"] == "11"
    assert server.ask(request("GET", final)).body == b"hello world"


def test_a_part_of_deferred_length(server: Served) -> None:
    part = server.create(None, Upload_Concat="partial")
    answer = concat(server, f"final;{part}")
    assert answer.status == 201
    assert "Upload-Length" not in server.ask(request("HEAD", path_of(answer)))
    server.ask(patch(part, 0, b"hello", {"Upload-Length": 5}))
    assert final_when_complete(server, path_of(answer))["Upload-Length"] == "5"


def test_unfinished_parts_are_refused_where_that_is_off(serve: Serve) -> None:
    server = serve(policy=only(Extension.CREATION, Extension.CONCATENATION))
    part = server.create(5, Upload_Concat="partial")
    assert concat(server, f"final;{part}").code == "ERR_UPLOAD_NOT_FINISHED"


def test_the_length_of_a_final_upload_is_the_servers_to_say(server: Served) -> None:
    part = server.upload(b"hello", Upload_Concat="partial")
    answer = concat(server, f"final;{part}", **{"Upload-Length": 3})
    if answer.status == 201:
        assert server.ask(request("HEAD", path_of(answer)))["Upload-Length"] == "5"
    else:
        assert answer.status == 400


def test_a_creating_request_with_a_body_is_no_concatenation(server: Served) -> None:
    part = server.upload(b"hello", Upload_Concat="partial")
    answer = server.ask(post({"Upload-Concat": f"final;{part}"}, b"x"))
    assert 400 <= answer.status < 500


@pytest.mark.parametrize(
    "value", ["", "final", "final;", "final; ", "partial;", "whole", "final;/files/", "final;/elsewhere/x", "final;/files/../x"]
)
def test_a_concatenation_that_makes_no_sense_is_refused(server: Served, value: str) -> None:
    assert concat(server, value, **{"Upload-Length": 5}).status in (400, 404)


def test_only_partial_uploads_that_exist_can_be_parts(server: Served) -> None:
    whole = server.upload(b"hello")
    assert concat(server, f"final;{whole}").code == "ERR_INVALID_CONCAT"
    assert 400 <= concat(server, "final;/files/0123456789abcdef").status < 500


def test_concatenation_can_be_off(serve: Serve) -> None:
    server = serve(policy=only(Extension.CREATION, Extension.CONCATENATION_UNFINISHED))
    assert server.ask(post({"Upload-Length": 5, "Upload-Concat": "partial"})).code == "ERR_CONCATENATION_UNSUPPORTED"
    assert server.ask(request("OPTIONS", "/files/"))["Tus-Extension"] == "creation"
