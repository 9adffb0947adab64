"""DELETE: remove an upload."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import TerminationRejected
from ..hooks import HookResponse, PreTerminate
from ..limiting import Allowance
from ..protocol.messages import Terminate, Terminated
from .access import look
from .announce import merge
from .complete import remove
from .context import Context, Exchange, telling


async def terminate(context: Context, exchange: Exchange, request: Terminate, allowances: Sequence[Allowance]) -> Terminated:
    """Remove an upload, after whoever works on it has stopped."""
    access = await look(context, exchange, request.upload_id, "terminate", allowances)
    async with context.lock(request.upload_id) as lease:
        upload = await context.open(request.upload_id, lease)
        answer: HookResponse | None = None
        with telling(upload):
            if context.announcer.wants(PreTerminate):
                answer = await context.announcer.ask(PreTerminate(upload=upload.info, head=exchange.head))
                if answer is not None and answer.reject:
                    raise TerminationRejected(hook=answer)
            await remove(context, upload, exchange.head)
        return Terminated(merge(access, answer))
