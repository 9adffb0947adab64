"""One process that serves: an event loop, the backends that the configuration names, the engine and its web site."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal

from ..config import Config
from ..engine import Engine
from ..errors import StartError
from ..registry import Backends, Registry
from ..web.app import Extras, Listener, Site
from ..web.configured import engine_of, limits_of
from .logs import request_log

logger = logging.getLogger("tusd")

_PATIENCE = 3.0
"""Seconds beyond `server.shutdown_timeout` that backends get to close before the process ends without them."""


def run_worker(
    config: Config,
    registry: Registry,
    sockets: list[socket.socket],
    *,
    ready: Callable[[], None],
    number: int,
    supervisor: int | None = None,
) -> int:
    """Serve on `sockets` until SIGTERM, SIGINT or, with a `supervisor`, the end of that pipe; return the exit status.

    `number` is 0 for the first, or only, worker of the host. `ready` is called once requests are served. Raises `StartError` when a backend cannot be opened.
    """
    with asyncio.Runner(loop_factory=_loop_factory(config.server.loop)) as runner:
        try:
            runner.run(_serve(config, registry, sockets, ready, number, supervisor))
        except asyncio.CancelledError:
            pass  # told to stop before it served
    logger.info("stopped")
    return 0


def _loop_factory(loop: Literal["auto", "uvloop", "asyncio"]) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed (twice the small requests), asyncio's own elsewhere. Raises `StartError`."""
    if loop == "asyncio":
        return None
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    except ImportError as error:
        if loop == "uvloop":
            raise StartError(
                f"server.loop: uvloop cannot be imported ({error}); try: pip install uvloop, or choose auto"
            ) from None
        return None
    return factory


async def _serve(
    config: Config,
    registry: Registry,
    sockets: list[socket.socket],
    ready: Callable[[], None],
    number: int,
    supervisor: int | None,
) -> None:
    stop = _Stop(config.server.shutdown_timeout, supervisor)
    async with registry.open(config.server.run_directory, number, logger) as backends:
        async with _engine(config, backends, stop) as engine, _site(config, backends, engine, sockets, stop):
            logger.info("serving")
            ready()
            await stop.wait()


@asynccontextmanager
async def _engine(config: Config, backends: Backends, stop: _Stop) -> AsyncIterator[Engine]:
    engine = engine_of(config, backends)
    try:
        yield engine
    finally:
        try:
            async with asyncio.timeout(stop.remaining()):
                await engine.close()
        except TimeoutError:
            logger.warning("work in the background was interrupted by the stop")


@asynccontextmanager
async def _site(
    config: Config, backends: Backends, engine: Engine, sockets: list[socket.socket], stop: _Stop
) -> AsyncIterator[None]:
    server = config.server
    site = Site(
        engine,
        origins=config.origins(),
        cors=config.cors(),
        metrics=backends.metrics,
        limits=limits_of(server),
        informational=config.protocol.informational == "auto",
        extras=Extras(
            routes=backends.routes,
            checks={config.storage.label: backends.store.check, config.locking.label: backends.locker.check},
            details=config.health.details,
            index=server.index,
            profile=config.debug.profile,
        ),
        log=request_log() if config.logging.requests else None,
    )
    await site.start([Listener(sock) for sock in sockets])
    try:
        yield
    finally:
        await site.stop(stop.remaining())


class _Stop:
    """The wish that this process stops: by a signal or, with a supervisor, by the end of its pipe.

    While backends are opened it cancels the current task; once `wait` is reached that returns, and everything closes in order.
    """

    def __init__(self, shutdown_timeout: float, supervisor: int | None) -> None:
        self._shutdown_timeout = shutdown_timeout
        self._supervisor = supervisor
        self._loop = asyncio.get_running_loop()
        self._opening = asyncio.current_task()
        self._told = asyncio.Event()
        self._deadline: float | None = None
        if sys.platform == "win32":
            return  # asyncio.Runner cancels the task at Ctrl-C, and there is nothing else
        self._loop.add_signal_handler(signal.SIGTERM, self._tell, signal.SIGTERM)
        if supervisor is None:
            self._loop.add_signal_handler(signal.SIGINT, self._tell, signal.SIGINT)
        else:
            self._loop.add_reader(supervisor, self._tell)

    async def wait(self) -> None:
        """Serve until told to stop."""
        self._opening = None
        await self._told.wait()

    def remaining(self) -> float:
        """Seconds that are left of `server.shutdown_timeout`."""
        if self._deadline is None:
            return self._shutdown_timeout
        return max(0.0, self._deadline - self._loop.time())

    def _tell(self, number: signal.Signals | None = None) -> None:
        if self._told.is_set():
            return
        self._told.set()
        self._deadline = self._loop.time() + self._shutdown_timeout
        if self._supervisor is not None:
            self._loop.remove_reader(self._supervisor)
        else:
            logger.info("stopping", extra={"signal": number and number.name})
            for handled in (signal.SIGTERM, signal.SIGINT):
                self._loop.remove_signal_handler(handled)
                signal.signal(handled, signal.SIG_DFL)  # a second one ends the process at once
        self._loop.call_at(self._deadline + _PATIENCE, _give_up)
        if self._opening is not None:
            self._opening.cancel()


def _give_up() -> None:
    logger.error("a plugin did not close in time; ending without it")
    os._exit(1)
