"""The exporter: MetricsSuite, and the text that Prometheus reads."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.needs import need

from tusd import plugin
from tusd.builtin.prometheus_metrics import OWN, Exporter, PrometheusMetrics
from tusd.builtin.shared_figures import SharedFigures
from tusd.engine import figures as core
from tusd.plugin import Metric, Metrics
from tusd.testing.metrics import Labels, MetricsSuite

LOGGER = logging.getLogger("test")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    """(name, labels) -> value, as prometheus_client reads them. It adds `_total` to names of counters, which is taken away again where none was."""
    written = {re.split("[{ ]", line)[0] for line in text.splitlines()}
    found = [one for family in text_string_to_metric_families(text) for one in family.samples]
    names = {one.name: one.name if one.name in written else one.name.removesuffix("_total") for one in found}
    assert set(names.values()) <= written
    return {(names[one.name], frozenset(one.labels.items())): one.value for one in found}


def sample(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


class TestPrometheus(MetricsSuite):
    plugin = PrometheusMetrics

    @pytest.fixture
    def options(self) -> Mapping[str, object]:
        return {}

    async def value(self, metrics: Metrics, metric: Metric, labels: Labels = ()) -> float | None:
        assert isinstance(metrics, SharedFigures)
        found = samples(Exporter(metrics).text())
        return sample(found, metric.name, **dict(zip(metric.labels, labels, strict=True)))

    async def observed(self, metrics: Metrics, metric: Metric, labels: Labels = ()) -> tuple[float, float] | None:
        assert isinstance(metrics, SharedFigures)
        found = samples(Exporter(metrics).text())
        named = dict(zip(metric.labels, labels, strict=True))
        count, total = sample(found, f"{metric.name}_count", **named), sample(found, f"{metric.name}_sum", **named)
        return None if count is None or total is None else (count, total)


@contextmanager
def opened(directory: Path) -> Iterator[SharedFigures]:
    figures = SharedFigures(directory, LOGGER)
    try:
        yield figures
    finally:
        figures.close()


@pytest.fixture
def figures(tmp_path: Path) -> Iterator[SharedFigures]:
    with opened(tmp_path / "figures") as found:
        yield found


def lines(figures: SharedFigures, name: str) -> list[str]:
    """What is told of one metric."""
    return [line for line in Exporter(figures).text().splitlines() if name in line]


def test_a_counter(figures: SharedFigures) -> None:
    metric = Metric("m_total", "counter", "Back\\slash and\nnew line", ("a", "b"))
    figures.add(metric, 2, ('qu"ote', "x"))
    figures.add(metric, 0.25, ("back\\slash\n", ""))
    assert lines(figures, "m_total") == [
        r"# HELP m_total Back\\slash and\nnew line",
        "# TYPE m_total counter",
        r'm_total{a="back\\slash\n",b=""} 0.25',
        r'm_total{a="qu\"ote",b="x"} 2',
    ]


def test_a_histogram(figures: SharedFigures) -> None:
    metric = Metric("m_seconds", "histogram", "Time", ("a",), (0.1, 1.0, 2.5))
    for value in (0.05, 0.1, 0.2, 2.5, 3.0):
        figures.observe(metric, value, ("x",))
    assert lines(figures, "m_seconds") == [
        "# HELP m_seconds Time",
        "# TYPE m_seconds histogram",
        'm_seconds_bucket{a="x",le="0.1"} 2',
        'm_seconds_bucket{a="x",le="1"} 3',
        'm_seconds_bucket{a="x",le="2.5"} 4',
        'm_seconds_bucket{a="x",le="+Inf"} 5',
        'm_seconds_sum{a="x"} 5.85',
        'm_seconds_count{a="x"} 5',
    ]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0, "0"),
        (-3.0, "-3"),
        (0.1, "0.1"),
        (1e15, "1000000000000000.0"),
        (float(2**53), "9007199254740992.0"),
        (1e-9, "1e-09"),
        (float("inf"), "+Inf"),
        (-float("inf"), "-Inf"),
        (float("nan"), "NaN"),
    ],
)
def test_numbers(figures: SharedFigures, value: float, written: str) -> None:
    figures.set(Metric("m", "gauge", ""), value)
    assert lines(figures, "m ")[-1] == f"m {written}"


def test_the_text_can_be_encoded_whatever_is_in_it(figures: SharedFigures) -> None:
    figures.add(Metric("m", "counter", "", ("a",)), 1, ("\udcff",))
    assert 'm{a="\udcff"} 1\n' in Exporter(figures).text()


def test_everything_of_the_core_is_there_from_the_start(figures: SharedFigures) -> None:
    figures.declare(*core.ALL)
    found = samples(Exporter(figures).text())
    for metric in core.ALL:
        name = metric.name + ("_count" if metric.kind == "histogram" else "")
        for labels in metric.preset if metric.labels else ((),):
            assert sample(found, name, **dict(zip(metric.labels, labels, strict=True))) == 0, metric.name
    assert sample(found, "tusd_requests_total", method="PATCH") == 0
    assert {event.name for event in plugin.EVENTS} == {
        dict(labels)["hooktype"] for name, labels in found if name == "tusd_hook_invocations_total"
    }


def test_a_start_imports_nothing_of_prometheus() -> None:
    code = "import sys, tusd.builtin.prometheus_metrics; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0


def test_the_processes_own_figures(figures: SharedFigures) -> None:
    found = samples(Exporter(figures).text())
    assert {metric.name for metric in OWN} <= {name for name, _ in found}
    assert 10e6 < found["process_resident_memory_bytes", frozenset()] < 1e9
    assert 0 < found["process_cpu_seconds_total", frozenset()]
    (build,) = [dict(labels) for name, labels in found if name == "tusd_build_info"]
    assert set(build) == {"version", "python"}


def test_nothing_but_four_names_of_go_displeases_promtool(figures: SharedFigures) -> None:
    promtool = need("promtool", how="apt-get install prometheus")
    figures.declare(*core.ALL)
    figures.observe(core.STORAGE_DURATION, 0.1, ("append",))
    figures.add(core.ERRORS, 1, ("404", "ERR_UPLOAD_NOT_FOUND"))
    done = subprocess.run(
        [promtool, "check", "metrics"], input=Exporter(figures).text(), capture_output=True, text=True, timeout=30
    )
    said = sorted((done.stdout + done.stderr).splitlines())
    names = ("tusd_bytes_received", "tusd_uploads_created", "tusd_uploads_finished", "tusd_uploads_terminated")
    assert said == [f'{name} counter metrics should have "_total" suffix' for name in names]


async def test_many_who_scrape_take_one_thread(tmp_path: Path, figures: SharedFigures) -> None:
    """Uploads need threads, too, and the lock of the folder may not be to be had for seconds."""
    prometheus, routes = PrometheusMetrics(PrometheusMetrics.Options()), plugin.Routes("/files/")
    worker = plugin.Worker("metrics:prometheus", logging.getLogger(), figures, tmp_path / "shared")
    async with prometheus.open_metrics(worker) as metrics:
        prometheus.add_routes(worker, routes)
        (page,) = routes.admin.values()
        metrics.add(Metric("tusd_m", "counter", ""))
        with open(worker.directory / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            scrapes = [asyncio.ensure_future(page(plugin.NO_REQUEST)) for _ in range(100)]
            scrapes[0].cancel()  # its client has gone
            await asyncio.sleep(0.05)
            async with asyncio.timeout(2):
                await plugin.in_thread(lambda: None)
        answers = await asyncio.gather(*scrapes[1:])
        assert all(answer.status == 200 and b"\ntusd_m 1\n" in answer.body for answer in answers)
        metrics.add(Metric("tusd_m", "counter", ""))
        assert b"\ntusd_m 2\n" in (await page(plugin.NO_REQUEST)).body
