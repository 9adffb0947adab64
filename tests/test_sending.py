"""Sending side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tusd.sending import Sending


async def soon() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def sends(gate: asyncio.Event, result: int) -> Callable[[], Awaitable[int]]:
    async def send() -> int:
        await gate.wait()
        if result < 0:
            raise OSError("broken")
        return result

    return send


async def test_no_more_than_the_most_are_on_their_way() -> None:
    gates = [asyncio.Event() for _ in range(3)]
    sending = Sending[int](2)
    await sending.start(sends(gates[0], 0))
    await sending.start(sends(gates[1], 1))
    third = asyncio.create_task(sending.start(sends(gates[2], 2)))
    await soon()
    assert not third.done()
    gates[1].set()
    await third
    for gate in gates:
        gate.set()
    await sending.end()
    assert sending.results == [0, 1, 2]


async def test_results_arrive_in_order() -> None:
    gates = [asyncio.Event() for _ in range(3)]
    seen: list[int] = []
    sending = Sending[int](5, seen.append)
    for n, gate in enumerate(gates):
        await sending.start(sends(gate, n))
    for n, expected in ((2, []), (0, [0]), (1, [0, 1, 2])):
        gates[n].set()
        await soon()
        assert seen == expected


async def test_only_what_came_before_a_failure_counts_and_nothing_more_begins() -> None:
    gate = asyncio.Event()
    gate.set()
    sending = Sending[int](1)
    await sending.start(sends(gate, 0))
    await sending.start(sends(gate, -1))
    with pytest.raises(OSError, match="broken"):
        await sending.start(sends(gate, 2))
    with pytest.raises(OSError, match="broken"):
        await sending.end()
    assert (sending.results, sending.started) == ([0], 2)


async def test_settling_waits_though_it_is_cancelled_again_and_again() -> None:
    gate = asyncio.Event()
    sending = Sending[int](5)
    await sending.start(sends(gate, 1))
    settling = asyncio.create_task(sending.settle())
    for _ in range(3):
        await soon()
        settling.cancel()
    await soon()
    assert not settling.done()
    gate.set()
    await asyncio.wait([settling])
    assert settling.cancelled() and sending.results == [1]
