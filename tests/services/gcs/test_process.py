"""The fake of Google Cloud Storage as a process: what it keeps when it is killed, what it needs, whom it lets in."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from google.api_core.exceptions import TooManyRequests
from google.auth.exceptions import RefreshError
from google.cloud import storage

from tests.proc import need_proc
from tests.server.running import until
from tests.services.gcs.client import gcs_client
from tests.services.gcs.process import ROOT, GcsServer

MIB = 2**20
QUANTUM = 256 * 1024


def address(server: GcsServer, bucket: str, name: str, kind: str = "media") -> str:
    """Where an object is uploaded to."""
    return f"{server.endpoint}/upload/storage/v1/b/{bucket}/o?uploadType={kind}&name={name}"


def objects(server: GcsServer, bucket: str) -> list[str]:
    """The names of all objects of a bucket."""
    return [blob.name for blob in gcs_client(server.endpoint).list_blobs(bucket)]


def files(server: GcsServer) -> int:
    """How many files the server keeps bytes in."""
    return sum(1 for _ in (server.folder / "files").iterdir())


def send_part(url: str, headers: dict[str, str], body: bytes) -> socket.socket:
    """Send a request's head and some of its body, and leave the connection open."""
    parts = urlsplit(url)
    assert parts.port is not None
    method = "PUT" if "upload_id" in url else "POST"
    lines = [f"{method} {parts.path}?{parts.query} HTTP/1.1", f"Host: {parts.netloc}", *(f"{k}: {v}" for k, v in headers.items())]
    connection = socket.create_connection(("127.0.0.1", parts.port))
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
    return connection


def listens(port: int) -> bool:
    """Whether anybody accepts connections there."""
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


# what it keeps


def test_what_was_answered_is_there_after_a_kill(gcs_server: GcsServer, gcs_bucket: str) -> None:
    headers = {"Content-Type": "text/x-greeting"}
    stored = requests.post(address(gcs_server, gcs_bucket, "a%2Fb"), data=b"hello", headers=headers, timeout=10).json()
    gcs_server.kill()
    gcs_server.start()
    found = requests.get(f"{gcs_server.endpoint}/storage/v1/b/{gcs_bucket}/o/a%2Fb", timeout=10).json()
    assert found == stored and found["contentType"] == "text/x-greeting"
    assert requests.get(found["mediaLink"], timeout=10).content == b"hello"
    again = requests.post(address(gcs_server, gcs_bucket, "a%2Fb"), timeout=10).json()
    assert int(again["generation"]) > int(stored["generation"])


def test_a_session_goes_on_after_a_kill(gcs_server: GcsServer, gcs_bucket: str) -> None:
    data = os.urandom(2 * QUANTUM + 5)
    session = requests.post(address(gcs_server, gcs_bucket, "a", "resumable"), timeout=10).headers["Location"]
    first = {"Content-Range": f"bytes 0-{QUANTUM - 1}/*"}
    assert requests.put(session, data=data[:QUANTUM], headers=first, timeout=10).status_code == 308
    gcs_server.kill()
    gcs_server.start()
    asked = requests.put(session, headers={"Content-Range": "bytes */*"}, timeout=10)
    assert asked.headers["Range"] == f"bytes=0-{QUANTUM - 1}"
    rest = {"Content-Range": f"bytes {QUANTUM}-{len(data) - 1}/{len(data)}"}
    done = requests.put(session, data=data[QUANTUM:], headers=rest, timeout=10).json()
    gcs_server.kill()
    gcs_server.start()
    assert requests.put(session, headers={"Content-Range": "bytes */*"}, timeout=10).json() == done
    assert gcs_client(gcs_server.endpoint).bucket(gcs_bucket).blob("a").download_as_bytes() == data


def test_an_upload_that_was_cut_off_leaves_nothing(gcs_server: GcsServer, gcs_bucket: str) -> None:
    before = files(gcs_server)
    connection = send_part(address(gcs_server, gcs_bucket, "a"), {"Content-Length": "1000"}, b"x" * 500)
    until(lambda: files(gcs_server) == before + 1)
    connection.close()
    until(lambda: files(gcs_server) == before)
    assert objects(gcs_server, gcs_bucket) == []


