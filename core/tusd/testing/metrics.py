"""The conformance suite of plugins for `metrics:`."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar, Literal

from ..metrics import Metrics
from ..model import Metric
from .door import Door

__all__ = ["MetricsSuite"]

Labels = tuple[str, ...]
ODD_VALUES = (
    "",
    " ",
    "a",
    "a b",
    "a,b",
    'a"b',
    "a\\",
    "a\nb",
    "a=b",
    "a|b",
    "a:b#c",
    "%s",
    "{}",
    "é",
    "\u65e5\u672c",
    "x" * 1000,
)


def metric(
    kind: Literal["counter", "gauge", "histogram"],
    labels: Labels = (),
    buckets: tuple[float, ...] = (),
    preset: tuple[Labels, ...] = (),
) -> Metric:
    """A metric that nobody has heard of, on a shared backend either."""
    return Metric(f"kit_{uuid.uuid4().hex}_{kind}", kind, 'Of the "kit" \\ suite.', labels, buckets, preset)


class MetricsSuite:
    """What every plugin for `metrics:` has to do. Subclass it, name the plugin, and say how its figures are read."""

    seam: ClassVar = "metrics"
    plugin: ClassVar[type[Any]]
    """The plugin class; it must be installed, with its entry point."""
    soon: ClassVar[float] = 2.0
    """Seconds in which a figure can be read after it was handed over."""
    at_most: ClassVar[float] = 100e-6
    """Seconds that a call may take on average: many are made for each request."""
    odd_values: ClassVar[tuple[str, ...]] = ODD_VALUES
    """Values of labels. Take away those that the backend cannot tell from each other."""

    async def value(self, metrics: Metrics, metric: Metric, labels: Labels = ()) -> float | None:
        """What a counter or a gauge stands at, as whoever looks at the figures sees it; None: there is none. Override it."""
        raise NotImplementedError(f"{type(self).__name__} must say how a figure is read: override value()")

    async def observed(self, metrics: Metrics, metric: Metric, labels: Labels = ()) -> tuple[float, float] | None:
        """How many values a histogram has, and their sum; None: there is none. Override it."""
        raise NotImplementedError(f"{type(self).__name__} must say how a histogram is read: override observed()")

    def unreachable(self) -> AbstractAsyncContextManager[object]:
        """Within it nobody takes what the plugin sends. Override it where the plugin sends anything."""
        return nullcontext()

    async def shows(self, metrics: Metrics, metric: Metric, expected: float, labels: Labels = ()) -> None:
        """Wait until a counter or a gauge stands at this."""
        await self._soon(lambda: self.value(metrics, metric, labels), lambda found: _close(found, expected), expected)

    async def has_observed(self, metrics: Metrics, metric: Metric, *values: float, labels: Labels = ()) -> None:
        """Wait until a histogram has these values."""
        expected = (float(len(values)), math.fsum(values))

        def right(found: tuple[float, float] | None) -> bool:
            return found is not None and _close(found[0], expected[0]) and _close(found[1], expected[1])

        await self._soon(lambda: self.observed(metrics, metric, labels), right, expected)

    async def _soon(self, read: Callable[[], Awaitable[Any]], right: Callable[[Any], bool], expected: object) -> None:
        deadline = time.monotonic() + self.soon
        while not right(found := await read()):
            assert time.monotonic() < deadline, f"{found} is shown, not {expected}"
            await asyncio.sleep(0.01)

    # --- counting

    async def test_counters_add_up(self, tusd_door: Door[Metrics]) -> None:
        counter = metric("counter")
        async with tusd_door.open() as metrics:
            metrics.add(counter, 1 << 40)
            metrics.add(counter)
            metrics.add(counter, 2.5)
            metrics.add(counter, 0)
            await self.shows(metrics, counter, 3.5 + (1 << 40))

    async def test_gauges_are_set_and_moved(self, tusd_door: Door[Metrics]) -> None:
        gauge = metric("gauge")
        async with tusd_door.open() as metrics:
            metrics.add(gauge, 2)
            metrics.add(gauge, -3)
            await self.shows(metrics, gauge, -1)
            metrics.set(gauge, 7.5)
            metrics.add(gauge, -1.5)
            await self.shows(metrics, gauge, 6)
            metrics.set(gauge, 0)
            await self.shows(metrics, gauge, 0)

    async def test_histograms_have_count_and_sum(self, tusd_door: Door[Metrics]) -> None:
        """With buckets and without, at their bounds and beyond the last."""
        plain, bounded = metric("histogram"), metric("histogram", buckets=(1.0, 8.0))
        values = (0.0, 0.5, 1.0, 7.0, 8.0, 1000.0)
        async with tusd_door.open() as metrics:
            for value in values:
                metrics.observe(plain, value)
                metrics.observe(bounded, value)
            await self.has_observed(metrics, plain, *values)
            await self.has_observed(metrics, bounded, *values)

    async def test_a_metric_is_known_by_its_name(self, tusd_door: Door[Metrics]) -> None:
        """Two modules may declare the same one."""
        first = metric("counter", ("label",))
        second = Metric(first.name, first.kind, first.help, first.labels)
        async with tusd_door.open() as metrics:
            metrics.add(first, 1, ("a",))
            metrics.add(second, 2, ("a",))
            await self.shows(metrics, first, 3, ("a",))

    # --- labels

    async def test_labels_are_counted_apart(self, tusd_door: Door[Metrics]) -> None:
        counter, gauge, histogram = (metric(kind, ("one", "two")) for kind in ("counter", "gauge", "histogram"))
        sets: list[Labels] = [("a", "b"), ("b", "a"), ("a", "a"), ("ab", "")]
        async with tusd_door.open() as metrics:
            for n, labels in enumerate(sets, 1):
                metrics.add(counter, n, labels)
                metrics.set(gauge, -n, labels)
                metrics.observe(histogram, n, labels)
            for n, labels in enumerate(sets, 1):
                await self.shows(metrics, counter, n, labels)
                await self.shows(metrics, gauge, -n, labels)
                await self.has_observed(metrics, histogram, n, labels=labels)

    async def test_any_value_of_a_label_will_do(self, tusd_door: Door[Metrics]) -> None:
        counter = metric("counter", ("one", "two"))
        sets = [(odd, "x") for odd in self.odd_values] + [("x", odd) for odd in self.odd_values]
        async with tusd_door.open() as metrics:
            for n, labels in enumerate(sets, 1):
                metrics.add(counter, n, labels)
            for n, labels in enumerate(sets, 1):
                await self.shows(metrics, counter, n, labels)

    # --- metrics come when they come

    async def test_new_metrics_come_at_any_time(self, tusd_door: Door[Metrics]) -> None:
        async with tusd_door.open() as metrics:
            for n in range(1, 31):
                counter = metric("counter")
                metrics.add(counter, n)
                await self.shows(metrics, counter, n)

    async def test_declaring_changes_no_figure(self, tusd_door: Door[Metrics]) -> None:
        before, after = metric("counter"), metric("gauge", ("label",), preset=(("a",), ("b",)))
        histogram = metric("histogram")
        async with tusd_door.open() as metrics:
            metrics.declare(before, after, histogram)
            assert not await self.value(metrics, before)
            assert not await self.value(metrics, after, ("a",))
            metrics.add(before, 3)
            metrics.set(after, 4, ("a",))
            metrics.observe(histogram, 5)
            metrics.declare(before, after, histogram)
            await self.shows(metrics, before, 3)
            await self.shows(metrics, after, 4, ("a",))
            await self.has_observed(metrics, histogram, 5)

    # --- whatever happens, requests go on

    async def test_a_counter_never_falls(self, tusd_door: Door[Metrics]) -> None:
        """Nor is it spoilt by what is no number."""
        counter = metric("counter")
        async with tusd_door.open() as metrics:
            metrics.add(counter, 5)
            for amount in (-3, math.nan, math.inf, -math.inf):
                metrics.add(counter, amount)
            metrics.add(counter, 1)
            await self.shows(metrics, counter, 6)

    async def test_a_histogram_outlives_what_is_no_number(self, tusd_door: Door[Metrics]) -> None:
        histogram = metric("histogram")
        async with tusd_door.open() as metrics:
            for value in (1, math.nan, math.inf, -math.inf, 2):
                metrics.observe(histogram, value)
            await self.has_observed(metrics, histogram, 1, 2)

    async def test_mistakes_of_others_raise_nothing(self, tusd_door: Door[Metrics]) -> None:
        """Another plugin's mistakes: too many labels, too few, another kind, a name that is none, one name for two metrics."""
        good, labelled, histogram = metric("counter"), metric("counter", ("label",)), metric("histogram")
        async with tusd_door.open() as metrics:
            metrics.add(good, 1)
            metrics.add(labelled, 1, ("a",))
            metrics.observe(histogram, 1)
            metrics.add(good, 1, ("too many",))
            metrics.add(labelled)
            metrics.set(good, 9)
            metrics.observe(good, 9)
            metrics.add(histogram, 9)
            metrics.set(histogram, 9)
            for name in ("", "a b", "é", "9\n", "{}"):
                wrong = Metric(name, "counter", "")
                metrics.declare(wrong)
                metrics.add(wrong)
            metrics.declare(metric("histogram", ("le",)), metric("histogram", buckets=(2, 1)), Metric(good.name, "gauge", ""))
            await self.shows(metrics, labelled, 1, ("a",))
            await self.has_observed(metrics, histogram, 1)
            metrics.add(good, 1)
            await self.shows(metrics, good, 2)

    async def test_labels_without_end_do_no_harm(self, tusd_door: Door[Metrics]) -> None:
        """Somebody puts what is never the same into a label: that metric may lose figures, others do not."""
        bad, good = metric("counter", ("label",)), metric("counter")
        async with tusd_door.open() as metrics:
            for n in range(5000):
                metrics.add(bad, 1, (f"{n:0100}",))
            metrics.add(bad, 1, ("x" * 1_000_000,))
            metrics.add(good, 1)
            await self.shows(metrics, good, 1)

    async def test_calls_are_quick(self, tusd_door: Door[Metrics]) -> None:
        """Also while nobody takes what they bring. Only this thread's own time counts, and waiting."""
        counter, gauge, histogram = metric("counter", ("label",)), metric("gauge"), metric("histogram")
        async with tusd_door.open() as metrics, self.unreachable():
            for rounds in (10, 1000, 1000):
                began, worked = time.perf_counter(), time.thread_time()
                for _ in range(rounds):
                    metrics.add(counter, 1, ("a",))
                    metrics.set(gauge, 1)
                    metrics.observe(histogram, 1)
                took, work = time.perf_counter() - began, time.thread_time() - worked
                await asyncio.sleep(0)
                if rounds > 10:
                    assert work / (3 * rounds) < self.at_most, f"a call takes {work / (3 * rounds) * 1e6:.0f} µs"
                    assert took - work < 1, f"{3 * rounds} calls waited for {took - work:.1f} s"

    async def test_late_calls_raise_nothing(self, tusd_door: Door[Metrics]) -> None:
        """Work in the background may end after the plugin was closed."""
        counter, gauge, histogram = metric("counter"), metric("gauge"), metric("histogram")
        async with tusd_door.open() as metrics:
            metrics.add(counter)
        for one in (counter, metric("counter")):
            metrics.declare(one)
            metrics.add(one)
        metrics.set(gauge, 1)
        metrics.observe(histogram, 1)

    async def test_two_workers_do_not_disturb_each_other(self, tusd_door: Door[Metrics]) -> None:
        counter = metric("counter", ("label",))
        async with tusd_door.open(0) as one, tusd_door.open(1) as other:
            one.add(counter, 1, ("a",))
            other.add(counter, 2, ("a",))
            one.add(counter, 4, ("a",))
            # A backend may add them up, or keep them apart.
            await self._soon(partial(self.value, one, counter, ("a",)), (5, 7).__contains__, "5 or 7")
            await self._soon(partial(self.value, other, counter, ("a",)), (2, 7).__contains__, "2 or 7")


def _close(found: float | None, expected: float) -> bool:
    return found is not None and math.isclose(found, expected, rel_tol=1e-12, abs_tol=1e-9)
