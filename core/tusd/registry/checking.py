"""Is this class a plugin for that seam? Everything that can be known before anything is opened."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import pluggy

from .. import plugin
from ..config import SINGLE_SEAMS
from ..plugin import API_VERSION, HookOptions, Options, Scope
from .finding import Found, NotUsable

SCOPED = ("storage", "locking", "limiting")
"""Seams whose plugins state a `scope`."""
SINGLE = tuple(f"open_{seam}" for seam in SINGLE_SEAMS)
"""Hookspecs that one plugin fills; a second one would silently replace it."""

WRAPPER_SHAPE = "write: `opening = yield; return self.wrap(opening)`, with @asynccontextmanager on wrap() only"
OPENER_SHAPE = "put @asynccontextmanager between @plugin.hookimpl and `async def`"


def new_manager() -> pluggy.PluginManager:
    """A plugin manager that knows the hookspecs."""
    manager = pluggy.PluginManager("tusd")
    manager.add_hookspecs(plugin)
    return manager


def hookspecs() -> tuple[str, ...]:
    """The names of all hookspecs."""
    manager = new_manager()
    return tuple(name for name in vars(manager.hook) if not name.startswith("_"))


def hookimpls(target: object) -> dict[str, Mapping[str, Any]]:
    """The methods of a class or an object that are marked as hookimpls, with their markers' arguments."""
    manager = new_manager()
    found = {name: manager.parse_hookimpl_opts(target, name) for name in dir(target)}
    return {name: opts for name, opts in found.items() if opts is not None}


def check_class(seam: str, found: Found) -> type:
    """The class, if it can serve a seam. Raises `NotUsable` with all that is wrong with it."""
    target = found.target
    who = f"{getattr(target, '__qualname__', repr(target))} of {f'{found.distribution} {found.version}'.strip()}"
    if not isinstance(target, type):
        raise NotUsable(f"{who} is not a class")
    version = getattr(target, "api_version", 1)
    if version != API_VERSION:
        newer = isinstance(version, int) and version > API_VERSION
        cure = "upgrade tusd" if newer else f"upgrade {found.distribution}"
        raise NotUsable(f"{who} is written for version {version} of the plugin page, this is version {API_VERSION}; {cure}")
    problems = [*_options_problems(seam, target), *_hook_problems(seam, target)]
    if seam in SCOPED and not isinstance(getattr(target, "scope", None), Scope | property):
        problems.append("states no scope; write `scope = plugin.Scope.PROCESS`, HOST or CLUSTER")
    if problems:
        raise NotUsable(f"{who}: {'; '.join(problems)}")
    return target


def options_class(seam: str, target: type) -> type[Options]:
    """The model of a plugin's options; a plugin without one has none of its own."""
    found = getattr(target, "Options", None)
    if isinstance(found, type) and issubclass(found, Options):
        return found
    return HookOptions if seam == "hooks" else Options


def check_signatures(instance: object) -> None:
    """Let pluggy compare the hookimpls with the hookspecs. Raises `NotUsable`."""
    manager = new_manager()
    try:
        manager.register(instance)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise NotUsable(f"{type(instance).__qualname__}: {_translated(str(error))}") from None


def _translated(message: str) -> str:
    hook = re.search(r"hook '(\w+)'", message)
    arguments = re.search(r"Argument\(s\) \{(.+)\} are declared", message)
    if hook and arguments:
        offered = ", ".join(inspect.signature(getattr(plugin, hook[1])).parameters)
        return f"{hook[1]} takes {arguments[1]}, which it is not given; it may take {offered}"
    return message.splitlines()[-1]


def _options_problems(seam: str, target: type) -> list[str]:
    given = getattr(target, "Options", None)
    if given is None:
        return _init_problems(target)
    base = HookOptions if seam == "hooks" else Options
    if not (isinstance(given, type) and issubclass(given, base)):
        return [f"its Options must be a class derived from plugin.{base.__name__}"]
    return []


def _init_problems(target: type) -> list[str]:
    """A class without Options is made without arguments."""
    try:
        inspect.signature(target).bind()
    except TypeError:
        return ["it takes options but has no class Options(plugin.Options)"]
    return []


def _hook_problems(seam: str, target: type) -> list[str]:
    specs, impls = hookspecs(), hookimpls(target)
    problems = [problem for name, opts in impls.items() for problem in _impl_problems(seam, target, name, opts, specs)]
    wanted = f"open_{seam}"
    if seam == "plugins" and not impls:
        problems.append("has no method marked @plugin.hookimpl")
    elif seam != "plugins" and wanted not in impls and not problems:
        unmarked = "; mark it with @plugin.hookimpl" if hasattr(target, wanted) else ""
        problems.append(f"has no hookimpl {wanted}, which {seam} needs{unmarked}")
    return problems


def _impl_problems(seam: str, target: type, name: str, opts: Mapping[str, Any], specs: tuple[str, ...]) -> list[str]:
    if name not in specs:
        close = get_close_matches(name, specs, n=1)
        return [f"{name} is not a hookspec" + (f' (did you mean "{close[0]}"?)' if close else f"; there are {', '.join(specs)}")]
    refused = [key for key, value in opts.items() if value and key != "wrapper"]
    if refused:
        return [f"{name}: @plugin.hookimpl takes wrapper=True only, not {', '.join(refused)}; the configuration gives the order"]
    method = getattr(target, name)
    if opts.get("wrapper"):
        if seam != "plugins" and name == f"open_{seam}":
            return [f"{name} is a wrapper; name it under plugins:, and what it wraps under {seam}:"]
        return [] if inspect.isgeneratorfunction(method) else [f"{name} is not the shape of a wrapper; {WRAPPER_SHAPE}"]
    if seam == "plugins" and name in SINGLE:
        own = name.removeprefix("open_")
        return [f"{name} would replace {own}:; name it under {own}:, or wrap what is there with wrapper=True"]
    if name != "add_routes" and (inspect.isasyncgenfunction(method) or inspect.iscoroutinefunction(method)):
        return [f"{name} is not an async context manager; {OPENER_SHAPE}"]
    if name == "add_routes" and inspect.iscoroutinefunction(method):
        return ["add_routes is a coroutine; write `def add_routes`"]
    return []
