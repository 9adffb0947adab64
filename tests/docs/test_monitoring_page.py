"""docs/howto/monitoring.md, its alerts and its dashboard against what a server really shows, and by Prometheus's own tools."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from tests.needs import need
from tests.web.raw import Connection, patch, post, request
from tests.web.serving import path_of

from tusd import errors
from tusd.errors import TusError
from tusd.hooks import EVENTS
from tusd.testing.server import ServerProcess, free_port
from tusd.web.figures import METHODS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "howto" / "monitoring.md").read_text()
ALERTS = ROOT / "docs" / "howto" / "monitoring" / "alerts.yml"
BOARD: dict[str, Any] = json.loads((ROOT / "docs" / "howto" / "monitoring" / "tusd.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
(GROUP,) = yaml.safe_load(ALERTS.read_text())["groups"]
RULES: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in GROUP["rules"]}
HOW = "install prometheus (Debian: apt-get install prometheus), or take it from https://prometheus.io/download/"
ADDED = {"job", "instance"}
"""The labels that Prometheus adds to all that it collects."""

PLUGINS = '''
from contextlib import asynccontextmanager

from tusd import plugin


class Dispatcher(plugin.Dispatcher):
    events = frozenset(plugin.EVENTS)

    async def dispatch(self, event):
        if isinstance(event, plugin.PostCreate):
            raise plugin.HookError("it fails")
        return plugin.HookResponse(status=200) if isinstance(event, plugin.PostFinish) else None


class Hooks:
    """Fail, or say what does not count."""

    class Options(plugin.HookOptions):
        pass

    def __init__(self, options):
        pass

    @plugin.hookimpl
    @asynccontextmanager
    async def open_hooks(self):
        yield Dispatcher()


class Limiter(plugin.Limiter):
    @asynccontextmanager
    async def admit(self, head, request):
        if "X-Refuse" in head.headers:
            raise plugin.TooManyRequests()
        yield plugin.FreeAllowance()

    async def reserve(self, info, total):
        pass

    async def recount(self, uploads):
        pass


class Limiting:
    """Refuse who asks for it."""

    scope = plugin.Scope.PROCESS

    @plugin.hookimpl
    @asynccontextmanager
    async def open_limiting(self):
        yield Limiter()
'''


# --- queries


@dataclass(frozen=True)
class Query:
    """A query, and what it is for."""

    where: str
    text: str
    shown: frozenset[str]
    """Labels whose values are shown with its result."""

    @property
    def selectors(self) -> list[tuple[str, dict[str, str]]]:
        """The metrics that it selects, with label -> value of the matchers."""
        bare = re.sub(r"\b(by|without) *\([^)]*\)|\[[^\]]*\]", " ", self.text)
        found = []
        for name, matchers, call in re.findall(
            r"(?<![\w.$\"])([a-zA-Z_:][\w:]*)\b(?!\")(\{[^}]*\})?( *\()?", _without_strings(bare)
        ):
            if not call and name not in ("or", "and", "unless"):
                found.append((name, dict(re.findall(r"(\w+) *(?:=~|!~|!=|=) *§(\d+)§", matchers))))
        strings = re.findall(r'"([^"]*)"', bare)
        return [(name, {label: strings[int(at)] for label, at in matchers.items()}) for name, matchers in found]

    @property
    def grouping(self) -> set[str]:
        """The labels that it groups by."""
        return {label for labels in re.findall(r"\bby *\(([^)]*)\)", self.text) for label in re.findall(r"\w+", labels)}

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def _without_strings(text: str) -> str:
    numbers = iter(range(1000))
    return re.sub(r'"[^"]*"', lambda _: f"§{next(numbers)}§", text)


def queries() -> Iterator[Query]:
    for panel in PANELS:
        for target in panel["targets"]:
            yield Query(panel["title"], target["expr"], frozenset(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])))
    for name, rule in RULES.items():
        yield Query(name, rule["expr"], frozenset(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values()))))
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
            yield Query(f"${variable['name']}", f"count by ({label}) ({selector})", frozenset({label}))


def test_queries_are_taken_apart() -> None:
    query = Query(
        "",
        'sum by (code, le) (rate(a_total{x=~"b|c",y!="d {e}"}[5m])) / f unless time() - min by (g) (h{i="j"}) > 2^30',
        frozenset(),
    )
    assert query.selectors == [("a_total", {"x": "b|c", "y": "d {e}"}), ("f", {}), ("h", {"i": "j"})]
    assert query.grouping == {"code", "le", "g"}


# --- a server that has seen everything


class Exercised:
    """A server, and all that can happen to it."""

    def __init__(self, directory: Path) -> None:
        plugins = directory / "plugins.py"
        plugins.write_text(PLUGINS)
        self.server = ServerProcess(
            directory / "server",
            {
                "hooks": [
                    {"use": f"{plugins}:Hooks"},
                    {"use": f"{plugins}:Hooks", "events": ["post-finish"], "delivery": "at-least-once", "outbox": "./outbox"},
                ],
                "limiting": [{"use": f"{plugins}:Limiting"}],
                "uploads": {"expire_after": "1s", "sweep_interval": "1s"},
            },
        )

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def connect(self) -> Connection:
        return Connection(("127.0.0.1", self.server.port))

    def exercise(self) -> None:
        """Every method, and one of everything that is counted."""
        with self.connect() as connection:
            ask = connection.ask
            assert ask(request("OPTIONS", "/files/")).status == 200
            assert ask(post({"Upload-Length": 5, "X-Refuse": 1})).status == 429
            path = path_of(ask(post({"Upload-Length": 10}, b"hello")))
            assert ask(request("HEAD", path))["Upload-Offset"] == "5"
            assert ask(patch(path, 5, b"world")).status == 204
            assert ask(request("GET", path)).body == b"helloworld"
            assert ask(request("DELETE", path)).status == 204
            assert ask(request("HEAD", path)).status == 404
            parts = [path_of(ask(post({"Upload-Length": 1, "Upload-Concat": "partial"}, b"x"))) for _ in range(2)]
            assert ask(post({"Upload-Concat": f"final;{' '.join(parts)}"})).status == 201
            path = path_of(ask(post({"Upload-Length": 10})))
            with self.connect() as stalled:
                stalled.send(patch(path, 0, b"hello", announce=10))
                time.sleep(0.1)
                assert ask(request("HEAD", path))["Upload-Offset"] == "5"
                assert stalled.answer().status == 423

    def scrape(self) -> dict[str, dict[str, set[str]]]:
        """What it shows: name of a sample -> label -> its values."""
        text = urllib.request.urlopen(f"http://{self.address}/metrics", timeout=10).read().decode()
        found: dict[str, dict[str, set[str]]] = {}
        for name, pairs in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
            labels = found.setdefault(name, {})
            for label, value in re.findall(r'(\w+)="([^"]*)"', pairs):
                labels.setdefault(label, set()).add(value)
        return found


@pytest.fixture(scope="module")
def exercised(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exercised]:
    found = Exercised(tmp_path_factory.mktemp("exercised"))
    with found.server:
        found.exercise()
        yield found


@pytest.fixture(scope="module")
def shown(exercised: Exercised) -> dict[str, dict[str, set[str]]]:
    """The last thing to happen is that an upload expires."""
    deadline = time.monotonic() + 10
    while "tusd_uploads_expired_total" not in (found := exercised.scrape()):
        assert time.monotonic() < deadline, "nothing expired"
        time.sleep(0.1)
    return found


def known_values(shown: dict[str, dict[str, set[str]]]) -> dict[str, set[str]]:
    """Label -> the values that it can have, of those that are known beforehand."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TusError)]
    return {
        "code": {kind.code for kind in kinds},
        "hooktype": {event.name for event in EVENTS},
        "method": set(METHODS),
        "operation": shown["tusd_storage_operation_duration_seconds_count"]["operation"],
    }


