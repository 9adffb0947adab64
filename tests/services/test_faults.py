"""The proxy is not noticed where no rule says so, and does what rules say."""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import BotoCoreError, ClientError, ConnectionClosedError, ResponseStreamingError
from mypy_boto3_s3 import S3Client

from tests.services.faults import (
    INTERNAL_ERROR,
    SLOW_DOWN,
    TOO_MANY_REQUESTS,
    Answer,
    CutAnswer,
    CutRequest,
    Delay,
    Drop,
    Fault,
    FaultProxy,
    HideNewer,
    Hold,
    LoseAnswer,
    Repeat,
    s3_error,
)
from tests.services.servers import S3Bucket

MIB = 1 << 20


@pytest.fixture
def proxy(localstack_faults: FaultProxy) -> FaultProxy:
    return localstack_faults


@pytest.fixture
def name(localstack_bucket: S3Bucket) -> str:
    return localstack_bucket.name


@pytest.fixture
def s3(proxy: FaultProxy, localstack_bucket: S3Bucket) -> Iterator[S3Client]:
    """Through the proxy."""
    with localstack_bucket.through(proxy.endpoint).server.client() as client:
        yield client


@pytest.fixture
def direct(localstack_bucket: S3Bucket) -> Iterator[S3Client]:
    """Beside the proxy."""
    with localstack_bucket.server.client() as client:
        yield client


def keys(client: S3Client, bucket: str) -> list[str]:
    return [found["Key"] for found in client.list_objects_v2(Bucket=bucket).get("Contents", [])]


def failure(call: Callable[[], object]) -> tuple[int, str]:
    """Status and code of the error that a call must end with."""
    with pytest.raises(ClientError) as error:
        call()
    return error.value.response["ResponseMetadata"]["HTTPStatusCode"], error.value.response["Error"]["Code"]


def test_it_records_what_passes(s3: S3Client, proxy: FaultProxy, name: str) -> None:
    upload = s3.create_multipart_upload(Bucket=name, Key="a b/ü")["UploadId"]
    tag = s3.upload_part(Bucket=name, Key="a b/ü", UploadId=upload, PartNumber=7, Body=b"tail")["ETag"]
    s3.list_parts(Bucket=name, Key="a b/ü", UploadId=upload)
    s3.complete_multipart_upload(
        Bucket=name, Key="a b/ü", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 7, "ETag": tag}]}
    )
    s3.head_object(Bucket=name, Key="a b/ü")
    assert failure(lambda: s3.get_object(Bucket=name, Key="none")) == (404, "NoSuchKey")
    assert [(seen.operation, seen.key, seen.part, seen.status) for seen in proxy.seen()] == [
        ("CreateMultipartUpload", "a b/ü", None, 200),
        ("UploadPart", "a b/ü", 7, 200),
        ("ListParts", "a b/ü", None, 200),
        ("CompleteMultipartUpload", "a b/ü", None, 200),
        ("HeadObject", "a b/ü", None, 200),
        ("GetObject", "none", None, 404),
    ]
    (part,) = proxy.seen("UploadPart")
    assert part.request.named.bucket == name and part.request.named.upload == upload and part.request.number == 2
    assert part.fault is None and part.answered == 200 and part.sent >= 4


def test_many_at_once_keep_their_connections(s3: S3Client, proxy: FaultProxy, name: str) -> None:
    data = os.urandom(3 * MIB)

    def one(number: int) -> bytes:
        s3.put_object(Bucket=name, Key=f"{number}", Body=data[number:])
        return s3.get_object(Bucket=name, Key=f"{number}")["Body"].read()

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(one, range(16))) == [data[number:] for number in range(16)]
    assert len(proxy.seen("PutObject")) == len(proxy.seen("GetObject")) == 16


@pytest.mark.parametrize(("fault", "expected"), [(SLOW_DOWN, (503, "SlowDown")), (INTERNAL_ERROR, (500, "InternalError")), (TOO_MANY_REQUESTS, (429, "TooManyRequests"))])  # fmt: skip
def test_an_error_instead_of_doing_it(
    s3: S3Client, proxy: FaultProxy, name: str, fault: Fault, expected: tuple[int, str]
) -> None:
    proxy.add(fault, "PutObject", skip=1, times=2)
    s3.put_object(Bucket=name, Key="0", Body=b"x")
    for number in (1, 2):
        assert failure(lambda number=number: s3.put_object(Bucket=name, Key=f"{number}", Body=b"x")) == expected  # type: ignore[misc]
    s3.put_object(Bucket=name, Key="3", Body=b"x")
    assert keys(s3, name) == ["0", "3"]
    assert [(seen.status, seen.answered, seen.sent > 0) for seen in proxy.seen("PutObject")] == [
        (200, 200, True),
        (expected[0], None, False),
        (expected[0], None, False),
        (200, 200, True),
    ]


