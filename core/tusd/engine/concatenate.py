"""A final upload: created at once, filled in the background when its parts are complete.

The parts of a final upload may still be in flight (concatenation-unfinished). Who fills it is the process that created it, or
the one that was asked for it last; the upload's lock decides when there are two. A part that completes in the same process
wakes the filling at once, one that completes elsewhere is seen at the next look.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from ..errors import TusError, UploadLocked
from ..limiting import Allowance
from ..model import Final, Metadata, State, UploadId, UploadInfo
from ..protocol.messages import Created, Head
from ..protocol.rules import plan_final
from ..storage import Concatenable
from .complete import complete, remove
from .context import Context, Exchange
from .new import asked, created, give_back, new_id

logger = logging.getLogger("tusd.engine")

_FIRST_LOOK, _LAST_LOOK = 0.05, 2.0
"""Seconds between looks at unfinished parts; doubled from the first to the last."""


async def create_final(
    context: Context, exchange: Exchange, concat: Final, metadata: Metadata, allowances: Sequence[Allowance]
) -> Created:
    """Create the concatenation of `concat.parts`; wait for it for `policy.concatenation_timeout` if all parts are complete."""
    parts = [await context.info(part) for part in concat.parts]
    length = plan_final(parts, context.policy)
    info = UploadInfo(id=new_id(), length=length, metadata=metadata, concat=concat, explicit=True)
    info, answer = await asked(context, exchange, info, None, allowances)
    try:
        upload = await created(context, exchange, info, None)
    except BaseException:
        await give_back(context, info)
        raise
    task = fill(context, upload.info.id, concat, exchange.head)
    if all(part.state is State.COMPLETE for part in parts):
        await asyncio.wait({task}, timeout=context.policy.concatenation_timeout)
        if task.done() and (error := task.exception()) is not None:
            raise error
        if task.done():
            return Created(await context.store.info(upload.info.id), False, answer)
    return Created(upload.info, False, answer)


def fill(context: Context, upload_id: UploadId, concat: Final, head: Head) -> asyncio.Task[None]:
    """Make sure that this process works on filling a final upload."""
    task = context.filling.get(upload_id)
    if task is None:
        task = context.background.start(_fill(context, upload_id, concat, head), f"concatenation of upload {upload_id[:8]}")
        context.filling[upload_id] = task
        task.add_done_callback(lambda _: context.filling.pop(upload_id, None))
    return task


async def _fill(context: Context, upload_id: UploadId, concat: Final, head: Head) -> None:
    parts = await _complete_parts(context, concat)
    try:
        async with context.lock(upload_id) as lease:
            upload = await context.open(upload_id, lease)
            if upload.info.state is State.COMPLETE:
                return
            try:
                length = plan_final(parts, context.policy)
                await context.reserve(upload.info, length or 0, upload.info.length or 0)
                await upload.save(replace(upload.info, length=length, state=State.FINISHING))
                await cast(Concatenable, upload).concatenate(parts)
            except TusError as error:
                if not error.temporary:
                    await remove(context, upload)
                raise
            await complete(context, upload, head)
    except UploadLocked:
        logger.info("upload %s is being filled by another worker", upload_id)


async def _complete_parts(context: Context, concat: Final) -> list[UploadInfo]:
    pause = _FIRST_LOOK
    while True:
        parts = [await context.info(part) for part in concat.parts]
        if all(part.state is State.COMPLETE for part in parts):
            return parts
        await context.completed.wait(pause)
        pause = min(_LAST_LOOK, pause * 2)
