"""A final upload: created at once, filled in the background when its parts are complete.

The parts of a final upload may still be in flight (concatenation-unfinished). Who fills it is the process that created it, the
one that was asked for it last, or the sweeper; the upload's lock decides when there are two. A part that completes in the same process
wakes the filling at once, one that completes elsewhere is seen at the next look.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from ..errors import Full, RequestError, StateError, TryLater, UploadLocked, UploadNotFound
from ..hooks import HookResponse
from ..limiting import Allowance
from ..model import Final, Metadata, State, UploadId, UploadInfo
from ..protocol.messages import Created, Head
from ..protocol.rules import check_length, plan_final
from ..storage import Concatenable, Upload
from .access import allowed
from .announce import merge
from .complete import complete, remove
from .context import Context, Exchange, telling
from .evict import reserve
from .new import asked, created, new_id

logger = logging.getLogger("tusd.engine")

_FIRST_LOOK, _LAST_LOOK = 0.05, 2.0
"""Seconds between looks at the first part that is not complete; doubled from the first to the last."""
_PATIENCE = 3600.0
"""Seconds to wait for one part; afterwards the next HEAD of the final upload waits again."""


async def create_final(
    context: Context, exchange: Exchange, concat: Final, metadata: Metadata, allowances: Sequence[Allowance]
) -> Created:
    """Create the concatenation of `concat.parts`; wait for it for `policy.concatenation_timeout` if all parts are complete."""
    parts = {part: await context.info(part) for part in dict.fromkeys(concat.parts)}
    for part in parts.values():
        await allowed(context, exchange, part, "concatenate")
    length = plan_final([parts[part] for part in concat.parts], context.policy)
    info = UploadInfo(id=new_id(), length=length, metadata=metadata, concat=concat, explicit=True)
    info, answer = await asked(context, exchange, info, None, allowances)
    try:
        upload = await created(context, exchange, info, None)
    except BaseException:
        await context.settle_anew(info, 0)
        raise
    task = fill(context, upload.info.id, concat, exchange.head)
    if all(part.state is State.COMPLETE for part in parts.values()):
        await asyncio.wait({task}, timeout=context.policy.concatenation_timeout)
        if task.done():
            finished = task.result()
            return Created(await context.store.info(upload.info.id), False, merge(answer, finished))
    return Created(upload.info, False, answer)


def fill(context: Context, upload_id: UploadId, concat: Final, head: Head) -> asyncio.Task[HookResponse | None]:
    """Make sure that this process works on filling a final upload."""
    task = context.filling.get(upload_id)
    if task is None:
        task = context.background.start(_fill(context, upload_id, concat, head), "a concatenation", upload_id)
        context.filling[upload_id] = task
        task.add_done_callback(lambda _: context.filling.pop(upload_id, None))
    return task


async def can_be_filled(context: Context, concat: Final) -> bool:
    """Whether no part is waited for any more: each is complete, or gone."""
    for part in dict.fromkeys(concat.parts):
        if await _state(context, part) not in (State.COMPLETE, None):
            return False
    return True


async def _fill(context: Context, upload_id: UploadId, concat: Final, head: Head) -> HookResponse | None:
    if not await _parts_settled(context, upload_id, concat):
        return None
    try:
        async with context.lock(upload_id) as lease:
            upload = await context.open(upload_id, lease)
            if upload.info.state is State.COMPLETE:
                return None
            if upload.info.state is not State.FINISHING or upload.info.offset != upload.info.length:
                await _concatenate(context, upload, concat, head)
            with telling(upload):
                return await complete(context, upload, head)
    except UploadLocked:
        logger.info("another worker fills a final upload", extra={"upload": upload_id})
        return None


async def _concatenate(context: Context, upload: Upload, concat: Final, head: Head) -> None:
    """Raises after removing the upload when it can never be filled; without a part, for example."""
    try:
        with telling(upload):
            parts = [await context.info(part) for part in concat.parts]
            length = plan_final(parts, context.policy)
            check_length(length, upload.info, context.policy)
            await reserve(context, upload.info, length or 0, upload.info.length or 0)
            await context.timed("save", upload.save(replace(upload.info, length=length, state=State.FINISHING)))
            await context.timed("concatenate", cast(Concatenable, upload).concatenate(parts))
    except (RequestError, StateError, Full) as error:
        await remove(context, upload, head)
        error.info = None
        raise


async def _parts_settled(context: Context, upload_id: UploadId, concat: Final) -> bool:
    """Wait until every part is complete, or one is gone. False: nobody waits any more for this final upload, or not in this process."""
    for part in dict.fromkeys(concat.parts):
        if not await _part_settled(context, upload_id, part):
            return False
        await asyncio.sleep(0)  # a final upload may name a thousand parts, and a store may answer without ever waiting
    return True


async def _part_settled(context: Context, upload_id: UploadId, part: UploadId) -> bool:
    loop = asyncio.get_running_loop()
    pause, deadline = _FIRST_LOOK, loop.time() + _PATIENCE
    while loop.time() < deadline and not context.closing:
        with context.completed.heard(part) as rung:
            try:
                if await _state(context, upload_id) is None:
                    return False
                if await _state(context, part) in (State.COMPLETE, None):
                    return True
            except TryLater as error:
                logger.warning("a final upload or its part cannot be looked at: %s", error, extra={"upload": upload_id})
            await asyncio.wait({rung}, timeout=pause)
        pause = min(_LAST_LOOK, pause * 2)
    return False


async def _state(context: Context, upload_id: UploadId) -> State | None:
    """Of an upload; None when it is gone."""
    try:
        return (await context.info(upload_id)).state
    except UploadNotFound:
        return None
