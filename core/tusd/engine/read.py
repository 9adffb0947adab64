"""GET: the bytes of an upload."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from ..limiting import Allowance
from ..protocol.messages import Read, Reading
from ..protocol.rules import plan_read
from ..storage import Readable
from .context import Context, bind


async def read(context: Context, request: Read, allowances: Sequence[Allowance]) -> Reading:
    """A download. Takes no lock: it neither waits nor interrupts."""
    info = await context.info(request.upload_id)
    await bind(allowances, info)
    plan = plan_read(request, info, context.policy)
    content = None if plan.unchanged else cast(Readable, context.store).read(info, plan.start, plan.stop)
    return Reading(info, plan.start, plan.stop, plan.partial, content)
