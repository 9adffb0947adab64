"""A distribution's worth of plugins that are right."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tusd import plugin

EVENTS: list[str] = []
"""What was opened and closed, in order."""


class Store(plugin.DataStore):
    """A store that holds nothing."""

    upload_class = plugin.WrappedUpload

    def __init__(self, worker: plugin.Worker) -> None:
        self.worker = worker

    async def create(self, info: plugin.UploadInfo, lease: plugin.Lease | None) -> plugin.Upload:
        raise plugin.StorageUnavailable()

    async def info(self, upload_id: plugin.UploadId) -> plugin.UploadInfo:
        raise plugin.UploadNotFound()

    async def open(self, upload_id: plugin.UploadId, lease: plugin.Lease) -> plugin.Upload:
        raise plugin.UploadNotFound()


class Locks(plugin.Locker):
    """A locker that never gives a lock."""

    def lock(self, name: str, wanted: object) -> AbstractAsyncContextManager[plugin.Lease]:
        raise plugin.LockUnavailable()


class Account(plugin.Options):
    """Who we are at the shelf."""

    user: str = "nobody"
    password: plugin.Secret = ""


class Row(plugin.Options):
    """One row of a shelf."""

    height: int = 1


@dataclass
class Shelf:
    """Keep uploads on a shelf.

    Equal to another one with the same options, as dataclasses are."""

    class Options(plugin.Options):
        """What a shelf is made of."""

        directory: Path = Path("./shelf")
        room: plugin.Size = 0
        account: Account = Account()
        rows: tuple[Row, ...] | None = None
        colour: int | bool = 1

    options: Options
    scope = plugin.Scope.HOST

    @plugin.hookimpl
    @asynccontextmanager
    async def open_storage(self, worker: plugin.Worker) -> AsyncIterator[plugin.DataStore]:
        EVENTS.append("open storage")
        yield Store(worker)
        EVENTS.append("close storage")


class Both:
    """Storage and locking of one kind, as databases offer."""

    api_version = 1
    scope = plugin.Scope.CLUSTER

    class Options(plugin.Options):
        """One option, so that instances differ."""

        name: str

    def __init__(self, options: Options) -> None:
        self.options = options

    @plugin.hookimpl
    @asynccontextmanager
    async def open_storage(self, worker: plugin.Worker) -> AsyncIterator[plugin.DataStore]:
        EVENTS.append(f"storage of {self.options.name}")
        yield Store(worker)

    @plugin.hookimpl
    @asynccontextmanager
    async def open_locking(self) -> AsyncIterator[plugin.Locker]:
        EVENTS.append(f"locking of {self.options.name}")
        yield Locks()


@dataclass
class Gate:
    """Let everybody in."""

    class Options(plugin.Options):
        """Which gate."""

        name: str = "gate"

    options: Options
    scope = plugin.Scope.PROCESS

    @plugin.hookimpl
    @asynccontextmanager
    async def open_limiting(self) -> AsyncIterator[plugin.Limiter]:
        yield OpenGate(self.options.name)


class OpenGate(plugin.Limiter):
    """Admits all."""

    def __init__(self, name: str) -> None:
        self.name = name

    @asynccontextmanager
    async def admit(self, head: plugin.Head, request: plugin.Request) -> AsyncIterator[plugin.Allowance]:
        yield plugin.FreeAllowance()


@dataclass
class Ear:
    """Hear of everything."""

    class Options(plugin.HookOptions):
        """No options of its own."""

    options: Options

    @plugin.hookimpl
    @asynccontextmanager
    async def open_hooks(self) -> AsyncIterator[plugin.Dispatcher]:
        yield Listening()


class Listening(plugin.Dispatcher):
    """Says nothing."""

    events = frozenset({plugin.PreCreate, plugin.PostCreate, plugin.PostFinish})

    async def dispatch(self, event: plugin.HookEvent) -> plugin.HookResponse | None:
        return plugin.HookResponse(body=event.name)


class Tally:
    """Remember figures."""

    @plugin.hookimpl
    @asynccontextmanager
    async def open_metrics(self) -> AsyncIterator[plugin.Metrics]:
        EVENTS.append("open metrics")
        yield Figures()
        EVENTS.append("close metrics")

    @plugin.hookimpl
    def add_routes(self, routes: plugin.Routes) -> None:
        routes.get("/figures", about)


@dataclass
class Figures(plugin.Metrics):
    """What was counted."""

    seen: list[tuple[str, str, float, tuple[str, ...]]] = field(default_factory=list)

    def add(self, metric: plugin.Metric, amount: float = 1, labels: tuple[str, ...] = ()) -> None:
        self.seen.append(("add", metric.name, amount, labels))

    def set(self, metric: plugin.Metric, value: float, labels: tuple[str, ...] = ()) -> None:
        self.seen.append(("set", metric.name, value, labels))

    def observe(self, metric: plugin.Metric, value: float, labels: tuple[str, ...] = ()) -> None:
        self.seen.append(("observe", metric.name, value, labels))


BYTES = plugin.Metric("test_bytes_total", "counter", "Bytes that passed the wrapper.", ("wrapper",))


class Counting:
    """Count what is appended."""

    class Options(plugin.Options):
        """What the count is called."""

        name: str = "counting"

    def __init__(self, options: Options) -> None:
        self.options = options

    @plugin.hookimpl(wrapper=True)
    def open_storage(
        self, worker: plugin.Worker
    ) -> Generator[None, AbstractAsyncContextManager[plugin.DataStore], AbstractAsyncContextManager[plugin.DataStore]]:
        opening = yield
        return self.wrap(opening, worker)

    @asynccontextmanager
    async def wrap(
        self, opening: AbstractAsyncContextManager[plugin.DataStore], worker: plugin.Worker
    ) -> AsyncIterator[plugin.DataStore]:
        async with opening as store:
            yield CountingStore(store, self.options.name, worker)


class CountingStore(plugin.WrappedStore):
    """Counts the bytes of all appends."""

    def __init__(self, inner: plugin.DataStore, name: str, worker: plugin.Worker) -> None:
        super().__init__(inner)
        self.name = name
        self.worker = worker
        self.bytes = 0

    def wrap(self, upload: plugin.Upload) -> plugin.Upload:
        return CountingUpload(upload, self)


class CountingUpload(plugin.WrappedUpload):
    """An upload of a counting store."""

    def __init__(self, inner: plugin.Upload, store: CountingStore) -> None:
        super().__init__(inner)
        self.store = store

    async def append(self, body: plugin.Body) -> int:
        saved = await self.inner.append(body)
        self.store.bytes += saved
        self.store.worker.metrics.add(BYTES, saved, (self.store.name,))
        return saved


class About:
    """Say what this is."""

    @plugin.hookimpl
    def add_routes(self, worker: plugin.Worker, routes: plugin.Routes) -> None:
        routes.get("/about", about)


async def about(head: plugin.Head) -> plugin.Response:
    """A route's handler."""
    return plugin.Response(200, body=b"a server")


class Gates:
    """Put one more gate behind all others."""

    @plugin.hookimpl(wrapper=True)
    def open_limiting(
        self,
    ) -> Generator[None, list[AbstractAsyncContextManager[plugin.Limiter]], list[AbstractAsyncContextManager[plugin.Limiter]]]:
        openings = yield
        return [*openings, self.last()]

    @asynccontextmanager
    async def last(self) -> AsyncIterator[plugin.Limiter]:
        yield OpenGate("last")
