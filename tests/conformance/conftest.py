"""The full stack for conversations: every extension on, a file store, file locks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.web.conftest import Serve, serving
from tests.web.serving import Served


@pytest.fixture
def serve(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts servers; afterwards they are stopped, and none may have logged an error."""
    monkeypatch.setattr("tusd.web.app._LINGER", 0.5)
    yield from serving("uvloop", tmp_path, caplog)


@pytest.fixture
def server(serve: Serve) -> Served:
    """A server with the default policy."""
    return serve()
