"""Post events on disk until they are delivered: a folder for each upload, a file for each event.

    <outbox>/name                                       32 random digits: what this outbox is called, wherever it is mounted
    <outbox>/<hash of the upload's id>/000001-post-create.json
    <outbox>/<hash of the upload's id>/000002-post-finish.parked

A file is there as a whole or not at all. Its number is its place among the events of its upload, its mtime is when it may be
delivered next. All calls block.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from ..hooks import EVENTS, Fields, HookEvent, PostExpire, PostFinish, PostTerminate
from ..model import Final, Metadata, Partial, State, UploadId, UploadInfo
from ..protocol.messages import Head

REMOVALS = (PostTerminate, PostExpire)
"""They are kept before the upload is removed, and are true once it is gone."""
_FORMAT = 1
_UNSURE = 5.0
"""Seconds for which nobody delivers what is kept, unless it is known to have happened: its maker is still at it, or has died."""
_LEFTOVER = 60.0
"""Seconds after which a file that is not whole is nobody's any more."""
_TRIES = 1000
"""A folder may be removed, empty, while a file is being put into it, and a number may be taken."""
_WAITING, _PARKED = ".json", ".parked"


@dataclass(frozen=True, slots=True)
class Kept:
    """An event on disk."""

    path: Path
    event: HookEvent | None
    """None: the file is damaged."""
    since: datetime | None
    """When it was kept."""
    tries: int
    """How often it could not be delivered."""
    error: str
    """Why, the last time."""
    due: float
    """When it may be delivered next, in seconds since the epoch."""

    @property
    def parked(self) -> bool:
        """Whether it is set aside: nobody tries to deliver it."""
        return self.path.suffix == _PARKED


@dataclass(frozen=True, slots=True)
class Census:
    """What an outbox holds."""

    due: Mapping[str, float]
    """Folder -> when the first event in it that waits may be delivered."""
    waiting: int
    parked: int


