"""The hooks seam: what the server asks (pre-*) and tells (post-*) an operator's own code.

A hook event is one of a closed set of frozen classes, `EVENTS`. Transports serialise any of them blindly (`hook_wire`);
in-process plugins write `match event: case PostFinish(upload=info): ...`.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Literal

from .model import Metadata, UploadId, UploadInfo
from .protocol.messages import Head


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a pre-create answer changes of the upload; None keeps."""

    id: UploadId | None = None
    metadata: Metadata | None = None
    storage: Mapping[str, str] | None = None
    max_length: int | None = None
    """The most bytes that the upload may ever hold."""
    expires: datetime | None = None
    """When the upload goes, complete or not."""
    expire_after: float | None = None
    """`uploads.expire_after` of this upload: seconds after its last byte, while it is not complete."""
    expire_finished_after: float | None = None
    """`uploads.expire_finished_after` of this upload: seconds after its last byte, once it is complete."""
    notes: Mapping[str, str] | None = None
    """Added to what is remembered of the upload; limiters may count by them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HookResponse:
    """A hook's answer. `HookEvent.answers` says which fields an event honours; others that are set are logged and counted."""

    status: int | None = None
    """Replaces the status of the response."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Added to the response. Location, Upload-*, Tus-*, framing and connection headers are the server's own."""
    body: str | None = None
    """Replaces the body of the response."""
    reject: bool = False
    """Refuse what was asked."""
    stop: bool = False
    """End the upload that is being received, and remove it."""
    change: Changes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HookEvent:
    """Something that happens to an upload."""

    name: ClassVar[str]
    """The event's name in configuration and JSON."""
    answers: ClassVar[frozenset[str]] = frozenset()
    """The fields of `HookResponse` that count; none for events that are only told."""
    refusal: ClassVar[frozenset[str]] = frozenset()
    """Those that count besides, in an answer that rejects or stops."""
    once: ClassVar[bool] = False
    """An upload has it once; when it is tried again it is the same event."""
    upload: UploadInfo
    """As it stands; for pre-create as it would be created."""
    head: Head
    """The request that caused it; `NO_REQUEST` when none did."""
    delivery_id: str = ""
    """Names this event: 32 hex digits, the same however often it is delivered, and to whom."""

    def __post_init__(self) -> None:
        if not self.delivery_id:
            object.__setattr__(self, "delivery_id", self._own_id() if self.once else os.urandom(16).hex())

    @property
    def asked(self) -> bool:
        """Whether it waits for the answer (pre-), or is only told (post-)."""
        return self.name.startswith("pre-")

    def _own_id(self) -> str:
        """The same in another process after a crash."""
        text = f"{self.name}\n{self.upload.id}\n{self.upload.created.isoformat()}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


_RESPONSE = frozenset({"status", "headers", "body"})


class Fields:
    """Header fields that no socket brought: `protocol.messages.Headers` of some names and values."""

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields = tuple(fields)

    def get(self, key: str, /) -> str | None:
        return next(iter(self.getall(key, [])), None)

    def getall(self, key: str, default: list[str], /) -> list[str]:
        return [value for name, value in self._fields if name.lower() == key.lower()] or default

    def __contains__(self, key: object, /) -> bool:
        return isinstance(key, str) and bool(self.getall(key, []))

    def items(self) -> Iterable[tuple[str, str]]:
        return self._fields


NO_REQUEST = Head("", "", Fields())
"""The `head` of events that the server itself causes, such as an expiry."""


class PreCreate(HookEvent):
    """Asked before an upload is created; may refuse it and change its id, metadata, place, limit and expiry."""

    __slots__ = ()
    name = "pre-create"
    answers = _RESPONSE | {"reject", "change"}


class PostCreate(HookEvent):
    """Told after an upload was created, before its first byte."""

    __slots__ = ()
    name = "post-create"
    once = True


