"""Integrity of whole uploads (RFC 9530): what was promised or wanted of one, until it is known.

It is kept in `UploadInfo.notes` under `KEY`, as `algorithm:` when a digest is wanted only, as `algorithm:base64` when one was
promised. When the upload is complete, the note has the digest of its bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from ..model import State, UploadInfo
from .messages import Algorithm, Checksum

KEY = "repr-digest"

NAMES: Mapping[str, Algorithm] = {"sha-512": "sha512", "sha-256": "sha256"}
"""Algorithms of RFC 9530 by their names there, the best first. Those that it calls insecure are ignored, which it allows."""


def wish(algorithm: Algorithm) -> str:
    """The note of an upload whose digest somebody wants to be told."""
    return f"{algorithm}:"


def promise(checksum: Checksum) -> str:
    """The note of an upload whose digest is, or has to be, this one."""
    return f"{checksum.algorithm}:{base64.b64encode(checksum.digest).decode()}"


def noted(info: UploadInfo) -> tuple[Algorithm, bytes | None] | None:
    """The algorithm, and the digest if one was promised or is known; None when nobody asked."""
    name, colon, digest = info.notes.get(KEY, "").partition(":")
    algorithm = next((a for a in NAMES.values() if a == name), None)
    if algorithm is None or not colon:
        return None
    return algorithm, base64.b64decode(digest) if digest else None


def known(info: UploadInfo) -> Checksum | None:
    """The digest of a complete upload, if it was computed."""
    found = noted(info) if info.state is State.COMPLETE else None
    return Checksum(found[0], found[1]) if found is not None and found[1] is not None else None
