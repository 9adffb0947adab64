"""Fixtures for every test of the repository: a Google Cloud Storage server, and a bucket for one test.

The server is the worker's own, so a test may kill it, if it starts it again. It starts when the first test asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # pytest loads this module in every run, and few tests need a bucket
    from tests.services.gcs.process import GcsServer


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsServer]:
    """A running server that lets everybody in."""
    from tests.services.gcs.process import GcsServer

    server = GcsServer(tmp_path_factory.mktemp("gcs"))
    server.start()
    yield server
    server.kill()
    assert server.log == ""


@pytest.fixture
def gcs_bucket(gcs_server: GcsServer) -> str:
    """The name of an empty bucket."""
    return gcs_server.create_bucket()
