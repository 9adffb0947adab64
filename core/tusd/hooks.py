"""The hooks seam: what the server asks (pre-*) and tells (post-*) an operator's own code.

A hook event is one of a closed set of frozen classes, `EVENTS`. Transports serialise any of them blindly;
in-process plugins write `match event: case PostFinish(upload=info): ...`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from .model import Metadata, UploadId, UploadInfo
from .protocol.messages import Head


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a pre-create answer changes of the upload; None keeps."""

    id: UploadId | None = None
    metadata: Metadata | None = None
    storage: Mapping[str, str] | None = None
    max_length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HookResponse:
    """A hook's answer. `HookEvent.answers` says which fields an event honours; another one that is set is a `HookError`."""

    status: int | None = None
    """Replaces the status of the response."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Added to the response. Location, Upload-*, Tus-*, framing and connection headers are the server's own."""
    body: str | None = None
    """Replaces the body of the response."""
    reject: bool = False
    """Refuse what was asked."""
    change: Changes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HookEvent:
    """Something that happens to an upload."""

    name: ClassVar[str]
    """The event's name in configuration and JSON."""
    answers: ClassVar[frozenset[str]] = frozenset()
    """The fields of `HookResponse` that count; none for events that are only told."""
    upload: UploadInfo
    """As it stands; for pre-create as it would be created."""
    head: Head
    """The request that caused it."""


_RESPONSE = frozenset({"status", "headers", "body", "reject"})


class PreCreate(HookEvent):
    """Asked before an upload is created; may refuse it and change its id, metadata, place and limit."""

    __slots__ = ()
    name = "pre-create"
    answers = _RESPONSE | {"change"}


class PostCreate(HookEvent):
    """Told after an upload was created, before its first byte."""

    __slots__ = ()
    name = "post-create"


class PreFinish(HookEvent):
    """Asked when all bytes are stored, before the upload is complete; refusing it removes the upload."""

    __slots__ = ()
    name = "pre-finish"
    answers = _RESPONSE


class PostFinish(HookEvent):
    """Told when an upload is complete."""

    __slots__ = ()
    name = "post-finish"


class PreTerminate(HookEvent):
    """Asked before a DELETE removes an upload; may refuse it."""

    __slots__ = ()
    name = "pre-terminate"
    answers = _RESPONSE


class PostTerminate(HookEvent):
    """Told after an upload was removed."""

    __slots__ = ()
    name = "post-terminate"


EVENTS: tuple[type[HookEvent], ...] = (PreCreate, PostCreate, PreFinish, PostFinish, PreTerminate, PostTerminate)


class Dispatcher(ABC):
    """Carries events to an operator's code. One per worker process and `hooks` entry, asked in the order of the configuration."""

    events: frozenset[type[HookEvent]]
    """Which it wants; others are never even built for it. `plugin.HookOptions.events` narrows it."""

    @abstractmethod
    async def dispatch(self, event: HookEvent) -> HookResponse | None:
        """Ask or tell. None: nothing to say. Raises `HookError` when nobody could be asked or the answer cannot be used."""
