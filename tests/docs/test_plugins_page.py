"""docs/reference/plugins.md, and the docstring of tusd.plugin, against the code."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import logging
import re
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints
from urllib.request import urlopen

import pytest

from tusd import plugin
from tusd.config import SEAMS
from tusd.engine import _NEEDS
from tusd.errors import TusError
from tusd.model import Extension
from tusd.plugin import UploadId, UploadInfo, Worker
from tusd.registry import FanOut, load, open_one
from tusd.registry.checking import hookspecs
from tusd.testing.bodies import FakeBody, FakeLease
from tusd.testing.server import ServerProcess

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "plugins.md").read_text()
DOC = inspect.cleandoc(plugin.__doc__ or "")
Start = Callable[..., ServerProcess]


def titled(name: str) -> str:
    (found,) = re.findall(rf'```python title="{re.escape(name)}"\n(.*?)```', PAGE, re.DOTALL)
    return str(found)


def listings() -> list[str]:
    """The untitled blocks: excerpts of the code."""
    return re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def table(heading: str) -> list[list[str]]:
    section = PAGE.split(f"# {heading}\n")[1].split("\n#")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def ticked(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def module(target: object) -> ast.Module:
    return ast.parse(inspect.getsource(importlib.import_module(getattr(target, "__module__", plugin.__name__))))


def members(node: ast.ClassDef) -> dict[str, str]:
    """Public attributes and methods of a class -> how they are declared, without comments, docstrings and bodies."""
    found = {}
    for child in node.body:
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            found[child.target.id] = ast.unparse(child)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and (
            not child.name.startswith("_") or child.name == "__aiter__"
        ):
            found[child.name] = header(child)
    return found


def header(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """A function's decorators (not abstractmethod), name and signature."""
    bare = ast.parse("def f(): ...").body[0]
    assert isinstance(bare, ast.FunctionDef)
    node.body = bare.body
    node.decorator_list = [one for one in node.decorator_list if ast.unparse(one) != "abstractmethod"]
    return ast.unparse(node)


def shown_classes() -> dict[str, ast.ClassDef]:
    found = {}
    for text in listings():
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and hasattr(plugin, node.name):
                assert node.name not in found, node.name
                found[node.name] = node
    return found


def test_every_name_is_on_the_page() -> None:
    words = {word for text in re.findall(r"```python.*?```|`[^`\n]+`", PAGE, re.DOTALL) for word in re.findall(r"\w+", text)}
    assert sorted(set(plugin.__all__) - words) == []
    for name in plugin.__all__:
        assert hasattr(plugin, name)


def test_names_of_the_page_exist() -> None:
    named = re.findall(r"\bplugin\.(?!md\b)(\w+)", PAGE)
    assert len(named) > 15
    assert set(named) <= set(plugin.__all__)


def test_hookspecs_have_the_same_signatures() -> None:
    (listing,) = [text for text in listings() if "def open_storage(worker" in text and "@hookspec" in text]
    shown = [header(node) for node in ast.parse(listing).body if isinstance(node, ast.FunctionDef)]
    real = [header(node) for node in module(plugin.Worker).body if isinstance(node, ast.FunctionDef) and node.name in hookspecs()]
    assert shown == real
    assert len(shown) == 6


@pytest.mark.parametrize(
    "name",
    "Worker Routes DataStore Upload Body Terminable Concatenable Readable Listable Locker Lease Limiter Allowance "
    "Dispatcher HookEvent HookResponse Changes Metrics Metric".split(),
)
def test_classes_have_the_same_members(name: str) -> None:
    (real,) = [n for n in module(getattr(plugin, name)).body if isinstance(n, ast.ClassDef) and n.name == name]
    expected = members(real)
    if name == "Routes":
        expected |= {"found": "found: dict[str, Handler]", "admin": "admin: dict[str, Handler]"}
    assert members(shown_classes()[name]) == expected


@pytest.mark.parametrize("name", "Memory Cutter Sending".split())
def test_methods_for_stores_of_objects_are_the_same(name: str) -> None:
    (real,) = [n for n in module(getattr(plugin, name)).body if isinstance(n, ast.ClassDef) and n.name == name]
    methods = [child.name for child in real.body if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)]
    expected = {key: text for key, text in members(real).items() if key in methods}
    assert members(shown_classes()[name]) == expected


