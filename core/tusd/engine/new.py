"""What every creation does, with a body or without, final or not."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..errors import TusError, UploadRejected
from ..hooks import HookResponse, PostCreate, PreCreate
from ..limiting import Allowance
from ..locking import Lease
from ..model import UploadId, UploadInfo
from ..protocol.messages import BodyPlan
from ..protocol.rules import check_body, check_length
from ..storage import Upload
from .announce import changed
from .context import Context, Exchange, bind
from .figures import UPLOADS_CREATED


def new_id() -> UploadId:
    """128 random bits: the upload's URL is its secret."""
    return UploadId(os.urandom(16).hex())


async def asked(
    context: Context, exchange: Exchange, info: UploadInfo, body: BodyPlan | None, allowances: Sequence[Allowance]
) -> tuple[UploadInfo, HookResponse | None]:
    """The upload as pre-create wants it, with its room reserved."""
    answer: HookResponse | None = None
    if context.announcer.wants(PreCreate):
        answer = await context.announcer.ask(PreCreate(upload=info, head=exchange.head))
        if answer is not None and answer.reject:
            raise UploadRejected(hook=answer)
        if answer is not None and answer.change is not None:
            info = changed(info, answer.change)
            check_length(info.length, info, context.policy)
            check_body(body, info.length, info, context.policy)
    await bind(allowances, info)
    if context.limiters:
        chosen = answer is not None and answer.change is not None and answer.change.id is not None
        await context.reserve(info, info.length or 0, await _held(context, info.id) if chosen else 0)
    return info, answer


async def give_back(context: Context, info: UploadInfo) -> None:
    """What was reserved for an upload that could not be created. One that has its id already keeps what it holds."""
    if context.limiters:
        held = await _held(context, info.id)
        await context.reserve(info, held, held)


async def _held(context: Context, upload_id: UploadId) -> int:
    try:
        info = await context.store.info(upload_id)
    except (TusError, OSError):
        return 0
    return info.offset if info.length is None else info.length


async def created(context: Context, exchange: Exchange, info: UploadInfo, lease: Lease | None) -> Upload:
    """The upload in the store."""
    upload = await context.store.create(info, lease)
    context.metrics.add(UPLOADS_CREATED)
    if context.announcer.wants(PostCreate):
        context.announcer.tell(PostCreate(upload=upload.info, head=exchange.head), context.background)
    return upload
