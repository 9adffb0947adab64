"""Names -> plugins -> the objects of one worker. stevedore finds the class, pluggy checks and calls it, and afterwards neither
is in the way: the server talks to plain objects."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..config import SEAMS, Config, PluginEntry, StartErrors, read_config, read_mapping
from ..errors import PluginError, StartError
from ..hooks import Subscriber
from ..options import option_errors
from ..plugin import DataStore, Limiter, Locker, Metrics, Options, Routes, Scope, Worker
from ..yaml_marks import Places
from .checking import SCOPED, check_class, check_signatures, options_class
from .finding import NotUsable, distribution, find, name_of, offered, one_line
from .opening import FanOut, Loaded, manager_of, openings, outbox_of, subscribers
from .schema import configuration_schema

__all__ = [
    "Backends",
    "FanOut",
    "Loaded",
    "PluginListing",
    "Registry",
    "configure",
    "installed",
    "json_schema",
    "load",
    "named",
    "open_one",
    "outbox_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    """What one worker process works with, open."""

    store: DataStore
    locker: Locker
    limiters: tuple[Limiter, ...]
    dispatchers: tuple[Subscriber, ...]
    metrics: Metrics
    """Hands figures to all `metrics`."""
    routes: Routes


@dataclass(frozen=True, slots=True)
class PluginListing:
    """An installed plugin, for `tusd plugins`."""

    seam: str
    name: str
    distribution: str
    version: str
    summary: str
    """The first line of its docstring."""
    error: str | None
    """Why it cannot be used."""


class Registry:
    """All plugins that a configuration names, loaded and checked; nothing is open. Raises `StartErrors` with all that is wrong."""

    def __init__(self, config: Config) -> None:
        self.config = config
        errors: list[StartError] = []
        loaded: list[Loaded] = []
        for seam in SEAMS:
            for entry in config.entries(seam):
                try:
                    one = _load(seam, entry, config.directory)
                    loaded.append(one)
                    _check_scope(one, entry, config)
                    _check_outbox(loaded, entry)
                except StartErrors as found:
                    errors += found.errors
        if errors:
            raise StartErrors(errors)
        self.loaded = tuple(loaded)
        """In the order of the sections, and within a section of the configuration."""

    @asynccontextmanager
    async def open(self, run_directory: Path, number: int, logger: logging.Logger) -> AsyncIterator[Backends]:
        """Open everything for worker `number`: metrics, storage, locking, limiting, hooks; close it in reverse.

        Raises `PluginError` for what cannot be opened."""
        manager = manager_of(self.loaded)
        metrics = FanOut()
        worker = Worker("", logger, metrics, run_directory, number)
        async with AsyncExitStack() as stack:

            async def opened(hook: str) -> list[Any]:
                return [await stack.enter_async_context(one) for one in openings(manager, hook, worker)]

            for target in await opened("open_metrics"):
                metrics.feed(target)
            (store,) = await opened("open_storage")
            (locker,) = await opened("open_locking")
            limiters, dispatchers = await opened("open_limiting"), await opened("open_hooks")
            routes = Routes(self.config.server.base_path)
            manager.hook.add_routes(worker=worker, routes=routes)
            yield Backends(
                store=store,
                locker=locker,
                limiters=tuple(limiters),
                dispatchers=subscribers(dispatchers, self.loaded),
                metrics=metrics,
                routes=routes,
            )


def configure(source: Path | Mapping[str, object] | None) -> tuple[Config, Registry]:
    """Read a configuration file, or what one would hold, and load its plugins. Raises `StartErrors` with all that is wrong with either."""
    config, errors = read_mapping(source) if isinstance(source, Mapping) else read_config(source)
    found: list[StartError] = [*errors]
    try:
        registry = Registry(config)
    except StartErrors as error:
        reported = {one.path for one in errors}
        reported |= {path.rpartition("[")[0] for path in reported if path.endswith("]")}  # a list that lacks this item
        found += [one for one in error.errors if getattr(one, "path", None) not in reported]
    if found:
        raise StartErrors(found)
    return config, registry


def load(seam: str, use: str, options: Mapping[str, object] | None = None, *, base: Path = Path()) -> Loaded:
    """Load one plugin as if a configuration named it. A one-file plugin is relative to `base`. Raises `StartErrors`."""
    return _load(seam, PluginEntry(use, options or {}, (seam,), Places("options")), base)


def named(seam: str, target: type) -> str:
    """The name under which a plugin class is installed, for tests that have the class. Raises `PluginError`."""
    try:
        return name_of(seam, target)
    except NotUsable as error:
        raise PluginError(str(error)) from None


@asynccontextmanager
async def open_one(loaded: Loaded, worker: Worker, *wrappers: Loaded) -> AsyncIterator[Any]:
    """Open one plugin's object alone, or within wrappers (plugins loaded for `plugins`). Raises `PluginError`."""
    manager = manager_of([loaded, *wrappers])
    (opening,) = openings(manager, f"open_{loaded.seam}", worker)
    async with opening as opened:
        yield opened


