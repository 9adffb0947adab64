"""The conformance suite of stores, on a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from tests.services.servers import S3Bucket

from s3_opening import read_once
from tusd.plugin import StorageUnavailable
from tusd.testing.faults import Calls, failing_call
from tusd.testing.storage import StorageSuite
from tusd_plugin_s3 import S3Storage
from tusd_plugin_s3.calling import Calling

MIB = 1 << 20


def given(bucket: S3Bucket) -> dict[str, Any]:
    """Options for uploads in this bucket."""
    server = bucket.server
    return {
        "bucket": bucket.name,
        "endpoint": server.endpoint,
        "region": server.region,
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
        "part_size": 5 * MIB,
        "buffer": 256 * MIB,
        "concurrency": 4,
    }


class TestS3Storage(StorageSuite):
    """With LocalStack, which takes no parts below 5 MiB, as Amazon's."""

    plugin = S3Storage
    large = 5 * MIB + 1000

    @pytest.fixture(autouse=True)
    def quick_clients(self) -> Iterator[None]:
        with read_once:
            yield

    @pytest.fixture
    def options(self, localstack_bucket: S3Bucket) -> dict[str, Any]:
        return given(localstack_bucket)

    def failing(self, nth: int) -> AbstractContextManager[Calls]:
        """A request is one call, however it is sent, and however often."""
        return failing_call(nth, [(Calling, "call")], StorageUnavailable)


class TestOnCeph(TestS3Storage):
    """With Ceph, whose conditions and errors are its own."""

    @pytest.fixture
    def options(self, ceph_bucket: S3Bucket) -> dict[str, Any]:
        return {**given(ceph_bucket), "profile": "ceph"}


class TestOnSwift(TestS3Storage):
    """With OpenStack Swift, which has no If-Match."""

    @pytest.fixture
    def options(self, swift_bucket: S3Bucket) -> dict[str, Any]:
        return given(swift_bucket)
