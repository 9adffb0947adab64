"""The values that every layer speaks of: an upload and what is known of it.

Nothing here does anything; all of it is frozen, typed and free of imports from the rest of tusd.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Literal, NewType, Protocol, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(*, kw_only: bool = False) -> Callable[[type[T]], type[T]]:
    """A frozen dataclass that is made for every request. The type checker refuses to assign to its fields; refusing it at run time,
    too, makes `dataclass(frozen=True)` take four times as long to make one."""
    return dataclass(slots=True, unsafe_hash=True, kw_only=kw_only)


UploadId = NewType("UploadId", str)
"""An upload's name, checked by `protocol.urls.checked_id` before any backend sees it."""


class Scope(IntEnum):
    """Who else sees what a backend holds: only this process, this host, or a cluster of hosts."""

    PROCESS = 1
    HOST = 2
    CLUSTER = 3


class State(StrEnum):
    """Where an upload stands."""

    RECEIVING = "receiving"
    """The client is still sending; when all bytes are there, all has been sent (tus 1.0.0)."""
    OPEN = "open"
    """The client is still sending and will say itself when it has sent all, whatever offset and length are (IETF drafts)."""
    FINISHING = "finishing"
    """All has been sent; the store or a pre-finish hook has not agreed yet."""
    COMPLETE = "complete"
    """All there and agreed. Such an upload never changes again."""


class Extension(StrEnum):
    """A tus 1.0.0 extension, in the order in which OPTIONS names them.

    Source: https://tus.io/protocols/resumable-upload#protocol-extensions
    """

    CREATION = "creation"
    CREATION_WITH_UPLOAD = "creation-with-upload"
    TERMINATION = "termination"
    CONCATENATION = "concatenation"
    CONCATENATION_UNFINISHED = "concatenation-unfinished"
    CREATION_DEFER_LENGTH = "creation-defer-length"
    CHECKSUM = "checksum"
    EXPIRATION = "expiration"

    __hash__ = str.__hash__  # Enum's own is written in Python, and every request looks for some of these


@dataclass(frozen=True, slots=True)
class Partial:
    """This upload was created to become a part of a final one (`Upload-Concat: partial`)."""


@dataclass(frozen=True, slots=True)
class Final:
    """This upload is the concatenation of others (`Upload-Concat: final;...`)."""

    parts: tuple[UploadId, ...]


class Metadata(Mapping[str, bytes]):
    """What `Upload-Metadata` said: keys with the bytes of their values, in the order sent.

    `header` is the header as received, which HEAD answers unchanged; the empty string when there was none.
    `text()` is the view for hooks and `.info` files, where values that are not UTF-8 get U+FFFD.
    """

    __slots__ = ("_values", "header")

    def __init__(self, values: Mapping[str, bytes] | None = None, header: str = "") -> None:
        self._values: dict[str, bytes] = dict(values or {})
        self.header = header

    def __getitem__(self, key: str) -> bytes:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def items(self) -> ItemsView[str, bytes]:
        """As of a dictionary, and as fast."""
        return self._values.items()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Metadata) and self._values == other._values and self.header == other.header

    def __hash__(self) -> int:
        return hash(self.header)

    def __repr__(self) -> str:
        return f"Metadata({self._values!r})"

    def text(self) -> dict[str, str]:
        """The values as text, for JSON."""
        return {key: value.decode("utf-8", "replace") for key, value in self._values.items()}


NO_METADATA = Metadata()


def utcnow() -> datetime:
    """The time now, with its zone."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)  # without slots, for the sake of `at`
class UploadInfo:
    """All that is known of one upload."""

    id: UploadId
    length: int | None
    """Total size in bytes; None while it is deferred."""
    offset: int = 0
    """Bytes safely stored."""
    state: State = State.RECEIVING
    explicit: bool = False
    """False: the state follows from the bytes, COMPLETE when offset == length, and a store need not keep it.
    True: the state is what was last saved, and offset == length alone proves nothing (somebody has to agree first)."""
    metadata: Metadata = NO_METADATA
    concat: Partial | Final | None = None
    created: datetime = field(default_factory=utcnow)
    modified: datetime = field(default_factory=utcnow)
    """When a byte last arrived, as the store knows it. Sliding expiry is derived from it."""
    expires: datetime | None = None
    """When this upload goes, if somebody fixed it; None: the configured rule."""
    max_length: int | None = None
    """The most bytes this upload may ever hold, if somebody fixed it."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Remarks of limiters and hooks that have to survive a restart, and the core's `repr-digest`."""
    storage: Mapping[str, str] = field(default_factory=dict)
    """Before `create`: what a pre-create hook asked for. Afterwards: where the store keeps it."""

    @property
    def room(self) -> int:
        """The bytes that it takes of a limited space: its length, which may still come; what is stored while the length is not known."""
        return self.offset if self.length is None else self.length

    def at(self, offset: int, modified: datetime | None = None, storage: Mapping[str, str] | None = None) -> UploadInfo:
        """The same upload with `offset` bytes stored, the last at `modified`, in `storage`; and the state that follows from it."""
        state = self.state
        if not self.explicit:
            state = State.COMPLETE if offset == self.length else State.RECEIVING
        # Not dataclasses.replace: this is called several times for every request, and that takes ten times as long.
        changed = object.__new__(UploadInfo)
        changed.__dict__.update(
            self.__dict__,
            offset=offset,
            state=state,
            modified=self.modified if modified is None else modified,
            storage=self.storage if storage is None else storage,
        )
        return changed

    def saved_as(self, info: UploadInfo) -> UploadInfo:
        """This upload after `Upload.save(info)`: with all that `info` says, but still where and how much it is."""
        changed = replace(info, id=self.id, concat=self.concat, created=self.created, storage=self.storage)
        return changed.at(self.offset, self.modified)


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """Which uploads may be removed to make room for another, and in what order."""

    order: Literal["oldest", "largest", "least-recently-touched"]
    """By `created`, by `room`, by `modified`."""
    finished: bool
    """Complete uploads may go, too."""
    idle: float
    """Seconds for which an unfinished upload has had no byte before it may go."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's declaration. Plugins declare theirs as module constants and hand them to `Metrics`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram, in the metric's unit; empty: the exporter's default."""
    preset: tuple[tuple[str, ...], ...] = ()
    """Label values that are known beforehand: these are shown from the start, with 0. One without labels always is."""


class Answer(Protocol):
    """What a hook wants of the response; `hooks.HookResponse` is one."""

    @property
    def status(self) -> int | None: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def body(self) -> str | None: ...
