"""Plugins that are wrong, each in one way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from typing import Any

from tusd import plugin


def function() -> None:
    """Not a class."""


class Base:
    """What all of them have."""

    scope: Any = plugin.Scope.HOST


class Newer(Base):
    """Written for a later version of the plugin page."""

    api_version = 2


class Older(Base):
    """Written for an earlier version of the plugin page."""

    api_version = 0


class Hookless(Base):
    """No hookimpl at all."""


class Unmarked(Base):
    """A method without its marker."""

    @asynccontextmanager
    async def open_storage(self) -> AsyncIterator[object]:
        yield object()


class Misspelt(Base):
    """A hookimpl of no hookspec."""

    @plugin.hookimpl
    @asynccontextmanager
    async def open_storag(self) -> AsyncIterator[object]:
        yield object()


class Signature(Base):
    """An argument that no hookspec gives."""

    @plugin.hookimpl
    @asynccontextmanager
    async def open_storage(self, wrker: object) -> AsyncIterator[object]:
        yield object()


class Scopeless:
    """No scope."""

    @plugin.hookimpl
    @asynccontextmanager
    async def open_storage(self) -> AsyncIterator[object]:
        yield object()


class First(Base):
    """Pushes to the front."""

    @plugin.hookimpl(tryfirst=True)
    @asynccontextmanager
    async def open_storage(self) -> AsyncIterator[object]:
        yield object()


class AsyncGenerator(Base):
    """Forgot @asynccontextmanager."""

    @plugin.hookimpl
    async def open_storage(self) -> AsyncIterator[object]:
        yield object()


class Coroutine(Base):
    """Forgot @asynccontextmanager and yield."""

    @plugin.hookimpl
    async def open_storage(self) -> object:
        return object()


class Plain(Base):
    """Returns something else; under `plugins` it would replace the storage."""

    @plugin.hookimpl
    def open_storage(self) -> object:
        return object()


class Nothing(Base):
    """Returns nothing."""

    @plugin.hookimpl
    def open_storage(self) -> None:
        return None


class WrongObject(Base):
    """Opens something that is no data store."""

    @plugin.hookimpl
    @asynccontextmanager
    async def open_storage(self) -> AsyncIterator[object]:
        yield {}


class Down(Base):
    """Its backend does not answer."""

    @plugin.hookimpl
    @asynccontextmanager
    async def open_storage(self) -> AsyncIterator[object]:
        raise plugin.StorageUnavailable("the shelf does not answer")
        yield


class GoodWrapper(Base):
    """A wrapper in the wrong section."""

    @plugin.hookimpl(wrapper=True)
    def open_storage(self) -> Generator[None, object, object]:
        return (yield)


class OddOptions(Base):
    """Options that are no model."""

    class Options:
        """Not derived from plugin.Options."""

    @plugin.hookimpl
    def open_storage(self) -> object:
        return object()


class Optionless(Base):
    """Takes options that it does not declare."""

    def __init__(self, options: object) -> None:
        self.options = options

    @plugin.hookimpl
    def open_storage(self) -> object:
        return object()


class Raising(Base):
    """Cannot be made."""

    def __init__(self) -> None:
        raise RuntimeError("no shelf\nanywhere")

    @plugin.hookimpl
    def open_storage(self) -> object:
        return object()


class HookOptionless:
    """Options for hooks without the options of hooks."""

    class Options(plugin.Options):
        """Not derived from plugin.HookOptions."""

    @plugin.hookimpl
    def open_hooks(self) -> object:
        return object()


class ContextManagerWrapper:
    """The natural, wrong shape of a wrapper."""

    @plugin.hookimpl(wrapper=True)
    @asynccontextmanager
    async def open_storage(self) -> AsyncIterator[object]:
        yield object()


class Empty:
    """Nothing to call."""


class ForgetfulWrapper:
    """Forgot to return what it wraps."""

    @plugin.hookimpl(wrapper=True)
    def open_storage(self) -> Generator[None, object, None]:
        yield


class TakenRoute:
    """Wants a path of the uploads."""

    @plugin.hookimpl
    def add_routes(self, routes: plugin.Routes) -> None:
        async def handler(head: plugin.Head) -> plugin.Response:
            return plugin.Response(200)

        routes.get("/files/list", handler)


class SingleWrapper:
    """Wraps a list and returns one."""

    @plugin.hookimpl(wrapper=True)
    def open_limiting(self) -> Generator[None, list[object], object]:
        openings = yield
        return len(openings)


class AsyncRoutes:
    """Routes are added at once."""

    @plugin.hookimpl
    async def add_routes(self, routes: plugin.Routes) -> None:
        """Never awaited."""


class HiddenCoroutine(Base):
    """A coroutine that only shows when it is called."""

    @plugin.hookimpl
    def open_storage(self) -> object:
        return self.opening()

    async def opening(self) -> object:
        """Never awaited."""
        return object()
