"""Two writers never interleave bytes, and what was acknowledged is there; `race.py` runs for longer by hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tusd.testing.server import ServerProcess

from .race import Race


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_racing_clients(tmp_path: Path, workers: int, loop: str) -> None:
    """Another race each time; a failure says which."""
    config = {"server": {"workers": workers, "loop": loop}, "uploads": {"unfinished_downloads": True}}
    with ServerProcess(tmp_path, config) as server:
        race = Race(server, seed=int.from_bytes(os.urandom(4)), requests=2500)
        race.run()
    assert not race.wrong, "\n".join(race.wrong[:5])
    assert race.statuses["204"] > 300, race.statuses
    assert race.statuses["423"] > 0, "nobody was interrupted"
