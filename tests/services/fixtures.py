"""Fixtures for every test of the repository: S3 servers that all workers share, and a bucket for one test.

A test takes a bucket (`localstack_bucket`) and the server comes with it. Where a server is not installed the test is skipped
and says how to get it; with TUSD_TEST_REQUIRE_ALL=1 it fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import need, need_environment
from tests.services.ceph import COMMANDS, PACKAGES
from tests.services.faults import FaultProxy
from tests.services.keeper import running
from tests.services.servers import S3Bucket, S3Server, new_bucket


@pytest.fixture(scope="session")
def services_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the workers of this run meet."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "services"


@pytest.fixture(scope="session")
def localstack(services_directory: Path) -> Iterator[S3Server]:
    """LocalStack's S3: quick, complete, atomic If-None-Match and If-Match; checks no signatures."""
    need_environment("localstack")
    with running("localstack", services_directory) as server:
        yield server


@pytest.fixture
def localstack_bucket(localstack: S3Server) -> Iterator[S3Bucket]:
    """An empty bucket on LocalStack."""
    with new_bucket(localstack) as bucket:
        yield bucket


@pytest.fixture
def localstack_faults(localstack: S3Server) -> Iterator[FaultProxy]:
    """A proxy before LocalStack: `localstack_bucket.through(localstack_faults.endpoint)`."""
    with FaultProxy(localstack.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def swift(services_directory: Path) -> Iterator[S3Server]:
    """OpenStack Swift's S3 interface: on disk, checks signatures. If-None-Match is not atomic; no If-Match, no tags."""
    need_environment("swift")
    with running("swift", services_directory) as server:
        yield server


@pytest.fixture
def swift_bucket(swift: S3Server) -> Iterator[S3Bucket]:
    """An empty bucket on Swift."""
    with new_bucket(swift) as bucket:
        yield bucket


@pytest.fixture(scope="session")
def ceph(services_directory: Path) -> Iterator[S3Server]:
    """Ceph's S3: a real store, in memory, checks signatures. Its quirks are told in tests/services/ceph.py."""
    for command in COMMANDS:
        need(command, how=f"Debian: apt-get install --no-install-recommends {PACKAGES}")
    with running("ceph", services_directory) as server:
        yield server


@pytest.fixture
def ceph_bucket(ceph: S3Server) -> Iterator[S3Bucket]:
    """An empty bucket on Ceph."""
    with new_bucket(ceph) as bucket:
        yield bucket


@pytest.fixture(params=["localstack", "swift", "ceph"])
def s3_bucket(request: pytest.FixtureRequest) -> S3Bucket:
    """An empty bucket on each of the servers in turn."""
    bucket: S3Bucket = request.getfixturevalue(f"{request.param}_bucket")
    return bucket
