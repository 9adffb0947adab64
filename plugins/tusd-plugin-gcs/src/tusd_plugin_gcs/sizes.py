"""How large pieces are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

MOST_CHUNKS = 10_000
"""Pieces grow so that an upload needs no more than about so many."""
LARGEST = 5 << 40
"""Bytes of an object: https://cloud.google.com/storage/quotas#objects"""
_FLOOR = 5 << 20
"""A piece is not sent before it has so many bytes, unless the body ends."""


class Settings(Protocol):
    """What of the options is asked for here."""

    @property
    def part_size(self) -> int: ...
    @property
    def buffer(self) -> int: ...
    @property
    def spill(self) -> Path | None: ...


def sizes(settings: Settings, length: int | None, position: int) -> tuple[int, int]:
    """How many bytes the piece from `position` on has at least, unless the body ends, and at most. `length`: the upload's, None: deferred."""
    bound = LARGEST // MOST_CHUNKS + 1 if settings.spill is not None else settings.buffer // 2
    target = max(settings.part_size, min(math.ceil((length or position * 2) / MOST_CHUNKS), bound))
    rest = target if length is None else max(1, length - position)
    return min(target, _FLOOR, rest), target
