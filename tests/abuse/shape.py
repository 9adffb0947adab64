"""What a hostile or broken client sends: one stream of bytes, and what may come of it.

`UPLOAD` stands for an upload of `LENGTH` bytes that the shape is about, `VICTIM` for one that nothing may happen to. Both are as
long as a real path, so that they can be replaced without changing a length.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from tests.web.raw import request

UPLOAD = "/files/" + "u" * 32
VICTIM = "/files/" + "v" * 32
LENGTH = 100

DELETE_VICTIM = request("DELETE", VICTIM)
"""What must never be carried out."""
SECRET = os.urandom(16).hex().encode()
"""What must not be read: it is beside the folder of uploads, in a file `secret`."""
ANY_4XX = frozenset(range(400, 500))


@dataclass(frozen=True)
class Shape:
    """One stream, and what may come back: one answer with one of these statuses, or a closed connection."""

    stream: bytes
    fine: frozenset[int] = ANY_4XX
    most: int = 1
    """Answers at the most, besides 100 Continue."""
    waits: bool = False
    """Not whole: the server may wait for more of it."""


def accepted(stream: bytes, *statuses: int, most: int = 1) -> Shape:
    """It looks strange, and has one clear meaning: it may be done as well as refused."""
    return Shape(stream, ANY_4XX | frozenset(statuses), most)


def refused(streams: dict[str, bytes], *more: int) -> dict[str, Shape]:
    """Never anything but a 4xx, or one of `more`."""
    return {name: Shape(stream, ANY_4XX | frozenset(more)) for name, stream in streams.items()}
