"""What clients know of one upload that they race for, and whether the stored bytes agree with it."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from pathlib import Path

SHIFTS = 4096


class Pen:
    """What one client writes: the byte at an offset depends on upload, offset and client, so a stored byte tells who wrote it."""

    def __init__(self, client: int, longest: int) -> None:
        self._ink = random.Random(client).randbytes(longest + SHIFTS)

    def writes(self, shift: int, start: int, size: int) -> bytes:
        """Its bytes for an upload with this shift."""
        return self._ink[shift + start : shift + start + size]


@dataclass(frozen=True)
class Stretch:
    """Bytes that one request brought."""

    start: int
    size: int
    pen: Pen
    whole: bool = False
    """It has a checksum, and counts as a whole or not at all."""


@dataclass
class Ledger:
    """One upload."""

    path: str
    file: Path
    length: int
    shift: int
    acknowledged: list[Stretch] = field(default_factory=list)
    open: list[Stretch] = field(default_factory=list)
    """Sent, and never answered: any beginning of them may be stored."""
    floor: int = 0
    """The furthest offset that an answer has told."""
    working: int = 0
    """Requests on the way."""
    retired: bool = False
    """Nobody begins anything new with it."""
    dying: bool = False
    """Somebody has asked for its removal."""
    gone: bool = False
    """Somebody has been told that it is removed."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def told(self, offset: int) -> None:
        """An answer has told an offset."""
        with self.lock:
            self.floor = max(self.floor, offset)

    def wrong(self) -> str | None:
        """What the stored bytes say against it, once nobody works on it any more; None when they agree."""
        stored = self.file.read_bytes()
        if len(stored) < self.floor:
            return f"{self.floor} bytes were acknowledged, {len(stored)} are stored"
        at, stretches = 0, sorted(self.acknowledged, key=lambda stretch: stretch.start)
        for stretch in stretches:
            if stretch.start < at:
                return f"two requests are told that they stored the byte at {stretch.start}"
            if not self._explained(stored, at, stretch.start):
                return f"nobody wrote what is stored from {at} to {stretch.start}"
            at = stretch.start + stretch.size
            if stored[stretch.start : at] != stretch.pen.writes(self.shift, stretch.start, stretch.size):
                return f"what is stored from {stretch.start} to {at} is not what was acknowledged"
        if not self._explained(stored, at, len(stored)):
            return f"nobody wrote what is stored from {at} to the end at {len(stored)}"
        return None

    def _explained(self, stored: bytes, start: int, stop: int) -> bool:
        """Whether beginnings of unanswered requests, one behind the other, make up this part."""
        reached, todo = {start}, [start]
        while todo:
            at = todo.pop()
            for stretch in self.open:
                if stretch.start != at:
                    continue
                ends = [stretch.start + stretch.size] if stretch.whole else [stop, *(other.start for other in self.open)]
                for end in ends:
                    size = end - at
                    if end in reached or not 0 < size <= stretch.size or end > stop:
                        continue
                    if stored[at:end] == stretch.pen.writes(self.shift, at, size):
                        reached.add(end)
                        todo.append(end)
        return stop in reached
