"""Fixtures for plugin authors. pytest loads this module by its entry point in every run, so it imports next to nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # at run time these are imported by the fixtures that need them
    from .door import Door
    from .server import ServerProcess


@pytest.fixture
def tusd_door(
    request: pytest.FixtureRequest, options: Mapping[str, object], tmp_path_factory: pytest.TempPathFactory
) -> Door[Any]:
    """The door to the plugin that the test's class names as `plugin`, for the seam that its suite is about."""
    from .door import Door

    return Door(request.cls.seam, request.cls.plugin, options, tmp_path_factory.mktemp("run"))


@pytest.fixture
def tusd_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Starts real servers: `tusd_server(config)` gives a running `ServerProcess`.

    `config` is a mapping or YAML text; an address and directories below `tmp_path` are filled in. `start=False` only prepares
    it, `env` is added to its environment. At the end of the test the servers are killed, and one whose log has a traceback
    fails the test, unless it was made with `tracebacks=True`.
    """
    from .server import TRACEBACK, ServerProcess

    servers: list[ServerProcess] = []
    strict: list[ServerProcess] = []

    def make(
        config: Mapping[str, Any] | str | None = None,
        *,
        start: bool = True,
        tracebacks: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> ServerProcess:
        directory = tmp_path / f"server{len(servers)}"
        server = ServerProcess(directory, config, env=env)
        servers.append(server)
        if not tracebacks:
            strict.append(server)
        if start:
            server.start()
        return server

    yield make
    for server in servers:
        if server.process is not None:
            server.kill()
    for server in strict:
        if TRACEBACK in server.log:
            pytest.fail(f"the server's log has a traceback:\n{server.log}", pytrace=False)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """The suites' tests are coroutines: they run under pytest-asyncio in whatever mode the project uses it."""
    if isinstance(collector, pytest.Class) and hasattr(collector.obj, "seam") and hasattr(collector.obj, "plugin"):
        collector.add_marker("asyncio")
