"""What tests are given: an S3 server, and a bucket of their own on it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef


@dataclass(frozen=True, slots=True)
class S3Server:
    """An S3 server on this machine, and the keys of a user who may do everything there."""

    endpoint: str
    """`http://127.0.0.1:PORT`, with nothing behind it. Buckets are the first segment of a path."""
    access_key: str
    secret_key: str
    region: str

    @contextlib.contextmanager
    def client(self, *, connections: int = 16) -> Iterator[S3Client]:
        """A client that tries each request once, so that a test sees every failure."""
        import boto3  # here, because most runs of the suite need no bucket
        from botocore.config import Config

        config = Config(
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": 1},
            connect_timeout=5,
            read_timeout=60,
            max_pool_connections=connections,
        )
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=config,
        )
        try:
            yield client
        finally:
            client.close()


@dataclass(frozen=True, slots=True)
class S3Bucket:
    """A bucket that only one test uses."""

    server: S3Server
    name: str

    def through(self, endpoint: str) -> S3Bucket:
        """The same bucket, reached by another address of its server: that of a proxy."""
        return replace(self, server=replace(self.server, endpoint=endpoint))


@contextlib.contextmanager
def new_bucket(server: S3Server) -> Iterator[S3Bucket]:
    """An empty bucket; it is deleted at the end with all that is in it, uploads in flight too."""
    bucket = S3Bucket(server, f"test-{uuid.uuid4().hex}")
    with server.client() as client:
        client.create_bucket(Bucket=bucket.name)
        yield bucket
        _empty(client, bucket.name)
        client.delete_bucket(Bucket=bucket.name)


def _empty(client: S3Client, bucket: str) -> None:
    for uploads in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
        for upload in uploads.get("Uploads", []):
            client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    for objects in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        keys: list[ObjectIdentifierTypeDef] = [{"Key": found["Key"]} for found in objects.get("Contents", [])]
        if keys:
            client.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