def installed() -> list[PluginListing]:
    """All installed plugins, in the order of the seams and of their names, each imported to see whether it can be used."""
    found = []
    for seam in SEAMS:
        for entry in offered(seam):
            summary, problem = "", None
            try:
                summary = _summary(check_class(seam, find(seam, entry.name, Path())))
            except NotUsable as error:
                problem = str(error)
            version = entry.dist.version if entry.dist else ""
            found.append(PluginListing(seam, entry.name, distribution(entry), version, summary, problem))
    return found


def json_schema() -> dict[str, Any]:
    """JSON Schema of the whole configuration, with the options of all installed plugins that can be used."""
    found: dict[str, dict[str, tuple[type[Options], str]]] = {}
    for listing in installed():
        if listing.error is None:
            target = check_class(listing.seam, find(listing.seam, listing.name, Path()))
            found.setdefault(listing.seam, {})[listing.name] = (options_class(listing.seam, target), listing.summary)
    return configuration_schema(found)


def _summary(target: type) -> str:
    return next(iter((target.__doc__ or "").strip().splitlines()), "")


def _load(seam: str, entry: PluginEntry, base: Path) -> Loaded:
    try:
        found = find(seam, entry.use, base)
        target = check_class(seam, found)
    except NotUsable as error:
        raise StartErrors([_refused(entry, str(error), "use")]) from error
    options = _options(options_class(seam, target), entry)
    try:
        # A class without Options is made without arguments.
        instance = target(options) if hasattr(target, "Options") else target()
        check_signatures(instance)
    except NotUsable as error:
        raise StartErrors([_refused(entry, str(error), "use")]) from error
    except ValueError as error:
        raise StartErrors([_refused(entry, one_line(error))]) from error
    except Exception as error:
        raise StartErrors([_refused(entry, f"cannot be made: {type(error).__name__}: {one_line(error)}")]) from error
    return Loaded(seam, entry.use, entry.label, instance, options, found.distribution, found.version)


def _options(model: type[Options], entry: PluginEntry) -> Options:
    data = dict(entry.options)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise StartErrors(option_errors(error, model, data, entry.error)) from None


def _refused(entry: PluginEntry, what: str, option: str = "") -> PluginError:
    return PluginError(str(entry.error((option,) if option else (), what)))


_HOLDS = {"storage": "keeps uploads in", "locking": "guards", "limiting": "counts in"}
_INSTEAD = {
    "storage": "Use `file` (one host) or a cluster-wide one such as `s3`",
    "locking": "Use `file` (one host) or a cluster-wide one such as `redis`",
    "limiting": "Use one whose scope is the host or the cluster",
}


def _check_scope(loaded: Loaded, entry: PluginEntry, config: Config) -> None:
    """Workers share nothing that lives in one process."""
    if loaded.seam not in SCOPED or config.server.processes == 1:
        return
    if getattr(loaded.plugin, "scope", Scope.PROCESS) == Scope.PROCESS:
        workers = config.server.workers
        said = f"{workers} ({config.server.processes} here)" if workers == "auto" else workers
        raise StartErrors(
            [
                _refused(
                    entry,
                    f"`{entry.use}` {_HOLDS[loaded.seam]} one process, but server.workers is {said}. {_INSTEAD[loaded.seam]}",
                )
            ]
        )


def _check_outbox(loaded: list[Loaded], entry: PluginEntry) -> None:
    """Each entry of `hooks` that keeps its events has a folder of its own for them."""
    mine = outbox_of(loaded[-1])
    for other in loaded[:-1]:
        if mine is not None and (theirs := outbox_of(other)) is not None and theirs.folder == mine.folder:
            what = f"{other.label} keeps its events there, too; each entry needs a folder of its own"
            raise StartErrors([_refused(entry, what, "outbox")])
