"""Opening a bucket in tests as a server does, with figures that can be read."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from botocore.loaders import create_loader

from fake_s3 import BUCKET
from tusd import plugin
from tusd_plugin_s3 import connecting
from tusd_plugin_s3.bucket import Bucket
from tusd_plugin_s3.options import Options


class Figures(plugin.Metrics):
    """Remembers figures: (name, labels) -> the sum, the value, or all that was observed."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, tuple[str, ...]], float] = {}
        self.observed: dict[tuple[str, tuple[str, ...]], list[float]] = {}
        self.set_to: dict[str, list[float]] = {}

    def add(self, metric: plugin.Metric, amount: float = 1, labels: tuple[str, ...] = ()) -> None:
        self.values[metric.name, labels] = self.values.get((metric.name, labels), 0) + amount

    def set(self, metric: plugin.Metric, value: float, labels: tuple[str, ...] = ()) -> None:
        self.values[metric.name, labels] = value
        self.set_to.setdefault(metric.name, []).append(value)

    def observe(self, metric: plugin.Metric, value: float, labels: tuple[str, ...] = ()) -> None:
        self.observed.setdefault((metric.name, labels), []).append(value)


read_once = patch("botocore.session.create_loader", functools.cache(create_loader))
"""Within it, clients share what the SDK reads of S3 from its files; that takes most of the time that making one takes."""


def options(endpoint: str, **more: Any) -> Options:
    """For a server of the tests."""
    given = {"bucket": BUCKET, "endpoint": endpoint, "access_key_id": "test:tester", "secret_access_key": "testtest123", **more}
    return Options.model_validate(given)


@asynccontextmanager
async def opened(endpoint: str, figures: Figures | None = None, **more: Any) -> AsyncIterator[Bucket]:
    """The bucket, tried out."""
    worker = plugin.Worker("storage:s3", logging.getLogger("tusd.test"), figures or Figures(), Path("run"))
    with read_once:
        opening = connecting.connect(options(endpoint, **more), worker)
        async with opening as bucket:
            yield bucket
