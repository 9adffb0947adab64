"""The suite on every plugin of `meters.py`; `test_metrics_suite.py` runs this file and looks at what failed."""

from __future__ import annotations

from collections.abc import Mapping

import meters  # type: ignore[import-not-found]  # a distribution of the pytest that runs this file
import pytest

from tusd.metrics import Metrics
from tusd.model import Metric
from tusd.testing.metrics import Labels, MetricsSuite


class Base(MetricsSuite):
    soon = 0.05

    @pytest.fixture
    def options(self) -> Mapping[str, object]:
        return {}

    async def value(self, metrics: Metrics, metric: Metric, labels: Labels = ()) -> float | None:
        assert isinstance(metrics, meters.Meter)
        found: float | None = metrics.numbers.get(metrics.place(metric, labels))
        return found

    async def observed(self, metrics: Metrics, metric: Metric, labels: Labels = ()) -> tuple[float, float] | None:
        assert isinstance(metrics, meters.Meter)
        values = metrics.observed.get(metrics.place(metric, labels))
        return None if values is None else (len(values), sum(values))


for name, value in vars(meters).items():
    if hasattr(value, "open_metrics") and not name.startswith("_"):
        globals()[f"Test{name}"] = type(f"Test{name}", (Base,), {"plugin": value})
