"""What a test module gets with `pytest_plugins = ["tests.services.gcs.fixtures"]`: one server for all such modules of a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.services.gcs.process import GcsServer


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsServer]:
    """A running server that lets everybody in. A test that kills it starts it again."""
    server = GcsServer(tmp_path_factory.mktemp("gcs"))
    server.start()
    yield server
    server.kill()
    assert server.log == ""


@pytest.fixture
def gcs_bucket(gcs_server: GcsServer) -> str:
    """The name of an empty bucket."""
    return gcs_server.create_bucket()
