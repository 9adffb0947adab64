"""Figures for Prometheus, in its text format 0.0.4, under the names of Go's tusd.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import asyncio
import logging
import math
import platform
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from itertools import accumulate, chain
from typing import Annotated

from pydantic import AfterValidator

from tusd import plugin
from tusd.plugin import Metric

from .shared_figures import Series, SharedFigures, Sums

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

BUILD_INFO = Metric("tusd_build_info", "gauge", "Which tusd this is; always 1", ("version", "python"))
CPU = Metric("process_cpu_seconds_total", "counter", "Seconds of CPU that all workers have used, those that have ended too")
PROCESS: dict[Metric, Callable[[Iterable[float]], float]] = {
    Metric("process_resident_memory_bytes", "gauge", "Resident memory of all workers; what they share counts for each"): sum,
    Metric("process_virtual_memory_bytes", "gauge", "Virtual memory of all workers"): sum,
    Metric("process_open_fds", "gauge", "Open file descriptors of all workers"): sum,
    Metric("process_max_fds", "gauge", "File descriptors that all workers may have open together"): sum,
    Metric("process_start_time_seconds", "gauge", "When the worker that lives longest began, in seconds since 1970"): min,
}
"""What is told of the processes on Linux, and how it is made of what is known of each."""
OWN = (BUILD_INFO, CPU, *PROCESS)
"""The metrics that the exporter adds."""


def _path(text: str) -> str:
    if not re.fullmatch(r"/[^?#\s]+", text):
        raise ValueError("not a path; write /metrics")
    return text


class PrometheusMetrics:
    """Show figures to Prometheus, those of all workers on any of them."""

    api_version = 1

    class Options(plugin.Options):
        """The block in `metrics:`."""

        path: Annotated[str, AfterValidator(_path)] = "/metrics"
        """Where they are, on the admin listener if there is one; outside `server.base_path`."""

    def __init__(self, options: Options) -> None:
        self.options = options

    @plugin.hookimpl
    @asynccontextmanager
    async def open_metrics(self, worker: plugin.Worker) -> AsyncIterator[plugin.Metrics]:
        """Raises `OSError` when the worker's directory cannot be used."""
        try:
            figures = await asyncio.to_thread(SharedFigures, worker.directory, worker.logger)
        except OSError as error:
            cure = "set server.run_directory, or write `metrics: []`"
            raise OSError(error.errno, f"{worker.directory} cannot hold figures: {error.strerror}; {cure}") from error
        self._exporter = Exporter(figures)
        try:
            yield figures
        finally:
            figures.close()

    @plugin.hookimpl
    def add_routes(self, worker: plugin.Worker, routes: plugin.Routes) -> None:
        """Answer at `path`."""
        routes.get(self.options.path, _Page(self._exporter, worker.logger), admin=True)


class _Page:
    """The answer to a scrape. Whoever asks while one is made waits for the same: scrapes never take more than one of the threads that
    uploads need, too."""

    def __init__(self, exporter: Exporter, logger: logging.Logger) -> None:
        self._exporter = exporter
        self._logger = logger
        self._next: asyncio.Task[plugin.Response] | None = None

    async def __call__(self, head: plugin.Head) -> plugin.Response:
        if self._next is None or self._next.done():
            self._next = asyncio.create_task(self._made())
        return await asyncio.shield(self._next)

    async def _made(self) -> plugin.Response:
        try:
            text = await asyncio.to_thread(self._exporter.text)
        except OSError as error:
            self._logger.error("the figures of all workers cannot be read: %s", error)
            return plugin.Response(503, [("Content-Type", "text/plain")], b"the figures cannot be read; the log says why\n")
        return plugin.Response(200, [("Content-Type", CONTENT_TYPE)], text.encode(errors="replace"))


class Exporter:
    """Tells the figures of all processes, and what the system knows of them."""

    def __init__(self, figures: SharedFigures) -> None:
        self._figures = figures
        self._build = _series(BUILD_INFO, (version("tusd"), platform.python_version()))

    def text(self) -> str:
        """All of it. Takes milliseconds, and belongs in a thread. Raises `OSError`."""
        processes = _Processes()
        collected = self._figures.collect(processes.cpu)
        own = {self._build: [1.0], _series(CPU): [collected.cpu]}
        for metric, combine in PROCESS.items():
            if values := processes.values(metric.name, collected.pids):
                own[_series(metric)] = [combine(values)]
        return "".join(_lines(collected.sums | own))


class _Processes:
    """What the system knows of processes, by prometheus_client, which is imported when it is first asked."""

    def __init__(self) -> None:
        self._known: dict[int, dict[str, float]] = {}

    def of(self, pid: int) -> dict[str, float]:
        """Name of the metric -> value; nothing where the system does not tell."""
        if pid not in self._known:
            from prometheus_client.process_collector import ProcessCollector

            found = ProcessCollector(pid=lambda: pid, registry=None).collect()
            self._known[pid] = {sample.name: float(sample.value) for metric in found for sample in metric.samples}
        return self._known[pid]

    def cpu(self, pid: int) -> float:
        return self.of(pid).get(CPU.name, 0.0)

    def values(self, name: str, pids: tuple[int, ...]) -> list[float]:
        return [known[name] for pid in pids if name in (known := self.of(pid))]


def _series(metric: Metric, values: tuple[str, ...] = ()) -> Series:
    return Series(metric.name, metric.kind, metric.labels, (), values, metric.help)


def _lines(sums: Sums) -> Iterator[str]:
    last = ""
    for series in sorted(sums, key=lambda one: (one.name, one.values)):
        if series.name != last:
            last = series.name
            yield f"# HELP {last} {_escaped(series.help)}\n# TYPE {last} {series.kind}\n"
        labels = [f'{name}="{_escaped(value, quotes=True)}"' for name, value in zip(series.labels, series.values, strict=True)]
        cells = sums[series]
        if series.kind != "histogram":
            yield _line(series.name, labels, cells[0])
            continue
        *counts, total = cells
        for bound, count in zip(chain(map(_number, series.buckets), ["+Inf"]), accumulate(counts), strict=True):
            yield _line(f"{series.name}_bucket", [*labels, f'le="{bound}"'], count)
        yield _line(f"{series.name}_sum", labels, total)
        yield _line(f"{series.name}_count", labels, sum(counts))


def _line(name: str, labels: list[str], value: float) -> str:
    return f"{name}{{{','.join(labels)}}} {_number(value)}\n" if labels else f"{name} {_number(value)}\n"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _escaped(text: str, *, quotes: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quotes else text
