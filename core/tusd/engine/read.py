"""GET: the bytes of an upload."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import cast

from ..limiting import Allowance
from ..protocol.messages import Read, Reading
from ..protocol.rules import plan_read
from ..storage import Readable
from .access import allowed
from .context import Context, Exchange, bind


async def read(context: Context, exchange: Exchange, request: Read, allowances: Sequence[Allowance]) -> Reading:
    """A download. Takes no lock: it neither waits nor interrupts."""
    info = await context.info(request.upload_id)
    answer = await allowed(context, exchange, info, "read")
    await bind(allowances, info)
    plan = plan_read(request, info, context.policy)
    content = None if plan.unchanged else cast(Readable, context.store).read(info, plan.start, plan.stop)
    pacing = context.pacing(allowances)
    if content is not None and pacing:
        content = _paced(content, pacing)
    return Reading(info, plan.start, plan.stop, plan.partial, content, answer)


async def _paced(content: AsyncIterator[bytes], allowances: Sequence[Allowance]) -> AsyncIterator[bytes]:
    async with aclosing(content):  # type: ignore[type-var]
        async for piece in content:
            for allowance in allowances:
                await allowance.spend(len(piece))
            yield piece