@dataclass(frozen=True, slots=True)
class Outbox:
    """The events that one dispatcher has not been told of yet."""

    folder: Path
    headers: frozenset[str] = frozenset()
    """Names of the request's headers that are kept, in lower case."""

    def open(self) -> str:
        """Make the folder, unless it is there. Returns the outbox's name. Raises `OSError`."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / "name"
        if not path.exists():
            with suppress(FileExistsError):
                _new_file(path, os.urandom(16).hex().encode())
        return path.read_text("ascii")

    def put(self, event: HookEvent) -> Path:
        """Keep an event: when this returns, no crash loses it. The same event is kept once. Raises `OSError`.

        What happens to an upload under its lock says that it is there: an earlier removal of it that is still kept has failed."""
        folder = self._folder(event.upload.id)
        if isinstance(event, (PostFinish, *REMOVALS)):
            for kept in self.events(folder.name):
                if kept.event is not None and kept.event.delivery_id == event.delivery_id:
                    return kept.path
                if isinstance(kept.event, REMOVALS) and not kept.parked and same_upload(kept.event.upload, event.upload):
                    self.drop(kept)
        text = _encode(event, self.headers, datetime.now().astimezone(), 0, "")
        for _ in range(_TRIES):
            try:
                path = folder / f"{_last(folder) + 1:06d}-{event.name}{_WAITING}"
                _new_file(path, text, time.time() + _UNSURE)
            except FileExistsError:
                continue
            except FileNotFoundError:
                with suppress(FileExistsError):
                    folder.mkdir(mode=0o700, parents=True)
                    _sync(self.folder)
                continue
            self.ring()
            return path
        raise FileExistsError(f"{folder}: no number is free")

    def happened(self, path: Path) -> None:
        """What was kept there is true now: whoever delivers need not wait. Never raises."""
        with suppress(OSError):
            os.utime(path)
            self.ring()

    def withdraw(self, upload: UploadInfo, kind: type[HookEvent]) -> None:
        """An upload's event will not happen."""
        for kept in self.events(self._folder(upload.id).name):
            if isinstance(kept.event, kind) and same_upload(kept.event.upload, upload):
                self.drop(kept)

    def ring(self) -> None:
        """Let whoever delivers look."""
        os.utime(self.folder)

    def rung(self) -> int:
        """Changes with every `ring`."""
        return self.folder.stat().st_mtime_ns

    def census(self) -> Census:
        """Count, and clear away what crashes have left."""
        due: dict[str, float] = {}
        waiting = parked = 0
        for name in self._folders():
            found = sorted(_names(self.folder / name))
            first: float | None = None
            for file in found:
                parked += file.endswith(_PARKED)
                if file.endswith(_WAITING):
                    waiting += 1
                    with suppress(FileNotFoundError):
                        first = (self.folder / name / file).stat().st_mtime if first is None else first
            if first is not None:
                due[name] = first
            elif not found:
                self._clear(name)
        return Census(due, waiting, parked)

    def all(self) -> Iterator[Kept]:
        """All events, those of an upload in their order."""
        for name in self._folders():
            yield from self.events(name)

    def events(self, name: str) -> list[Kept]:
        """The events in a folder, in their order."""
        found = []
        for file in sorted(_names(self.folder / name)):
            with suppress(FileNotFoundError):
                found.append(_read(self.folder / name / file))
        return found

    def drop(self, kept: Kept) -> None:
        """It is delivered, or nobody wants it."""
        kept.path.unlink(missing_ok=True)
        with suppress(OSError):
            kept.path.parent.rmdir()

    def later(self, kept: Kept, seconds: float) -> None:
        """It cannot be delivered yet."""
        with suppress(FileNotFoundError):
            _due(kept.path, time.time() + seconds)

    def failed(self, kept: Kept, error: str, seconds: float) -> None:
        """It could not be delivered; try again in so many seconds."""
        self._rewrite(kept, kept.path, kept.tries + 1, error, time.time() + seconds)

    def park(self, kept: Kept, error: str) -> None:
        """Set it aside."""
        if kept.event is None:
            with suppress(FileNotFoundError):
                kept.path.rename(kept.path.with_suffix(_PARKED))
        elif self._rewrite(kept, kept.path.with_suffix(_PARKED), kept.tries + 1, error, time.time()):
            kept.path.unlink(missing_ok=True)

    def retry(self, kept: Kept) -> None:
        """Deliver it now, from the first try on."""
        assert kept.event is not None
        path = kept.path.with_suffix(_WAITING)
        text = _encode(kept.event, None, datetime.now().astimezone(), 0, kept.error)
        if _replace(kept.path, path, text, time.time()) and kept.parked:
            kept.path.unlink(missing_ok=True)
        self.ring()

    def _rewrite(self, kept: Kept, path: Path, tries: int, error: str, due: float) -> bool:
        assert kept.event is not None and kept.since is not None
        return _replace(kept.path, path, _encode(kept.event, None, kept.since, tries, error), due)

    def _folder(self, upload_id: UploadId) -> Path:
        return self.folder / hashlib.sha256(upload_id.encode()).hexdigest()[:32]

    def _folders(self) -> list[str]:
        with os.scandir(self.folder) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]

    def _clear(self, name: str) -> None:
        folder = self.folder / name
        with suppress(OSError):
            for file in os.listdir(folder):
                if time.time() - (folder / file).stat().st_mtime > _LEFTOVER:
                    (folder / file).unlink()
            folder.rmdir()


def same_upload(one: UploadInfo, other: UploadInfo) -> bool:
    """Whether they are the same, and not a later one with the same id."""
    return (one.id, one.created) == (other.id, other.created)


# --- files


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name.endswith((_WAITING, _PARKED)) and not name.startswith(".")]
    except FileNotFoundError:
        return []


def _last(folder: Path) -> int:
    return max((int(name[:6]) for name in _names(folder) if name[:6].isdecimal()), default=0)


