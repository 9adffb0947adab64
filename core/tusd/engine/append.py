"""PATCH: more bytes for an upload. `receive` is shared with creation-with-upload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import ChecksumMismatch, UploadInterrupted, UploadSizeExceeded
from ..hooks import HookResponse, PreFinish
from ..limiting import Allowance
from ..locking import Lease
from ..model import State
from ..protocol.messages import Append, Appended, BodyPlan
from ..protocol.rules import plan_append
from ..storage import Upload
from .body import AppendBody
from .complete import all_sent, complete, complete_again
from .context import Context, Exchange, bind, telling
from .figures import BYTES_RECEIVED


async def append(context: Context, exchange: Exchange, request: Append, allowances: Sequence[Allowance]) -> Appended:
    """Store a body at the upload's end, and finish the upload when that was the last of it."""
    if allowances:
        await bind(allowances, await context.info(request.upload_id))

    def wanted() -> None:
        exchange.source.stop(UploadInterrupted())

    async with context.lock(request.upload_id, wanted) as lease:
        upload = await context.open(request.upload_id, lease)
        with telling(upload):
            plan = plan_append(request, upload.info, context.policy)
            answer = None
            if upload.info.state is State.COMPLETE or all_sent(upload.info):
                if request.body.size is None and await exchange.source.read():
                    raise UploadSizeExceeded()
                if all_sent(upload.info):
                    answer = await complete_again(context, upload, exchange.head)
                return Appended(upload.info, answer)
            if context.announcer.wants(PreFinish) and not upload.info.explicit:
                # It was created when nobody had to agree; from now on all bytes being there must not pass for agreement.
                await upload.save(replace(upload.info, explicit=True))
            if plan.length is not None:
                await _declare(context, upload, plan.length)
            answer = await receive(context, exchange, upload, request.body, plan.room, lease, allowances)
            return Appended(upload.info, answer)


async def receive(
    context: Context,
    exchange: Exchange,
    upload: Upload,
    plan: BodyPlan,
    room: int,
    lease: Lease,
    allowances: Sequence[Allowance],
) -> HookResponse | None:
    """Append the request's body, then finish the upload if all is there; only then raise what was wrong with the body."""
    pacing = [allowance for limiter, allowance in zip(context.limiters, allowances, strict=True) if limiter.paces]
    body = AppendBody(exchange.source, plan, room, lease, pacing)
    before = upload.info.offset
    if plan.size != 0 or body.whole:
        try:
            await upload.append(body)
        finally:
            await _count(context, upload, before)
    failure = body.failure
    if failure is None and body.whole and not await body.intact():
        failure = ChecksumMismatch()
    answer: HookResponse | None = None
    if upload.info.offset == upload.info.length:
        answer = await complete(context, upload, exchange.head)
    if failure is not None:
        raise failure
    return answer


async def _declare(context: Context, upload: Upload, length: int) -> None:
    await context.reserve(upload.info, length, upload.info.offset)
    try:
        await upload.save(replace(upload.info, length=length))
    except BaseException:
        if upload.info.length is None:
            await context.settle(upload.info, upload.info.offset)
        raise


async def _count(context: Context, upload: Upload, before: int) -> None:
    """What was stored, also by an append that failed. Room for a known length has been reserved before."""
    context.metrics.add(BYTES_RECEIVED, upload.info.offset - before)
    if upload.info.length is None and context.limiters:
        await context.settle(upload.info, upload.info.offset)
