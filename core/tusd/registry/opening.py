"""What may it do? Loaded plugins -> the objects that one worker process works with, through pluggy's hookspecs."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from types import MappingProxyType, ModuleType
from typing import Any, cast

import pluggy

from ..errors import PluginError
from ..hooks import Keeping, Subscriber
from ..plugin import (
    DataStore,
    Dispatcher,
    HookOptions,
    Limiter,
    Locker,
    Metric,
    Metrics,
    Options,
    Routes,
    TusError,
    Worker,
    hookimpl,
)
from .checking import OPENER_SHAPE, SINGLE, hookimpls, new_manager

OBJECTS: MappingProxyType[str, type] = MappingProxyType(
    {
        "open_storage": DataStore,
        "open_locking": Locker,
        "open_limiting": Limiter,
        "open_hooks": Dispatcher,
        "open_metrics": Metrics,
    }
)
"""What each hookspec opens."""


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A plugin that has been found, checked and made, with nothing open yet."""

    seam: str
    use: str
    label: str
    """What logs and errors call it: `storage:file`, `hooks[1]:http`."""
    plugin: object
    """An instance of the plugin's class."""
    options: Options
    distribution: str
    version: str


def manager_of(loaded: Iterable[Loaded]) -> pluggy.PluginManager:
    """A manager that calls these plugins in the order of the configuration; of wrappers, the first is the outermost."""
    manager = new_manager()
    for number, one in enumerate(reversed(list(loaded))):  # pluggy calls first what was registered last
        manager.register(_answers(one), f"{number} {one.label}")
    return manager


def openings(manager: pluggy.PluginManager, hook: str, worker: Worker) -> list[AbstractAsyncContextManager[Any]]:
    """What the plugins return for a hookspec, to be entered in this order."""
    result = getattr(manager.hook, hook)(worker=worker)
    return [result] if hook in SINGLE else list(result)


class FanOut(Metrics):
    """Hands figures to all configured `metrics`; to nobody when there are none. With one of them its methods stand in the place of ours,
    so that it is called directly."""

    def __init__(self) -> None:
        self.targets: list[Metrics] = []

    def feed(self, target: Metrics) -> None:
        """Hand figures to this one, too."""
        self.targets.append(target)
        for name in ("add", "set", "observe"):
            if len(self.targets) == 1:
                vars(self)[name] = getattr(target, name)
            else:
                vars(self).pop(name, None)

    def add(self, metric: Metric, amount: float = 1, labels: tuple[str, ...] = ()) -> None:
        for target in self.targets:
            target.add(metric, amount, labels)

    def set(self, metric: Metric, value: float, labels: tuple[str, ...] = ()) -> None:
        for target in self.targets:
            target.set(metric, value, labels)

    def observe(self, metric: Metric, value: float, labels: tuple[str, ...] = ()) -> None:
        for target in self.targets:
            target.observe(metric, value, labels)

    def declare(self, *metrics: Metric) -> None:
        for target in self.targets:
            target.declare(*metrics)


def subscribers(opened: Sequence[Dispatcher], loaded: Iterable[Loaded]) -> tuple[Subscriber, ...]:
    """The dispatchers as their entries in the configuration want them; those that plugins under `plugins` add come last.

    Raises `PluginError` when a wrapper has taken one away, for then nobody knows which is whose."""
    entries = [one for one in loaded if one.seam == "hooks"]
    if len(opened) < len(entries):
        raise PluginError(
            f"plugins: {len(opened)} dispatchers are left of {len(entries)}; a wrapper of open_hooks returns one for each that it gets, in order"
        )
    found = []
    for dispatcher, entry in zip_longest(opened, entries):
        if entry is None:
            found.append(Subscriber(dispatcher, "plugins"))
        else:
            events = cast(HookOptions, entry.options).events
            found.append(Subscriber(dispatcher, entry.label, events, outbox_of(entry)))
    return tuple(found)


def outbox_of(loaded: Loaded) -> Keeping | None:
    """Where and how an entry of `hooks` wants its events kept, if it does."""
    options = loaded.options
    if not isinstance(options, HookOptions) or options.delivery == "best-effort":
        return None
    headers = frozenset(name.lower() for name in options.forward_headers)
    return Keeping(options.outbox.absolute(), headers, options.give_up_after)


def _answers(loaded: Loaded) -> ModuleType:
    """What a plugin may answer where it is named: the hookspec of its seam and `add_routes`; under `plugins` all.

    A class that serves two seams and is named for both thus answers once for each. pluggy gets a module of functions because it
    compares plugins by ==, which says that two instances of a dataclass are one.
    """
    answers = ModuleType(loaded.label)
    for name, opts in hookimpls(loaded.plugin).items():
        if loaded.seam == "plugins" or name in (f"open_{loaded.seam}", "add_routes"):
            method: Callable[..., Any] = getattr(loaded.plugin, name)
            wrapper = bool(opts.get("wrapper"))
            setattr(answers, name, hookimpl(wrapper=wrapper)(_answer(loaded, name, method, wrapper=wrapper)))
    return answers


def _answer(loaded: Loaded, hook: str, method: Callable[..., Any], *, wrapper: bool) -> Callable[..., Any]:
    takes = set(inspect.signature(method).parameters)

    def given(worker: Worker) -> dict[str, object]:
        return {"worker": _own(worker, loaded.label)} if "worker" in takes else {}

    def open_plain(worker: Worker) -> object:
        result = method(**given(worker))
        return None if result is None and hook not in SINGLE else _checked(loaded, hook, result)

    def open_wrapped(worker: Worker) -> Generator[None, Any, object]:
        result = yield from method(**given(worker))
        if hook in SINGLE:
            return _checked(loaded, hook, result)
        if not isinstance(result, list):
            raise PluginError(f"{loaded.label}: {hook} wraps a list and must return one, not {_kind(result)}")
        return [_checked(loaded, hook, one) for one in result]

    def add_routes(worker: Worker, routes: Routes) -> None:
        try:
            method(**given(worker), **({"routes": routes} if "routes" in takes else {}))
        except ValueError as error:
            raise PluginError(f"{loaded.label}: {error}") from error

    if hook == "add_routes":
        return add_routes
    return open_wrapped if wrapper else open_plain


def _own(worker: Worker, label: str) -> Worker:
    """The worker as one plugin sees it."""
    folder = re.sub(r"[^A-Za-z0-9_]+", "-", label).strip("-")
    return replace(worker, plugin=label, logger=worker.logger.getChild(label), directory=worker.directory / folder)


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


def _checked(loaded: Loaded, hook: str, opening: object) -> AbstractAsyncContextManager[Any]:
    if inspect.iscoroutine(opening):
        opening.close()
    if not isinstance(opening, AbstractAsyncContextManager):
        raise PluginError(f"{loaded.label}: {hook} returned {_kind(opening)}, not an async context manager; {OPENER_SHAPE}")
    return _opened(loaded, hook, opening)


@asynccontextmanager
async def _opened(loaded: Loaded, hook: str, opening: AbstractAsyncContextManager[Any]) -> AsyncIterator[Any]:
    async with AsyncExitStack() as stack:
        try:
            opened: Any = await stack.enter_async_context(opening)
        except (OSError, TusError) as error:
            raise PluginError(f"{loaded.label}: cannot be opened: {error}") from error
        if not isinstance(opened, OBJECTS[hook]):
            raise PluginError(f"{loaded.label}: {hook} opened {_kind(opened)}, which is not a {OBJECTS[hook].__name__}")
        yield opened
