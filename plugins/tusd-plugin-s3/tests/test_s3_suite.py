"""The conformance suite of stores, on a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from tests.services.servers import S3Bucket

from s3_opening import read_once
from tusd.plugin import StorageUnavailable
from tusd.testing._storage_always import AlwaysTests, AppendTests, CreateTests
from tusd.testing._storage_capabilities import CapabilityTests, ConcatenableTests, ListableTests
from tusd.testing._storage_faults import BodyTests, LostLeaseTests
from tusd.testing._storage_processes import PersistenceTests, WorkerTests
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


class TestOnCeph(AlwaysTests, CapabilityTests, WorkerTests, BodyTests, LostLeaseTests, PersistenceTests):
    """With Ceph, whose conditions and errors are its own: all but broken calls and kills, which are those of our own code."""

    plugin = S3Storage
    large = 5 * MIB + 1000
    quick_clients = TestS3Storage.quick_clients

    @pytest.fixture
    def options(self, ceph_bucket: S3Bucket) -> dict[str, Any]:
        return {**given(ceph_bucket), "profile": "ceph"}


class TestOnSwift(CreateTests, AppendTests, ConcatenableTests, ListableTests, WorkerTests):
    """With OpenStack Swift, which has no If-Match, whose If-None-Match lets several win that come at once, and which is slow: what asks
    a server for something of its own."""

    plugin = S3Storage
    large = 5 * MIB + 1000
    quick_clients = TestS3Storage.quick_clients
    test_create_is_exclusive_when_many_try_at_once: Any = None
    test_create_is_exclusive_among_workers: Any = None
    test_a_hundred_parts: Any = None
    """It takes a minute here."""

    @pytest.fixture
    def options(self, swift_bucket: S3Bucket) -> dict[str, Any]:
        return given(swift_bucket)
