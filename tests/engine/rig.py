"""An engine whose backends write every call into one list, so that the order of effects can be compared with a table.

The store and the locker are the built-in ones for memory, wrapped. Any call can be made to fail, or to hang.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from multidict import CIMultiDict

from tusd.builtin.memory_locking import MemoryLocker
from tusd.builtin.memory_storage import MemoryStore
from tusd.engine import Engine, Exchange
from tusd.engine.body import Empty, Observer, Source
from tusd.errors import TusError
from tusd.hooks import (
    Dispatcher,
    HookEvent,
    HookResponse,
    Keeping,
    PostCreate,
    PostFinish,
    PostTerminate,
    PreAccess,
    PreCreate,
    PreFinish,
    PreTerminate,
    Subscriber,
)
from tusd.limiting import Allowance, Limiter
from tusd.locking import Lease, Locker
from tusd.metrics import Metrics
from tusd.model import Final, Metadata, Metric, Partial, State, UploadId, UploadInfo
from tusd.protocol.messages import (
    Append,
    Appended,
    BodyPlan,
    Checksum,
    Create,
    Created,
    Head,
    Inspect,
    Inspected,
    Outcome,
    Read,
    Reading,
    Request,
    Terminate,
)
from tusd.protocol.rules import Policy
from tusd.storage import Body, Capability, DataStore, Upload
from tusd.testing.bodies import FakeBody
from tusd.wrapping import WrappedStore, WrappedUpload

ASKED: tuple[type[HookEvent], ...] = (PreCreate, PreAccess, PreFinish, PreTerminate)
LIFE: tuple[type[HookEvent], ...] = (PreCreate, PostCreate, PreFinish, PostFinish, PreTerminate, PostTerminate)
"""What an upload goes through; hooks in a rig get these unless it says otherwise."""
Answers = Callable[[HookEvent], HookResponse | None]


def silent(event: HookEvent) -> HookResponse | None:
    """A hook's answer: nothing to say."""
    return None


class FakeSource:
    """The body of a request: pieces, then its end or a failure. With `hangs` it waits after the last piece until it is stopped."""

    arrived = False

    def __init__(self, *pieces: bytes, failure: TusError | None = None, hangs: bool = False) -> None:
        self.failure: TusError | None = None
        self.reads = 0
        """How often it was asked for a piece."""
        self.hanging = asyncio.Event()
        """Set once it waits."""
        self.stopped = asyncio.Event()
        self._pieces = list(pieces)
        self._last = failure
        self._hangs = hangs
        self._going_on = asyncio.Event()

    async def read(self) -> bytes:
        self.reads += 1
        await asyncio.sleep(0)
        if self.failure is not None:
            return b""
        if self._pieces:
            return self._pieces.pop(0)
        if self._hangs:
            self.hanging.set()
            await self._going_on.wait()
            if self._pieces:
                return self._pieces.pop(0)
        self.failure = self.failure or self._last
        return b""

    async def write_to(self, fd: int, offset: int, limit: int, seen: Observer) -> int:
        written = 0
        while written < limit and (piece := await self.read()):
            if len(piece) > limit - written:
                self._pieces.insert(0, piece[limit - written :])
                piece = piece[: limit - written]
            seen(piece)
            written += os.pwrite(fd, piece, offset + written)
        return written

    async def read_into(self, buffer: memoryview, seen: Observer) -> int:
        at = 0
        while at < len(buffer) and (piece := await self.read()):
            n = min(len(piece), len(buffer) - at)
            if n < len(piece):
                self._pieces.insert(0, piece[n:])
            buffer[at : at + n] = piece[:n]
            seen(buffer[at : at + n])
            at += n
        return at

    def stop(self, error: TusError) -> None:
        """Ends it even when all has been read: what it says after its end must not count."""
        self.failure = self.failure or error
        self.stopped.set()
        self._going_on.set()

    def send(self, piece: bytes) -> None:
        """One more piece while it hangs, and then its end."""
        self._pieces.append(piece)
        self._hangs = False
        self._going_on.set()


