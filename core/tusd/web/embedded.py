"""Uploads as a part of somebody else's aiohttp application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from aiohttp import web

from ..config import Config
from ..hooks import Dispatcher
from ..protocol.dialects import Dialects
from ..registry import Registry, configure
from .configured import checks_of, engine_of, limits_of
from .handler import Handler
from .health import Health
from .pages import public_pages
from .reply import ClientGone

logger = logging.getLogger("tusd")

_TAIL = "{tail}"
_EVERYTHING = "/{tail:.*}"


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
    mounted.resource = app.router.add_resource(_EVERYTHING)
    for resource in (mounted.resource, app.router.add_resource("")):
        resource.add_route("*", mounted.handle, expect_handler=_expected)
    app.cleanup_ctx.append(mounted.serving)
    app.on_shutdown.append(mounted.drain)
    app[_MOUNTED] = mounted
    return app


def routes(uploads: web.Application) -> web.Application:
    """An application that answers what a server answers beside its uploads: the routes of plugins, such as `/metrics`, and `/healthz` and
    `/readyz`. `outer.add_subapp("/tusd/", tusd.web.routes(uploads))` makes `/tusd/metrics` of the first.

    `uploads`: what `application` has made, a part of the same outer application or of another one on this event loop. While it does not run the
    answer is 503. Raises `ValueError` for another application.
    """
    if _MOUNTED not in uploads:
        raise ValueError("uploads: not an application that tusd.web.application has made")
    app = web.Application()
    resource = app.router.add_resource(_EVERYTHING)
    resource.add_route("*", _Beside(uploads[_MOUNTED], resource).handle)
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
        self._health: Health | None = None
        self.beside: Callable[[str], Handler] | None = None
        """Makes what answers pages below a path, and nothing else; None while it does not run."""

    async def serving(self, app: web.Application) -> AsyncIterator[None]:
        """Open everything, and close it in the end."""
        config = self._config
        async with self._registry.open(config.server.run_directory, self._number, logger) as backends:
            engine = engine_of(config, backends, self._dispatchers)
            origins = replace(config.origins(), base_path=self.resource.canonical.removesuffix(_TAIL))
            await engine.start(self._number)
            make = partial(
                Handler,
                engine,
                Dialects(engine.policy, origins, informational=config.protocol.informational == "auto"),
                origins=origins,
                cors=config.cors(),
                metrics=backends.metrics,
                limits=limits_of(config.server),
            )
            self._handler = make(pages={})
            self._health = Health(checks_of(config, backends))
            details = config.health.details
            pages = public_pages(backends.routes, origins, self._health, details=details, index=False, admin=False)
            self.beside = lambda below: make(pages={below + path: page for path, page in pages.items()}, uploads=False)
            yield
            self.beside = None
            self._handler.close()
            try:
                async with asyncio.timeout(config.server.shutdown_timeout):
                    await engine.close()
            except TimeoutError:
                logger.warning("work in the background was interrupted by the stop")

    async def drain(self, app: web.Application) -> None:
        """The outer application stops: what runs ends, and its bytes are kept."""
        if self._handler is not None and self._health is not None:
            self._health.draining = True
            self._handler.leave()
            self._handler.interrupt()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        assert self._handler is not None, "aiohttp serves nothing before its start"
        try:
            return cast(web.StreamResponse, await self._handler(request))
        except ClientGone:
            return web.Response()  # nobody gets it; an error would be logged as ours


_MOUNTED = web.AppKey("tusd", _Mounted)


class _Beside:
    """What is beside the uploads of `mounted`, below a path of its own."""

    def __init__(self, mounted: _Mounted, resource: web.Resource) -> None:
        self._mounted = mounted
        self._resource = resource
        self._handler: Handler | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        if self._mounted.beside is None:
            return web.Response(status=503, text="unavailable\n")
        if self._handler is None:
            self._handler = self._mounted.beside(self._resource.canonical.removesuffix("/" + _TAIL))
        try:
            return cast(web.StreamResponse, await self._handler(request))
        except ClientGone:
            return web.Response()  # nobody gets it


async def _expected(request: web.Request) -> None:
    """100 (Continue) is sent when offset and lock are good, not before."""
