"""The web layer on a real engine with the built-in backends, in a thread of its own, so that tests can use blocking sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self, TypeVar

import uvloop

from tusd.builtin.file_locking import FileLocking
from tusd.builtin.file_storage import FileStorage
from tusd.builtin.memory_locking import MemoryLocking
from tusd.builtin.memory_storage import MemoryStorage
from tusd.engine import Engine
from tusd.hooks import Dispatcher
from tusd.limiting import Limiter
from tusd.locking import Locker
from tusd.metrics import Metrics
from tusd.model import Metric
from tusd.plugin import Response, Routes, Worker
from tusd.protocol.cors import Cors
from tusd.protocol.messages import Head
from tusd.protocol.rules import Policy
from tusd.protocol.urls import Origins
from tusd.storage import DataStore
from tusd.web.app import Extras, Listener, Site
from tusd.web.limits import Limits

from .raw import Address, Answer, Connection, patch, post, request

T = TypeVar("T")
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


class Counted(Metrics):
    """Remembers sums, and what was observed."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, tuple[str, ...]], float] = {}
        self.observed: dict[tuple[str, tuple[str, ...]], list[float]] = {}

    def add(self, metric: Metric, amount: float = 1, labels: tuple[str, ...] = ()) -> None:
        self.sums[metric.name, labels] = self.sums.get((metric.name, labels), 0) + amount

    def set(self, metric: Metric, value: float, labels: tuple[str, ...] = ()) -> None:
        self.sums[metric.name, labels] = value

    def observe(self, metric: Metric, value: float, labels: tuple[str, ...] = ()) -> None:
        self.observed.setdefault((metric.name, labels), []).append(value)


