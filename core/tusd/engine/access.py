"""Who guards and counts an upload looks at it before its lock is asked for: who may not touch it cannot interrupt it either, nor use
up what limiters allow its owner."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import AccessRejected
from ..hooks import Access, HookResponse, PreAccess
from ..limiting import Allowance
from ..model import UploadId, UploadInfo
from .context import Context, Exchange, bind


async def look(
    context: Context, exchange: Exchange, upload_id: UploadId, access: Access, allowances: Sequence[Allowance]
) -> HookResponse | None:
    """Find the upload, if anybody wants to see it. Raises `UploadNotFound`, `TooManyRequests`, `AccessRejected`."""
    if not allowances and not context.announcer.wants(PreAccess):
        return None
    info = await context.info(upload_id)
    answer = await allowed(context, exchange, info, access)
    await bind(allowances, info)
    return answer


async def allowed(context: Context, exchange: Exchange, info: UploadInfo, access: Access) -> HookResponse | None:
    """Ask pre-access. Returns its answer; raises `AccessRejected`."""
    if not context.announcer.wants(PreAccess):
        return None
    answer = await context.announcer.ask(PreAccess(upload=info, head=exchange.head, access=access))
    if answer is not None and answer.reject:
        raise AccessRejected(hook=answer)
    return answer
