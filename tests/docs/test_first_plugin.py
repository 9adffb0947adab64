"""docs/tutorial/first-plugin.md: its code is `first_plugin/`, whole and in order, and that is a plugin that works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "tutorial" / "first-plugin.md"
CODE = Path(__file__).parent / "first_plugin"
FILES = ["config.yaml", "pyproject.toml", "test_sqlite_locking.py", "tusd_plugin_sqlite.py"]

Plugin = tuple[Path, dict[str, str]]


def blocks() -> dict[str, list[str]]:
    """File -> the lines that the page shows of it, in the order of the page."""
    found: dict[str, list[str]] = {}
    for name, text in re.findall(r'^```\w+ title="(.+?)"\n(.*?)^```$', PAGE.read_text(), re.MULTILINE | re.DOTALL):
        found.setdefault(name, []).extend(lines(text))
    return found


def lines(text: str) -> list[str]:
    """Blank lines do not count, nor do comments for this repository's type checker, to which the plugin is not installed."""
    bare = (re.sub(r"  # type: ignore.*", "", line).rstrip() for line in text.splitlines())
    return [line for line in bare if line]


def test_the_page_shows_all_files() -> None:
    assert sorted(blocks()) == FILES


@pytest.mark.parametrize("name", FILES)
def test_the_page_shows_what_is_tested(name: str) -> None:
    assert blocks()[name] == lines((CODE / name).read_text())


def narrow(text: str) -> str:
    """Columns are as wide as what else is installed needs."""
    return re.sub(" +", " ", text)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Plugin:
    """A folder with the tutorial's files, and an environment in which the plugin is installed."""
    folder = tmp_path_factory.mktemp("tutorial")
    for name in FILES:
        shutil.copy(CODE / name, folder)
    install = ["-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", "installed", "."]
    subprocess.run([sys.executable, *install], cwd=folder, check=True)
    return folder, {**os.environ, "PYTHONPATH": str(folder / "installed")}


def run(plugin: Plugin, *command: str) -> str:
    """What the command prints; it must succeed."""
    folder, environment = plugin
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_plugin_is_found(plugin: Plugin) -> None:
    page = PAGE.read_text()
    for command in (["plugins"], ["check", "-c", "config.yaml", "--connect"]):
        assert f"$ tusd {' '.join(command)}\n" in page
        printed = [line for line in run(plugin, "tusd", *command).splitlines() if "sqlite" in line or "config.yaml" in line]
        assert printed and all(narrow(line) in narrow(page) for line in printed), printed


def test_the_plugin_passes_the_suite(plugin: Plugin) -> None:
    assert re.search(r"\b\d\d passed", run(plugin, "pytest", "-q", "test_sqlite_locking.py"))
