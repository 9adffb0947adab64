"""Uploads as a part of somebody else's aiohttp application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from aiohttp import web

from ..config import Config
from ..hooks import Dispatcher
from ..protocol.dialects import Dialects
from ..registry import Registry, configure
from .configured import engine_of, limits_of
from .handler import Handler
from .reply import ClientGone

logger = logging.getLogger("tusd")

_TAIL = "{tail}"


def application(
    config: Mapping[str, object] | Path | str | None = None, *, dispatchers: Sequence[Dispatcher] = (), number: int = 0
) -> web.Application:
    """An application that takes uploads where it is mounted: `outer.add_subapp("/uploads/", tusd.web.application("tusd.yaml"))`.

    `config`: the path of a configuration file, or a mapping of its structure; None: the defaults. `server.base_path` and what concerns
    listening and connections do not count: those are the outer application's. `dispatchers` are asked and told of hook events after those of the
    configuration. `number`: 0 for the first process of the host that serves these uploads, then 1, 2, ...; `server.workers` says how many there are.

    Backends are opened when the outer application starts, and closed with it. Raises `StartErrors` with all that is wrong.
    """
    settings = config if config is None or isinstance(config, Mapping) else Path(config)
    mounted = _Mounted(*configure(settings), dispatchers, number)
    app = web.Application()
    mounted.resource = app.router.add_resource("/{tail:.*}")
    for resource in (mounted.resource, app.router.add_resource("")):
        resource.add_route("*", mounted.handle, expect_handler=_expected)
    app.cleanup_ctx.append(mounted.serving)
    app.on_shutdown.append(mounted.drain)
    return app


class _Mounted:
    """One application, from its making over its start to its end."""

    resource: web.Resource

    def __init__(self, config: Config, registry: Registry, dispatchers: Sequence[Dispatcher], number: int) -> None:
        self._config = config
        self._registry = registry
        self._dispatchers = dispatchers
        self._number = number
        self._handler: Handler | None = None

    async def serving(self, app: web.Application) -> AsyncIterator[None]:
        """Open everything, and close it in the end."""
        config = self._config
        async with self._registry.open(config.server.run_directory, self._number, logger) as backends:
            engine = engine_of(config, backends, self._dispatchers)
            origins = replace(config.origins(), base_path=self.resource.canonical.removesuffix(_TAIL))
            await engine.start(self._number)
            self._handler = Handler(
                engine,
                Dialects(engine.policy, origins, informational=config.protocol.informational == "auto"),
                origins=origins,
                cors=config.cors(),
                pages={},
                metrics=backends.metrics,
                limits=limits_of(config.server),
            )
            yield
            self._handler.close()
            try:
                async with asyncio.timeout(config.server.shutdown_timeout):
                    await engine.close()
            except TimeoutError:
                logger.warning("work in the background was interrupted by the stop")

    async def drain(self, app: web.Application) -> None:
        """The outer application stops: what runs ends, and its bytes are kept."""
        if self._handler is not None:
            self._handler.leave()
            self._handler.interrupt()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        assert self._handler is not None, "aiohttp serves nothing before its start"
        try:
            return cast(web.StreamResponse, await self._handler(request))
        except ClientGone:
            return web.Response()  # nobody gets it; an error would be logged as ours


async def _expected(request: web.Request) -> None:
    """100 (Continue) is sent when offset and lock are good, not before."""