class FakeMetrics(Metrics):
    """Sums of counters by name."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}

    def add(self, metric: Metric, amount: float = 1, labels: tuple[str, ...] = ()) -> None:
        self.sums[metric.name] = self.sums.get(metric.name, 0) + amount

    def set(self, metric: Metric, value: float, labels: tuple[str, ...] = ()) -> None:
        self.sums[metric.name] = value

    def observe(self, metric: Metric, value: float, labels: tuple[str, ...] = ()) -> None:
        self.add(metric, value)


class Script:
    """What was called, and what goes wrong at which call."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.faults: dict[str, Callable[[], Awaitable[None]]] = {}
        self.pause = False
        """Whether each call lets the event loop run before and after it."""

    async def step(self, name: str, detail: object = "") -> None:
        """A call of `name`, which may fail or hang here."""
        self.log.append(f"{name} {detail}".strip())
        if self.pause:
            await asyncio.sleep(0)
        if fault := self.faults.get(name):
            await fault()

    async def stepped(self) -> None:
        """The call has been made."""
        if self.pause:
            await asyncio.sleep(0)


class _Upload(WrappedUpload):
    def __init__(self, inner: Upload, script: Script) -> None:
        super().__init__(inner)
        self._script = script

    async def append(self, body: Body) -> int:
        await self._script.step("append")
        stored = await super().append(body)
        await self._script.step("appended", stored)
        return stored

    async def save(self, info: UploadInfo) -> None:
        await self._script.step("save", f"length={info.length} {info.state}")
        await super().save(info)
        await self._script.stepped()

    async def finish(self) -> None:
        await self._script.step("finish")
        await super().finish()
        await self._script.stepped()

    async def terminate(self) -> None:
        await self._script.step("terminate")
        await super().terminate()
        await self._script.stepped()

    async def concatenate(self, parts: Sequence[UploadInfo]) -> None:
        await self._script.step("concatenate", " ".join(part.id for part in parts))
        await super().concatenate(parts)
        await self._script.stepped()


class _Store(WrappedStore):
    def __init__(self, inner: DataStore, script: Script, without: frozenset[type[Capability]]) -> None:
        super().__init__(inner)
        self._script = script
        self._without = without

    def wrap(self, upload: Upload) -> Upload:
        return _Upload(upload, self._script)

    @property
    def capabilities(self) -> frozenset[type[Capability]]:
        return self.inner.capabilities - self._without

    async def create(self, info: UploadInfo, lease: Lease | None) -> Upload:
        await self._script.step("create", "with lease" if lease is not None else "")
        upload = await super().create(info, lease)
        await self._script.stepped()
        return upload

    async def info(self, upload_id: UploadId) -> UploadInfo:
        await self._script.step("info")
        return await super().info(upload_id)

    async def open(self, upload_id: UploadId, lease: Lease) -> Upload:
        await self._script.step("open")
        lease.check()
        return await super().open(upload_id, lease)

    def read(self, info: UploadInfo, start: int, stop: int) -> AsyncIterator[bytes]:
        self._script.log.append(f"read {start}-{stop}")
        return super().read(info, start, stop)


class _Locker(Locker):
    def __init__(self, inner: MemoryLocker, script: Script) -> None:
        self.inner = inner
        self._script = script

    @asynccontextmanager
    async def _held(self, name: str, wanted: Callable[[], None]) -> AsyncIterator[Lease]:
        async with self.inner.lock(name, wanted) as lease:
            await self._script.step("lock")
            try:
                yield lease
            finally:
                self._script.log.append("unlock")

    def lock(self, name: str, wanted: Callable[[], None]) -> AbstractAsyncContextManager[Lease]:
        return self._held(name, wanted)


