"""The registry: every way in which a plugin can be wrong, and what is opened when all are right."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.configs import install_nothing_else, load_config
from tusd import plugin, registry
from tusd.config import SEAMS, SECTIONS, Config, StartErrors
from tusd.errors import PluginError
from tusd.options import MASK, shown
from tusd.registry import Backends, Loaded, Registry
from tusd.registry.finding import OFFICIAL
from tusd.testing.bodies import FakeBody, FakeLease

PLUGINS = Path(__file__).parent / "registry_plugins"
LOGGER = logging.getLogger("tusd.test")


@pytest.fixture
def good(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The distribution `tusd-plugin-good`, installed; gives its module."""
    monkeypatch.syspath_prepend(str(PLUGINS / "good"))
    import tusd_plugin_good  # type: ignore[import-not-found]

    tusd_plugin_good.EVENTS.clear()
    yield tusd_plugin_good
    del sys.modules["tusd_plugin_good"]


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The distribution `tusd-plugin-faulty`, installed."""
    monkeypatch.syspath_prepend(str(PLUGINS / "faulty"))
    yield
    sys.modules.pop("tusd_plugin_faulty", None)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def config_of(tmp_path: Path, text: str) -> Config:
    return load_config(write(tmp_path, "locking: {use: memory}\n" + textwrap.dedent(text)))


def problem(seam: str, use: str, options: dict[str, object] | None = None, base: Path = Path()) -> str:
    """The one line that refuses a plugin."""
    with pytest.raises(StartErrors) as caught:
        registry.load(seam, use, options, base=base)
    (error,) = caught.value.errors
    assert "\n" not in str(error)
    return str(error)


# --- finding


def test_an_installed_plugin_is_loaded_with_its_options(good: Any) -> None:
    loaded = registry.load("storage", "shelf", {"room": "1KiB"})
    assert isinstance(loaded.plugin, good.Shelf)
    assert loaded.options == good.Shelf.Options(room=1024)
    assert (loaded.label, loaded.distribution, loaded.version) == ("storage:shelf", "tusd-plugin-good", "1.2")


def test_the_built_ins_are_found() -> None:
    for seam in ("storage", "locking"):
        for use in ("file", "memory"):
            assert registry.load(seam, use).distribution == "tusd"


@pytest.mark.parametrize("use", OFFICIAL)
def test_an_official_plugin_that_is_missing_names_its_distribution(use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install_nothing_else(monkeypatch)
    text = problem("storage", use)
    assert f'storage.use: no plugin "{use}"; installed: file, memory; try: pip install {OFFICIAL[use]}' in text


def test_a_misspelt_name_is_corrected() -> None:
    assert 'no plugin "memroy" (did you mean "memory"?); installed: file, ' in problem("storage", "memroy")


def test_an_import_failure_says_its_cause(faulty: None) -> None:
    text = problem("storage", "absent")
    assert '"absent" of tusd-plugin-faulty 0.9 cannot be imported: ModuleNotFoundError' in text
    assert "a_library_that_nobody_has" in text


def test_two_distributions_with_one_name_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGINS / "rival_a"))
    monkeypatch.syspath_prepend(str(PLUGINS / "rival_b"))
    assert '"rival" is offered by tusd-plugin-rival-a 1.0 and tusd-plugin-rival-b 1.0; uninstall all but one' in problem(
        "storage", "rival"
    )


def test_a_class_is_found_by_its_name(good: Any) -> None:
    assert registry.named("storage", good.Shelf) == "shelf"
    with pytest.raises(PluginError, match=r"no installed distribution offers Shelf under .*tusd\.hooks"):
        registry.named("hooks", good.Shelf)


def test_only_what_the_configuration_names_is_imported(tmp_path: Path) -> None:
    code = """
        import sys
        from pathlib import Path
        from tusd.registry import configure
        configure(Path(sys.argv[1]))
        print(*sorted(name for name in sys.modules if name.startswith(("tusd.", "tusd_plugin", "aiohttp"))))
    """
    config = write(tmp_path, "storage: {use: shelf}\nlocking: {use: memory}\nmetrics: []\n")
    path = os.pathsep.join(str(PLUGINS / name) for name in ("good", "faulty"))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(config)],
        env={**os.environ, "PYTHONPATH": path, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    names = done.stdout.split()
    assert "tusd_plugin_good" in names and "tusd.builtin.memory_locking" in names
    unwanted = [
        name for name in names if name.startswith(("aiohttp", "tusd_plugin_faulty", "tusd_plugin_absent", "tusd.builtin"))
    ]
    assert unwanted == ["tusd.builtin", "tusd.builtin.memory_locking"]
    assert not (tmp_path / "cache").exists()


# --- wrong plugins


@pytest.mark.parametrize(
    ("seam", "use", "expected"),
    [
        ("storage", "function", "is not a class"),
        ("storage", "newer", "is written for version 2 of the plugin page, this is version 1; upgrade tusd"),
        ("storage", "older", "is written for version 0 of the plugin page, this is version 1; upgrade tusd-plugin-faulty"),
        ("storage", "hookless", "has no hookimpl open_storage, which storage needs"),
        ("storage", "unmarked", "has no hookimpl open_storage, which storage needs; mark it with @plugin.hookimpl"),
        ("storage", "misspelt", 'open_storag is not a hookspec (did you mean "open_storage"?)'),
        ("storage", "signature", "Signature: open_storage takes 'wrker', which it is not given; it may take worker"),
        ("storage", "scopeless", "states no scope; write `scope = plugin.Scope.PROCESS`, HOST or CLUSTER"),
        ("storage", "first", "@plugin.hookimpl takes wrapper=True only, not tryfirst; the configuration gives the order"),
        ("storage", "generator", "open_storage is not an async context manager; put @asynccontextmanager between"),
        ("storage", "coroutine", "open_storage is not an async context manager; put @asynccontextmanager between"),
        ("storage", "wrapper", "open_storage is a wrapper; name it under plugins:, and what it wraps under storage:"),
        ("storage", "options", "its Options must be a class derived from plugin.Options"),
        ("storage", "optionless", "it takes options but has no class Options(plugin.Options)"),
        ("storage", "raising", "cannot be made: RuntimeError: no shelf anywhere"),
        ("hooks", "options", "its Options must be a class derived from plugin.HookOptions"),
        ("plugins", "replacing", "open_storage would replace storage:; name it under storage:, or wrap what is there"),
        ("plugins", "contextmanager", "is not the shape of a wrapper; write: `opening = yield; return self.wrap(opening)`"),
        ("plugins", "asking", "add_routes is a coroutine; write `def add_routes`"),
        ("plugins", "empty", "has no method marked @plugin.hookimpl"),
    ],
)
def test_a_wrong_plugin_is_refused(faulty: None, seam: str, use: str, expected: str) -> None:
    assert expected in problem(seam, use)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rom": 1}, 'storage.rom: unknown option (did you mean "room"?)'),
        ({"qqq": 1}, "storage.qqq: unknown option; the options here are directory, room, account, rows, colour"),
        ({"room": "much"}, "storage.room: not a size; write a number of bytes, or 512KiB, 5MB, 50GiB"),
        ({"account": {"passwrod": "hunter2"}}, 'storage.account.passwrod: unknown option (did you mean "password"?)'),
        ({"account": {"password": ["hunter2"]}}, "storage.account.password: should be a valid string"),
        ({"rows": [{"higth": 1}]}, 'storage.rows[0].higth: unknown option (did you mean "height"?)'),
        ({"colour": "hunter2"}, "storage.colour: should be a valid integer"),
    ],
)
def test_a_wrong_option_is_refused_without_showing_its_value(good: Any, options: dict[str, object], expected: str) -> None:
    text = problem("storage", "shelf", options)
    assert expected in text
    assert "hunter2" not in text


def test_an_option_of_two_types_says_both_in_one_line(good: Any) -> None:
    assert problem("storage", "shelf", {"colour": "blue"}).count(" or ") == 1


def test_a_missing_option_is_named(good: Any) -> None:
    assert "storage.name: missing; it has no default" in problem("storage", "both")


KEYS = """
from typing import Annotated
from pydantic import Field
from tusd import plugin

