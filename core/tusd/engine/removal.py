"""An upload goes though no request asks for it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..errors import TusError, UploadLocked, UploadNotFound
from ..hooks import NO_REQUEST, Reason
from ..model import UploadId, UploadInfo
from .complete import remove
from .context import Context

logger = logging.getLogger("tusd.sweeper")


async def removed(
    context: Context, upload_id: UploadId, reason: Reason, may_go: Callable[[UploadInfo], bool], *, patience: float
) -> int | None:
    """Remove an upload that still may go, seen under its lock; the room that it took, or None if it stays.

    It stays, too, if somebody is at work on it for longer than `patience` seconds, or the store cannot remove it, which is logged."""
    try:
        async with context.lock(upload_id, patience=patience) as lease:
            upload = await context.timed("open", context.store.open(upload_id, lease))
            info = upload.info
            if not may_go(info):
                return None
            await remove(context, upload, NO_REQUEST, reason)
    except (UploadLocked, UploadNotFound):
        return None
    except (TusError, OSError) as error:
        logger.warning("an upload could not be removed: %s", error, extra={"upload": upload_id})
        return None
    logger.info("removed an upload: %s", reason, extra={"upload": upload_id})
    return info.room
