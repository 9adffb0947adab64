"""Metrics plugins, one right and the others each with one fault, that `MetricsSuite` is tried on."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from tusd import plugin
from tusd.plugin import Metric

Labels = tuple[str, ...]
Place = tuple[object, ...]


class Meter(plugin.Metrics):
    """Right: numbers by name and labels."""

    def __init__(self) -> None:
        self.numbers: dict[Place, float] = {}
        self.observed: dict[Place, list[float]] = {}
        self.kinds: dict[str, str] = {}
        self.open = True

    def add(self, metric: Metric, amount: float = 1, labels: Labels = ()) -> None:
        if self.fits(metric, labels, "counter", "gauge") and math.isfinite(amount) and (metric.kind == "gauge" or amount >= 0):
            place = self.place(metric, labels)
            self.numbers[place] = self.sum(self.numbers.get(place, 0), amount)

    def set(self, metric: Metric, value: float, labels: Labels = ()) -> None:
        if self.fits(metric, labels, "gauge"):
            self.numbers[self.place(metric, labels)] = value

    def observe(self, metric: Metric, value: float, labels: Labels = ()) -> None:
        if self.fits(metric, labels, "histogram") and math.isfinite(value):
            self.observed.setdefault(self.place(metric, labels), []).append(value)

    def place(self, metric: Metric, labels: Labels) -> Place:
        return (metric.name, *labels)

    def sum(self, before: float, amount: float) -> float:
        return before + amount

    def fits(self, metric: Metric, labels: Labels, *kinds: str) -> bool:
        return metric.kind in kinds and len(labels) == len(metric.labels)


class IgnoresAmountsMeter(Meter):
    def sum(self, before: float, amount: float) -> float:
        return before + (1 if amount > 0 else amount)


class KeepsTheLastMeter(Meter):
    def sum(self, before: float, amount: float) -> float:
        return amount


class NeverFallsMeter(Meter):
    def sum(self, before: float, amount: float) -> float:
        return before + max(0, amount)


class SetsOnceMeter(Meter):
    def set(self, metric: Metric, value: float, labels: Labels = ()) -> None:
        if self.place(metric, labels) not in self.numbers:
            super().set(metric, value, labels)


class DropsLargeValuesMeter(Meter):
    def observe(self, metric: Metric, value: float, labels: Labels = ()) -> None:
        if value <= max(metric.buckets, default=math.inf):
            super().observe(metric, value, labels)


class RoundsMeter(Meter):
    def observe(self, metric: Metric, value: float, labels: Labels = ()) -> None:
        super().observe(metric, round(value) if math.isfinite(value) else value, labels)


class KnowsMetricsByIdentityMeter(Meter):
    def place(self, metric: Metric, labels: Labels) -> Place:
        return (id(metric), *labels)


class SortsLabelsMeter(Meter):
    def place(self, metric: Metric, labels: Labels) -> Place:
        return (metric.name, *sorted(labels))


class JoinsLabelsMeter(Meter):
    def place(self, metric: Metric, labels: Labels) -> Place:
        return (metric.name, "".join(labels))


class CutsLabelsMeter(Meter):
    def place(self, metric: Metric, labels: Labels) -> Place:
        return (metric.name, *(label.partition("\n")[0] for label in labels))


class WantsDeclarationsMeter(Meter):
    def fits(self, metric: Metric, labels: Labels, *kinds: str) -> bool:
        return super().fits(metric, labels, *kinds) and metric.name in self.kinds

    def declare(self, *metrics: Metric) -> None:
        self.kinds.update((metric.name, metric.kind) for metric in metrics)


class BeginsAgainWhenDeclaredMeter(Meter):
    def declare(self, *metrics: Metric) -> None:
        for metric in metrics:
            self.numbers[self.place(metric, ())] = 0


class LetsCountersFallMeter(Meter):
    def add(self, metric: Metric, amount: float = 1, labels: Labels = ()) -> None:
        if self.fits(metric, labels, "counter", "gauge") and math.isfinite(amount):
            place = self.place(metric, labels)
            self.numbers[place] = self.numbers.get(place, 0) + amount


class IsSpoiltByNanMeter(Meter):
    def add(self, metric: Metric, amount: float = 1, labels: Labels = ()) -> None:
        if self.fits(metric, labels, "counter", "gauge") and not amount < 0:
            place = self.place(metric, labels)
            self.numbers[place] = self.numbers.get(place, 0) + amount


class ObservesNanMeter(Meter):
    def observe(self, metric: Metric, value: float, labels: Labels = ()) -> None:
        if self.fits(metric, labels, "histogram"):
            self.observed.setdefault(self.place(metric, labels), []).append(value)


class RaisesMeter(Meter):
    def fits(self, metric: Metric, labels: Labels, *kinds: str) -> bool:
        if not super().fits(metric, labels, *kinds):
            raise ValueError(metric.name)
        return True


class SetsCountersMeter(Meter):
    def set(self, metric: Metric, value: float, labels: Labels = ()) -> None:
        self.numbers[self.place(metric, labels)] = value


class FillsUpMeter(Meter):
    def fits(self, metric: Metric, labels: Labels, *kinds: str) -> bool:
        known = self.place(metric, labels) in self.numbers or len(self.numbers) < 1000
        return known and super().fits(metric, labels, *kinds)


class IsSlowMeter(Meter):
    def add(self, metric: Metric, amount: float = 1, labels: Labels = ()) -> None:
        until = time.thread_time() + 0.0005
        while time.thread_time() < until:
            pass
        super().add(metric, amount, labels)


class WaitsMeter(Meter):
    def set(self, metric: Metric, value: float, labels: Labels = ()) -> None:
        time.sleep(0.002)
        super().set(metric, value, labels)


class RaisesLateMeter(Meter):
    def fits(self, metric: Metric, labels: Labels, *kinds: str) -> bool:
        assert self.open, "closed"
        return super().fits(metric, labels, *kinds)


class SharesOneNumberMeter(Meter):
    """What another worker has is replaced."""

    shared: ClassVar[dict[Place, float]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.own: dict[Place, float] = {}
        self.numbers = self.shared

    def add(self, metric: Metric, amount: float = 1, labels: Labels = ()) -> None:
        place = self.place(metric, labels)
        before = self.own.get(place, 0)
        super().add(metric, amount, labels)
        if self.fits(metric, labels, "counter", "gauge") and math.isfinite(amount) and (metric.kind == "gauge" or amount >= 0):
            self.own[place] = self.shared[place] = before + amount

    def set(self, metric: Metric, value: float, labels: Labels = ()) -> None:
        super().set(metric, value, labels)
        self.own[self.place(metric, labels)] = value


class _Plugin:
    meter: ClassVar[type[Meter]]

    @plugin.hookimpl
    @asynccontextmanager
    async def open_metrics(self) -> AsyncIterator[plugin.Metrics]:
        meter = self.meter()
        yield meter
        meter.open = False


for _name, _value in [*vars().items()]:
    if isinstance(_value, type) and issubclass(_value, Meter):
        _plugin = _name.removesuffix("Meter") or "Right"
        globals()[_plugin] = type(_plugin, (_Plugin,), {"meter": _value, "__module__": __name__})
