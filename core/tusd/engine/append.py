"""PATCH: more bytes for an upload. `receive` is shared with creation-with-upload."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..errors import ChecksumMismatch, InvalidUploadLength, MaxSizeExceeded, TusError, UploadInterrupted, UploadSizeExceeded
from ..hooks import HookResponse
from ..limiting import Allowance
from ..locking import Lease
from ..model import State
from ..protocol import digests
from ..protocol.messages import Append, Appended, BodyPlan, Create, Progress
from ..protocol.rules import plan_append, starting_state
from ..storage import Terminable, Upload
from .body import AppendBody
from .complete import all_sent, asks, complete, complete_again, remove
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
            await _begin(context, upload, request)
            if plan.length is not None:
                await _declare(context, upload, plan.length)
            answer = await receive(context, exchange, upload, request, plan.room, lease, allowances)
            return Appended(upload.info, answer)


async def _begin(context: Context, upload: Upload, request: Append) -> None:
    """Remember what this request changes of the upload before any of its bytes: from here on all bytes being there must not pass for
    more than this client means by it."""
    info = upload.info
    state, explicit = starting_state(request.completes, request.body.size, asks=asks(context, info.notes))
    if request.completes and info.state is State.OPEN:
        state = State.OPEN  # what is saved at the end tells it
    explicit = explicit or info.explicit
    if (state, explicit) != (info.state, info.explicit):
        await upload.save(replace(info, state=state, explicit=explicit))


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
    plan = request.body
    assert plan is not None
    before = upload.info.offset
    body = AppendBody(
        exchange.source,
        plan,
        room if plan.limit is None else min(room, plan.limit),
        lease,
        [allowance for limiter, allowance in zip(context.limiters, allowances, strict=True) if limiter.paces],
        digest=noted[0] if before == 0 and (noted := digests.noted(upload.info)) else None,
        progress=_teller(exchange),
    )
    if plan.size != 0 or body.whole:
        try:
            await upload.append(body)
        finally:
            await _count(context, upload, before)
    failure = body.failure
    if failure is None and body.whole and not await body.intact():
        failure = ChecksumMismatch()
    if failure is None and request.completes:
        failure = _not_the_end(upload)
    answer: HookResponse | None = None
    if _ends(request.completes, upload, failure):
        answer = await complete(context, upload, exchange.head, body.digest if before == 0 else None)
    if isinstance(failure, UploadSizeExceeded) and request.completes is not None:
        failure = await _overrun(context, upload, plan, failure)
    if failure is not None:
        raise failure
    return answer


async def _overrun(context: Context, upload: Upload, plan: BodyPlan, failure: UploadSizeExceeded) -> TusError:
    """What a body of unknown size, in the IETF's draft, has run into: the end of the upload, or the most that one request may carry."""
    if upload.info.offset != upload.info.length:
        return (
            failure
            if plan.limit is None
            else MaxSizeExceeded("the request carried more bytes than one may; those that fit are kept")
        )
    if Terminable in context.store.capabilities:  # longer than its client said: nobody may go on (Upload Append, Server Behavior)
        await remove(context, upload)
        failure.gone = True
    return failure


def _teller(exchange: Exchange) -> Callable[[int], None] | None:
    """Tells the client how its body gets on."""
    interim = exchange.interim
    return None if interim is None else lambda offset: interim(Progress(offset))


def _not_the_end(upload: Upload) -> TusError | None:
    """What is wrong with a body that came to its end, which should be the upload's."""
    info = upload.info
    if info.length is None or info.offset == info.length:
        return None
    return InvalidUploadLength(f"the upload ends after {info.offset} bytes, but its length was said to be {info.length}")


def _ends(completes: bool | None, upload: Upload, failure: TusError | None) -> bool:
    """Whether the client has sent all: in tus 1.0 when all bytes are there, otherwise when it says so."""
    return upload.info.offset == upload.info.length if completes is None else completes and failure is None


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