def test_an_upload_that_was_killed_leaves_nothing(gcs_server: GcsServer, gcs_bucket: str) -> None:
    before = files(gcs_server)
    with send_part(address(gcs_server, gcs_bucket, "a"), {"Content-Length": "1000"}, b"x" * 500):
        until(lambda: files(gcs_server) == before + 1)
        gcs_server.kill()
        gcs_server.start()
    assert files(gcs_server) == before and objects(gcs_server, gcs_bucket) == []


def test_a_session_that_was_cut_off_keeps_whole_quanta(gcs_server: GcsServer, gcs_bucket: str) -> None:
    session = requests.post(address(gcs_server, gcs_bucket, "a", "resumable"), timeout=10).headers["Location"]
    headers = {"Content-Length": str(3 * QUANTUM), "Content-Range": f"bytes 0-{3 * QUANTUM - 1}/*"}

    def kept() -> str | None:
        return requests.put(session, headers={"Content-Range": "bytes */*"}, timeout=10).headers.get("Range")

    with send_part(session, headers, bytes(QUANTUM + 1000)):
        until(lambda: kept() == f"bytes=0-{QUANTUM - 1}")
    rest = {"Content-Range": f"bytes {QUANTUM}-{QUANTUM}/{QUANTUM + 1}"}
    until(lambda: requests.put(session, data=b"!", headers=rest, timeout=10).status_code == 200)
    data = gcs_client(gcs_server.endpoint).bucket(gcs_bucket).blob("a").download_as_bytes()
    assert data == bytes(QUANTUM) + b"!"


def test_the_newest_request_of_a_session_counts(gcs_server: GcsServer, gcs_bucket: str) -> None:
    session = requests.post(address(gcs_server, gcs_bucket, "a", "resumable"), timeout=10).headers["Location"]
    headers = {"Content-Length": "20", "Content-Range": "bytes 0-19/20"}
    with send_part(session, headers, b"old") as old:
        until(lambda: any(path.stat().st_size == 3 for path in (gcs_server.folder / "files").iterdir()))
        new = requests.put(session, data=b"01234567890123456789", headers={"Content-Range": "bytes 0-19/20"}, timeout=10)
        assert new.status_code == 200
        old.sendall(b"x" * 17)
        assert b" 503 " in old.recv(1000)
    data = gcs_client(gcs_server.endpoint).bucket(gcs_bucket).blob("a").download_as_bytes()
    assert data == b"old34567890123456789"


def test_who_reads_an_object_gets_all_of_it_though_it_is_deleted(gcs_server: GcsServer, gcs_bucket: str) -> None:
    data = os.urandom(16 * MIB)
    blob = gcs_client(gcs_server.endpoint).bucket(gcs_bucket).blob("a")
    blob.upload_from_string(data)
    with requests.get(blob.media_link, stream=True, timeout=10) as answer:
        read = [next(answer.iter_content(1000))]
        blob.delete()
        read += answer.iter_content(MIB)
    assert b"".join(read) == data


# what it needs