class FakeLimiter(Limiter):
    """Writes down what it is told; `held` is what each upload may hold."""

    paces = True

    def __init__(self, name: str, script: Script) -> None:
        self.name = name
        self.held: dict[UploadId, int] = {}
        self._script = script

    @asynccontextmanager
    async def _admitted(self) -> AsyncIterator[Allowance]:
        await self._script.step(f"{self.name}.admit")
        try:
            yield _Allowance(self.name, self._script)
        finally:
            self._script.log.append(f"{self.name}.leave")

    def admit(self, head: Head, request: Request) -> AbstractAsyncContextManager[Allowance]:
        return self._admitted()

    async def reserve(self, info: UploadInfo, total: int) -> None:
        await self._script.step(f"{self.name}.reserve", total)
        self.held[info.id] = total
        if not total:
            del self.held[info.id]
        await self._script.stepped()


@dataclass(slots=True)
class _Allowance:
    name: str
    script: Script

    async def bind(self, info: UploadInfo) -> None:
        await self.script.step(f"{self.name}.bind")

    async def spend(self, n: int) -> None:
        await self.script.step(f"{self.name}.spend", n)


class FakeDispatcher(Dispatcher):
    """Writes down what it is asked, and answers; what it is told goes to another list."""

    def __init__(self, rig: Rig, answers: Answers = silent, events: Iterable[type[HookEvent]] = LIFE) -> None:
        self.events = frozenset(events)
        self.answers = answers
        self.seen: list[HookEvent] = []
        self._rig = rig

    async def dispatch(self, event: HookEvent) -> HookResponse | None:
        self.seen.append(event)
        if not isinstance(event, ASKED):
            self._rig.told.append(event.name)
            await self._rig.script.step("tell")
            return None
        await self._rig.script.step(event.name)
        return self.answers(event)