def test_every_metric_and_label_of_every_query_is_shown(shown: dict[str, dict[str, set[str]]]) -> None:
    known = known_values(shown)
    assert {"create", "info", "open", "save", "finish", "concatenate", "terminate"} == known["operation"]
    found = list(queries())
    assert len(found) > 60
    for query in found:
        assert query.selectors, query
        for name, matchers in query.selectors:
            labels = ADDED if name == "up" else ADDED | set(shown.get(name, {}))
            assert name == "up" or name in shown, f"{query}: no metric {name}"
            assert set(matchers) <= labels, f"{query}: {name} has the labels {labels}"
            assert query.grouping <= labels, f"{query}: {name} has the labels {labels}"
            for label, value in matchers.items():
                if label in known and not value.startswith("$"):
                    assert set(value.split("|")) <= known[label], f"{query}: {label} is one of {known[label]}"
        kept = query.grouping or ADDED
        assert query.shown <= kept, f"{query} shows {query.shown}, but keeps {kept}"


def test_everything_that_is_shown_has_a_place(shown: dict[str, dict[str, set[str]]]) -> None:
    used = {re.sub("_(bucket|sum|count)$", "", name) for query in queries() for name, _ in query.selectors}
    named = {re.sub("_(bucket|sum|count)$", "", name) for name in shown}
    assert named - used == {"process_virtual_memory_bytes"}


# --- Prometheus itself