class Keys:
    class Options(plugin.HookOptions):
        keys: Annotated[list[str], Field(min_length=1)]

    def __init__(self, options): ...

    @plugin.hookimpl
    def open_hooks(self): ...
"""


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("['${file:nothing}']", "hooks[0].keys[0]: cannot read the file {}/nothing: No such file or directory"),
        ("[]", "hooks[0].keys: should have at least 1 item after validation, not 0"),
    ],
)
def test_a_list_without_an_item_that_cannot_be_had_is_no_error_besides(tmp_path: Path, keys: str, expected: str) -> None:
    (tmp_path / "keys.py").write_text(KEYS)
    path = write(tmp_path, f"hooks: [{{use: ./keys.py, keys: {keys}}}]")
    with pytest.raises(StartErrors) as caught:
        registry.configure(path)
    assert [str(error).partition(" ")[2] for error in caught.value.errors] == [expected.format(tmp_path)]


def test_errors_stand_where_the_file_has_them_and_come_all_at_once(good: Any, tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
        server:
          lisen: ":1"
        storage:
          use: shelf
          rom: 1
          account:
            pasword: ${UNSET_IN_THIS_TEST}
        locking: {use: s3}
        hooks:
          - use: ear
            events: [post-create]
          - use: ear
            events: [post-crate]
          - endpoint: x
        """,
    )
    with pytest.raises(StartErrors) as caught:
        registry.configure(path)
    assert str(caught.value).splitlines() == [str(error) for error in caught.value.errors]
    lines = [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]
    assert [line.partition(": ")[0] for line in lines] == [
        "7:14 storage.account.pasword",
        "2:3 server.lisen",
        "14:5 hooks[2].use",
        "5:3 storage.rom",
        "8:11 locking.use",
        "13:14 hooks[1].events[0]",
    ]


