"""The metrics seam: where figures go. Declarations are `model.Metric` values. Calls come on the worker's event loop; they never block and
never raise, whatever they are given."""

from __future__ import annotations

from abc import ABC, abstractmethod

from .model import Metric


class Metrics(ABC):
    """Takes figures. One per worker process and `metrics` entry."""

    @abstractmethod
    def add(self, metric: Metric, amount: float = 1, labels: tuple[str, ...] = ()) -> None:
        """Add to a counter, or to a gauge (then `amount` may be negative). `labels` are the values for `metric.labels`, in order."""

    @abstractmethod
    def set(self, metric: Metric, value: float, labels: tuple[str, ...] = ()) -> None:
        """Set a gauge."""

    @abstractmethod
    def observe(self, metric: Metric, value: float, labels: tuple[str, ...] = ()) -> None:
        """Count a value into a histogram, in the unit that the metric's name ends in."""

    def declare(self, *metrics: Metric) -> None:  # noqa: B027  # who shows only what comes needs none
        """These will come: show those without labels, and their `preset` labels, with 0 already. A metric that nobody has declared may come, too."""
