"""The bytes of one request go to the store; shared by PATCH and creation-with-upload."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

from ..errors import (
    ChecksumMismatch,
    HookError,
    InternalError,
    InvalidUploadLength,
    MaxSizeExceeded,
    TusError,
    UploadSizeExceeded,
    UploadStopped,
)
from ..hooks import HookResponse, PostFail, PostReceive
from ..limiting import Allowance
from ..locking import Lease
from ..model import UploadInfo
from ..protocol import digests
from ..protocol.messages import Append, BodyPlan, Create, Progress
from ..storage import Terminable, Upload
from .announce import Receipt
from .body import AppendBody
from .complete import complete, remove
from .context import Context, Exchange
from .evict import reserve
from .figures import (
    APPEND_DURATION,
    APPEND_SIZE,
    BYTES_IN_FLIGHT,
    BYTES_RECEIVED,
    UPLOADS_ABORTED,
    UPLOADS_ACTIVE,
)
from .progress import Reporter

logger = logging.getLogger("tusd.engine")


async def receive(
    context: Context,
    exchange: Exchange,
    upload: Upload,
    request: Append | Create,
    room: int,
    lease: Lease,
    allowances: Sequence[Allowance],
) -> HookResponse | None:
    """Append the request's body, then finish the upload if all is there; only then raise what was wrong with the body."""
    try:
        plan = request.body
        assert plan is not None
        before = upload.info.offset
        failure: TusError | None = None
        digest: bytes | None = None
        if plan.size != 0 or plan.checksum is not None:
            grow = await _reserving(context, upload, plan) if upload.info.length is None and context.limiters else None
            body = _body(context, exchange, upload.info, plan, room, lease, allowances, grow)
            await _append(context, exchange, upload, plan, body)
            failure, digest = body.failure, body.digest if before == 0 else None
            if failure is None and body.whole and not await body.intact():
                failure = ChecksumMismatch()
        if isinstance(failure, UploadStopped):
            await _stop(context, exchange, upload, failure)
            raise failure
        if failure is None and request.completes:
            failure = _not_the_end(upload)
        answer: HookResponse | None = None
        if _ends(request.completes, upload, failure):
            answer = await complete(context, upload, exchange.head, digest)
        if isinstance(failure, UploadSizeExceeded) and request.completes is not None:
            failure = await _overrun(context, exchange, upload, plan, failure)
        if failure is not None:
            raise failure
        return answer
    except Exception as error:
        await _failed(context, exchange, upload.info, error if isinstance(error, TusError) else InternalError())
        raise


def _body(
    context: Context,
    exchange: Exchange,
    info: UploadInfo,
    plan: BodyPlan,
    room: int,
    lease: Lease,
    allowances: Sequence[Allowance],
    grow: Callable[[int], Awaitable[None]] | None,
) -> AppendBody:
    interim = exchange.interim
    return AppendBody(
        exchange.source,
        plan,
        room if plan.limit is None else min(room, plan.limit),
        lease,
        context.pacing(allowances) if allowances else (),
        digest=noted[0] if info.offset == 0 and (noted := digests.noted(info)) else None,
        progress=None if interim is None else lambda offset: interim(Progress(offset)),
        reserve=grow,
    )


async def _append(context: Context, exchange: Exchange, upload: Upload, plan: BodyPlan, body: AppendBody) -> None:
    """Let the store have the body, count what it stored, also when it fails, and tell how that gets on."""
    metrics, before, began = context.metrics, upload.info.offset, monotonic()
    waits = not exchange.source.arrived
    if waits:
        metrics.add(UPLOADS_ACTIVE, 1)
        metrics.add(BYTES_IN_FLIGHT, plan.size or 0)
    try:
        if context.announcer.wants(PostReceive):
            with Reporter(context, exchange, upload, body):
                await upload.append(body)
        else:
            await upload.append(body)
    finally:
        info = upload.info
        stored = info.offset - before
        if waits:
            metrics.add(UPLOADS_ACTIVE, -1)
            metrics.add(BYTES_IN_FLIGHT, -(plan.size or 0))
        metrics.add(BYTES_RECEIVED, stored)
        metrics.observe(APPEND_SIZE, stored)
        metrics.observe(APPEND_DURATION, monotonic() - began)
        if info.length is None and context.limiters:  # room for a known length has been reserved before
            await context.settle(info, info.offset)


async def _failed(context: Context, exchange: Exchange, info: UploadInfo, error: TusError) -> None:
    context.metrics.add(UPLOADS_ABORTED, labels=(error.code,))
    if context.announcer.wants(PostFail):
        message = error.message if isinstance(error, InternalError) else str(error)
        event = PostFail(upload=info, head=exchange.head, code=error.code, message=message)
        kept: Sequence[Receipt] = ()
        try:
            kept = await context.announcer.keep(event)
        except HookError as failure:  # it must not take the place of what it tells
            logger.error("%s", failure, extra={"upload": info.id})
        context.announcer.tell(event, context.background, kept=kept)


async def _reserving(context: Context, upload: Upload, plan: BodyPlan) -> Callable[[int], Awaitable[None]] | None:
    """Reserve room for a body of an upload whose length is not known yet; or how to do it step by step, if the body's is not known either."""
    before = upload.info.offset

    async def grow(size: int) -> None:
        await reserve(context, upload.info, before + size, upload.info.offset)

    if plan.size is None:
        return grow
    await grow(plan.size)
    return None


async def _stop(context: Context, exchange: Exchange, upload: Upload, stopped: UploadStopped) -> None:
    """A hook has stopped the upload."""
    if Terminable not in context.store.capabilities:
        stopped.gone = False
        return
    await remove(context, upload, exchange.head)


async def _overrun(context: Context, exchange: Exchange, upload: Upload, plan: BodyPlan, failure: UploadSizeExceeded) -> TusError:
    """What a body of unknown size, in the IETF's draft, has run into: the end of the upload, or the most that one request may carry."""
    if upload.info.offset != upload.info.length:
        return (
            failure
            if plan.limit is None
            else MaxSizeExceeded("the request carried more bytes than one may; those that fit are kept")
        )
    if Terminable in context.store.capabilities:  # longer than its client said: nobody may go on (Upload Append, Server Behavior)
        await remove(context, upload, exchange.head)
        failure.gone = True
    return failure


def _not_the_end(upload: Upload) -> TusError | None:
    """What is wrong with a body that came to its end, which should be the upload's."""
    info = upload.info
    if info.length is None or info.offset == info.length:
        return None
    return InvalidUploadLength(f"the upload ends after {info.offset} bytes, but its length was said to be {info.length}")


def _ends(completes: bool | None, upload: Upload, failure: TusError | None) -> bool:
    """Whether the client has sent all: in tus 1.0 when all bytes are there, otherwise when it says so."""
    return upload.info.offset == upload.info.length if completes is None else completes and failure is None