# --- scope and workers


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("locking: {use: memory}", "locking: `memory` guards one process, but server.workers is 4. Use `file` (one host)"),
        (
            "storage: {use: memory}",
            "storage: `memory` keeps uploads in one process, but server.workers is 4. Use `file` (one host)",
        ),
        ("limiting: [{use: gate}]", "limiting[0]: `gate` counts in one process, but server.workers is 4. Use one whose scope"),
    ],
)
def test_what_lives_in_one_process_does_not_serve_several(good: Any, tmp_path: Path, section: str, expected: str) -> None:
    config = load_config(write(tmp_path, f"server: {{workers: 4}}\n{section}\n"))
    with pytest.raises(StartErrors) as caught:
        Registry(config)
    (error,) = caught.value.errors
    assert str(error).startswith(f"{tmp_path}/config.yaml:2:")
    assert expected in str(error)


def test_auto_workers_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(write(tmp_path, "server: {workers: auto}\nlocking: {use: memory}\nmetrics: []\n"))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    with pytest.raises(StartErrors, match=r"server\.workers is auto \(8 here\)"):
        Registry(config)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert len(Registry(config).loaded) == 2


# --- one-file plugins

ONE_FILE = """
from tusd import plugin
from dataclasses import dataclass

async def handler(head: plugin.Head) -> plugin.Response:
    return plugin.Response(200)

class Hello:
    '''Say hello.'''
    class Options(plugin.Options):
        path: str = "/hello"
    def __init__(self, options: Options) -> None:
        self.options = options
    @plugin.hookimpl
    def add_routes(self, routes: plugin.Routes) -> None:
        routes.get(self.options.path, handler)

class NoPlugin: ...
class _Hidden(Hello): ...
"""


