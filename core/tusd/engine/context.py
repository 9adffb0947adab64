"""What every operation of the engine works with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from time import monotonic
from types import TracebackType
from typing import TypeVar

from ..errors import Refused, TusError, UploadLocked, UploadNotFound
from ..hooks import HookResponse
from ..limiting import Allowance, Limiter
from ..locking import Lease, Locker
from ..metrics import Metrics
from ..model import Eviction, UploadId, UploadInfo, utcnow
from ..protocol.messages import Head, News, Request
from ..protocol.rules import Policy, check_alive
from ..storage import DataStore, Upload
from .announce import Announcer
from .background import Background, Bells
from .body import Empty, Source
from .figures import LOCK_HANDOVER, LOCK_WAIT, STORAGE_DURATION
from .ranking import Ranking

T = TypeVar("T")


@dataclass(slots=True)
class Exchange:
    """One request on its way through the engine."""

    head: Head
    request: Request
    source: Source = field(default_factory=Empty)
    """Its body, unread."""
    interim: Callable[[News], None] | None = None
    """Tells the client news while its request goes on; never waits. None: nobody listens."""


class _Hold:
    """A lock, waited for no longer than the policy says."""

    __slots__ = ("_lock", "_metrics", "_timeout", "_wanted", "_wanted_at")

    def __init__(self, locker: Locker, name: str, wanted: Callable[[], None], timeout: float, metrics: Metrics | None) -> None:
        self._lock: AbstractAsyncContextManager[Lease] | None = locker.lock(name, self._asked)
        self._wanted = wanted
        self._wanted_at = 0.0
        self._timeout = timeout
        self._metrics = metrics

    async def __aenter__(self) -> Lease:
        began = monotonic()
        assert self._lock is not None
        try:
            async with asyncio.timeout(self._timeout):
                return await self._lock.__aenter__()
        except BaseException as error:
            self._lock = None
            if isinstance(error, TimeoutError):
                raise UploadLocked(retry_after=1) from None
            raise
        finally:
            if self._metrics is not None:
                self._metrics.observe(LOCK_WAIT, monotonic() - began)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        lock, self._lock = self._lock, None  # which knows us by `_asked`: a ring that only the garbage collector would find
        assert lock is not None
        try:
            return await lock.__aexit__(kind, error, traceback)
        finally:
            if self._wanted_at and self._metrics is not None:
                self._metrics.observe(LOCK_HANDOVER, monotonic() - self._wanted_at)

    def _asked(self) -> None:
        self._wanted_at = self._wanted_at or monotonic()
        self._wanted()


class _Unshared:
    """The lease on an upload that nobody else knows of."""

    token = 0  # before every holder that comes later

    async def __aenter__(self) -> Lease:
        return self

    async def __aexit__(self, *failure: object) -> None:
        """There is no lock to let go."""

    def check(self) -> None:
        """It cannot be lost."""


UNSHARED = _Unshared()


def keep_on() -> None:
    """The `wanted` of work that cannot be interrupted and ends soon by itself."""


@dataclass(slots=True)
class Context:
    """The backends of one worker, and what all operations share."""

    store: DataStore
    locker: Locker
    limiters: tuple[Limiter, ...]
    announcer: Announcer
    metrics: Metrics
    policy: Policy
    background: Background = field(default_factory=Background)
    completed: Bells = field(default_factory=Bells)
    """Ring when a partial upload is complete."""
    filling: dict[UploadId, asyncio.Task[HookResponse | None]] = field(default_factory=dict)
    """Concatenations that this process works on."""
    rankings: dict[Eviction, Ranking] = field(default_factory=dict)
    """What may be removed next to make room, while that is known."""
    closing: bool = False
    """Nothing more is waited for that depends on clients."""

    def lock(self, upload_id: UploadId, wanted: Callable[[], None] = keep_on, *, patience: float | None = None) -> _Hold:
        """Hold an upload's lock. Raises `UploadLocked` when nobody lets go in time: `patience` seconds, or what the policy says."""
        return _Hold(self.locker, upload_id, wanted, self.policy.lock_timeout if patience is None else patience, self.metrics)

    def own_lock(self, name: str, patience: float) -> _Hold:
        """Hold a lock of the server's own, such as `~sweeper`: for the duties of which one worker of all does each."""
        return _Hold(self.locker, name, keep_on, patience, None)

    async def timed(self, operation: str, call: Awaitable[T]) -> T:
        """Await a call to the store, and count how long it took, also when it fails."""
        began = monotonic()
        try:
            return await call
        finally:
            self.metrics.observe(STORAGE_DURATION, monotonic() - began, (operation,))

    async def info(self, upload_id: UploadId) -> UploadInfo:
        """What is known without the lock. Raises `UploadNotFound`, also for what has expired."""
        info = await self.timed("info", self.store.info(upload_id))
        check_alive(info, self.policy, utcnow())
        return info

    async def open(self, upload_id: UploadId, lease: Lease) -> Upload:
        """An upload under its lock. Raises `UploadNotFound`, also for what has expired."""
        upload = await self.timed("open", self.store.open(upload_id, lease))
        check_alive(upload.info, self.policy, utcnow())
        return upload

    async def reserve(self, info: UploadInfo, total: int, before: int) -> None:
        """Tell every limiter that this upload may hold `total` bytes; if one refuses, those asked already are told `before` again."""
        for n, limiter in enumerate(self.limiters):
            try:
                await limiter.reserve(info, total)
            except BaseException as error:
                # One that refused has changed nothing; of one that failed or was cancelled nobody knows.
                for asked in self.limiters[: n if isinstance(error, TusError) else n + 1]:
                    await asked.reserve(info, before)
                raise

    async def settle(self, info: UploadInfo, total: int) -> None:
        """Tell every limiter that this upload holds `total` bytes already, also when one of them fails or we are cancelled."""
        failure: BaseException | None = None
        for limiter in self.limiters:
            try:
                await limiter.reserve(info, total)
            except BaseException as error:
                failure = failure or error
                if isinstance(error, asyncio.CancelledError):
                    await limiter.reserve(info, total)
        if failure is not None:
            raise failure

    async def settle_anew(self, info: UploadInfo, otherwise: int) -> None:
        """Tell every limiter how much the upload of this id holds in truth, after something that may have failed half-way; `otherwise` when
        the store does not tell."""
        if not self.limiters:
            return
        try:
            info = await self.store.info(info.id)  # it may be somebody else's
            total = info.room
        except UploadNotFound:
            total = 0
        except (TusError, OSError):
            total = otherwise
        await self.settle(info, total)

    def pacing(self, allowances: Sequence[Allowance]) -> list[Allowance]:
        """Those of a request's allowances, one for each limiter, that make bytes wait."""
        return [allowance for limiter, allowance in zip(self.limiters, allowances, strict=True) if limiter.paces]

    async def close(self) -> None:
        """Wait for what goes on in the background."""
        self.closing = True
        self.completed.ring_all()
        await self.background.close()


async def bind(allowances: Sequence[Allowance], info: UploadInfo) -> None:
    """The upload is known: let the limiters count it."""
    for allowance in allowances:
        await allowance.bind(info)


class telling:
    """Every error raised in the block carries the upload as it then stands, so that no Location or offset is lost."""

    __slots__ = ("_upload",)

    def __init__(self, upload: Upload) -> None:
        self._upload = upload

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if isinstance(error, TusError) and error.info is None and not error.gone and not isinstance(error, Refused):
            error.info = self._upload.info