def test_seams() -> None:
    rows = table("By entry point")
    assert [ticked(row[0])[0] for row in rows] == [f"tusd.{seam}" for seam in SEAMS]
    assert [ticked(row[1])[0] for row in rows] == [f"{seam}:" for seam in SEAMS]
    assert [ticked(row[2])[0] for row in rows] == [f"open_{seam}" for seam in SEAMS[:-1]] + ["add_routes"]
    assert sorted(ticked(row[2])[0] for row in rows) == sorted(hookspecs())


def test_capabilities() -> None:
    rows = {ticked(row[0])[0]: row for row in table("Capabilities")}
    assert set(rows) == {c.__name__ for c in plugin.Capability.__subclasses__() if c.__module__ == "tusd.storage"}
    for extension in Extension:
        for name, row in rows.items():
            needs = _NEEDS.get(extension)
            assert bool(re.search(rf"\b{extension.value}(?![\w-])", row[2])) == (needs is not None and needs.__name__ == name)


def test_events() -> None:
    (text,) = re.findall(r"`EVENTS` holds the classes of .*?: (.*?)\. `answers`", PAGE, re.DOTALL)
    common = {f.name for f in dataclasses.fields(plugin.HookEvent)}
    expected: list[str] = []
    for event in plugin.EVENTS:
        expected += [event.__name__, *(f.name for f in dataclasses.fields(event) if f.name not in common)]
    assert ticked(text) == expected


def test_errors_are_those_of_the_page() -> None:
    named = [ticked(row[0])[0] for row in table("Errors that a plugin may raise")]
    offered = [name for name in plugin.__all__ if inspect.isclass(found := getattr(plugin, name)) and issubclass(found, TusError)]
    assert sorted([*named, "TusError"]) == sorted(offered)


def test_values() -> None:
    rows = {row[0]: ticked(row[1]) for row in table("Values")}
    fields = {name: [f.name for f in dataclasses.fields(getattr(plugin, name))] for name in ("UploadInfo", "Head", "Response")}
    for name, expected in fields.items():
        assert rows[f"`{name}`"] == expected
    assert rows["`State`"] == [state.name for state in plugin.State]
    assert set(get_args(get_type_hints(plugin.Eviction)["order"])) <= set(rows["`Eviction`"])
    assert {f.name for f in dataclasses.fields(plugin.Eviction)} <= set(rows["`Eviction`"])
    assert rows["`Scope`"] == [scope.name for scope in plugin.Scope]
    assert len(get_args(plugin.Request)) == 6
    assert plugin.API_VERSION == 1 and "the version of all this: 1" in PAGE


@pytest.mark.parametrize("row", table("Options"), ids=lambda row: row[0])
def test_written_values_are_read(row: list[str]) -> None:
    (name,) = ticked(row[0])

    class Options(plugin.Options):
        value: getattr(plugin, name)  # type: ignore[valid-type]

    for text in ticked(row[2]) or ["text"]:
        read = Options.model_validate({"value": text.strip('"')}).value
        assert isinstance(read, {"Size": int, "Duration": float, "Mode": int, "Secret": str}[name])


def worker(directory: Path) -> Worker:
    return Worker("storage:test", logging.getLogger("tusd.test"), FanOut(), directory)


def info(length: int) -> UploadInfo:
    return UploadInfo(id=UploadId("a"), length=length)