def test_a_file_beside_the_configuration_is_a_plugin(tmp_path: Path) -> None:
    (tmp_path / "my_plugin.py").write_text(ONE_FILE)
    config = config_of(tmp_path, "plugins: [{use: ./my_plugin.py, path: /hi}, {use: './my_plugin.py:Hello'}]")
    one, two = Registry(config).loaded[-2:]
    assert type(one.plugin).__name__ == "Hello"
    assert type(one.plugin) is type(two.plugin), "the file is executed once"
    assert one.label == "plugins[0]:./my_plugin.py"
    assert shown(one.options) == {"path": "/hi"}
    assert one.distribution == str(tmp_path / "my_plugin.py")


@pytest.mark.parametrize(
    ("text", "use", "expected"),
    [
        (None, "./mine.py", "there is no file {tmp_path}/mine.py"),
        ("class A:\n  def b(:\n", "./mine.py", "SyntaxError: invalid syntax (mine.py, line 2)"),
        ("import nobody_has_this\n", "./mine.py", "ModuleNotFoundError: No module named 'nobody_has_this'"),
        ("class A: ...\n", "./mine.py", "there is no public class with a method marked @plugin.hookimpl in it"),
        (ONE_FILE + "\nclass Other(Hello): ...\n", "./mine.py", "several plugins in it (Hello, Other); append the name of one"),
        (ONE_FILE, "./mine.py:Helo", "there is no class Helo in it"),
        (ONE_FILE, "./mine.py:NoPlugin", "NoPlugin of {tmp_path}/mine.py: has no method marked @plugin.hookimpl"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str | None, use: str, expected: str) -> None:
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    assert expected.format(tmp_path=tmp_path) in problem("plugins", use, base=tmp_path)


def test_a_file_that_has_changed_is_executed_again(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(ONE_FILE)
    before = registry.load("plugins", "./mine.py", base=tmp_path)
    path.write_text(ONE_FILE.replace("/hello", "/howdy"))
    after = registry.load("plugins", "./mine.py", base=tmp_path)
    assert (shown(before.options), shown(after.options)) == ({"path": "/hello"}, {"path": "/howdy"})
    assert [found.name for found in tmp_path.iterdir()] == ["mine.py"]


def test_a_file_can_fill_any_seam(tmp_path: Path) -> None:
    source = (PLUGINS / "good" / "tusd_plugin_good.py").read_text()
    (tmp_path / "store.py").write_text(source)
    loaded = registry.load("storage", "./store.py:Shelf", base=tmp_path)
    assert loaded.label == "storage:./store.py:Shelf"


# --- opening


def worker(tmp_path: Path, metrics: plugin.Metrics | None = None) -> plugin.Worker:
    return plugin.Worker("", LOGGER, metrics or registry.opening.FanOut(), tmp_path)


async def test_everything_is_opened_and_closed_in_reverse(good: Any, tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        """
        storage: {use: shelf}
        limiting: [{use: gate, name: a}, {use: gate, name: b}]
        hooks: [{use: ear}, {use: ear, events: [post-create, post-terminate]}]
        metrics: [{use: tally}]
        plugins: [{use: about}, {use: gates}]
        """,
    )
    async with Registry(config).open(tmp_path / "run", 3, LOGGER) as backends:
        assert isinstance(backends, Backends)
        assert good.EVENTS == ["open metrics", "open storage"]
        assert [limiter.name for limiter in backends.limiters] == ["a", "b", "last"]  # type: ignore[attr-defined]
        wide, narrow = backends.dispatchers
        assert wide.events == {plugin.PreCreate, plugin.PostCreate, plugin.PostFinish}
        assert narrow.events == {plugin.PostCreate}
        assert list(backends.routes.found) == ["/figures", "/about"]
        own = backends.store.worker  # type: ignore[attr-defined]
        assert (own.plugin, own.number) == ("storage:shelf", 3)
        assert own.directory == tmp_path / "run" / "storage-shelf"
        assert own.logger.name == "tusd.test.storage:shelf"
        assert own.metrics is backends.metrics
        answer = await narrow.dispatch(plugin.PostCreate(upload=_info(), head=plugin.Head("POST", "/", {})))  # type: ignore[arg-type]
        assert answer is not None and answer.body == "post-create"
    assert good.EVENTS == ["open metrics", "open storage", "close storage", "close metrics"]


async def test_figures_go_to_all_metrics(good: Any, tmp_path: Path) -> None:
    metric = plugin.Metric("m", "counter", "help", ("a",))
    config = replace(config_of(tmp_path, "metrics: [{use: tally}]"))
    async with Registry(config).open(tmp_path, 0, LOGGER) as backends:
        backends.metrics.add(metric, 2, ("x",))
        backends.metrics.set(metric, 3)
        backends.metrics.observe(metric, 4)
        (figures,) = backends.metrics.targets  # type: ignore[attr-defined]
        assert figures.seen == [("add", "m", 2, ("x",)), ("set", "m", 3, ()), ("observe", "m", 4, ())]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_figures_go_to_each_of_several_once(good: Any, count: int) -> None:
    metric = plugin.Metric("m", "counter", "help", ("a",))
    fan, targets = registry.FanOut(), [good.Figures() for _ in range(count)]
    for target in targets:
        fan.feed(target)
    fan.declare(metric)
    fan.add(metric, 2, ("x",))
    assert [target.seen for target in targets] == [[("add", "m", 2, ("x",))]] * count
    assert (fan.add == targets[0].add) == (count == 1), "the only one is called directly"


async def test_without_metrics_figures_go_nowhere(tmp_path: Path) -> None:
    async with Registry(config_of(tmp_path, "storage: {use: memory}\nmetrics: []")).open(tmp_path, 0, LOGGER) as backends:
        backends.metrics.add(plugin.Metric("m", "counter", "help"))
        assert (backends.limiters, backends.dispatchers, backends.routes.found) == ((), (), {})


async def test_one_class_for_two_seams_answers_once_for_each(good: Any, tmp_path: Path) -> None:
    config = config_of(tmp_path, "storage: {use: both, name: one}")
    config = replace(config, locking=replace(config.locking, use="both", options={"name": "two"}))
    async with Registry(config).open(tmp_path, 0, LOGGER):
        assert good.EVENTS == ["storage of one", "locking of two"]


async def test_a_wrapper_counts_what_a_real_store_appends(good: Any, tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        "storage: {use: memory}\nmetrics: [{use: tally}]\nplugins: [{use: counting, name: out}, {use: counting, name: in}]",
    )
    async with Registry(config).open(tmp_path, 0, LOGGER) as backends:
        store: Any = backends.store
        assert type(store) is good.CountingStore
        assert [store.name, store.inner.name] == ["out", "in"], "the first wrapper is the outermost"
        upload = await store.create(_info(), FakeLease())
        assert await upload.append(FakeBody(b"hello")) == 5
        assert store.bytes == 5
        (figures,) = backends.metrics.targets  # type: ignore[attr-defined]
        assert figures.seen == [("add", "test_bytes_total", 5, ("in",)), ("add", "test_bytes_total", 5, ("out",))]
        assert store.worker.plugin == "plugins[0]:counting"


async def test_one_plugin_opens_alone_and_wrapped(good: Any, tmp_path: Path) -> None:
    shelf, counting = registry.load("storage", "shelf"), registry.load("plugins", "counting")
    async with registry.open_one(shelf, worker(tmp_path)) as store:
        assert type(store) is good.Store
    async with registry.open_one(shelf, worker(tmp_path), counting, counting) as store:
        assert type(store.inner.inner) is good.Store
    async with registry.open_one(registry.load("limiting", "gate"), worker(tmp_path)) as limiter:
        assert type(limiter) is good.OpenGate


@pytest.mark.parametrize(
    ("seam", "use", "expected"),
    [
        (
            "storage",
            "plain",
            "storage:plain: open_storage returned object, not an async context manager; put @asynccontextmanager",
        ),
        ("storage", "nothing", "storage:nothing: open_storage returned nothing, not an async context manager"),
        ("storage", "hidden", "storage:hidden: open_storage returned coroutine, not an async context manager"),
        ("plugins", "single", "plugins[0]:single: open_limiting wraps a list and must return one, not int"),
        ("storage", "wrong", "storage:wrong: open_storage opened dict, which is not a DataStore"),
        ("storage", "down", "storage:down: cannot be opened: the shelf does not answer"),
        ("plugins", "forgetful", "plugins[0]:forgetful: open_storage returned nothing, not an async context manager"),
        ("plugins", "routes", "plugins[0]:routes: route '/files/list': must begin with / and lie outside server.base_path"),
    ],
)
async def test_what_shows_only_when_opened_names_the_plugin(
    faulty: None, tmp_path: Path, seam: str, use: str, expected: str
) -> None:
    section = f"storage: {{use: {use}}}" if seam == "storage" else f"storage: {{use: memory}}\nplugins: [{{use: {use}}}]"
    with pytest.raises(PluginError) as caught:
        async with Registry(config_of(tmp_path, section)).open(tmp_path, 0, LOGGER):
            pytest.fail("opened")
    assert str(caught.value).startswith(expected)


# --- listing


def test_installed_plugins_are_listed_with_their_errors(good: Any, faulty: None) -> None:
    found = {(one.seam, one.name): one for one in registry.installed()}
    assert found["storage", "shelf"].summary == "Keep uploads on a shelf."
    assert found["storage", "shelf"].error is None
    assert (found["storage", "shelf"].distribution, found["storage", "shelf"].version) == ("tusd-plugin-good", "1.2")
    assert "a_library_that_nobody_has" in (found["storage", "absent"].error or "")
    assert "would replace storage:" in (found["plugins", "replacing"].error or "")
    assert all(found[seam, use].error is None for seam in ("storage", "locking") for use in ("file", "memory"))
    storages = [name for seam, name in found if seam == "storage"]
    assert storages == sorted(storages)


def test_every_built_in_can_be_used_and_says_what_it_is() -> None:
    found = [one for one in registry.installed() if one.distribution == "tusd"]
    assert len(found) >= 4
    assert [one for one in found if one.error or not one.summary] == []


def test_the_schema_has_the_core_and_what_is_installed(good: Any, faulty: None) -> None:
    schema = registry.json_schema()
    json.dumps(schema)
    properties = schema["properties"]
    assert set(properties) == {*SECTIONS, *SEAMS}
    storages = {choice["properties"]["use"].get("const"): choice for choice in properties["storage"]["anyOf"][0]["anyOf"]}
    assert {"file", "memory", "shelf", "both", None} <= set(storages)
    assert "absent" not in storages
    assert storages["both"]["required"] == ["use", "name"]
    assert storages["both"]["additionalProperties"] is False
    references = [value for key, value in _walk(schema) if key == "$ref"]
    assert references and all(reference.removeprefix("#/$defs/") in schema["$defs"] for reference in references)


def test_secrets_are_masked(good: Any) -> None:
    loaded = registry.load("storage", "shelf", {"account": {"user": "me", "password": "hunter2"}})
    assert shown(loaded.options)["account"] == {"user": "me", "password": MASK}


class Vault(plugin.Options):
    """Secrets in all shapes."""

    key: plugin.Secret | None = "a"
    keys: tuple[plugin.Secret, ...] = ("b",)
    named: dict[str, plugin.Secret]
    none: plugin.Secret | None = None
    open: str = "d"


def test_secrets_within_values_are_masked() -> None:
    assert shown(Vault(named={"x": "c"})) == {"key": MASK, "keys": [MASK], "named": {"x": MASK}, "none": None, "open": "d"}
    assert yaml.safe_dump(shown(Vault(named={"x": "c"})))


def _info() -> plugin.UploadInfo:
    return plugin.UploadInfo(id=plugin.UploadId("a"), length=5)


def _walk(value: object) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _walk(inner)


def test_a_loaded_plugin_is_itself_only(good: Any) -> None:
    one, two = (registry.load("storage", "shelf") for _ in range(2))
    assert isinstance(one, Loaded) and one.plugin == two.plugin and one != two
