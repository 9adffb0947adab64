"""docs/howto/observe.md against the code: paths, the line of a request, outcomes."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tusd import errors
from tusd.errors import TusError
from tusd.plugin import Routes
from tusd.server.logs import JsonFormatter, TextFormatter
from tusd.web.health import PROBES, Health
from tusd.web.pages import admin_pages
from tusd.web.profile import _LONGEST
from tusd.web.requests import Entry

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "observe.md").read_text()


def entry() -> Entry:
    found = Entry("5c01f2a7b0000123", id_given=False)
    shown = {"method": "PATCH", "path": "/files/24e533e02ec3bc40", "id_at": 7, "upload": "24e533e02ec3bc40", "status": 204}
    for name, value in {**shown, "received": 5242880, "seconds": 0.8124, "peer": "192.0.2.7"}.items():
        setattr(found, name, value)
    return found


def test_the_line_of_a_request() -> None:
    (example,) = re.findall(r"```text\n(.*)\n```", PAGE)
    line = TextFormatter(full_upload_ids=False, worker=None).request(entry()).rstrip("\n")
    assert line.partition(" ")[2] == example.partition(" ")[2]


def test_its_fields() -> None:
    (table,) = re.findall(r"\| field \| is \|\n\|---\|---\|\n((?:\|.*\n)+)", PAGE)
    named = re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in table.splitlines()))
    failed = entry()
    failed.code = "ERR_X"
    event = json.loads(JsonFormatter(full_upload_ids=False, worker=None).request(failed))
    assert sorted(named) == sorted(set(event) - {"time", "level", "logger", "message"})


def test_every_outcome_is_told() -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| `outcome` |")]
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TusError)]
    found = set()
    for kind in kinds:
        one = entry()
        one.fails(kind("x") if kind is not errors.MethodNotAllowed else errors.MethodNotAllowed("GET"))
        found.add(one.outcome)
    assert {"refused", "failed", "timeout", "interrupted", "shutdown", "client-gone"} == found
    assert found | {"ok", "cancelled"} == set(re.findall(r"`([\w-]+)`", row)) - {"outcome"}


def test_paths() -> None:
    for path in admin_pages(Routes("/files/"), Health({}), profile=True):
        assert f"`{path}" in PAGE
    assert all(f"| `{path}` |" in PAGE for path in PROBES)
    assert f"(1 to {_LONGEST:g})" in PAGE
