"""Uploads whose time is over are removed, and what could not be finished is tried again, though no request asks for it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

from ..errors import TryLater, TusError, UploadLocked
from ..hooks import NO_REQUEST, Reason
from ..model import Final, Partial, State, UploadId, UploadInfo, utcnow
from ..protocol.rules import expiry
from ..storage import Listable, Terminable
from .complete import all_sent, complete_again
from .concatenate import can_be_filled, fill
from .context import Context
from .removal import removed

logger = logging.getLogger("tusd.sweeper")

_SWEEPER = "~sweeper"
"""The name of the lock that one sweeper holds at a time."""
_PATIENCE = 1.0
"""Seconds to wait for a lock: whoever holds it longer is at work."""
_MOST = 1000
"""Removals of one round; what is left is for the next, which then begins soon."""
_SOON = 1.0
_LONGEST = 3600.0
"""Seconds between two tries to finish an upload, at the most."""


@dataclass(frozen=True, slots=True)
class Doomed:
    """An upload that is to be removed, and why."""

    info: UploadInfo
    reason: Reason


@dataclass(slots=True)
class _Tries:
    """When to try again to finish an upload."""

    pause: float
    due: float


@dataclass(slots=True)
class Sweeper:
    """Sweeps from time to time. Every worker has one, and one of all sweeps at a time."""

    context: Context
    interval: float
    """Seconds between two rounds."""
    remove_parts: bool
    """Whether parts of final uploads that are complete are removed, too."""
    tries: dict[UploadId, _Tries] = field(default_factory=dict)

    async def run(self) -> None:
        """Sweep until cancelled."""
        pause = self.interval * random.random()  # the workers of many hosts do not all ask at once
        while True:
            await asyncio.sleep(pause)
            more = False
            try:
                more = await self.round() >= _MOST
            except (TusError, OSError) as error:
                logger.warning("a sweep ended early: %s", error)
            pause = _SOON if more else self.interval * random.uniform(0.9, 1.1)

    async def round(self) -> int:
        """One sweep, if nobody else is at it. Returns how many uploads it removed."""
        count = 0
        try:
            async with self.context.own_lock(_SWEEPER, _PATIENCE) as lease:
                async for doomed in self.doomed(retry=True):
                    lease.check()
                    count += await self.removed(doomed)
                    if count >= _MOST:
                        break
        except UploadLocked:
            logger.debug("somebody else sweeps")
        return count

    async def doomed(self, *, retry: bool = False) -> AsyncIterator[Doomed]:
        """The uploads that are to be removed now. `retry`: those that are not finished yet are tried again on the way."""
        parts: dict[UploadId, UploadInfo] = {}
        used: set[UploadId] = set()
        needed: set[UploadId] = set()
        unfinished: set[UploadId] = set()
        async for info in cast(Listable, self.context.store).uploads():
            if self._is_over(info):
                yield Doomed(info, "expired")
                continue
            if isinstance(info.concat, Final):
                (used if info.state is State.COMPLETE else needed).update(info.concat.parts)
            elif isinstance(info.concat, Partial) and info.state is State.COMPLETE and self.remove_parts:
                parts[info.id] = info
            if retry and (all_sent(info) or (isinstance(info.concat, Final) and info.state is not State.COMPLETE)):
                unfinished.add(info.id)
                await self._finish(info)
        if retry:
            self.tries = {upload_id: tries for upload_id, tries in self.tries.items() if upload_id in unfinished}
        for part in (used - needed) & parts.keys() if self.remove_parts else ():
            yield Doomed(parts[part], "concatenated")

    async def removed(self, doomed: Doomed) -> bool:
        """Remove an upload, unless somebody is at work on it or it has been used again; whether it was removed."""

        def may_go(info: UploadInfo) -> bool:
            return doomed.reason != "expired" or self._is_over(info)

        return await removed(self.context, doomed.info.id, doomed.reason, may_go, patience=_PATIENCE) is not None

    def _is_over(self, info: UploadInfo) -> bool:
        moment = expiry(info, self.context.policy)
        return moment is not None and moment <= utcnow()

    async def _finish(self, info: UploadInfo) -> None:
        """Try once more to finish an upload, less and less often."""
        now = asyncio.get_running_loop().time()
        tries = self.tries.setdefault(info.id, _Tries(self.interval, 0))
        if now < tries.due:
            return
        tries.pause = min(_LONGEST, tries.pause * 2)
        tries.due = now + tries.pause
        try:
            if isinstance(info.concat, Final):
                if all_sent(info) or await can_be_filled(self.context, info.concat):
                    fill(self.context, info.id, info.concat, NO_REQUEST)
                return
            async with self.context.lock(info.id, patience=_PATIENCE) as lease:
                upload = await self.context.open(info.id, lease)
                if all_sent(upload.info):
                    await complete_again(self.context, upload, NO_REQUEST)
        except (UploadLocked, TryLater):
            pass  # the next try is later
        except (TusError, OSError) as error:
            logger.info("an upload is not finished: %s", error, extra={"upload": info.id})


def sweeper_of(context: Context) -> Sweeper | None:
    """A sweeper, if there may ever be something to do for it that the store can do."""
    policy, can = context.policy, context.store.capabilities
    expires = policy.expire_after is not None or policy.expire_finished_after is not None
    if not (expires or policy.remove_parts or not context.announcer.silent):
        return None
    if Listable not in can or Terminable not in can:
        if expires or policy.remove_parts:
            logger.warning("uploads expire but are not removed: this storage cannot list or remove them")
        return None
    return Sweeper(context, policy.sweep_interval, policy.remove_parts)
