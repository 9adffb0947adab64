"""Servers for tests of the web layer, on both event loops."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .serving import LOOPS, Served

Serve = Callable[..., Served]


@pytest.fixture(params=sorted(LOOPS))
def loop_name(request: pytest.FixtureRequest) -> str:
    """The event loop that the server runs on."""
    return str(request.param)


@pytest.fixture
def serve(loop_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts servers; afterwards they are stopped, and none may have logged an error."""
    monkeypatch.setattr("tusd.web.app._LINGER", 0.5)  # many tests wait until it is over
    yield from serving(loop_name, tmp_path, caplog)


def serving(loop_name: str, directory: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Serve]:
    servers: list[Served] = []

    def start(**options: Any) -> Served:
        place = directory / f"server{len(servers)}"
        place.mkdir()
        server = Served(place, loop=loop_name, **options)
        servers.append(server)
        return server.__enter__()

    yield start
    for server in servers:
        server.stop()
    errors = [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert not errors, errors


@pytest.fixture
def server(serve: Serve) -> Served:
    """A server with a file store."""
    return serve()
