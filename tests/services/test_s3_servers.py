"""Every server does what tests of an S3 store rely on, by the SDK that the store uses."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError
from mypy_boto3_s3 import S3Client

from tests.services.servers import S3Bucket

MIB = 1 << 20


@pytest.fixture
def bucket(s3_bucket: S3Bucket) -> S3Bucket:
    return s3_bucket


@pytest.fixture
def s3(bucket: S3Bucket) -> Iterator[S3Client]:
    with bucket.server.client() as client:
        yield client


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return error.value.response["Error"]["Code"]


def test_an_object_and_its_ranges(s3: S3Client, bucket: S3Bucket) -> None:
    data = os.urandom(1000)
    s3.put_object(Bucket=bucket.name, Key="a/b", Body=data, ContentType="video/mp4", Metadata={"name": "x"})
    found = s3.head_object(Bucket=bucket.name, Key="a/b")
    assert (found["ContentLength"], found["ContentType"], found["Metadata"]) == (1000, "video/mp4", {"name": "x"})
    assert s3.get_object(Bucket=bucket.name, Key="a/b")["Body"].read() == data
    for wanted, part in (("bytes=2-5", data[2:6]), ("bytes=-3", data[-3:]), ("bytes=990-", data[990:])):
        assert s3.get_object(Bucket=bucket.name, Key="a/b", Range=wanted)["Body"].read() == part
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=bucket.name, Key="a/b", Range="bytes=1000-")
    assert code(error) == "InvalidRange"
    s3.delete_object(Bucket=bucket.name, Key="a/b")
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=bucket.name, Key="a/b")
    assert code(error) == "NoSuchKey"


def test_a_multipart_upload(s3: S3Client, bucket: S3Bucket) -> None:
    data = [os.urandom(5 * MIB), os.urandom(5 * MIB), b"tail"]
    upload = s3.create_multipart_upload(Bucket=bucket.name, Key="big", Metadata={"name": "x"})["UploadId"]

    def send(number: int) -> str:
        return s3.upload_part(Bucket=bucket.name, Key="big", UploadId=upload, PartNumber=number, Body=data[number - 1])["ETag"]

    with ThreadPoolExecutor(3) as threads:
        tags = list(threads.map(send, (1, 2, 3)))
    assert tags == [f'"{hashlib.md5(part).hexdigest()}"' for part in data]
    first = s3.list_parts(Bucket=bucket.name, Key="big", UploadId=upload, MaxParts=2)
    rest = s3.list_parts(
        Bucket=bucket.name, Key="big", UploadId=upload, MaxParts=2, PartNumberMarker=first["NextPartNumberMarker"]
    )
    assert first["IsTruncated"] and not rest["IsTruncated"]
    assert [(part["PartNumber"], part["Size"]) for part in first["Parts"] + rest["Parts"]] == [
        (1, 5 * MIB),
        (2, 5 * MIB),
        (3, 4),
    ]
    s3.complete_multipart_upload(
        Bucket=bucket.name,
        Key="big",
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]},
    )
    assert s3.get_object(Bucket=bucket.name, Key="big")["Body"].read() == b"".join(data)
    assert s3.head_object(Bucket=bucket.name, Key="big")["Metadata"] == {"name": "x"}
