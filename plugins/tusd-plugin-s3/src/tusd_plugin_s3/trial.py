"""What is tried when the storage opens: that we may do what uploads need, and what the server can."""

from __future__ import annotations

import logging
import secrets

from .bucket import Bucket, Changed
from .options import Options


async def try_out(bucket: Bucket, options: Options, logger: logging.Logger) -> None:
    """Write, replace, read and remove an object below `info_prefix`. Raises `StorageUnavailable`."""
    key = f"{options.below_info}tusd-trial-{secrets.token_hex(8)}"
    automatic = options.conditional_writes == "auto"
    try:
        first = await bucket.put(key, b"1")
        if automatic:
            bucket.conditional = True
            bucket.conditional = await _refused(bucket, key, absent=True) and await _replaced(bucket, key, first)
        await bucket.get(key)
    finally:
        await bucket.delete(key)


async def _refused(bucket: Bucket, key: str, **condition: object) -> bool:
    try:
        await bucket.put(key, b"2", absent=True)
    except Changed:
        return True
    return False


async def _replaced(bucket: Bucket, key: str, etag: str) -> bool:
    for quoted in (True, False):
        bucket.quoted = quoted
        try:
            etag = await bucket.put(key, b"3", match=etag)
        except Changed:
            continue
        try:
            await bucket.put(key, b"4", match="0" * 32)
        except Changed:
            return True
        return False
    return False