def test_an_error_after_doing_it(s3: S3Client, proxy: FaultProxy, name: str) -> None:
    rule = proxy.add(s3_error(500, "InternalError", done=True), "PutObject")
    assert failure(lambda: s3.put_object(Bucket=name, Key="x", Body=b"x")) == (500, "InternalError")
    assert keys(s3, name) == ["x"]
    assert (rule.seen[0].answered, rule.seen[0].status) == (200, 500)


def test_an_error_before_the_body_has_come(s3: S3Client, proxy: FaultProxy, name: str) -> None:
    proxy.add(s3_error(503, "SlowDown", early=True), "PutObject")
    assert failure(lambda: s3.put_object(Bucket=name, Key="x", Body=bytes(MIB))) == (503, "SlowDown")
    s3.put_object(Bucket=name, Key="y", Body=bytes(MIB))
    assert keys(s3, name) == ["y"]


def test_an_error_for_head_has_no_body(s3: S3Client, proxy: FaultProxy, name: str) -> None:
    proxy.add(SLOW_DOWN, "HeadObject")
    assert failure(lambda: s3.head_object(Bucket=name, Key="x"))[0] == 503
    s3.put_object(Bucket=name, Key="x", Body=b"x")  # the connection is in order
    assert keys(s3, name) == ["x"]


def test_a_connection_that_is_dropped(s3: S3Client, proxy: FaultProxy, name: str) -> None:
    proxy.add(Drop(), "PutObject")
    with pytest.raises(BotoCoreError):
        s3.put_object(Bucket=name, Key="x", Body=b"x")
    assert keys(s3, name) == []
    assert (proxy.seen("PutObject")[0].sent, proxy.seen("PutObject")[0].status) == (0, None)


@pytest.mark.parametrize("after", [0, 1, 100_000])
def test_a_request_that_is_cut(s3: S3Client, proxy: FaultProxy, name: str, after: int) -> None:
    proxy.add(CutRequest(after), "PutObject")
    with pytest.raises(BotoCoreError):
        s3.put_object(Bucket=name, Key="x", Body=bytes(MIB))
    seen = proxy.seen("PutObject")[0]
    assert (seen.sent, seen.answered, seen.status) == (after, None, None)
    assert keys(s3, name) == []


def test_a_lost_answer(s3: S3Client, proxy: FaultProxy, name: str) -> None:
    proxy.add(LoseAnswer(), "PutObject")
    with pytest.raises(BotoCoreError):
        s3.put_object(Bucket=name, Key="x", Body=b"x")
    assert keys(s3, name) == ["x"]
    assert (proxy.seen("PutObject")[0].answered, proxy.seen("PutObject")[0].status) == (200, None)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_an_answer_that_is_cut(s3: S3Client, proxy: FaultProxy, name: str, how: str) -> None:
    s3.put_object(Bucket=name, Key="x", Body=bytes(MIB))
    proxy.add(CutAnswer(1000, "reset" if how == "reset" else "close"), "GetObject")
    body = s3.get_object(Bucket=name, Key="x")["Body"]
    assert body.read(1000) == bytes(1000)
    with pytest.raises((ResponseStreamingError, ConnectionError, BotoCoreError)):
        body.read()
    assert s3.get_object(Bucket=name, Key="x")["Body"].read() == bytes(MIB)


def test_latency(s3: S3Client, proxy: FaultProxy, name: str) -> None:
    proxy.add(Delay(request=0.2, answer=0.1), "PutObject")
    began = time.monotonic()
    s3.put_object(Bucket=name, Key="x", Body=b"x")
    assert time.monotonic() - began > 0.3


def test_a_late_part_arrives_after_its_sender_has_gone(s3: S3Client, proxy: FaultProxy, name: str, direct: S3Client) -> None:
    upload = s3.create_multipart_upload(Bucket=name, Key="x")["UploadId"]
    late = proxy.add(Hold(), "UploadPart", part=2)
    address = urlsplit(proxy.endpoint)
    url = urlsplit(s3.generate_presigned_url("upload_part", {"Bucket": name, "Key": "x", "UploadId": upload, "PartNumber": 2}))
    sender = http.client.HTTPConnection(f"{address.hostname}", address.port)
    sender.request("PUT", f"{url.path}?{url.query}", b"late")
    late.wait()
    sender.close()
    direct.upload_part(Bucket=name, Key="x", UploadId=upload, PartNumber=2, Body=b"in time, and longer")
    s3.upload_part(Bucket=name, Key="x", UploadId=upload, PartNumber=1, Body=b"others pass")

    def sizes() -> list[int]:
        return [part["Size"] for part in direct.list_parts(Bucket=name, Key="x", UploadId=upload)["Parts"]]

    assert sizes() == [11, 19]
    late.release()
    assert late.finish().answered == 200
    assert sizes() == [11, 4]


