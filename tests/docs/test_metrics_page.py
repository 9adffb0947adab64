"""docs/reference/metrics.md against the declarations: every metric of the core, of the built-ins and of plugins beside the server."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import tusd
import tusd_plugin_gcs
import tusd_plugin_s3
from tusd.builtin.prometheus_metrics import OWN
from tusd.builtin.shared_figures import LABEL_SETS, SIZE
from tusd.model import Metric

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text()
GO = {
    "tusd_requests_total": ("counter", ("method",)),
    "tusd_errors_total": ("counter", ("status", "code")),
    "tusd_bytes_received": ("counter", ()),
    "tusd_uploads_created": ("counter", ()),
    "tusd_uploads_finished": ("counter", ()),
    "tusd_uploads_terminated": ("counter", ()),
    "tusd_connections_open": ("gauge", ()),
    "tusd_hook_errors_total": ("counter", ("hooktype",)),
    "tusd_hook_invocations_total": ("counter", ("hooktype",)),
}
"""What Go's tusd exposes in version 2, but for its storages."""
GO_S3 = {
    "tusd_s3_request_duration_ms": ("histogram", ("operation",)),  # a summary in Go
    "tusd_s3_disk_write_duration_ms": ("histogram", ()),  # the same
    "tusd_s3_upload_semaphore_demand": ("gauge", ()),
    "tusd_s3_upload_semaphore_limit": ("gauge", ()),
}
PLUGINS = (tusd_plugin_gcs, tusd_plugin_s3)
"""The plugins in this repository that have metrics."""


def declared() -> dict[str, Metric]:
    """All constants of all modules, by the metric's name."""
    found = {one.name: one for one in OWN}
    for package in (tusd, *PLUGINS):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if "__main__" not in module.name and "testing" not in module.name:
                values = vars(importlib.import_module(module.name)).values()
                found |= {value.name: value for value in values if isinstance(value, Metric)}
    return found


def rows() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Name -> type, labels and what it is."""
    found = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+?) \| (.+) \|$", PAGE, re.MULTILINE)
    assert len(found) == len({name for name, *_ in found})
    return {name: (kind, tuple(re.findall(r"`(\w+)`", labels)), what) for name, kind, labels, what in found}


def test_every_metric_has_its_row() -> None:
    assert rows() == {name: (one.kind, one.labels, one.help) for name, one in declared().items()}


def test_those_of_go_are_as_in_go() -> None:
    section = PAGE.partition("## Those of Go's tusd")[2].partition("\n## ")[0]
    known = declared()
    for name, expected in GO.items():
        assert f"| `{name}` |" in section
        assert (known[name].kind, known[name].labels) == expected


def test_those_of_gos_s3_storage_are_as_in_go() -> None:
    section = PAGE.partition("### Storage: s3")[2].partition("\n## ")[0]
    names = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    known = declared()
    assert "The first four are those of Go's tusd." in section and set(names[:4]) == set(GO_S3)
    assert {name: (known[name].kind, known[name].labels) for name in GO_S3} == GO_S3


def test_limits() -> None:
    assert f"keeps {LABEL_SETS} sets of labels" in PAGE
    assert f"are {SIZE // 1024} KiB for each worker" in PAGE
