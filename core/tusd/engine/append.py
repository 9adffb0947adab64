"""PATCH: more bytes for an upload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import UploadInterrupted, UploadSizeExceeded
from ..limiting import Allowance
from ..model import State
from ..protocol.messages import Append, Appended
from ..protocol.rules import plan_append, starting_state
from ..storage import Upload
from .access import look
from .announce import merge
from .complete import all_sent, asks, complete_again
from .context import Context, Exchange, telling
from .evict import reserve
from .receive import receive


async def append(context: Context, exchange: Exchange, request: Append, allowances: Sequence[Allowance]) -> Appended:
    """Store a body at the upload's end, and finish the upload when that was the last of it."""
    answer = await look(context, exchange, request.upload_id, "append", allowances)

    def wanted() -> None:
        exchange.source.stop(UploadInterrupted())

    async with context.lock(request.upload_id, wanted) as lease:
        upload = await context.open(request.upload_id, lease)
        with telling(upload):
            plan = plan_append(request, upload.info, context.policy)
            if upload.info.state is State.COMPLETE or all_sent(upload.info):
                if request.body.size is None and await exchange.source.read():
                    raise UploadSizeExceeded()
                if all_sent(upload.info):
                    answer = merge(answer, await complete_again(context, upload, exchange.head))
                return Appended(upload.info, answer)
            await _begin(context, upload, request)
            if plan.length is not None:
                await _declare(context, upload, plan.length)
            finished = await receive(context, exchange, upload, request, plan.room, lease, allowances)
            return Appended(upload.info, merge(answer, finished))


async def _begin(context: Context, upload: Upload, request: Append) -> None:
    """Remember what this request changes of the upload before any of its bytes: from here on all bytes being there must not pass for
    more than this client means by it."""
    info = upload.info
    state, explicit = starting_state(request.completes, request.body.size, asks=asks(context, info.notes))
    if request.completes and info.state is State.OPEN:
        state = State.OPEN  # what is saved at the end tells it
    explicit = explicit or info.explicit
    if (state, explicit) != (info.state, info.explicit):
        await context.timed("save", upload.save(replace(info, state=state, explicit=explicit)))


async def _declare(context: Context, upload: Upload, length: int) -> None:
    await reserve(context, upload.info, length, upload.info.offset)
    try:
        await context.timed("save", upload.save(replace(upload.info, length=length)))
    except BaseException:
        await context.settle_anew(upload.info, upload.info.room)
        raise
