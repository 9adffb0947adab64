"""RECEIVING -> FINISHING -> COMPLETE."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import cast

from ..errors import FinishPending, InternalError, TusError, UploadRejected
from ..hooks import HookResponse, PostFinish, PreFinish
from ..model import Partial, State, UploadInfo
from ..protocol.messages import Head
from ..storage import Terminable, Upload
from .context import Context
from .figures import UPLOADS_FINISHED

logger = logging.getLogger("tusd.engine")


def all_sent(info: UploadInfo) -> bool:
    """Whether the client has sent all and only finishing is left."""
    return info.state is State.FINISHING or (info.state is State.RECEIVING and info.offset == info.length)


async def complete(context: Context, upload: Upload, head: Head) -> HookResponse | None:
    """Finish an upload whose bytes are all there, under its lock. A crash or failure in between repeats it, never skips it.

    The states are saved only where offset and length would not tell them (`explicit`). Returns pre-finish's answer. Raises
    `UploadRejected` when pre-finish refuses, and then the upload is gone; any other error leaves it FINISHING.
    """
    asks = context.announcer.wants(PreFinish)
    if asks or upload.info.explicit:
        await _save_finishing(upload)
    try:
        await upload.finish()
    except BaseException:  # also when the request is cancelled: all bytes being there must not pass for agreement
        await _save_finishing(upload)
        raise
    answer: HookResponse | None = None
    if asks:
        answer = await context.announcer.ask(PreFinish(upload=upload.info, head=head))
        if answer is not None and answer.reject:
            await remove(context, upload)
            raise UploadRejected(hook=answer)
    if upload.info.explicit:
        await upload.save(replace(upload.info, state=State.COMPLETE))
    context.metrics.add(UPLOADS_FINISHED)
    if isinstance(upload.info.concat, Partial):
        context.completed.ring(upload.info.id)
    if context.announcer.wants(PostFinish):
        context.announcer.tell(PostFinish(upload=upload.info, head=head), context.background)
    return answer


async def _save_finishing(upload: Upload) -> None:
    if not upload.info.explicit or upload.info.state is not State.FINISHING:
        await upload.save(replace(upload.info, explicit=True, state=State.FINISHING))


async def complete_again(context: Context, upload: Upload, head: Head) -> HookResponse | None:
    """Try to finish once more what an earlier request could not. Raises `FinishPending`, `UploadRejected`."""
    try:
        return await complete(context, upload, head)
    except UploadRejected:
        raise
    except (TusError, OSError) as error:
        logger.warning("an upload could not be finished: %s", error, extra={"upload": upload.info.id})
        raise FinishPending(info=upload.info, retry_after=5) from error


async def remove(context: Context, upload: Upload) -> None:
    """Take an upload away, if the store can, and give back what limiters have reserved for it."""
    if Terminable not in context.store.capabilities:
        raise InternalError("the store cannot remove uploads")
    info = upload.info
    try:
        await cast(Terminable, upload).terminate()
    except BaseException:
        await context.settle_anew(info, info.offset if info.length is None else info.length)
        raise
    await context.settle(info, 0)
