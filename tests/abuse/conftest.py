"""A server process that hostile clients share: it must be as well after the last of them as before the first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.proc import need_proc, wait_for_workers

from tusd.testing.server import TRACEBACK, ServerProcess

from .shape import SECRET


@pytest.fixture(scope="module", params=[(1, "uvloop"), (2, "asyncio")], ids=["1 worker", "2 workers"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Serves downloads of unfinished uploads, too, and has a secret beside its uploads. No traceback may be in its log at the end."""
    need_proc()
    directory = tmp_path_factory.mktemp("abuse")
    workers, loop = request.param
    config = {"server": {"workers": workers, "loop": loop}, "uploads": {"unfinished_downloads": True}}
    with ServerProcess(directory, config) as running:
        (directory / "secret").write_bytes(SECRET)
        (directory / "secret.info").write_text(f'{{"ID":"secret","Size":32,"Offset":32,"MetaData":{{"a":"{SECRET.decode()}"}}}}')
        wait_for_workers(running)
        yield running
        assert running.stop() == 0
    assert TRACEBACK not in running.log
    assert " ERROR " not in running.log
