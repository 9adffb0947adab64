"""docs/howto/run-as-a-service.md: its units are what systemd understands, its configurations are good, and its table is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.configs import load_config
from tests.needs import need

from tusd.config import ServerSection

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "run-as-a-service.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_configurations_are_good(tmp_path: Path, example: str) -> None:
    (tmp_path / "tusd.yaml").write_text(example)
    load_config(tmp_path / "tusd.yaml")


def test_units_are_understood(tmp_path: Path) -> None:
    command = need("systemd-analyze", how="install systemd")
    service, socket = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)
    older = "Type=notify\nExecReload=/bin/kill -HUP $MAINPID"  # what the page says for systemd before 253, so that any can judge the rest
    assert all(f"`{line}`" in PAGE for line in older.split("\n"))
    service = service.replace("Type=notify-reload", older).replace("/usr/local/bin/tusd", sys.executable)
    (tmp_path / "tusd.service").write_text(service)
    (tmp_path / "tusd.socket").write_text(socket)
    units = [str(tmp_path / "tusd.service"), str(tmp_path / "tusd.socket")]
    result = subprocess.run([command, "verify", "--man=no", *units], capture_output=True, text=True, timeout=60, check=False)
    said = [line for line in result.stderr.splitlines() if "tusd" in line]
    assert said == []


def test_options_that_are_named_exist() -> None:
    named = re.findall(r"`server\.(\w+)`", PAGE)
    assert named
    assert set(named) <= set(ServerSection.model_fields)
