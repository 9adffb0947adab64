"""Uploads to Google Cloud Storage: see `comparing`."""

from __future__ import annotations

import io
import os
from typing import Any

import pytest
import requests

from tests.services.gcs.comparing import crc32c, md5, put, status, the_testbench

QUANTUM = 256 * 1024


# uploads in one request


def test_a_body_of_data_only(bucket: Any, endpoint: str) -> None:
    url = f"{endpoint}/upload/storage/v1/b/{bucket.name}/o?uploadType=media&name=a&ifGenerationMatch=0"
    assert requests.post(url, data=b"data", timeout=10).json()["name"] == "a"
    assert bucket.blob("a").download_as_bytes(retry=None) == b"data"
    assert requests.post(url, data=b"data", timeout=10).status_code == 412


@the_testbench("does not keep the type")
def test_a_body_of_data_has_the_type_of_the_request(bucket: Any, endpoint: str) -> None:
    url = f"{endpoint}/upload/storage/v1/b/{bucket.name}/o?uploadType=media&name=a"
    requests.post(url, data=b"data", headers={"Content-Type": "text/plain; charset=utf-16"}, timeout=10)
    assert bucket.get_blob("a").content_type == "text/plain; charset=utf-16"


RELATED = b'--zz\r\nContent-Type: application/json\r\n\r\n{"name": "a"}\r\n--zz\r\nContent-Type: a/b\r\n\r\nhello\r\n--zz--\r\n'


def related(endpoint: str, bucket: Any, body: bytes) -> int:
    """Upload with uploadType=multipart."""
    url = f"{endpoint}/upload/storage/v1/b/{bucket.name}/o?uploadType=multipart"
    headers = {"Content-Type": "multipart/related; boundary=zz"}
    return requests.post(url, data=body, headers=headers, timeout=10).status_code


def test_a_body_of_metadata_and_data(bucket: Any, endpoint: str) -> None:
    assert related(endpoint, bucket, RELATED) == 200
    assert bucket.get_blob("a").content_type == "a/b" and bucket.blob("a").download_as_bytes(retry=None) == b"hello"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        RELATED[:60],
        pytest.param(RELATED[:-10], marks=the_testbench("needs no end")),
        RELATED.replace(b"hello\r\n", b"hello\r\n--zz\r\n\r\nmore\r\n"),
        pytest.param(RELATED.replace(b'{"name"', b'{"name'), marks=the_testbench("answers 500")),
    ],
    ids=["nothing", "metadata only", "no end", "three parts", "bad JSON"],
)
def test_a_body_that_is_malformed(bucket: Any, endpoint: str, body: bytes) -> None:
    assert related(endpoint, bucket, body) == 400
    assert list(bucket.list_blobs()) == []


# checksums of uploads


@pytest.mark.parametrize("field", ["md5_hash", "crc32c"])
def test_a_right_checksum_is_taken(bucket: Any, field: str) -> None:
    blob = bucket.blob("a")
    setattr(blob, field, (md5 if field == "md5_hash" else crc32c)(b"data"))
    blob.upload_from_string(b"data", retry=None)
    assert bucket.get_blob("a").size == 4


@the_testbench("answers 412")
@pytest.mark.parametrize("field", ["md5_hash", "crc32c"])
def test_a_wrong_checksum_is_refused(bucket: Any, field: str) -> None:
    blob = bucket.blob("a")
    setattr(blob, field, (md5 if field == "md5_hash" else crc32c)(b"other"))
    assert status(blob.upload_from_string, b"data", checksum=None) == 400
    assert bucket.get_blob("a") is None


# resumable uploads


def begin(endpoint: str, bucket: Any, name: str, *, query: str = "", headers: dict[str, str] | None = None, **fields: Any) -> str:
    """Begin a session; its address."""
    url = f"{endpoint}/upload/storage/v1/b/{bucket.name}/o?uploadType=resumable&name={name}{query}"
    answer = requests.post(url, json=fields, headers=headers, timeout=10)
    assert answer.status_code == 200
    return answer.headers["Location"]


def send(session: str, content_range: str | None, data: bytes = b"", **headers: str) -> tuple[int, str | None]:
    """Send to a session; the status and the Range of the answer."""
    if content_range is not None:
        headers["Content-Range"] = f"bytes {content_range}"
    answer = requests.put(session, data=data, headers=headers, timeout=10)
    return answer.status_code, answer.headers.get("Range")


EMPTY = pytest.param(0, marks=the_testbench("cannot give an empty object to Google's client"))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("size", [EMPTY, 1, QUANTUM, QUANTUM * 3 + 17])
def test_resumable_uploads_of_googles_client(bucket: Any, size: int, known: bool) -> None:
    data = os.urandom(size)
    blob = bucket.blob("a", chunk_size=QUANTUM)
    blob.upload_from_file(io.BytesIO(data), size=size if known else None, checksum="crc32c", retry=None)
    assert blob.download_as_bytes(retry=None) == data and bucket.get_blob("a").crc32c == crc32c(data)