async def test_the_examples_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The metrics plugin and the wrapper of the page, opened as a server does."""
    (tmp_path / "tusd_plugin_counting.py").write_text(titled("tusd_plugin_counting.py"))
    (tmp_path / "counting_storage.py").write_text(titled("counting_storage.py"))
    for use in ("./tusd_plugin_counting.py", "./tusd_plugin_counting.py:Counting"):
        assert f"{use}" in PAGE
        caplog.clear()
        loaded = load("metrics", use, {"prefix": "my_"}, base=tmp_path)
        with caplog.at_level(logging.INFO):
            async with open_one(loaded, worker(tmp_path)) as metrics:
                metrics.add(plugin.Metric("tries", "counter", "Tries."), 2)
        assert "my_tries is 2" in caplog.messages
    wrapper = load("plugins", "./counting_storage.py", base=tmp_path)
    async with open_one(load("storage", "memory"), worker(tmp_path), wrapper) as store:
        await store.create(info(3), None)
        assert store.created == 1
        assert (await store.info(UploadId("a"))).length == 3


async def test_the_example_that_counts_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    from tusd.builtin.memory_storage import MemoryStore

    (code,) = [text for text in listings() if "class CountingUpload" in text]
    names: dict[str, Any] = {"plugin": plugin}
    exec(code, names)
    store = names["CountingStore"](MemoryStore())
    upload = await store.create(info(3), FakeLease())
    await upload.append(FakeBody(b"ab"))
    assert capsys.readouterr().out == "2 bytes\n"


def test_the_example_in_a_server(tusd_server: Start, tmp_path: Path) -> None:
    (tmp_path / "tusd_plugin_counting.py").write_text(titled("tusd_plugin_counting.py"))
    (about,) = [text for text in listings() if "class About" in text]
    (tmp_path / "about.py").write_text("from tusd import plugin\n" + about)
    server = tusd_server(
        {
            "metrics": [{"use": str(tmp_path / "tusd_plugin_counting.py"), "prefix": "my_"}],
            "plugins": [{"use": str(tmp_path / "about.py")}],
        }
    )
    with urlopen(f"http://{server.host}:{server.port}/about") as answer:
        assert answer.read() == b"tusd\n"
    assert server.stop() == 0
    assert re.search(r"my_\w+ is \d", server.log)


# --- the docstring of tusd/plugin.py


def docstring_code() -> tuple[str, str]:
    """The two classes of the docstring: what is indented, less the entry point."""
    indented = [textwrap.dedent(text) for text in re.findall(r"(?:^    .*\n|^\n)+", DOC, re.MULTILINE) if "class " in text]
    plugin_code, wrapper_code = indented
    return plugin_code.partition("[project.entry-points")[0], wrapper_code


SHELF_STORE = '''
class ShelfStore(plugin.WrappedStore):
    """Stands for the store that the docstring leaves out."""

    def __init__(self, options: ShelfStorage.Options, logger: object) -> None:
        assert options.room == 10 * 2**30 and options.directory == Path("shelf") and logger
        from tusd.builtin.memory_storage import MemoryStore

        super().__init__(MemoryStore())
'''


async def test_the_docstring_of_plugin_py_works(tmp_path: Path) -> None:
    plugin_code, wrapper_code = docstring_code()
    (tmp_path / "shelf.py").write_text(plugin_code + SHELF_STORE)
    counting_store = "class CountingStore(plugin.WrappedStore):\n    counted = True\n"
    imports = "from contextlib import asynccontextmanager\nfrom tusd import plugin\n"
    (tmp_path / "counting.py").write_text(imports + counting_store + wrapper_code)
    (use,) = re.findall(r"# storage: \{use: shelf, (.*)\}$", DOC, re.MULTILINE)
    assert use == "room: 10GiB"
    shelf = load("storage", "./shelf.py", {"room": "10GiB"}, base=tmp_path)
    counting = load("plugins", "./counting.py", base=tmp_path)
    async with open_one(shelf, worker(tmp_path), counting) as store:
        assert store.counted
        upload = await store.create(info(5), None)
        assert upload.info.length == 5
        assert isinstance(store, plugin.DataStore) and isinstance(store, plugin.Readable)
        assert isinstance(store.read(upload.info, 0, 0), AsyncIterator)


def test_the_docstring_names_the_suites() -> None:
    named = re.findall(r"`(\w+Suite)`", DOC)
    assert named == ["StorageSuite", "LockingSuite", "LimitingSuite", "HooksSuite", "MetricsSuite"]
    for name in named:
        assert hasattr(importlib.import_module(f"tusd.testing.{name.removesuffix('Suite').lower()}"), name)
