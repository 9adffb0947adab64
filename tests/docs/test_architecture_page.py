"""docs/explanation/architecture.md against the code; the table of imports has a test of its own in tests/architecture."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import tusd
from tusd import plugin
from tusd.config import SEAMS, SINGLE_SEAMS
from tusd.model import State

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
CORE = Path(tusd.__path__[0])
NOT_OURS = {"CancelledError", "Location", "Protocol"}


def section(heading: str) -> str:
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def rows(heading: str) -> list[list[str]]:
    lines = [line for line in section(heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def ticked(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def definitions() -> set[str]:
    """The names of all classes and functions of the core, and of what its classes hold."""
    found = set()
    for path in CORE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
    return found


def test_the_seams() -> None:
    table = rows("The seams")
    assert sorted(ticked(row[0])[0].rstrip(":") for row in table) == sorted(SEAMS)
    for key, group, hookspec, opens, module, proof, count in table:
        seam = ticked(key)[0].rstrip(":")
        assert ticked(group) == [f"tusd.{seam}"]
        assert count == ("one" if seam in SINGLE_SEAMS else "a list")
        if seam == "plugins":
            assert ticked(hookspec) == ["add_routes"]
            continue
        assert ticked(hookspec) == [f"open_{seam}"]
        (file,) = ticked(module)
        home = importlib.import_module(f"tusd.{file.removesuffix('.py')}")
        for name in ticked(opens):
            assert getattr(home, name) is getattr(plugin, name)
            assert getattr(home, name).__module__ == home.__name__
        kit = CORE / "testing" / f"{seam}.py"
        assert kit.exists() == bool(ticked(proof))
        for suite in ticked(proof):
            assert hasattr(importlib.import_module(f"tusd.testing.{seam}"), suite)


def test_every_file_that_is_named_exists() -> None:
    named = re.findall(r"`([\w./-]+\.py|[\w/-]+/)`", PAGE)
    assert len(named) > 60
    for name in named:
        here = [CORE / name, ROOT / name]
        assert any(path.exists() for path in here) or ("/" not in name and list(CORE.rglob(name))), name


def test_every_file_of_the_core_is_named_or_in_a_folder_that_is() -> None:
    table = " ".join(cell for row in rows("Where to find what") + rows("Who may import whom") for cell in row)
    for path in CORE.iterdir():
        if path.suffix == ".py" and path.name != "__init__.py":
            assert f"`{path.name}`" in PAGE or f"`{path.stem}`" in table, path.name
        elif path.is_dir() and path.name != "__pycache__":
            assert f"`{path.name}/" in PAGE, path.name


def test_every_class_and_function_that_is_named_exists() -> None:
    text = PAGE.split("\n## Who may import whom\n")[0]
    names = set(re.findall(r"`([A-Z][a-z]\w+)", text)) - NOT_OURS
    names = {name for name in names if not re.search(rf"`{name}-", text)}  # headers
    names |= set(re.findall(r"`((?:plan|open)_\w+)`", text))
    assert len(names) > 25
    assert names <= definitions()


def test_the_states() -> None:
    assert [ticked(row[0])[0] for row in rows("States of an upload")] == [state.name for state in State]


def test_a_patch_has_twelve_steps() -> None:
    steps = re.findall(r"^(\d+)\. ", section("A PATCH, in twelve steps"), re.MULTILINE)
    assert steps == [str(n) for n in range(1, 13)]