def _written(path: Path, text: bytes, due: float | None) -> Path:
    """A file beside `path`, safe on disk."""
    aside = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(text)
            file.flush()
            if due is not None:
                _due(aside, due)
            os.fsync(file.fileno())
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return aside


def _new_file(path: Path, text: bytes, due: float | None = None) -> None:
    """Raises `FileExistsError`."""
    aside = _written(path, text, due)
    try:
        os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    _sync(path.parent)


def _replace(old: Path, path: Path, text: bytes, due: float) -> bool:
    """Whether `old` was still there."""
    try:
        aside = _written(path, text, due)
    except FileNotFoundError:
        return False
    if not old.exists():  # somebody has dropped it meanwhile
        aside.unlink(missing_ok=True)
        return False
    aside.replace(path)
    return True


def _due(path: Path, moment: float) -> None:
    os.utime(path, (moment, moment))


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# --- an event <-> its file


def _encode(event: HookEvent, headers: frozenset[str] | None, since: datetime, tries: int, error: str) -> bytes:
    """`headers`: those that are kept; None: all, because they were chosen before."""
    info, head = event.upload, event.head
    return json.dumps(
        {
            "format": _FORMAT,
            "event": event.name,
            "delivery_id": event.delivery_id,
            "kept": since.isoformat(),
            "tries": tries,
            "error": error,
            "facts": {f.name: getattr(event, f.name) for f in fields(event) if f.name not in ("upload", "head", "delivery_id")},
            "upload": {
                "id": info.id,
                "length": info.length,
                "offset": info.offset,
                "state": info.state,
                "explicit": info.explicit,
                "metadata": {key: b64encode(value).decode() for key, value in info.metadata.items()},
                "metadata_header": info.metadata.header,
                "partial": isinstance(info.concat, Partial),
                "parts": list(info.concat.parts) if isinstance(info.concat, Final) else None,
                "created": info.created.isoformat(),
                "modified": info.modified.isoformat(),
                "expires": info.expires.isoformat() if info.expires else None,
                "max_length": info.max_length,
                "notes": dict(info.notes),
                "storage": dict(info.storage),
            },
            "head": {f.name: getattr(head, f.name) for f in fields(head)}
            | {"headers": [[k, v] for k, v in head.headers.items() if headers is None or k.lower() in headers]},
        }
    ).encode()


def _read(path: Path) -> Kept:
    """Raises `FileNotFoundError`."""
    due, text = path.stat().st_mtime, path.read_bytes()
    try:
        found = json.loads(text)
        if found["format"] != _FORMAT:
            raise ValueError("another format")
        since = datetime.fromisoformat(found["kept"])
        return Kept(path, _event(found), since, int(found["tries"]), str(found["error"]), due)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return Kept(path, None, None, 0, f"the file is damaged: {type(error).__name__}", due)


def _event(found: dict[str, Any]) -> HookEvent:
    upload, head = found["upload"], found["head"]
    (kind,) = (one for one in EVENTS if one.name == found["event"])
    concat = Final(tuple(map(UploadId, upload["parts"]))) if upload["parts"] is not None else None
    info = UploadInfo(
        id=UploadId(upload["id"]),
        length=upload["length"],
        offset=upload["offset"],
        state=State(upload["state"]),
        explicit=upload["explicit"],
        metadata=Metadata({key: b64decode(value) for key, value in upload["metadata"].items()}, upload["metadata_header"]),
        concat=Partial() if upload["partial"] else concat,
        created=datetime.fromisoformat(upload["created"]),
        modified=datetime.fromisoformat(upload["modified"]),
        expires=datetime.fromisoformat(upload["expires"]) if upload["expires"] else None,
        max_length=upload["max_length"],
        notes=upload["notes"],
        storage=upload["storage"],
    )
    request = Head(**{**head, "headers": Fields([(name, value) for name, value in head["headers"]])})
    return kind(upload=info, head=request, delivery_id=found["delivery_id"], **found["facts"])
