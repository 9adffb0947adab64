"""What every creation does, with a body or without, final or not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import cast

from ..errors import HookError, UploadExists, UploadNotFound, UploadRejected
from ..hooks import HookResponse, PostCreate, PreCreate
from ..limiting import Allowance
from ..locking import Lease
from ..model import UploadId, UploadInfo
from ..protocol.messages import BodyPlan
from ..protocol.rules import check_body, check_length
from ..storage import Terminable, Upload
from .announce import changed
from .context import Context, Exchange, bind
from .evict import reserve
from .figures import UPLOADS_CREATED


def new_id() -> UploadId:
    """128 random bits: the upload's URL is its secret."""
    return UploadId(os.urandom(16).hex())


async def asked(
    context: Context, exchange: Exchange, info: UploadInfo, body: BodyPlan | None, allowances: Sequence[Allowance]
) -> tuple[UploadInfo, HookResponse | None]:
    """The upload as pre-create wants it, with its room reserved. Raises `UploadExists` for an id of pre-create's that is taken."""
    answer: HookResponse | None = None
    if context.announcer.wants(PreCreate):
        answer = await context.announcer.ask(PreCreate(upload=info, head=exchange.head))
        if answer is not None and answer.reject:
            raise UploadRejected(hook=answer)
        if answer is not None and answer.change is not None:
            info = changed(info, answer.change)
            if info.id in context.policy.reserved_ids:
                raise HookError(f"a pre-create hook answered the id {info.id!r}, but a page of the server is at its URL")
            if answer.change.id is not None and await _taken(context, info.id):
                raise UploadExists()  # before the lock: who may not touch that upload cannot interrupt it either
            check_length(info.length, info, context.policy)
            check_body(body, info.length, info, context.policy)
    if notes := {name: text for limiter in context.limiters for name, text in limiter.remember(exchange.head).items()}:
        info = replace(info, notes={**info.notes, **notes})
    await bind(allowances, info)
    if context.limiters:
        await reserve(context, info, info.length or 0, 0)
    return info, answer


async def _taken(context: Context, upload_id: UploadId) -> bool:
    try:
        await context.timed("info", context.store.info(upload_id))
    except UploadNotFound:
        return False
    return True


async def created(context: Context, exchange: Exchange, info: UploadInfo, lease: Lease | None) -> Upload:
    """The upload in the store. Raises `HookError` when post-create cannot be kept, and then there is none, if the store can remove it."""
    upload = await context.timed("create", context.store.create(info, lease))
    if context.announcer.wants(PostCreate):
        event = PostCreate(upload=upload.info, head=exchange.head)
        try:
            kept = await context.announcer.keep(event)
        except HookError:
            await _undo(context, upload)
            raise
        context.announcer.tell(event, context.background, kept=kept)
    context.metrics.add(UPLOADS_CREATED)
    return upload


async def _undo(context: Context, upload: Upload) -> None:
    """Take back a creation that no answer will tell of: nobody could remove it, and its room would be taken."""
    if Terminable in context.store.capabilities:
        with suppress(HookError):  # one could not keep it, which is being raised
            await context.announcer.withdraw(upload.info, PostCreate)
        await context.timed("terminate", cast(Terminable, upload).terminate())