def test_a_large_upload_does_not_go_into_memory(gcs_server: GcsServer, gcs_bucket: str) -> None:
    need_proc()
    size, piece = 96 * MIB, os.urandom(MIB)

    def pieces() -> Iterator[bytes]:
        for _ in range(size // MIB):
            yield piece

    def peak() -> int:
        lines = Path(f"/proc/{gcs_server.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024

    before = peak()
    answer = requests.post(address(gcs_server, gcs_bucket, "a"), data=pieces(), timeout=60)
    assert answer.json()["size"] == str(size)
    bucket = gcs_client(gcs_server.endpoint).bucket(gcs_bucket)
    whole = bucket.blob("b")
    whole.compose([bucket.blob("a")])
    assert whole.crc32c == answer.json()["crc32c"]
    digest = hashlib.sha256()
    with requests.get(whole.media_link, stream=True, timeout=60) as found:
        for part in found.iter_content(MIB):
            digest.update(part)
    assert digest.digest() == hashlib.sha256(piece * (size // MIB)).digest()
    assert peak() < before + 48 * MIB


def test_many_requests_at_once(gcs_server: GcsServer, gcs_bucket: str) -> None:
    start = threading.Barrier(64)

    def run(number: int) -> bool:
        start.wait()
        data = f"{number}".encode() * 1000
        stored = requests.post(address(gcs_server, gcs_bucket, f"{number:02}"), data=data, timeout=30).json()
        return requests.get(stored["mediaLink"], timeout=30).content == data

    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(run, range(64)))
    assert objects(gcs_server, gcs_bucket) == [f"{number:02}" for number in range(64)]


def test_it_ends_with_the_process_that_has_started_it(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tests.services.gcs.process import GcsServer;"
        "server = GcsServer(Path(sys.argv[1])); server.start(); print(server.endpoint, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        port = int(starter.stdout.readline().strip().rpartition(":")[2])
        assert listens(port)
        starter.send_signal(signal.SIGKILL)
    until(lambda: not listens(port))


# what it refuses


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("storage/v1/b/{}/o?maxResults=many", {}, None),
        ("storage/v1/b/{}/o?maxResults=0", {}, None),
        ("storage/v1/b/{}/o?pageToken=%ff", {}, None),
        ("storage/v1/b/{}/o/%ff", {}, None),
        ("upload/storage/v1/b/{}/o?name=a", {}, b"data"),
        ("upload/storage/v1/b/{}/o?name=a&uploadType=magic", {}, b"data"),
        ("upload/storage/v1/b/{}/o?name=a&uploadType=media&ifGenerationMatch=x", {}, b"data"),
        ("upload/storage/v1/b/{}/o?name=a&uploadType=resumable", {}, b"{"),
        ("upload/storage/v1/b/{}/o?name=a&uploadType=resumable", {}, b"[]"),
        ("upload/storage/v1/b/{}/o?name=a&uploadType=resumable", {}, b'{"metadata": {"a": 1}}'),
        ("upload/storage/v1/b/{}/o?name=a&uploadType=resumable", {}, b'{"metadata": "a"}'),
        ("upload/storage/v1/b/{}/o?name=a&uploadType=resumable", {}, b'{"contentDisposition": "a\\r\\nb"}'),
        ("upload/storage/v1/b/{}/o?uploadType=resumable", {}, b'{"name": "\\ud800"}'),
        ("upload/storage/v1/b/{}/o?name=a&uploadType=resumable", {"X-Upload-Content-Length": "-1"}, b""),
        (
            "storage/v1/b/{}/o/a/compose",
            {},
            b'{"sourceObjects": [{"name": "a", "objectPreconditions": {"ifGenerationMatch": "x"}}]}',
        ),
        ("storage/v1/b", {}, b'{"name": "A bucket"}'),
        ("batch/storage/v1", {}, b"DELETE"),
        ("batch/storage/v1", {"Content-Type": "multipart/mixed; boundary=zz"}, b"--zz\r\n\r\nDELETE /\r\n" * 101 + b"--zz--"),
    ],
)
def test_what_makes_no_sense_is_refused(
    gcs_server: GcsServer, gcs_bucket: str, path: str, headers: dict[str, str], body: bytes | None
) -> None:
    requests.post(address(gcs_server, gcs_bucket, "a"), data=b"data", timeout=10)
    url = f"{gcs_server.endpoint}/{path.format(gcs_bucket)}"
    answer = requests.request("GET" if body is None else "POST", url, headers=headers, data=body, timeout=10)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["errors"][0]["domain"]) == (400, 400, "global")


@pytest.mark.parametrize("content_range", ["0-3/4", "bytes 0-4/5", "bytes 0-3/9", "bytes 0-3", "bytes a-b/c"])
def test_a_content_range_that_makes_no_sense_is_refused(gcs_server: GcsServer, gcs_bucket: str, content_range: str) -> None:
    start = address(gcs_server, gcs_bucket, "a", "resumable")
    session = requests.post(start, headers={"X-Upload-Content-Length": "4"}, timeout=10).headers["Location"]
    refused = requests.put(session, data=b"data", headers={"Content-Range": content_range}, timeout=10)
    assert refused.status_code == 400
    assert requests.put(session, data=b"data", headers={"Content-Range": "bytes 0-3/4"}, timeout=10).status_code == 200


def test_a_part_of_a_batch_that_is_no_request(gcs_server: GcsServer) -> None:
    body = b"--zz\r\nContent-ID: <1>\r\n\r\nnonsense\r\n--zz--"
    headers = {"Content-Type": "multipart/mixed; boundary=zz"}
    answer = requests.post(f"{gcs_server.endpoint}/batch/storage/v1", data=body, headers=headers, timeout=10)
    assert answer.status_code == 200 and "Content-ID: <response-1>\r\n\r\nHTTP/1.1 400 Bad Request\r\n" in answer.text


# its limits


def test_a_name_can_be_limited_to_one_change_in_an_interval(tmp_path: Path) -> None:
    server = GcsServer(tmp_path, interval=3600)
    server.start()
    bucket = gcs_client(server.endpoint).bucket(server.create_bucket())
    bucket.blob("a").upload_from_string(b"1")
    bucket.blob("b").upload_from_string(b"1")
    with pytest.raises(TooManyRequests, match="exceeded the rate limit"):
        bucket.blob("a").upload_from_string(b"2", retry=None)
    with pytest.raises(TooManyRequests):
        bucket.blob("a").delete(retry=None)
    server.kill()
    server.start()  # which has forgotten when they changed
    bucket.blob("a").upload_from_string(b"3", retry=None)
    bucket.blob("b").delete(retry=None)
    server.kill()
    assert server.log == ""


# whom it lets in


def test_the_emulator_variable_leads_to_it(gcs_server: GcsServer, gcs_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server.endpoint)
    blob = storage.Client(project="test").bucket(gcs_bucket).blob("a")
    blob.upload_from_string(b"data")
    assert objects(gcs_server, gcs_bucket) == ["a"]


@pytest.fixture
def private(tmp_path: Path) -> Iterator[GcsServer]:
    server = GcsServer(tmp_path / "private", private=True)
    server.start()
    yield server
    server.kill()
    assert server.log == ""


def test_a_service_account_gets_in_and_nobody_else(private: GcsServer, tmp_path: Path) -> None:
    key = private.service_account_key(tmp_path / "key.json")
    client = gcs_client(private.endpoint, key)
    bucket = client.create_bucket("private")
    bucket.blob("a").upload_from_string(b"data")
    assert bucket.blob("a").download_as_bytes() == b"data"
    with client.batch():
        bucket.blob("a").delete()
    assert list(bucket.list_blobs()) == []
    refused = requests.post(address(private, "private", "a"), data=b"data", timeout=10)
    assert (refused.status_code, refused.json()["error"]["errors"][0]["reason"]) == (401, "required")
    wrong = requests.get(f"{private.endpoint}/storage/v1/b/private/o/a", headers={"Authorization": "Bearer x"}, timeout=10)
    assert (wrong.status_code, wrong.json()["error"]["errors"][0]["reason"]) == (401, "authError")
    private.kill()
    private.start()
    bucket.blob("b").upload_from_string(b"data")  # tokens do not outlive the server: the client gets a new one


def test_a_key_of_somebody_else_opens_nothing(private: GcsServer, tmp_path: Path) -> None:
    other = GcsServer(tmp_path / "other", private=True)
    other.port = private.port
    client = gcs_client(private.endpoint, other.service_account_key(tmp_path / "key.json"))
    with pytest.raises(RefreshError, match="Signature verification failed"):
        client.get_bucket("private", retry=None)