def test_a_session_is_resumed_where_it_says(bucket: Any, endpoint: str) -> None:
    data = os.urandom(3 * QUANTUM + 5)
    session = begin(endpoint, bucket, "a", contentType="x/y", metadata={"m": "1"})
    assert send(session, "*/*") == (308, None)
    assert send(session, f"0-{QUANTUM - 1}/*", data[:QUANTUM]) == (308, f"bytes=0-{QUANTUM - 1}")
    assert send(session, "*/*") == (308, f"bytes=0-{QUANTUM - 1}")
    assert bucket.get_blob("a") is None
    assert send(session, f"{QUANTUM}-{3 * QUANTUM - 1}/*", data[QUANTUM : 3 * QUANTUM])[0] == 308
    assert send(session, f"{3 * QUANTUM}-{len(data) - 1}/{len(data)}", data[3 * QUANTUM :])[0] == 200
    assert (
        send(session, "*/*")[0]
        == send(session, f"*/{len(data)}")[0]
        == send(session, f"0-{QUANTUM - 1}/*", data[:QUANTUM])[0]
        == 200
    )
    found = bucket.get_blob("a")
    assert (found.size, found.content_type, found.metadata["m"], found.crc32c) == (len(data), "x/y", "1", crc32c(data))


def test_bytes_that_a_session_has_are_ignored(bucket: Any, endpoint: str) -> None:
    data = os.urandom(2 * QUANTUM)
    session = begin(endpoint, bucket, "a")
    assert send(session, f"0-{QUANTUM - 1}/*", data[:QUANTUM])[0] == 308
    assert send(session, f"0-{len(data) - 1}/{len(data)}", bytes(QUANTUM) + data[QUANTUM:])[0] == 200
    assert bucket.blob("a").download_as_bytes(retry=None) == data


def test_a_session_is_finished_by_saying_its_size(bucket: Any, endpoint: str) -> None:
    session = begin(endpoint, bucket, "a")
    assert send(session, f"0-{QUANTUM - 1}/*", bytes(QUANTUM))[0] == 308
    assert send(session, f"*/{2 * QUANTUM}") == (308, f"bytes=0-{QUANTUM - 1}")
    assert send(session, f"*/{QUANTUM}")[0] == 200
    assert bucket.get_blob("a").size == QUANTUM


def test_a_session_takes_all_at_once(bucket: Any, endpoint: str) -> None:
    assert send(begin(endpoint, bucket, "a"), None, b"data")[0] == 200
    assert bucket.get_blob("a").size == 4


@the_testbench("keeps every byte at once")
def test_a_session_keeps_multiples_of_256_kib(bucket: Any, endpoint: str) -> None:
    data = os.urandom(QUANTUM + 10)
    session = begin(endpoint, bucket, "a")
    assert send(session, f"0-{QUANTUM + 9}/*", data) == (308, f"bytes=0-{QUANTUM - 1}")
    assert send(session, f"{QUANTUM}-{QUANTUM + 9}/{QUANTUM + 10}", data[QUANTUM:])[0] == 200
    assert bucket.blob("a").download_as_bytes(retry=None) == data


@the_testbench("fills no gap, but takes the bytes for those that were missing")
def test_a_gap_is_refused(bucket: Any, endpoint: str) -> None:
    session = begin(endpoint, bucket, "a")
    assert send(session, f"0-{QUANTUM - 1}/*", bytes(QUANTUM))[0] == 308
    assert send(session, f"{2 * QUANTUM}-{3 * QUANTUM - 1}/*", bytes(QUANTUM))[0] == 503
    assert send(session, "*/*") == (308, f"bytes=0-{QUANTUM - 1}")


def test_a_cancelled_session(bucket: Any, endpoint: str) -> None:
    session = begin(endpoint, bucket, "a")
    assert send(session, f"0-{QUANTUM - 1}/*", bytes(QUANTUM))[0] == 308
    assert requests.delete(session, timeout=10).status_code == 499
    assert send(session, "*/*")[0] in (404, 410, 499)
    assert bucket.get_blob("a") is None


def test_a_session_that_never_was(bucket: Any, endpoint: str) -> None:
    url = f"{endpoint}/upload/storage/v1/b/{bucket.name}/o?uploadType=resumable&upload_id=none"
    assert send(url, "*/*")[0] in (404, 410)


def test_conditions_of_sessions_count_at_their_end(bucket: Any, endpoint: str) -> None:
    session = begin(endpoint, bucket, "a", query="&ifGenerationMatch=0")
    put(bucket, "a", b"first")
    assert send(session, None, b"second")[0] == 412
    assert bucket.blob("a").download_as_bytes(retry=None) == b"first"


def test_checksums_of_sessions(bucket: Any, endpoint: str) -> None:
    headers = {"X-Goog-Hash": f"crc32c={crc32c(b'data')}"}
    assert send(begin(endpoint, bucket, "right"), None, b"data", **headers)[0] == 200


@the_testbench("answers 412")
def test_wrong_checksums_of_sessions(bucket: Any, endpoint: str) -> None:
    headers = {"X-Goog-Hash": f"crc32c={crc32c(b'other')}"}
    assert send(begin(endpoint, bucket, "a"), None, b"data", **headers)[0] == 400
    assert send(begin(endpoint, bucket, "a", crc32c=crc32c(b"other")), None, b"data")[0] == 400
    assert bucket.get_blob("a") is None