@dataclass
class Rig:
    """One engine with recording backends; `restarted()` is another process on the same store."""

    policy: Policy = field(default_factory=Policy)
    limits: Sequence[str] = ()
    """Names of limiters."""
    hooks: Sequence[Answers] = ()
    """What each dispatcher answers."""
    events: Iterable[type[HookEvent]] = LIFE
    without: frozenset[type[Capability]] = frozenset()
    """Capabilities that the store does not have."""
    kept: MemoryStore = field(default_factory=MemoryStore)
    keeping: Keeping | None = None
    """How the events of all dispatchers are kept."""

    def __post_init__(self) -> None:
        self.script = Script()
        self.told: list[str] = []
        self._healed: dict[str, asyncio.Event] = {}
        self.metrics = FakeMetrics()
        self.locks = MemoryLocker()
        self.limiters = [FakeLimiter(name, self.script) for name in self.limits]
        self.dispatchers = [FakeDispatcher(self, answers, self.events) for answers in self.hooks]
        self.engine = Engine(
            store=_Store(self.kept, self.script, self.without),
            locker=_Locker(self.locks, self.script),
            metrics=self.metrics,
            policy=self.policy,
            limiters=self.limiters,
            dispatchers=[Subscriber(one, f"hooks[{n}]:fake", None, self.keeping) for n, one in enumerate(self.dispatchers)],
        )

    @property
    def log(self) -> list[str]:
        """Every call since the last `clear()`."""
        return self.script.log

    def clear(self) -> None:
        """Forget what was called so far."""
        self.log.clear()
        self.told.clear()

    def fail(self, name: str, error: Callable[[], BaseException]) -> None:
        """From now on, calls of `name` raise a new `error()`."""

        async def failing() -> None:
            raise error()

        self.script.faults[name] = failing

    def hang(self, name: str) -> asyncio.Event:
        """From now on, calls of `name` wait until they are healed or cancelled. The event is set by the first that waits."""
        reached = asyncio.Event()
        healed = self._healed[name] = asyncio.Event()

        async def hanging() -> None:
            reached.set()
            await healed.wait()

        self.script.faults[name] = hanging
        return reached

    def heal(self, name: str) -> None:
        """Calls of `name` work again, and those that wait go on."""
        del self.script.faults[name]
        if name in self._healed:
            self._healed.pop(name).set()

    async def run(self, request: Request, source: Source | None = None) -> Outcome:
        """Carry out a request."""
        async with self.engine(exchange(request, source)) as outcome:
            return outcome

    async def create(
        self, length: int | None, *pieces: bytes, concat: Partial | Final | None = None, body: BodyPlan | None = None
    ) -> Created:
        """POST; with a body if there are pieces."""
        if pieces and body is None:
            body = BodyPlan(sum(map(len, pieces)))
        outcome = await self.run(
            Create(length=length, metadata=Metadata(), concat=concat, body=body), FakeSource(*pieces) if body else None
        )
        assert isinstance(outcome, Created)
        return outcome

    async def append(
        self,
        upload: UploadId,
        offset: int,
        *pieces: bytes,
        length: int | None = None,
        chunked: bool = False,
        checksum: Checksum | None = None,
        source: FakeSource | None = None,
        size: int | None = None,
    ) -> Appended:
        """PATCH; `size` is the Content-Length when it is not that of the pieces."""
        if size is None and not chunked:
            size = sum(map(len, pieces))
        request = Append(upload_id=upload, offset=offset, body=BodyPlan(size, checksum), length=length)
        outcome = await self.run(request, source or FakeSource(*pieces))
        assert isinstance(outcome, Appended)
        return outcome

    async def head(self, upload: UploadId) -> UploadInfo:
        """HEAD."""
        outcome = await self.run(Inspect(upload))
        assert isinstance(outcome, Inspected)
        return outcome.info

    async def read(self, upload: UploadId, range: str | None = None) -> bytes:
        """GET."""
        async with self.engine(exchange(Read(upload, range=range))) as outcome:
            assert isinstance(outcome, Reading)
            assert outcome.content is not None
            return b"".join([piece async for piece in outcome.content])

    async def terminate(self, upload: UploadId) -> Outcome:
        """DELETE."""
        return await self.run(Terminate(upload))

    async def put(
        self,
        name: str,
        content: bytes = b"",
        *,
        length: int | None = None,
        deferred: bool = False,
        concat: Partial | Final | None = None,
        state: State | None = None,
    ) -> UploadId:
        """An upload that is in the store already; with a `state` it is explicit. `length` is that of the content unless told."""
        upload_id = UploadId(name)
        size = None if deferred else len(content) if length is None else length
        info = UploadInfo(id=upload_id, length=size, concat=concat, explicit=state is not None, state=state or State.RECEIVING)
        async with self.locks.lock(name, lambda: None) as lease:
            upload = await self.kept.create(info, lease)
            await upload.append(FakeBody(content))
        return upload_id

    async def content(self, upload: UploadId) -> bytes:
        """What the store holds, whatever the state."""
        info = await self.kept.info(upload)
        return b"".join([piece async for piece in self.kept.read(info, 0, info.offset)])

    async def uploads(self) -> list[UploadInfo]:
        """All that the store holds."""
        return [info async for info in self.kept.uploads()]

    def restarted(self, policy: Policy | None = None) -> Rig:
        """Another process with another engine, on the same store."""
        return Rig(policy or self.policy, self.limits, self.hooks, self.events, self.without, self.kept, self.keeping)

    async def background(self) -> None:
        """Until nothing goes on in the background. What was started just now gets its first steps, before it is told of the end."""
        for _ in range(10):
            await asyncio.sleep(0)
        await asyncio.wait_for(self.engine.close(), 5)


def exchange(request: Request, source: Source | None = None) -> Exchange:
    """A request on its way through the engine."""
    head = Head(type(request).__name__.upper(), "/files/", CIMultiDict[str]())
    return Exchange(head, request, source or Empty())
