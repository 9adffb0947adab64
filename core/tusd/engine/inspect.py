"""HEAD: where does an upload stand?"""

from __future__ import annotations

from collections.abc import Sequence

from ..limiting import Allowance
from ..model import Final, State
from ..protocol.messages import Inspect, Inspected
from .access import allowed
from .complete import all_sent, complete_again
from .concatenate import fill
from .context import Context, Exchange, bind, telling
from .figures import UPLOADS_RESUMED


async def inspect(context: Context, exchange: Exchange, request: Inspect, allowances: Sequence[Allowance]) -> Inspected:
    """The truth, told under the lock and after whoever holds it has stopped; without the lock where nothing can change any more.

    What an earlier request could not finish is tried again. Raises `FinishPending` when that fails."""
    info = await context.info(request.upload_id)
    answer = await allowed(context, exchange, info, "inspect")
    await bind(allowances, info)
    if info.state is State.COMPLETE:
        return Inspected(info, answer)
    if isinstance(info.concat, Final):
        fill(context, info.id, info.concat, exchange.head)
        return Inspected(info, answer)
    async with context.lock(request.upload_id) as lease:
        upload = await context.open(request.upload_id, lease)
        with telling(upload):
            if all_sent(upload.info):
                await complete_again(context, upload, exchange.head)
            if upload.info.offset and upload.info.state is not State.COMPLETE:
                context.metrics.add(UPLOADS_RESUMED)
            return Inspected(upload.info, answer)