@pytest.fixture(scope="module")
def prometheus(exercised: Exercised, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus that collects from the server as the page says, but every second."""
    command = need("prometheus", how=HOW)
    directory = tmp_path_factory.mktemp("prometheus")
    (text,) = re.findall(r'```yaml title="prometheus.yml"\n(.*?)```', PAGE, re.DOTALL)
    config = yaml.safe_load(text.replace("10.0.0.5:1081", exercised.address))
    assert config["rule_files"] == [ALERTS.name]
    (directory / ALERTS.name).symlink_to(ALERTS)
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    options = {"config.file": "prometheus.yml", "storage.tsdb.path": "data", "web.listen-address": address}
    with (directory / "log").open("wb") as log:
        arguments = [f"--{name}={value}" for name, value in options.items()]
        process = subprocess.Popen(
            [command, *arguments], cwd=directory, stdout=log, stderr=log, env={**os.environ, "GOMAXPROCS": "1"}
        )
    try:
        deadline = time.monotonic() + 20
        while not _collected(address):
            assert process.poll() is None and time.monotonic() < deadline, (directory / "log").read_text()
            exercised.exercise()
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(10)


def ask(address: str, path: str, **query: str) -> Any:
    """What Prometheus's API answers."""
    with urllib.request.urlopen(f"http://{address}/api/v1/{path}?{urlencode(query)}", timeout=10) as response:
        return json.load(response)["data"]


def _collected(address: str) -> bool:
    """Whether there are enough samples for a rate of everything."""
    try:
        found = ask(address, "query", query="count_over_time(tusd_uploads_expired_total[1m]) >= 3")
    except OSError:
        return False
    return bool(found["result"])


def test_every_query_finds_something(prometheus: str) -> None:
    for query in queries():
        if query.where in RULES:
            continue
        text = re.sub(r"\$(job|instance|method)", ".*", query.text.replace("$__rate_interval", "1m"))
        assert ask(prometheus, "query", query=text)["result"], query


def test_the_rules_work(prometheus: str) -> None:
    deadline = time.monotonic() + 10
    while True:
        (group,) = ask(prometheus, "rules")["groups"]
        health = {rule["name"]: (rule["health"], rule.get("lastError", "")) for rule in group["rules"]}
        if "unknown" not in {state for state, _ in health.values()}:
            break
        assert time.monotonic() < deadline, health
        time.sleep(0.1)
    assert health == dict.fromkeys(RULES, ("ok", ""))


# --- the alerts


TUSD = 'job="tusd",instance="a"'


def ratio(counter: str, every: str, bad: int, of: str = "tusd_requests_total") -> dict[str, str]:
    """A counter that grows by `bad` while another one grows by 100."""
    return {f"{counter}{{{TUSD},{every}}}": f"0+{bad}x180", f"{of}{{{TUSD}}}": "0+100x180"}


def histogram(name: str, labels: str, within: str) -> dict[str, str]:
    """One whose values all lie below a bound."""
    bounds = ["0.001", "1", "5", "10", "20"]
    return {
        f'{name}_bucket{{{TUSD}{labels},le="{bound}"}}': f"0+{10 * (float(bound) >= float(within)):.0f}x180"
        for bound in [*bounds, "+Inf"]
    }


def counters(**growth: int) -> dict[str, str]:
    return {f"{name}{{{TUSD}}}": f"0+{each}x180" for name, each in growth.items()}


HOOK = 'hooktype="pre-finish"'
CASES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "TusdDown": ({f"up{{{TUSD}}}": "0x180"}, {f"up{{{TUSD}}}": "1x180", 'up{job="else",instance="b"}': "0x180"}),
    "TusdServerErrors": (
        ratio("tusd_errors_total", 'code="ERR_STORAGE_UNAVAILABLE",status="503"', 6),
        ratio("tusd_errors_total", 'code="ERR_READ_TIMEOUT",status="503"', 50),
    ),
    "TusdNothingFinishes": (
        counters(tusd_uploads_created=1, tusd_uploads_finished=0),
        counters(tusd_uploads_created=100, tusd_uploads_finished=1),
    ),
    "TusdFinishingStuck": (
        ratio("tusd_errors_total", 'code="ERR_FINISH_PENDING",status="423"', 1),
        ratio("tusd_errors_total", 'code="ERR_FINISH_PENDING",status="423"', 0),
    ),
    "TusdHookFails": (
        {f"tusd_hook_errors_total{{{TUSD},{HOOK}}}": "0+2x180", f"tusd_hook_invocations_total{{{TUSD},{HOOK}}}": "0+10x180"},
        {f"tusd_hook_errors_total{{{TUSD},{HOOK}}}": "0x180", f"tusd_hook_invocations_total{{{TUSD},{HOOK}}}": "0x180"},
    ),
    "TusdHookSlow": (
        histogram("tusd_hook_duration_seconds", f",{HOOK}", "10"),
        histogram("tusd_hook_duration_seconds", f",{HOOK}", "1"),
    ),
    "TusdEventsParked": (
        {f'tusd_hook_outbox_parked{{{TUSD},outbox="o"}}': "1x180"},
        {f'tusd_hook_outbox_parked{{{TUSD},outbox="o"}}': "0x180"},
    ),
    "TusdEventsPileUp": (
        {f'tusd_hook_outbox_waiting{{{TUSD},outbox="o"}}': "200+1x180"},
        {f'tusd_hook_outbox_waiting{{{TUSD},outbox="o"}}': "0+400x75 0 0+1x90"},
    ),
    "TusdStorageSlow": (
        histogram("tusd_storage_operation_duration_seconds", ',operation="save"', "5"),
        histogram("tusd_storage_operation_duration_seconds", ',operation="concatenate"', "10"),
    ),
    "TusdLocksWait": (histogram("tusd_lock_wait_seconds", "", "10"), histogram("tusd_lock_wait_seconds", "", "1")),
    "TusdNoRoom": (
        ratio("tusd_errors_total", 'code="ERR_STORAGE_FULL",status="507"', 1),
        ratio("tusd_errors_total", 'code="ERR_MAX_SIZE_EXCEEDED",status="413"', 1),
    ),
    "TusdRefusesMany": (
        ratio("tusd_errors_total", 'code="ERR_TOO_MANY_REQUESTS",status="429"', 11),
        ratio("tusd_errors_total", 'code="ERR_TOO_MANY_REQUESTS",status="429"', 9),
    ),
    "TusdMemory": (
        {f"process_resident_memory_bytes{{{TUSD}}}": "1100000000x180"},
        {f"process_resident_memory_bytes{{{TUSD}}}": "100000000x180", 'process_resident_memory_bytes{job="x"}': "1e12x180"},
    ),
    "TusdFiles": (
        {f"process_open_fds{{{TUSD}}}": "900x180", f"process_max_fds{{{TUSD}}}": "1024x180"},
        {f"process_open_fds{{{TUSD}}}": "700x180", f"process_max_fds{{{TUSD}}}": "1024x180"},
    ),
}
"""Alert -> figures of three hours for which it is raised, and others for which it is not."""


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([need("promtool", how=HOW), *arguments], capture_output=True, text=True, timeout=60, check=False)


