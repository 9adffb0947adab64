"""docs/howto/test-a-plugin.md says what is so: its test module runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.testing.inner_pytest import run_pytest

from tusd.testing.hooks import HooksBase, Receiver
from tusd.testing.locking import LockingSuite
from tusd.testing.metrics import MetricsSuite
from tusd.testing.storage import StorageSuite

PAGE = (Path(__file__).parents[2] / "docs/howto/test-a-plugin.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def block(part: str) -> str:
    """The code block of the page that holds this text."""
    return str(next(found for found in BLOCKS if part in found))


def test_the_storage_example_runs(tmp_path: Path) -> None:
    (tmp_path / "test_shelf.py").write_text(block("class TestShelf(StorageSuite)"))
    run = run_pytest(tmp_path, "-k", "not modified")
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"^[5-9]\d passed, 1 deselected", run.stdout, re.MULTILINE), run.stdout


def test_the_server_example_runs(tmp_path: Path) -> None:
    (tmp_path / "test_server.py").write_text(block("tusd_server("))
    run = run_pytest(tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("code", BLOCKS)
def test_every_example_compiles(code: str) -> None:
    compile(code, "test-a-plugin.md", "exec")


def test_what_may_be_overridden_is_there() -> None:
    storage, locking, hooks = (
        text.partition("\n\n`failing`")[0].partition("\n## ")[0] for text in PAGE.split("These may be overridden")[1:]
    )
    assert named(storage) == ["failing", "large", "takes_away", "content"]
    assert all(hasattr(StorageSuite, name) for name in named(storage))
    assert named(locking) == ["takeover", "hand_over", "crowd", "left_behind"]
    assert all(hasattr(LockingSuite, name) for name in named(locking))
    stated = {name for name in [*vars(HooksBase), *HooksBase.__annotations__] if not name.startswith("_")}
    assert {*named(hooks)} == stated - {"seam", "plugin", "dispatching", "arrives", "fails"}


def named(table: str) -> list[str]:
    """What stands in the first column."""
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return re.findall(r"`(\w+)", " ".join(first))


def test_a_receiver_is_as_the_page_says() -> None:
    methods = re.findall(r"^    def (\w+)", block("(Receiver)").partition("class Test")[0], re.MULTILINE)
    assert {*methods} - {"__init__"} == Receiver.__abstractmethods__


def test_what_may_be_overridden_of_metrics_is_there() -> None:
    section = PAGE.partition("## Metrics")[2].partition("\n## ")[0]
    names = set(re.findall(r"`(\w+)(?:\(\))?`", section)) | set(re.findall(r"def (\w+)", section))
    names -= {"MetricsSuite"}
    assert names == {"value", "observed", "unreachable", "odd_values", "soon", "at_most"}
    assert all(hasattr(MetricsSuite, name) for name in names)


def test_every_name_of_the_kit_is_there() -> None:
    modules = set(re.findall(r"`tusd\.testing\.(\w+)`", PAGE))
    assert modules == {"bodies", "faults", "door", "elsewhere", "locking", "limiting", "metrics"}
    for module, name in re.findall(r"from tusd\.testing\.(\w+) import (\w+)", PAGE):
        exec(f"from tusd.testing.{module} import {name}", {})
