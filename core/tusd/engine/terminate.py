"""DELETE: remove an upload."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import TerminationRejected
from ..hooks import HookResponse, PostTerminate, PreTerminate
from ..limiting import Allowance
from ..protocol.messages import Terminate, Terminated
from .complete import remove
from .context import Context, Exchange, bind, telling
from .figures import UPLOADS_TERMINATED


async def terminate(context: Context, exchange: Exchange, request: Terminate, allowances: Sequence[Allowance]) -> Terminated:
    """Remove an upload, after whoever works on it has stopped."""
    if allowances:
        await bind(allowances, await context.info(request.upload_id))
    async with context.lock(request.upload_id) as lease:
        upload = await context.open(request.upload_id, lease)
        answer: HookResponse | None = None
        info = upload.info
        with telling(upload):
            if context.announcer.wants(PreTerminate):
                answer = await context.announcer.ask(PreTerminate(upload=upload.info, head=exchange.head))
                if answer is not None and answer.reject:
                    raise TerminationRejected(hook=answer)
            await remove(context, upload)
        context.metrics.add(UPLOADS_TERMINATED)
        if context.announcer.wants(PostTerminate):
            context.announcer.tell(PostTerminate(upload=info, head=exchange.head), context.background)
        return Terminated(answer)
