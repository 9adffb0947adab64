"""Fixtures of the tests that run against the fake or, with TUSD_TEST_GCS_ENDPOINT, against Google's testbench."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.services.gcs.client import gcs_client
from tests.services.gcs.comparing import ENDPOINT


@pytest.fixture(scope="module")
def endpoint(request: pytest.FixtureRequest) -> str:
    """Where the server is that is tested."""
    found: str = ENDPOINT or request.getfixturevalue("gcs_server").endpoint
    return found


@pytest.fixture(scope="module")
def client(endpoint: str) -> Any:
    """Google's client of it."""
    return gcs_client(endpoint)


@pytest.fixture
def bucket(client: Any) -> Any:
    """An empty bucket, as an object of Google's client."""
    return client.create_bucket(f"bucket-{uuid.uuid4().hex[:12]}")