@pytest.mark.parametrize(("at", "done"), [("head", False), ("body", False), ("answer", True)])
def test_a_request_that_is_held_goes_on_when_released(
    s3: S3Client, proxy: FaultProxy, name: str, direct: S3Client, at: str, done: bool
) -> None:
    held = proxy.add(Hold({"head": "head", "body": "body"}.get(at, "answer")), "PutObject")  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(s3.put_object, Bucket=name, Key="x", Body=b"x")
        held.wait()
        assert keys(direct, name) == (["x"] if done else [])
        assert not answer.done()
        held.release()
        assert answer.result(10)["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert keys(direct, name) == ["x"]


def test_a_listing_misses_what_is_new(s3: S3Client, proxy: FaultProxy, name: str, direct: S3Client) -> None:
    direct.put_object(Bucket=name, Key="beside the proxy & ü", Body=b"x")
    s3.put_object(Bucket=name, Key="new + ü", Body=b"x")
    upload = s3.create_multipart_upload(Bucket=name, Key="y")["UploadId"]
    s3.upload_part(Bucket=name, Key="y", UploadId=upload, PartNumber=1, Body=b"x")
    for operation in ("ListObjectsV2", "ListParts", "ListMultipartUploads"):
        proxy.add(HideNewer(60), operation)
    listing = s3.list_objects_v2(Bucket=name)
    assert ([found["Key"] for found in listing["Contents"]], listing["KeyCount"]) == (["beside the proxy & ü"], 1)
    assert "Parts" not in s3.list_parts(Bucket=name, Key="y", UploadId=upload)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=name)
    both = ["beside the proxy & ü", "new + ü"]
    assert keys(s3, name) == both
    assert len(s3.list_parts(Bucket=name, Key="y", UploadId=upload)["Parts"]) == 1
    assert len(s3.list_multipart_uploads(Bucket=name)["Uploads"]) == 1
    time.sleep(0.1)
    proxy.add(HideNewer(0.1), "ListObjectsV2")
    assert keys(s3, name) == both


def test_a_listing_that_is_old(s3: S3Client, proxy: FaultProxy, name: str) -> None:
    s3.put_object(Bucket=name, Key="x", Body=b"x")
    assert keys(s3, name) == ["x"]
    s3.delete_object(Bucket=name, Key="x")
    s3.put_object(Bucket=name, Key="y", Body=b"x")
    proxy.add(Repeat(), "ListObjectsV2")
    assert keys(s3, name) == ["x"]
    assert keys(s3, name) == ["y"]


def test_every_request_in_turn_can_fail(s3: S3Client, proxy: FaultProxy, name: str) -> None:
    def work() -> None:
        s3.put_object(Bucket=name, Key="x", Body=b"x")
        s3.get_object(Bucket=name, Key="x")["Body"].read()
        s3.delete_object(Bucket=name, Key="x")

    work()
    count = len(proxy.seen())
    failed = []
    for number in range(count):
        proxy.clear()
        proxy.add(Drop(), skip=number)
        with pytest.raises(BotoCoreError):
            work()
        assert [seen.request.number for seen in proxy.seen()] == list(range(1, number + 2))
        failed.append(proxy.seen()[-1].operation)
    assert failed == ["PutObject", "GetObject", "DeleteObject"]


def test_predicates_and_patterns(s3: S3Client, proxy: FaultProxy, name: str) -> None:
    proxy.add(Answer(418), lambda request: request.method == "PUT" and request.path.endswith("/teapot"))
    proxy.add(INTERNAL_ERROR, part=2)
    proxy.add(SLOW_DOWN, key="*.info")
    assert failure(lambda: s3.put_object(Bucket=name, Key="teapot", Body=b"x"))[0] == 418
    assert failure(lambda: s3.get_object(Bucket=name, Key="a.info"))[0] == 503
    s3.put_object(Bucket=name, Key="a", Body=b"x")


def test_what_waits_in_vain_says_so(proxy: FaultProxy) -> None:
    rule = proxy.add(Hold(), "UploadPart")
    with pytest.raises(TimeoutError, match="no request came for Hold"):
        rule.wait(0.01)
    with pytest.raises(TimeoutError, match="no request is over"):
        rule.finish(0.01)


def test_leaving_drops_what_is_held(localstack_bucket: S3Bucket, direct: S3Client) -> None:
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(1))
        with FaultProxy(localstack_bucket.server.endpoint) as proxy:
            client = stack.enter_context(localstack_bucket.through(proxy.endpoint).server.client())
            held = proxy.add(Hold(), "PutObject")
            answer = threads.submit(client.put_object, Bucket=localstack_bucket.name, Key="x", Body=b"x")
            held.wait()
        with pytest.raises(ConnectionClosedError):
            answer.result(10)
    assert keys(direct, localstack_bucket.name) == []
