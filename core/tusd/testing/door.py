"""The door through which a server opens plugins, for tests: entry point, options and hookspecs are tested with every test."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..plugin import Worker
from ..registry import load, named, open_one
from ..registry.opening import FanOut

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Door(Generic[T]):
    """A plugin with its options, ready to be opened as often as a test likes, in other processes, too."""

    seam: str
    """`storage`, `locking`, ...: the section of the configuration."""
    plugin: type[Any]
    """The plugin class; an installed distribution names it in its entry points."""
    options: Mapping[str, object]
    """As they would stand in the configuration, without `use`."""
    directory: Path
    """Stands for `server.run_directory`."""

    def open(self, number: int = 0) -> AbstractAsyncContextManager[T]:
        """What worker `number` of a server would open. Raises `StartErrors` and `PluginError` as a server's start does."""
        return open_plugin(self.seam, self.plugin, self.options, self.directory, number)

    @asynccontextmanager
    async def open_two(self, *, shared: bool, patience: float) -> AsyncIterator[tuple[T, T]]:
        """What two workers would open, for `patience` seconds at the most; the same one twice unless they share anything."""
        async with asyncio.timeout(patience), self.open(0) as one:
            if not shared:
                yield one, one
                return
            async with self.open(1) as other:
                yield one, other


@asynccontextmanager
async def open_plugin(
    seam: str, plugin_class: type[Any], options: Mapping[str, object], directory: Path, number: int = 0
) -> AsyncIterator[Any]:
    """Open an installed plugin's object for one seam, as worker `number` of a server does."""
    loaded = load(seam, named(seam, plugin_class), options)
    logger = logging.getLogger("tusd.testing")
    async with open_one(loaded, Worker(loaded.label, logger, FanOut(), directory, number)) as opened:
        yield opened
