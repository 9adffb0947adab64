"""A client whose connection died silently goes on at once over another one, in the same process and from another."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import pytest
from tests.bench.handover import PHASES, SECONDS, HandOvers
from tests.proc import need_proc

from tusd.testing.server import TRACEBACK, ServerProcess

ROUNDS = 6


@pytest.fixture(
    scope="module", params=[("uvloop", 1), ("uvloop", 2), ("asyncio", 1), ("asyncio", 2)], ids=lambda p: f"{p[0]}-{p[1]}"
)
def clients(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandOvers]:
    """Of a server with this event loop and so many workers."""
    need_proc()
    loop, workers = request.param
    with ServerProcess(tmp_path_factory.mktemp("handover"), {"server": {"loop": loop, "workers": workers}}) as server:
        clients = HandOvers(server, workers=workers)
        yield clients
        clients.back.close()
        assert TRACEBACK not in server.log


@pytest.mark.parametrize("second", SECONDS)
@pytest.mark.parametrize("phase", PHASES)
def test_hand_over_from_a_connection_that_is_silently_dead(clients: HandOvers, phase: str, second: str) -> None:
    """It takes a millisecond or two; the limits are for machines that are busy with other things."""
    times = clients.times(PHASES[phase], second, ROUNDS)
    assert max(times) < 1, times
    assert statistics.median(times) < 0.25, times
