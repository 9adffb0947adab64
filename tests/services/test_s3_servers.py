"""Every server does what tests of an S3 store rely on, by the SDK that the store uses; and where they part."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.request import Request, urlopen

import pytest
from botocore.exceptions import ClientError
from mypy_boto3_s3 import S3Client
from mypy_boto3_s3.type_defs import CompletedPartTypeDef

from tests.services.faults import FaultProxy
from tests.services.servers import S3Bucket, S3Server

MIB = 1 << 20
RACERS = 8


@pytest.fixture
def bucket(s3_bucket: S3Bucket) -> str:
    return s3_bucket.name


@pytest.fixture
def s3(s3_bucket: S3Bucket) -> Iterator[S3Client]:
    with s3_bucket.server.client() as client:
        yield client


def code(call: Callable[[], object]) -> str:
    """Of the error that a call ends with; "" without one."""
    try:
        call()
    except ClientError as error:
        return error.response["Error"]["Code"]
    return ""


def begin(s3: S3Client, bucket: str, *parts: bytes) -> tuple[str, list[str]]:
    """A multipart upload with these parts: its id and their ETags."""
    upload = s3.create_multipart_upload(Bucket=bucket, Key="big", Metadata={"name": "x"})["UploadId"]

    def send(number: int) -> str:
        return s3.upload_part(Bucket=bucket, Key="big", UploadId=upload, PartNumber=number, Body=parts[number - 1])["ETag"]

    with ThreadPoolExecutor(4) as threads:
        return upload, list(threads.map(send, range(1, len(parts) + 1)))


def complete(s3: S3Client, bucket: str, upload: str, tags: list[str], **more: str) -> None:
    parts: list[CompletedPartTypeDef] = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
    s3.complete_multipart_upload(
        Bucket=bucket,
        Key="big",
        UploadId=upload,
        MultipartUpload={"Parts": parts},
        **more,  # type: ignore[arg-type]
    )


def read(s3: S3Client, bucket: str, key: str) -> bytes:
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def winners(server: S3Server, bucket: str, key: str) -> int:
    """How many of several clients at once can create the same key."""
    with server.client() as s3, ThreadPoolExecutor(RACERS) as threads:
        codes = threads.map(
            lambda number: code(lambda: s3.put_object(Bucket=bucket, Key=key, Body=bytes([number]), IfNoneMatch="*")),
            range(RACERS),
        )
        return list(codes).count("")


def test_objects_and_ranges(s3: S3Client, bucket: str) -> None:
    data, key = os.urandom(1000), "a/sp ace ü+%25?&#.txt"
    s3.put_object(Bucket=bucket, Key=key, Body=data, ContentType="video/mp4", Metadata={"name": "x"})
    found = s3.head_object(Bucket=bucket, Key=key)
    assert (found["ContentLength"], found["ContentType"], found["Metadata"]) == (1000, "video/mp4", {"name": "x"})
    assert found["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'
    assert read(s3, bucket, key) == data
    for wanted, part in (("bytes=2-5", data[2:6]), ("bytes=-3", data[-3:]), ("bytes=990-", data[990:])):
        assert s3.get_object(Bucket=bucket, Key=key, Range=wanted)["Body"].read() == part
    assert code(lambda: s3.get_object(Bucket=bucket, Key=key, Range="bytes=1000-")) == "InvalidRange"
    s3.delete_object(Bucket=bucket, Key=key)
    s3.delete_object(Bucket=bucket, Key=key)
    assert code(lambda: s3.get_object(Bucket=bucket, Key=key)) == "NoSuchKey"
    assert code(lambda: s3.get_object(Bucket="test-none", Key=key)) == "NoSuchBucket"


def test_listings_and_deleting_many(s3: S3Client, bucket: str) -> None:
    keys = [f"p/{number}" for number in range(5)]
    for key in [*keys, "q"]:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    pages = list(s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="p/", PaginationConfig={"PageSize": 2}))
    assert [[found["Key"] for found in page["Contents"]] for page in pages] == [keys[:2], keys[2:4], keys[4:]]
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})
    assert [found["Key"] for found in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["q"]


def test_a_multipart_upload(s3: S3Client, bucket: str) -> None:
    data = [os.urandom(5 * MIB), os.urandom(5 * MIB), b"tail"]
    upload, tags = begin(s3, bucket, *data)
    assert tags == [f'"{hashlib.md5(part).hexdigest()}"' for part in data]
    pages = list(
        s3.get_paginator("list_parts").paginate(Bucket=bucket, Key="big", UploadId=upload, PaginationConfig={"PageSize": 2})
    )
    assert [[(part["PartNumber"], part["Size"]) for part in page["Parts"]] for page in pages] == [
        [(1, 5 * MIB), (2, 5 * MIB)],
        [(3, 4)],
    ]
    assert [found["UploadId"] for found in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [upload]
    assert code(lambda: s3.head_object(Bucket=bucket, Key="big")) == "404"
    complete(s3, bucket, upload, tags)
    assert read(s3, bucket, "big") == b"".join(data)
    found = s3.head_object(Bucket=bucket, Key="big")
    whole = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in data)).hexdigest()
    assert (found["Metadata"], found["ETag"]) == ({"name": "x"}, f'"{whole}-3"')


def test_a_part_that_is_sent_again_counts_and_a_small_one_only_at_the_end(s3: S3Client, bucket: str) -> None:
    upload, tags = begin(s3, bucket, bytes(5 * MIB), b"tail")
    tags[0] = s3.upload_part(Bucket=bucket, Key="big", UploadId=upload, PartNumber=1, Body=b"x" * 5 * MIB)["ETag"]
    complete(s3, bucket, upload, tags)
    assert read(s3, bucket, "big") == b"x" * 5 * MIB + b"tail"
    upload, tags = begin(s3, bucket, b"small", b"tail")
    assert code(lambda: complete(s3, bucket, upload, tags)) == "EntityTooSmall"


def test_parts_that_are_copied(s3: S3Client, bucket: str) -> None:
    data = os.urandom(5 * MIB)
    s3.put_object(Bucket=bucket, Key="from", Body=data)
    upload, _ = begin(s3, bucket)

    def copy(number: int, **more: str) -> str:
        copied = s3.upload_part_copy(
            Bucket=bucket,
            Key="big",
            UploadId=upload,
            PartNumber=number,
            CopySource={"Bucket": bucket, "Key": "from"},
            **more,  # type: ignore[arg-type]
        )
        return copied["CopyPartResult"]["ETag"]

    complete(s3, bucket, upload, [copy(1), copy(2, CopySourceRange="bytes=10-99")])
    assert read(s3, bucket, "big") == data + data[10:100]


def test_an_upload_that_is_gone(s3: S3Client, bucket: str, s3_bucket: S3Bucket, request: pytest.FixtureRequest) -> None:
    upload, tags = begin(s3, bucket, b"x")
    s3.abort_multipart_upload(Bucket=bucket, Key="big", UploadId=upload)
    assert code(lambda: s3.upload_part(Bucket=bucket, Key="big", UploadId=upload, PartNumber=1, Body=b"x")) == "NoSuchUpload"
    listed = code(lambda: s3.list_parts(Bucket=bucket, Key="big", UploadId=upload))
    with s3_bucket.server.client() as again:
        completed = code(lambda: complete(again, bucket, upload, tags))
    ceph = "ceph" in request.node.name
    assert (listed, completed) == (("NoSuchKey", "InternalError") if ceph else ("NoSuchUpload", "NoSuchUpload"))


def test_what_exists_is_not_created_again(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="x", Body=b"first", IfNoneMatch="*")
    assert code(lambda: s3.put_object(Bucket=bucket, Key="x", Body=b"second", IfNoneMatch="*")) == "PreconditionFailed"
    assert read(s3, bucket, "x") == b"first"


def test_an_upload_does_not_replace_what_exists(s3: S3Client, bucket: str, request: pytest.FixtureRequest) -> None:
    """Ceph ignores the condition."""
    s3.put_object(Bucket=bucket, Key="big", Body=b"first")
    upload, tags = begin(s3, bucket, b"second")
    ceph = "ceph" in request.node.name
    assert code(lambda: complete(s3, bucket, upload, tags, IfNoneMatch="*")) == ("" if ceph else "PreconditionFailed")
    assert read(s3, bucket, "big") == (b"second" if ceph else b"first")


def test_one_of_many_creates_it_on_localstack(localstack_bucket: S3Bucket) -> None:
    assert [winners(localstack_bucket.server, localstack_bucket.name, f"{number}") for number in range(5)] == [1] * 5


def test_one_of_many_creates_it_on_ceph(ceph_bucket: S3Bucket) -> None:
    assert [winners(ceph_bucket.server, ceph_bucket.name, f"{number}") for number in range(5)] == [1] * 5


def test_if_match_on_each(s3: S3Client, bucket: str, request: pytest.FixtureRequest) -> None:
    """LocalStack does what AWS does; Ceph wants no quotes; Swift says that it knows nothing of it."""
    tag = s3.put_object(Bucket=bucket, Key="x", Body=b"first")["ETag"]
    outcome = [
        code(lambda: s3.put_object(Bucket=bucket, Key="x", Body=b"other", IfMatch='"0123"')),
        code(lambda: s3.put_object(Bucket=bucket, Key="x", Body=b"first", IfMatch=tag)),
        code(lambda: s3.put_object(Bucket=bucket, Key="x", Body=b"first", IfMatch=tag.strip('"'))),
    ]
    server = next(name for name in ("localstack", "ceph", "swift") if name in request.node.name)
    expected = {
        "localstack": ["PreconditionFailed", "", ""],
        "ceph": ["PreconditionFailed", "PreconditionFailed", ""],
        "swift": ["NotImplemented"] * 3,
    }
    assert outcome == expected[server]
    assert read(s3, bucket, "x") == b"first"


def test_signatures_stay_valid_through_the_proxy(s3_bucket: S3Bucket) -> None:
    """Of headers and of a presigned address. LocalStack looks at none."""
    with FaultProxy(s3_bucket.server.endpoint) as proxy:
        through = s3_bucket.through(proxy.endpoint)
        with through.server.client() as s3:
            s3.put_object(Bucket=through.name, Key="a b", Body=b"x" * MIB)
            with urlopen(s3.generate_presigned_url("get_object", {"Bucket": through.name, "Key": "a b"}), timeout=10) as answer:
                assert answer.read() == b"x" * MIB
            url = s3.generate_presigned_url("put_object", {"Bucket": through.name, "Key": "c"})
            with urlopen(Request(url, b"put", method="PUT", headers={"Content-Type": ""}), timeout=10) as answer:
                assert answer.status == 200
            assert read(s3, through.name, "c") == b"put"


@pytest.mark.parametrize("fixture", ["swift_bucket", "ceph_bucket"])
def test_a_wrong_secret_is_refused(request: pytest.FixtureRequest, fixture: str) -> None:
    bucket: S3Bucket = request.getfixturevalue(fixture)
    with replace(bucket.server, secret_key="wrong").client() as s3:
        assert code(lambda: s3.put_object(Bucket=bucket.name, Key="x", Body=b"x")) == "SignatureDoesNotMatch"
