"""RECEIVING -> FINISHING -> COMPLETE."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from ..errors import DigestMismatch, FinishPending, InternalError, TusError, UploadRejected
from ..hooks import HookEvent, HookResponse, PostExpire, PostFinish, PostTerminate, PreFinish, Reason
from ..model import Partial, State, UploadInfo
from ..protocol import digests
from ..protocol.messages import Algorithm, Checksum, Head
from ..storage import Readable, Terminable, Upload
from .announce import Receipt
from .body import new_hash
from .context import Context
from .figures import UPLOADS_EXPIRED, UPLOADS_FINISHED, UPLOADS_TERMINATED

logger = logging.getLogger("tusd.engine")


def all_sent(info: UploadInfo) -> bool:
    """Whether the client has sent all and only finishing is left."""
    return info.state is State.FINISHING or (info.state is State.RECEIVING and info.offset == info.length)


def asks(context: Context, notes: Mapping[str, str]) -> bool:
    """Whether an upload of which all was sent is not complete yet: a hook has to agree, its digest is to be computed, or what is told of
    it then is to be safe first."""
    return context.announcer.wants(PreFinish) or context.announcer.keeps(PostFinish) or digests.KEY in notes


async def complete(context: Context, upload: Upload, head: Head, digest: bytes | None = None) -> HookResponse | None:
    """Finish an upload whose bytes are all there, under its lock. A crash or failure in between repeats it, never skips it.

    The states are saved only where offset and length would not tell them (`explicit`). `digest` is the upload's, in the algorithm that
    is noted, if it is known already. Returns pre-finish's answer. Raises `UploadRejected` when pre-finish refuses, `DigestMismatch`
    when the bytes are not what was promised, and then the upload is gone; any other error leaves it FINISHING.
    """
    if upload.info.explicit or asks(context, upload.info.notes):
        await _save_finishing(context, upload)
    try:
        await context.timed("finish", upload.finish())
    except BaseException:  # also when the request is cancelled: all bytes being there must not pass for agreement
        await _save_finishing(context, upload)
        raise
    notes = upload.info.notes
    if (noted := digests.noted(upload.info)) is not None:
        notes = await _verified(context, upload, head, *noted, digest)
    answer: HookResponse | None = None
    if context.announcer.wants(PreFinish):
        answer = await context.announcer.ask(PreFinish(upload=upload.info, head=head))
        if answer is not None and answer.reject:
            await remove(context, upload, head)
            raise UploadRejected(hook=answer)
    event: PostFinish | None = None
    kept: Sequence[Receipt] = ()
    if context.announcer.wants(PostFinish):
        event = PostFinish(upload=replace(upload.info, state=State.COMPLETE, notes=notes), head=head)
        kept = await context.announcer.keep(event)
    if upload.info.explicit:
        await context.timed("save", upload.save(replace(upload.info, state=State.COMPLETE, notes=notes)))
    context.metrics.add(UPLOADS_FINISHED)
    if isinstance(upload.info.concat, Partial):
        context.completed.ring(upload.info.id)
    if event is not None:
        context.announcer.tell(event, context.background, kept=kept)
    return answer


async def _save_finishing(context: Context, upload: Upload) -> None:
    info = upload.info
    finishing = replace(info, explicit=True, state=State.FINISHING, length=info.offset if info.length is None else info.length)
    if finishing != info:
        await context.timed("save", upload.save(finishing))


async def _verified(
    context: Context, upload: Upload, head: Head, algorithm: Algorithm, promised: bytes | None, digest: bytes | None
) -> Mapping[str, str]:
    """Compare the digest of all bytes with the one that was promised. Returns the notes, of which it is one from then on."""
    notes = dict(upload.info.notes)
    if digest is None and Readable not in context.store.capabilities:
        logger.warning("Repr-Digest was not verified: this store cannot read what it keeps", extra={"upload": upload.info.id})
        del notes[digests.KEY]
        return notes
    if digest is None:
        running = new_hash(algorithm)
        async for piece in cast(Readable, context.store).read(upload.info, 0, upload.info.offset):
            running.update(piece)
        digest = running.digest()
    if promised is not None and digest != promised:
        await remove(context, upload, head)
        raise DigestMismatch()
    notes[digests.KEY] = digests.promise(Checksum(algorithm, digest))
    return notes


async def complete_again(context: Context, upload: Upload, head: Head) -> HookResponse | None:
    """Try to finish once more what an earlier request could not. Raises `FinishPending`, `UploadRejected`, `DigestMismatch`."""
    try:
        return await complete(context, upload, head)
    except (UploadRejected, DigestMismatch):
        raise
    except (TusError, OSError) as error:
        logger.warning("an upload could not be finished: %s", error, extra={"upload": upload.info.id})
        raise FinishPending(info=upload.info, retry_after=5) from error


async def remove(context: Context, upload: Upload, head: Head, reason: Reason | None = None) -> None:
    """Take an upload away, if the store can, and give back what limiters have reserved for it; count it and tell of it.

    `reason`: why the server does so by itself; None: somebody wanted it, or the upload can never be complete."""
    if Terminable not in context.store.capabilities:
        raise InternalError("the store cannot remove uploads")
    info = upload.info
    if info.state is not State.COMPLETE:
        await context.announcer.withdraw(info, PostFinish)
    event: HookEvent | None = None
    if reason is not None and context.announcer.wants(PostExpire):
        event = PostExpire(upload=info, head=head, reason=reason)
    elif reason is None and context.announcer.wants(PostTerminate):
        event = PostTerminate(upload=info, head=head)
    kept = await context.announcer.keep(event) if event is not None else ()
    try:
        await context.timed("terminate", cast(Terminable, upload).terminate())
    except BaseException:
        await context.settle_anew(info, info.room)
        raise
    if reason is None:
        context.metrics.add(UPLOADS_TERMINATED)
    else:
        context.metrics.add(UPLOADS_EXPIRED, labels=(reason,))
    if event is not None:
        context.announcer.tell(event, context.background, kept=kept)
    await context.settle(info, 0)  # last: it is gone, though a limiter fails