def together(number: int) -> dict[str, str]:
    """The figures of all cases, each of an instance that is called as the alert."""
    return {
        series.replace('instance="a"', f'instance="{name}"'): values
        for name, both in CASES.items()
        for series, values in both[number].items()
    }


def test_each_alert_is_raised_when_it_should_be_and_no_other_with_it(tmp_path: Path) -> None:
    assert set(CASES) == set(RULES)
    by_job = {"TusdNothingFinishes"}
    tests = []
    for figures, raised in ((together(0), set(CASES)), (together(1), set())):
        labels = [f'alertname="{name}"' + ("" if name in by_job else f',instance="{name}"') for name in raised]
        check = {
            "expr": 'count by (alertname, instance) (ALERTS{alertstate="firing"})',
            "eval_time": "100m",
            "exp_samples": [{"labels": f"{{{one}}}", "value": 1} for one in labels],
        }
        series = [{"series": one, "values": values} for one, values in figures.items()]
        tests.append({"interval": "1m", "input_series": series, "promql_expr_test": [check]})
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))
    done = promtool("test", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_nothing_wrong() -> None:
    done = promtool("check", "rules", str(ALERTS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(RULES)} rules found" in done.stdout


def test_what_each_alert_says() -> None:
    for name, rule in RULES.items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert set(rule["annotations"]) == {"summary", "description"}, name
        assert rule["for"], name


# --- the page and the dashboard


def test_the_page_has_a_cure_for_each_alert() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
    assert [name for name, _, _ in rows] == list(RULES)
    assert len(RULES) == 14 and "fourteen alerts" in PAGE


def test_panels_that_the_page_names_exist() -> None:
    assert any(panel["title"].startswith("Error answers") for panel in PANELS)
    assert "The panel *Error answers*" in PAGE


def test_the_dashboard_can_be_imported() -> None:
    """What Grafana asks of a dashboard, by its schema: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/"""
    assert BOARD["schemaVersion"] >= 39
    assert "id" not in BOARD and BOARD["uid"] == "tusd" and BOARD["title"] == "tusd"
    identities = [panel["id"] for panel in BOARD["panels"]]
    assert len(identities) == len(set(identities))
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
    for panel in PANELS:
        assert panel["type"] in ("timeseries", "stat") and panel["title"]
        assert [target["refId"] for target in panel["targets"]] == [chr(ord("A") + n) for n in range(len(panel["targets"]))]
        for place in (panel, *panel["targets"]):
            assert place["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    variables = [variable["name"] for variable in BOARD["templating"]["list"]]
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(BOARD))) - {"__rate_interval", "__all"}
    assert set(variables) == used
