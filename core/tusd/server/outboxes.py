"""What the outboxes of a configuration hold, shown and handled from the command line. It may run beside a server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from ..config import Config
from ..engine.outbox import Kept, Outbox
from ..errors import StartError
from ..registry import Registry, outbox_of
from .logs import SHORT_ID

_LEAST = 6
"""Characters of an event's id that name it."""


@dataclass(frozen=True, slots=True)
class _Event:
    """An event, and whose outbox it is in."""

    label: str
    outbox: Outbox
    kept: Kept

    @property
    def name(self) -> str:
        """Its delivery id; of a damaged file the file's name."""
        return self.kept.event.delivery_id if self.kept.event else self.kept.path.name


def show(config: Config, registry: Registry, say: Callable[[str], None], *, as_json: bool) -> None:
    """List all events that are not delivered yet."""
    full, events = config.logging.full_upload_ids, list(_events(registry))
    if as_json:
        say(json.dumps([_row(event, full=full) for event in events], indent=2))
        return
    for event in events:
        say(_line(event, full=full))
    parked = sum(event.kept.parked for event in events)
    say(f"{len(events) - parked} waiting, {parked} parked")


def retry(registry: Registry, names: Sequence[str], say: Callable[[str], None], *, everything: bool) -> None:
    """Let events be delivered now. Raises `StartError` when there is none of a name."""
    chosen = [one for one in _events(registry) if one.kept.event] if everything else _chosen(registry, names, "--all")
    for one in chosen:
        if one.kept.event is None:
            raise StartError(f"{one.name}: {one.kept.error}; it can only be dropped")
        one.outbox.retry(one.kept)
    say(f"{len(chosen)} due now")


def drop(registry: Registry, names: Sequence[str], say: Callable[[str], None], *, parked: bool) -> None:
    """Throw events away. Raises `StartError` when there is none of a name."""
    chosen = [one for one in _events(registry) if one.kept.parked] if parked else _chosen(registry, names, "--parked")
    for one in chosen:
        one.outbox.drop(one.kept)
    say(f"{len(chosen)} dropped")


def _events(registry: Registry) -> Iterator[_Event]:
    for loaded in registry.loaded:
        if (keeping := outbox_of(loaded)) is not None:
            outbox = Outbox(keeping.folder, keeping.headers)
            with suppress(FileNotFoundError):
                for kept in outbox.all():
                    yield _Event(loaded.label, outbox, kept)


def _chosen(registry: Registry, names: Sequence[str], many: str) -> list[_Event]:
    """The events of these names or beginnings of names. `many`: the option that takes more of them."""
    if not names:
        raise StartError(f"which? Give ids that `tusd hooks list` shows, or {many}")
    found = list(_events(registry))
    chosen: dict[str, _Event] = {}
    for name in names:
        matching = [one for one in found if one.name == name or (len(name) >= _LEAST and one.name.startswith(name))]
        if not matching:
            raise StartError(f"{name}: there is no such event; `tusd hooks list` shows them, by {_LEAST} characters at the least")
        chosen |= {str(one.kept.path): one for one in matching}
    return list(chosen.values())


def _line(event: _Event, *, full: bool) -> str:
    row, kept = _row(event, full=full), event.kept
    wait = kept.due - time.time()
    due = "" if kept.parked else f", next in {wait:.0f} s" if wait >= 0.5 else ", due now"
    why = f": {kept.error}" if kept.error else ""
    return f"{row['id']}  {row['state']}  {row['event']}  upload {row['upload']}  {event.label}  tries: {kept.tries}{due}{why}"


def _row(event: _Event, *, full: bool) -> dict[str, object]:
    kept = event.kept
    upload = kept.event.upload.id if kept.event else ""
    return {
        "id": event.name,
        "state": "parked" if kept.parked else "waiting",
        "event": kept.event.name if kept.event else "damaged",
        "upload": upload if full else upload[:SHORT_ID],
        "hook": event.label,
        "kept": kept.since.isoformat() if kept.since else None,
        "tries": kept.tries,
        "due": datetime.fromtimestamp(kept.due, UTC).isoformat(),
        "error": kept.error,
    }
