"""One set of what serves: the backends that a configuration names, the engine and its web site, from opening to draining.

A process has one; while a single process reloads it has two, and the old one drains.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from ..config import Config
from ..engine import Engine
from ..registry import Backends
from ..web.app import Extras, Listener, Site
from ..web.configured import checks_of, engine_of, limits_of
from ..web.pages import ids_of_pages
from .logs import request_log
from .plan import Plan
from .tls import keep_fresh

logger = logging.getLogger("tusd")

PATIENCE = 3.0
"""Seconds beyond `server.shutdown_timeout` that backends get to close before the process ends, or goes on, without them."""

_ENDING = 1.0
"""Seconds of a time-out that are kept for interrupted appends and their answers."""
_SETTLING = 1.0
"""Seconds for which a generation that is replaced waits for connections of which nothing can be seen yet: their TLS handshake runs."""


class Generation:
    """Serves on `listeners`, which it closes. Must be made while the event loop runs."""

    def __init__(self, plan: Plan, listeners: Sequence[Listener], number: int) -> None:
        self._plan = plan
        self._listeners = listeners
        self._number = number
        self._loop = asyncio.get_running_loop()
        self._serving: asyncio.Future[None] = self._loop.create_future()
        self._leaving = asyncio.Event()
        self._hurried = asyncio.Event()
        self._deadline: float | None = None
        self._interrupt_at = float("inf")
        # What opens backends closes them in the same task, as their context managers may expect.
        self._task = asyncio.create_task(self._run(), name="generation")

    async def open(self) -> None:
        """Return once requests are served. Raises what made that impossible, `StartError` as a rule. When cancelled, all is closed."""
        try:
            await asyncio.wait({self._task, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.wait({self._task})
            raise
        if self._task.done():
            self._task.result()

    def leave(self, *, patiently: bool) -> None:
        """Stop accepting, and end within `server.shutdown_timeout`. Patiently: running appends go on until it is nearly over, and so long
        open connections may ask once more. Calling it again can only hurry."""
        timeout = self._plan.config.server.shutdown_timeout
        now = self._loop.time()
        self._deadline = min(self._deadline or float("inf"), now + timeout)
        self._interrupt_at = min(self._interrupt_at, now + (max(0.0, timeout - _ENDING) if patiently else 0.0))
        self._leaving.set()
        if not patiently:
            self._hurried.set()

    def remaining(self) -> float:
        """Seconds that are left of `server.shutdown_timeout`."""
        if self._deadline is None:
            return self._plan.config.server.shutdown_timeout
        return max(0.0, self._deadline - self._loop.time())

    async def ended(self) -> None:
        """Wait for the end. Raises what went wrong in it."""
        await asyncio.shield(self._task)

    async def given_up(self) -> bool:
        """Wait for the end, `PATIENCE` beyond the time-out at the most; whether it was cut off then."""
        done, _ = await asyncio.wait({self._task}, timeout=self.remaining() + PATIENCE)
        self._task.cancel()
        return not done

    async def _run(self) -> None:
        config, certificates = self._plan.config, self._plan.certificates
        fresh = asyncio.create_task(keep_fresh([*certificates.values()]), name="certificates")
        try:
            async with self._plan.registry.open(config.server.run_directory, self._number, logger) as backends:
                async with self._engine(backends) as engine:
                    await engine.start(self._number)
                    await self._serve(_site(config, backends, engine))
        finally:
            fresh.cancel()
            for listener in self._listeners:
                listener.sock.close()

    @asynccontextmanager
    async def _engine(self, backends: Backends) -> AsyncIterator[Engine]:
        config = self._plan.config
        engine = engine_of(config, backends, reserved_ids=ids_of_pages(backends.routes, config.origins()))
        try:
            yield engine
        finally:
            try:
                async with asyncio.timeout(self.remaining()):
                    await engine.close()
            except TimeoutError:
                logger.warning("work in the background was interrupted by the stop")

    async def _serve(self, site: Site) -> None:
        await site.start(self._listeners)
        try:
            self._serving.set_result(None)
            await self._leaving.wait()
            await site.leave()
            await self._be_patient(site)
        finally:
            await site.stop(self.remaining())

    async def _be_patient(self, site: Site) -> None:
        settled = self._loop.time() + _SETTLING
        while (now := self._loop.time()) < self._interrupt_at and not (now >= settled and site.deserted):
            with suppress(TimeoutError):
                async with asyncio.timeout(min(0.1, self._interrupt_at - now)):
                    await self._hurried.wait()


def _site(config: Config, backends: Backends, engine: Engine) -> Site:
    server = config.server
    return Site(
        engine,
        origins=config.origins(),
        cors=config.cors(),
        metrics=backends.metrics,
        limits=limits_of(server),
        informational=config.protocol.informational == "auto",
        extras=Extras(
            routes=backends.routes,
            checks=checks_of(config, backends),
            details=config.health.details,
            index=server.index,
            profile=config.debug.profile,
        ),
        log=request_log() if config.logging.requests else None,
    )
