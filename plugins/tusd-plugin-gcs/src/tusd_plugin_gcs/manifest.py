"""What the `.info` object remembers of an upload's bytes: which objects hold them.

It stands in the object `"tusd"` of `.info`, under `"gcs"`:

    run        8 random bytes in hex, of this upload alone: they are in the names of its pieces
    chunks     [[number, size, CRC32C], ...]: pieces whose bytes count, in order; the name's last part instead of the number for those of Go tusd
    next       the number of the next piece; whatever pieces there are from it on were sent by somebody who had not come to say so here
    object     [size, CRC32C, generation] of the complete object, once it is there; then no pieces count any more
    modified   when a byte last arrived, in seconds since 1970
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

NAME = "gcs"
"""Of the manifest, among what stores remember in `.info`."""
_RUN = re.compile(r"[0-9a-f]{16}")
_GO_CHUNK = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an upload, in an object of its own."""

    number: int | str
    """Text: the last part of the name of one that Go tusd has sent."""
    size: int
    crc: int


@dataclass(frozen=True, slots=True)
class Sealed:
    """The complete object."""

    size: int
    crc: int
    generation: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """Which objects hold an upload's bytes."""

    run: str
    modified: datetime
    chunks: tuple[Chunk, ...] = ()
    next: int = 0
    sealed: Sealed | None = None

    @classmethod
    def new(cls, modified: datetime) -> Manifest:
        """Of an upload without bytes."""
        return cls(secrets.token_hex(8), modified)

    @property
    def offset(self) -> int:
        """How many bytes there are."""
        return sum(chunk.size for chunk in self.chunks) if self.sealed is None else self.sealed.size

    def with_chunks(self, chunks: Sequence[Chunk], next_number: int, modified: datetime) -> Manifest:
        """With more pieces at the end; no number below `next_number` is used again."""
        when = modified if chunks else self.modified
        return replace(self, chunks=self.chunks + tuple(chunks), next=max(self.next, next_number), modified=when)

    def with_object(self, sealed: Sealed, modified: datetime | None = None) -> Manifest:
        """With the complete object instead of pieces."""
        return replace(self, sealed=sealed, chunks=(), modified=modified or self.modified)

    def chunk_name(self, base: str, number: int | str) -> str:
        """The name of a piece; `base` is the prefix with the id."""
        return f"{base}_{number}" if isinstance(number, str) else f"{base}_{self.run}_{number}"

    def more(self) -> dict[str, object]:
        """For `plugin.encode_sidecar`."""
        mine: dict[str, object] = {"run": self.run, "next": self.next, "modified": self.modified.timestamp()}
        if self.chunks:
            mine["chunks"] = [[chunk.number, chunk.size, chunk.crc] for chunk in self.chunks]
        if self.sealed is not None:
            mine["object"] = [self.sealed.size, self.sealed.crc, self.sealed.generation]
        return {NAME: mine}


def read_manifest(more: Mapping[str, Any]) -> Manifest | None:
    """The manifest of a decoded `.info` object; None when it was written by Go tusd. Raises `ValueError` when it is damaged."""
    mine = more.get(NAME)
    if mine is None:
        return None
    try:
        run, sealed = mine["run"], mine.get("object")
        if not isinstance(run, str) or not _RUN.fullmatch(run):
            raise ValueError("not a run")
        return Manifest(
            run,
            datetime.fromtimestamp(mine["modified"], UTC),
            tuple(Chunk(_number(number), _count(size), _count(crc)) for number, size, crc in mine.get("chunks", ())),
            _count(mine["next"]),
            None if sealed is None else Sealed(*(_count(value) for value in sealed)),
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"damaged: {type(error).__name__}: {error}") from error


def is_go_chunk(suffix: str) -> bool:
    """Whether that is how the names of Go tusd's pieces end, behind the id and `_`."""
    return _GO_CHUNK.fullmatch(suffix) is not None


def _number(value: object) -> int | str:
    if isinstance(value, str) and is_go_chunk(value):
        return value
    return _count(value)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"not a number: {value!r}")
    return value
