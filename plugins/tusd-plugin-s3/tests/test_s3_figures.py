"""What the memory for bodies tells of itself."""

from __future__ import annotations

import asyncio

from tusd import plugin
from tusd_plugin_s3 import figures


class Gauges(plugin.Metrics):
    """The last value of each gauge."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def add(self, metric: plugin.Metric, amount: float = 1, labels: tuple[str, ...] = ()) -> None:
        raise AssertionError(f"{metric.name} is no counter")

    def set(self, metric: plugin.Metric, value: float, labels: tuple[str, ...] = ()) -> None:
        self.values[metric.name.removeprefix("tusd_s3_buffer_")] = value

    def observe(self, metric: plugin.Metric, value: float, labels: tuple[str, ...] = ()) -> None:
        raise AssertionError(f"{metric.name} is no histogram")


async def test_how_much_is_held_and_who_waits() -> None:
    gauges = Gauges()
    memory = figures.new_memory(gauges, 100)
    assert gauges.values == {"limit_bytes": 100}
    await memory.reserve(80)
    assert gauges.values == {"limit_bytes": 100, "bytes": 80, "waiting": 0}
    waiting = asyncio.create_task(memory.reserve(30))
    await asyncio.sleep(0)
    assert gauges.values["waiting"] == 1
    memory.release(80)
    await waiting
    assert gauges.values == {"limit_bytes": 100, "bytes": 30, "waiting": 0}
