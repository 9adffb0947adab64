"""The table in docs/explanation/architecture.md against what every module imports."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core" / "tusd"
PAGE = ROOT / "docs" / "explanation" / "architecture.md"


@dataclass(frozen=True)
class Row:
    """What the modules of one line of the table may import."""

    modules: tuple[str, ...]
    ours: frozenset[str]
    """Names of modules of tusd; with `but`, those that are forbidden."""
    but: bool
    doors: dict[str, str | None]
    """Third-party package -> the one file that may import it, or None for all."""
    any_door: bool

    def allows(self, name: str, file: str) -> bool:
        """Whether `tusd.x.y`, or a third-party name, may be imported by a file of these modules."""
        parts = name.split(".")
        if parts[0] != "tusd":
            return self.any_door or (parts[0] in self.doors and self.doors[parts[0]] in (None, file))
        found = {".".join(parts[1:2]), ".".join(parts[1:3])}
        return not found & self.ours if self.but else bool(found & self.ours)


def rows() -> list[Row]:
    found = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        modules = tuple(re.findall(r"`([\w/*]+)`", cells[0]))
        if line.startswith("| `") and len(cells) == 3 and modules:
            but = cells[1].startswith("everything but ")
            ours = frozenset(re.findall(r"[\w.]+", cells[1].removeprefix("everything but ")))
            doors = {name: file or None for name, file in re.findall(r"(\w+)(?: in `(\w+\.py)`)?(?:,|$)", cells[2])}
            found.append(Row(modules, ours, but, doors, cells[2] == "anything"))
    return found


def row_of(module: str) -> Row:
    (row,) = [row for row in rows() if module in row.modules]
    return row


def imports(path: Path, package: list[str]) -> Iterator[str]:
    """All that a file imports, with full names; `package` is the one it is in."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            # `from tusd import plugin` imports a module of the package, `from tusd.plugin import Worker` a name.
            yield from (".".join([*module, alias.name] if module == ["tusd"] else module) for alias in node.names)


def core_files() -> list[Path]:
    return sorted(CORE.rglob("*.py"))


def plugin_files() -> list[Path]:
    return sorted(ROOT.glob("plugins/*/src/**/*.py"))


def module_of(path: Path) -> str:
    """The name in the table: of the file itself if it has a row, else of its package."""
    whole = path.relative_to(CORE).with_suffix("").as_posix()
    return whole if any(whole in row.modules for row in rows()) else whole.partition("/")[0]


def wrong(path: Path, package: list[str], module: str, own: str) -> list[str]:
    row = row_of(module)
    return sorted(
        name
        for name in set(imports(path, package))
        if name.split(".")[0] not in sys.stdlib_module_names
        and not f"{name}.".startswith(f"{own}.")
        and name != "tusd.__version__"
        and not row.allows(name, path.name)
    )


@pytest.mark.parametrize("path", [path for path in core_files() if path.parent != CORE or path.name != "__init__.py"], ids=str)
def test_the_core_imports_what_the_table_says(path: Path) -> None:
    module = module_of(path)
    package = ["tusd", *path.relative_to(CORE).parts[:-1]]
    assert wrong(path, package, module, f"tusd.{module.partition('/')[0]}") == []


@pytest.mark.parametrize("path", plugin_files() or [None])
def test_plugins_import_the_plugin_page_only(path: Path | None) -> None:
    if path is None:
        assert not list(ROOT.glob("plugins/*/pyproject.toml")), "plugins without sources"
        return
    package = list(path.relative_to(next(parent for parent in path.parents if parent.name == "src")).parts[:-1])
    assert wrong(path, package, "plugins/*", package[0]) == []


def test_the_package_itself_imports_nothing() -> None:
    assert [name for name in imports(CORE / "__init__.py", ["tusd"]) if name != "__future__"] == []


def test_every_module_has_one_row_and_every_row_a_module() -> None:
    modules = {module_of(path) for path in core_files()} - {"__init__"}
    named = [module for row in rows() for module in row.modules]
    assert sorted(named) == sorted(modules | {"plugins/*"})


def test_nobody_imports_a_built_in() -> None:
    outside = [path for path in core_files() if module_of(path) != "builtin"]
    for path in outside:
        package = ["tusd", *path.relative_to(CORE).parts[:-1]]
        assert [name for name in imports(path, package) if name.startswith("tusd.builtin")] == [], path


def test_no_imports_for_type_checkers_only() -> None:
    # pytest loads its plugin in every run of anybody; what its fixtures need is imported by those that are used.
    allowed = [CORE / "testing" / "pytest_plugin.py"]
    assert [path for path in core_files() if "TYPE_CHECKING" in path.read_text("utf-8")] == allowed


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("import os.path, aiohttp", ["tusd"], {"os.path", "aiohttp"}),
        ("from tusd import plugin, model", [], {"tusd.plugin", "tusd.model"}),
        ("from . import model", ["tusd"], {"tusd.model"}),
        ("from .. import plugin", ["tusd", "web"], {"tusd.plugin"}),
        ("from ..protocol.messages import Head", ["tusd", "engine"], {"tusd.protocol.messages"}),
        ("def f():\n  from ..engine import Engine", ["tusd", "web"], {"tusd.engine"}),
    ],
)
def test_imports_are_found_wherever_they_stand(tmp_path: Path, source: str, package: list[str], expected: set[str]) -> None:
    (tmp_path / "x.py").write_text(source)
    assert set(imports(tmp_path / "x.py", package)) == expected


def test_the_table_forbids() -> None:
    assert not row_of("engine").allows("aiohttp", "append.py")
    assert not row_of("engine").allows("tusd.plugin", "append.py")
    assert not row_of("locking").allows("tusd.protocol.rules", "locking.py")
    assert not row_of("server").allows("tusd.builtin.file_storage", "worker.py")
    assert not row_of("testing").allows("pytest", "storage.py")
    assert row_of("testing").allows("pytest", "pytest_plugin.py")
    assert row_of("builtin").allows("tusd.plugin", "x.py") and not row_of("builtin").allows("tusd.model", "x.py")