Access = Literal["inspect", "append", "read", "terminate", "concatenate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreAccess(HookEvent):
    """Asked before every HEAD, PATCH, GET and DELETE, and for each part that a final upload names; may refuse it.

    Asked before the upload's lock: who may not touch an upload cannot interrupt it either. Its offset may thus be behind."""

    name = "pre-access"
    answers = frozenset({"reject", "headers"})
    refusal = _RESPONSE
    access: Access
    """What the request wants of the upload."""


class PostReceive(HookEvent):
    """Told from time to time while an upload receives bytes, and at the end of the request; may stop the upload."""

    __slots__ = ()
    name = "post-receive"
    answers = frozenset({"stop"})
    refusal = _RESPONSE


class PreFinish(HookEvent):
    """Asked when all bytes are stored, before the upload is complete; refusing it removes the upload."""

    __slots__ = ()
    name = "pre-finish"
    answers = _RESPONSE | {"reject"}
    once = True


class PostFinish(HookEvent):
    """Told when an upload is complete."""

    __slots__ = ()
    name = "post-finish"
    once = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PostFail(HookEvent):
    """Told when a request that sent bytes ended badly; what arrived is kept, as a rule, and the client may go on."""

    name = "post-fail"
    code: str
    """Of the error, such as ERR_READ_TIMEOUT."""
    message: str
    """What the client was told."""


class PreTerminate(HookEvent):
    """Asked before a DELETE removes an upload; may refuse it."""

    __slots__ = ()
    name = "pre-terminate"
    answers = _RESPONSE | {"reject"}


class PostTerminate(HookEvent):
    """Told after an upload was removed by a DELETE, because a hook stopped or refused it, or because it can never be complete."""

    __slots__ = ()
    name = "post-terminate"
    once = True


Reason = Literal["expired", "evicted", "concatenated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PostExpire(HookEvent):
    """Told after the server itself removed an upload."""

    name = "post-expire"
    once = True
    reason: Reason
    """Its time was over; somebody else needed the room; or it was a part of a final upload that is complete."""


EVENTS: tuple[type[HookEvent], ...] = (
    PreCreate,
    PostCreate,
    PreAccess,
    PostReceive,
    PreFinish,
    PostFinish,
    PostFail,
    PreTerminate,
    PostTerminate,
    PostExpire,
)


DEFAULT_EVENTS = frozenset[type[HookEvent]]({PreCreate, PostCreate, PostReceive, PostFinish, PostTerminate})
"""Those that tusd has always sent unless told otherwise. The others cost every upload or request something."""


class Dispatcher(ABC):
    """Carries events to an operator's code. One per worker process and `hooks` entry, asked in the order of the configuration."""

    events: frozenset[type[HookEvent]]
    """Which it wants; others are never even built for it. `plugin.HookOptions.events` narrows it."""

    @abstractmethod
    async def dispatch(self, event: HookEvent) -> HookResponse | None:
        """Ask or tell. None: nothing to say. Raises `HookError` when nobody could be asked or the answer cannot be used."""


KEPT = frozenset[type[HookEvent]]({PostCreate, PostFinish, PostFail, PostTerminate, PostExpire})
"""The events that an outbox keeps until they are delivered. Of progress, only the latest matters."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """How the events of a dispatcher are kept until they are delivered."""

    folder: Path
    headers: frozenset[str]
    """Names of the request's headers that are kept with them, in lower case."""
    patience: float
    """Seconds after which what fails again and again is set aside."""


class Subscriber(Dispatcher):
    """A dispatcher with what its entry in the configuration says of it."""

    def __init__(
        self, inner: Dispatcher, label: str, events: Iterable[str] | None = None, keeping: Keeping | None = None
    ) -> None:
        self.inner = inner
        self.label = label
        """What logs call it: `hooks[1]:http`."""
        self.events = inner.events if events is None else frozenset(one for one in inner.events if one.name in events)
        self.keeping = keeping
        """None: it is told of events once, as well as that goes."""
        self.kept = self.events & KEPT if keeping is not None else frozenset[type[HookEvent]]()
        """The events that are kept."""

    async def dispatch(self, event: HookEvent) -> HookResponse | None:
        return await self.inner.dispatch(event)