class InThread:
    """Something that serves on an event loop in a thread of its own, until it is told to stop."""

    loop: asyncio.AbstractEventLoop

    def __init__(self, loop: str) -> None:
        self._loop_factory = LOOPS[loop]
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="server")

    def start(self) -> None:
        """Return when it serves. Raises what made that impossible."""
        self._thread.start()
        self._ready.result(10)

    def stop(self) -> float:
        """Drain and end; returns the seconds that it took."""
        began = time.monotonic()
        with contextlib.suppress(RuntimeError):  # it has been told before, and its loop is closed by now
            self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive(), "the server did not stop"
        return time.monotonic() - began

    async def serve(self, stop: asyncio.Event) -> None:
        """Call `serves`, and end in order when `stop` is set."""
        raise NotImplementedError

    def serves(self) -> None:
        """It is ready."""
        self._ready.set_result(None)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self._loop_factory) as runner:
                runner.run(self._begin())
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            raise

    async def _begin(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        await self.serve(self._stop)


class Served(InThread):
    """A server of one test."""

    def __init__(
        self,
        directory: Path,
        *,
        loop: str = "uvloop",
        storage: str = "file",
        policy: Policy | None = None,
        origins: Origins | None = None,
        cors: Cors | None = None,
        limiters: Sequence[Limiter] = (),
        dispatchers: Sequence[Dispatcher] = (),
        unix: bool = False,
        admin: bool = False,
        tls: ssl.SSLContext | None = None,
        extras: Mapping[str, Any] | None = None,
        informational: bool = True,
        **limits: Any,
    ) -> None:
        super().__init__(loop)
        self.directory = directory
        self.metrics = Counted()
        self._storage = storage
        self._policy = policy or Policy(lock_timeout=5)
        self._origins = origins or Origins()
        self._cors = cors or Cors()
        self._limiters = limiters
        self._dispatchers = dispatchers
        self._limits = Limits(**{"read_timeout": 30, "keepalive_timeout": 30, **limits})
        self._unix = unix
        self._admin = admin
        self._tls = tls
        self._extras = extras or {}
        self._informational = informational
        self._stop_timeout: float | None = 5.0

    address: Address
    admin_address: Address
    store: DataStore
    locker: Locker

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self, timeout: float = 5) -> float:
        """Drain and end; returns the seconds that it took."""
        self._stop_timeout = timeout
        return super().stop()

    def begin_stop(self, timeout: float = 5) -> None:
        """Tell it to drain, and do not wait."""
        self._stop_timeout = timeout
        self.loop.call_soon_threadsafe(self._stop.set)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the server's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def connect(self, *, timeout: float = 10, receive_buffer: int | None = None) -> Connection:
        """A new connection."""
        return Connection(self.address, timeout=timeout, receive_buffer=receive_buffer)

    def ask(self, data: bytes) -> Answer:
        """One request on a connection of its own."""
        with self.connect() as connection:
            return connection.ask(data)

    def create(self, length: int | None, **headers: object) -> str:
        """A new upload; returns its path."""
        size = {"Upload-Defer-Length": 1} if length is None else {"Upload-Length": length}
        answer = self.ask(post({**size, **{name.replace("_", "-"): value for name, value in headers.items()}}))
        assert answer.status == 201, answer
        return path_of(answer)

    def upload(self, body: bytes, **headers: object) -> str:
        """A complete upload; returns its path."""
        path = self.create(len(body), **headers)
        if body:
            answer = self.ask(patch(path, 0, body))
            assert answer.status == 204, answer
        return path

    def offset(self, path: str) -> int:
        """What HEAD says."""
        answer = self.ask(request("HEAD", path))
        assert answer.status == 200, answer
        return int(answer["Upload-Offset"])

    def stored(self, path: str) -> bytes:
        """What is really there."""
        return (self.directory / "data" / path.rpartition("/")[2]).read_bytes()

    def wait_for_offset(self, path: str, offset: int, within: float = 5) -> None:
        """Until so many bytes are in the file; nobody is interrupted."""
        deadline = time.monotonic() + within
        while (found := len(self.stored(path))) < offset:
            assert time.monotonic() < deadline, f"{found} of {offset} bytes arrived"
            time.sleep(0.005)

    def hold(self, path: str) -> threading.Event:
        """Take an upload's lock and keep it, whoever wants it, until the event is set."""
        release = threading.Event()
        held: Future[None] = Future()

        async def hold() -> None:
            async with self.locker.lock(path.rpartition("/")[2], lambda: None):
                held.set_result(None)
                await asyncio.to_thread(release.wait, 20)

        asyncio.run_coroutine_threadsafe(hold(), self.loop)
        held.result(5)
        return release

    def connections(self) -> int:
        """Connections that the server holds open."""

        async def count() -> int:
            return sum(len(server.connections) for server in self.site._servers)

        return self.run(count())

    async def serve(self, stop: asyncio.Event) -> None:
        async with self._backends() as (self.store, self.locker):
            engine = Engine(
                store=self.store,
                locker=self.locker,
                metrics=self.metrics,
                policy=self._policy,
                limiters=self._limiters,
                dispatchers=self._dispatchers,
            )
            checks = {"storage:test": self.store.check, "locking:test": self.locker.check}
            routes = Routes(self._origins.base_path)
            routes.get("/hello", _hello)
            routes.get("/figures", _hello, admin=True)
            self.site = Site(
                engine,
                origins=self._origins,
                cors=self._cors,
                metrics=self.metrics,
                limits=self._limits,
                extras=Extras(**{"routes": routes, "checks": checks, **self._extras}),
                informational=self._informational,
            )
            with contextlib.ExitStack() as stack:
                listeners = [Listener(stack.enter_context(self._listen()), self._tls)]
                if self._admin:
                    listeners.append(Listener(stack.enter_context(socket.create_server(("127.0.0.1", 0))), admin=True))
                    self.admin_address = listeners[-1].sock.getsockname()
                await self.site.start(listeners)
                self.serves()
                await stop.wait()
                await self.site.stop(5 if self._stop_timeout is None else self._stop_timeout)
                await engine.close()

    def _listen(self) -> socket.socket:
        if self._unix:
            listener = socket.socket(socket.AF_UNIX)
            self.address = os.path.relpath(self.directory / "socket")
            listener.bind(self.address)
            listener.listen(100)
            return listener
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address = ("127.0.0.1", listener.getsockname()[1])
        return listener

    @contextlib.asynccontextmanager
    async def _backends(self) -> AsyncIterator[tuple[DataStore, Locker]]:
        logger = logging.getLogger("tusd.test")
        worker = Worker(plugin="test", logger=logger, metrics=self.metrics, directory=self.directory / "run")
        if self._storage == "memory":
            async with MemoryStorage(MemoryStorage.Options()).open_storage() as store:
                async with MemoryLocking().open_locking() as locker:
                    yield store, locker
        else:
            worker.directory.mkdir()
            storage = FileStorage(FileStorage.Options(directory=self.directory / "data"))
            async with storage.open_storage(worker) as store:
                async with FileLocking(FileLocking.Options()).open_locking(worker) as locker:
                    yield store, locker


def path_of(answer: Answer) -> str:
    """The path of the URL in an answer's Location."""
    location = answer["Location"]
    return location if location.startswith("/") else "/" + location.split("/", 3)[3]


async def _hello(head: Head) -> Response:
    return Response(200, [("Content-Type", "text/plain")], b"hello\n")
