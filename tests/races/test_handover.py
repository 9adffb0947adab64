"""A client whose connection died silently goes on at once over another one, in the same process and from another."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path

import pytest
from tests.bench.handover import PHASES, SECONDS, HandOvers
from tests.proc import need_proc

from tusd.testing.server import TRACEBACK, ServerProcess

ROUNDS = 6


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_hand_over_from_a_connection_that_is_silently_dead(tmp_path: Path, loop: str, workers: int) -> None:
    """It takes a millisecond or two; the limits are for machines that are busy with other things."""
    need_proc()
    with ServerProcess(tmp_path, {"server": {"loop": loop, "workers": workers}}) as server:
        with HandOvers(server) as clients:
            for (name, phase), second in itertools.product(PHASES.items(), SECONDS):
                times = clients.times(phase, second, ROUNDS)
                assert max(times) < 1, (name, second, times)
                assert statistics.median(times) < 0.25, (name, second, times)
        assert TRACEBACK not in server.log
