"""Deliver what an outbox keeps: in order for each upload, until it is delivered or set aside, whatever happens in between."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from ..errors import HookError, StartError, TusError, UploadLocked, UploadNotFound
from ..hooks import HookEvent, PostFinish
from ..locking import Lease
from ..model import State, UploadInfo
from ..threads import in_thread
from .announce import Keeper
from .context import Context
from .figures import OUTBOX_PARKED, OUTBOX_WAITING
from .outbox import REMOVALS, Census, Kept, Outbox, same_upload

logger = logging.getLogger("tusd.hooks")

_AT_ONCE = 16
"""Uploads whose events are delivered at the same time."""
_PAUSE = 5.0
"""Seconds after which a worker asks again whether nobody else delivers."""
_PATIENCE = 1.0
_LOOK = 0.1
"""Seconds between looks at the bell; between looks at the events it is many times what such a look takes."""
_REST = 20.0
_SOON = 1.0
_LONGEST = 600.0
"""Seconds between two tries, at the most."""
_DOUBLED = 20
"""How often the pause is doubled, at the most: long after it is the longest, and before it is no number any more."""


@dataclass(slots=True)
class Deliverer:
    """Delivers the events of one outbox. Every worker has one, and one of them all is at work."""

    context: Context
    keeper: Keeper
    patience: float
    """Seconds after which what fails again and again is set aside."""
    running: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """Folder -> who delivers from it."""

    @property
    def outbox(self) -> Outbox:
        """Where the events are."""
        return self.keeper.outbox

    @property
    def label(self) -> str:
        """What the dispatcher is called in logs."""
        return self.keeper.subscriber.label

    async def open(self) -> None:
        """Make sure that events can be kept. Raises `StartError`."""
        try:
            await in_thread(self.outbox.open)
        except OSError as error:
            what = f"the outbox {self.outbox.folder} cannot be used: {error.strerror}; set another folder, or its permissions"
            raise StartError(f"{self.label}: {what}") from error

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            try:
                name = await in_thread(self.outbox.open)
                async with self.context.own_lock(f"~outbox-{name}", _PATIENCE) as lease:
                    await self._serve(lease)
            except UploadLocked:
                pass  # somebody else delivers
            except (TusError, OSError) as error:
                logger.warning("%s: the outbox rests: %s", self.label, error)
            await asyncio.sleep(_PAUSE * random.uniform(0.8, 1.2))

    async def _serve(self, lease: Lease) -> None:
        """Deliver for as long as the lock is ours."""
        rung, next_look, earliest = -1, 0.0, 0.0
        census = Census({}, 0, 0)
        try:
            while True:
                lease.check()
                bell, now = self.outbox.rung(), time.time()
                if now >= next_look and (bell != rung or now >= earliest):
                    rung = bell
                    began = time.monotonic()
                    census = await in_thread(self.outbox.census)
                    self._show(census.waiting, census.parked)
                    next_look = now + _REST * (time.monotonic() - began)
                    earliest = self._begin(census)
                await asyncio.sleep(_LOOK)
        finally:
            for task in self.running.values():
                task.cancel()
            if self.running:
                await asyncio.wait(self.running.values())
            self._show(0, 0)

    def _begin(self, census: Census) -> float:
        """Deliver from as many folders as can be. Returns when there will be more to do."""
        now, earliest = time.time(), float("inf")
        for name, due in sorted(census.due.items(), key=lambda one: one[1]):
            if name in self.running:
                continue
            if due > now or len(self.running) >= _AT_ONCE:
                return min(earliest, due)
            task = asyncio.create_task(self._deliver(name), name="an outbox")
            self.running[name] = task
            task.add_done_callback(partial(self._ended, name))
        return earliest

    def _ended(self, name: str, _: asyncio.Task[None]) -> None:
        del self.running[name]
        with suppress(OSError):
            self.outbox.ring()

    async def _deliver(self, name: str) -> None:
        """Deliver what is due of one upload; rest for a while when that is impossible."""
        try:
            await self._deliver_due([kept for kept in await in_thread(partial(self.outbox.events, name)) if not kept.parked])
        except Exception as error:
            expected = isinstance(error, (TusError, OSError))
            logger.warning("%s: an outbox rests: %s", self.label, error, exc_info=None if expected else error)
            await asyncio.sleep(_PAUSE)

    async def _deliver_due(self, waiting: list[Kept]) -> None:
        """Deliver in order, and stop at the first that cannot be delivered."""
        upload: UploadInfo | None = None
        if any(isinstance(kept.event, (PostFinish, *REMOVALS)) for kept in waiting):
            upload = await self._upload(waiting)
        for kept in waiting:
            if kept.event is None:
                logger.error("%s: %s; it is set aside", kept.path, kept.error)
                await in_thread(partial(self.outbox.park, kept, kept.error))
            elif not _is_true(kept.event, upload):
                await in_thread(partial(self.outbox.later, kept, _pause(kept)))
            elif kept.due > time.time():
                return
            elif await in_thread(kept.path.exists) and not await self._delivered(kept, kept.event):  # not withdrawn since
                return

    async def _upload(self, waiting: list[Kept]) -> UploadInfo | None:
        """The upload as the store has it; None: it is gone."""
        event = next(kept.event for kept in waiting if kept.event is not None)
        try:
            return await self.context.timed("info", self.context.store.info(event.upload.id))
        except UploadNotFound:
            return None

    async def _delivered(self, kept: Kept, event: HookEvent) -> bool:
        """Try; whether the next one may follow."""
        try:
            await self.context.announcer.deliver(self.keeper, event)
        except TusError as error:
            extra = {"upload": event.upload.id}
            if (isinstance(error, HookError) and error.permanent) or _age(kept) > self.patience:
                logger.error("the hook %s failed for good, its event is parked: %s", event.name, error, extra=extra)
                await in_thread(partial(self.outbox.park, kept, str(error)))
                return True
            pause = min(_LONGEST, _SOON * 2 ** min(kept.tries, _DOUBLED)) * random.uniform(0.5, 1)
            pause = max(pause, error.retry_after or 0)
            logger.warning("the hook %s failed, the next try is in %.1f s: %s", event.name, pause, error, extra=extra)
            await in_thread(partial(self.outbox.failed, kept, str(error), pause))
            return False
        await in_thread(partial(self.outbox.drop, kept))
        return True

    def _show(self, waiting: int, parked: int) -> None:
        labels = (self.label,)
        self.context.metrics.set(OUTBOX_WAITING, waiting, labels)
        self.context.metrics.set(OUTBOX_PARKED, parked, labels)


def _is_true(event: HookEvent, upload: UploadInfo | None) -> bool:
    """Whether what was kept before it happened has happened; `upload` is what the store has of its id now."""
    gone = upload is None or not same_upload(upload, event.upload)
    if isinstance(event, REMOVALS):
        return gone
    return not isinstance(event, PostFinish) or gone or (upload is not None and upload.state is State.COMPLETE)


def _age(kept: Kept) -> float:
    assert kept.since is not None
    return (datetime.now().astimezone() - kept.since).total_seconds()


def _pause(kept: Kept) -> float:
    """Until the next look at what may not have happened: longer and longer."""
    return min(60.0, max(_SOON, _age(kept) / 2)) if kept.since else 60.0


def deliverers_of(context: Context) -> list[Deliverer]:
    """One for each dispatcher that keeps its events."""
    found = []
    for keeper in context.announcer.keepers:
        assert keeper.subscriber.keeping is not None
        found.append(Deliverer(context, keeper, keeper.subscriber.keeping.patience))
    return found
