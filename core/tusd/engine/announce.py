"""Ask (pre-*) and tell (post-*) the operator's hooks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from ..errors import HookError, InvalidId, TusError
from ..hooks import Changes, Dispatcher, HookEvent, HookResponse, Subscriber
from ..metrics import Metrics
from ..model import UploadId, UploadInfo
from ..protocol import digests
from ..protocol.rules import EXPIRE_AFTER, EXPIRE_FINISHED_AFTER
from ..protocol.urls import checked_id
from ..threads import in_thread
from .background import Background
from .figures import HOOK_ANSWERS_IGNORED, HOOK_DURATION, HOOK_ERRORS, HOOK_INVOCATIONS
from .outbox import Outbox

logger = logging.getLogger("tusd.hooks")

_MOST_WAITING = 10_000
"""Events that wait to be told to one dispatcher that does not keep up; more are dropped, logged and counted."""
_BLANK = HookResponse()
_FORBIDDING = ("reject", "stop")
_CORE_NOTES = frozenset({digests.KEY, EXPIRE_AFTER, EXPIRE_FINISHED_AFTER})


Receipt = tuple[Outbox, Path]
"""Where an event is kept."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """A dispatcher whose events are kept until it has been told."""

    subscriber: Subscriber
    outbox: Outbox


class Announcer:
    """Carries events to the dispatchers that want them, in the order of the configuration."""

    def __init__(self, dispatchers: Sequence[Dispatcher], metrics: Metrics) -> None:
        self._dispatchers = tuple(dispatchers)
        self._metrics = metrics
        self._wanted = frozenset[type[HookEvent]]().union(*(d.events for d in dispatchers))
        self._lines: dict[tuple[int, UploadId], asyncio.Task[None]] = {}
        """Dispatcher and upload -> the last event that is being told: events of one upload go one after another."""
        self._waiting = [0] * len(self._dispatchers)
        self.keepers = tuple(
            Keeper(one, Outbox(one.keeping.folder, one.keeping.headers))
            for one in dispatchers
            if isinstance(one, Subscriber) and one.keeping is not None
        )
        """Where the events of those dispatchers are that keep them until they have been told."""

    @property
    def silent(self) -> bool:
        """Whether nobody is asked or told anything."""
        return not self._wanted

    def wants(self, kind: type[HookEvent]) -> bool:
        """Whether anybody wants such events; others need not be built."""
        return kind in self._wanted

    def keeps(self, kind: type[HookEvent]) -> bool:
        """Whether such events are kept on disk, before they happen, until they are delivered."""
        return any(kind in keeper.subscriber.kept for keeper in self.keepers)

    async def keep(self, event: HookEvent) -> list[Receipt]:
        """Keep what is about to happen to an upload, under its lock, for all dispatchers that want it so. Hand the result to `tell`.
        Raises `HookError`."""
        found = []
        for keeper in self.keepers:
            if type(event) in keeper.subscriber.kept:
                outbox = keeper.outbox
                try:
                    found.append((outbox, await in_thread(partial(outbox.put, event))))
                except OSError as error:
                    raise HookError(f"the outbox {outbox.folder} cannot keep {event.name}: {error.strerror}") from error
        return found

    async def withdraw(self, upload: UploadInfo, kind: type[HookEvent]) -> None:
        """What was kept of an upload will not happen. Raises `HookError`."""
        for keeper in self.keepers:  # also of those that keep no such events now: an earlier configuration may have
            try:
                await in_thread(partial(keeper.outbox.withdraw, upload, kind))
            except OSError as error:
                raise HookError(f"the outbox {keeper.outbox.folder} cannot be changed: {error.strerror}") from error

    async def deliver(self, keeper: Keeper, event: HookEvent) -> None:
        """Tell a dispatcher of what was kept for it. Raises `HookError`."""
        await self._dispatch(keeper.subscriber, event)

    async def ask(self, event: HookEvent) -> HookResponse | None:
        """The merged answer: each dispatcher sees what the ones before it changed, the first refusal ends it, later headers win.
        Raises `HookError`."""
        merged: HookResponse | None = None
        for dispatcher in self._dispatchers:
            if type(event) not in dispatcher.events:
                continue
            try:
                answer = await self._dispatch(dispatcher, event)
            except HookError as error:
                what = f"the hook {event.name} failed: {error}"
                raise HookError(what, permanent=error.permanent, info=error.info, retry_after=error.retry_after) from error
            if answer is None:
                continue
            merged = merge(merged, answer)
            if answer.reject or answer.stop:
                return merged
            if answer.change is not None:
                event = replace(event, upload=changed(event.upload, answer.change))
        return merged

    def tell(
        self,
        event: HookEvent,
        background: Background,
        heard: Callable[[HookResponse], None] | None = None,
        kept: Sequence[Receipt] = (),
    ) -> list[asyncio.Task[None]]:
        """Dispatch in the background, to each dispatcher after what it was told of this upload before; a failure is logged.

        `heard` gets the answers of events that honour any. What is `kept` is delivered from there. Returns what goes on now."""
        for outbox, path in kept:
            outbox.happened(path)
        tasks = []
        for number, dispatcher in enumerate(self._dispatchers):
            if type(event) not in dispatcher.events or _is_kept(dispatcher, event):
                continue
            if self._waiting[number] >= _MOST_WAITING:
                self._metrics.add(HOOK_ERRORS, labels=(event.name,))
                logger.error(
                    "the hook %s is not told: %d events wait already",
                    event.name,
                    _MOST_WAITING,
                    extra={"upload": event.upload.id},
                )
                continue
            self._waiting[number] += 1
            line = (number, event.upload.id)
            told = self._told(dispatcher, event, self._lines.get(line), heard)
            task = background.start(told, f"the hook {event.name}", event.upload.id)
            self._lines[line] = task
            task.add_done_callback(self._leaver(line))
            tasks.append(task)
        return tasks

    def _leaver(self, line: tuple[int, UploadId]) -> Callable[[asyncio.Task[None]], None]:
        def leave(task: asyncio.Task[None]) -> None:
            self._waiting[line[0]] -= 1
            if self._lines.get(line) is task:
                del self._lines[line]

        return leave

    async def _told(
        self,
        dispatcher: Dispatcher,
        event: HookEvent,
        before: asyncio.Task[None] | None,
        heard: Callable[[HookResponse], None] | None,
    ) -> None:
        if before is not None:
            await asyncio.wait({before})
        try:
            answer = await self._dispatch(dispatcher, event)
            if answer is not None and heard is not None:
                heard(answer)
        except HookError as error:
            logger.warning("the hook %s failed: %s", event.name, error, extra={"upload": event.upload.id})

    async def _dispatch(self, dispatcher: Dispatcher, event: HookEvent) -> HookResponse | None:
        self._metrics.add(HOOK_INVOCATIONS, labels=(event.name,))
        began = monotonic()
        try:
            answer = await dispatcher.dispatch(event)
            return None if answer is None else self._honoured(event, answer)
        except TusError:
            self._metrics.add(HOOK_ERRORS, labels=(event.name,))
            raise
        except Exception as error:
            self._metrics.add(HOOK_ERRORS, labels=(event.name,))
            logger.exception("the hook %s raised", event.name, extra={"upload": event.upload.id})
            raise HookError(f"it raised {type(error).__name__}") from error
        finally:
            self._metrics.observe(HOOK_DURATION, monotonic() - began, labels=(event.name,))

    def _honoured(self, event: HookEvent, answer: HookResponse) -> HookResponse:
        """What counts of an answer. Who would forbid what cannot be forbidden here gets a `HookError`: it must not pass for consent."""
        counts = event.answers | (event.refusal if answer.reject or answer.stop else frozenset())
        given = {f.name for f in fields(answer) if getattr(answer, f.name) != getattr(_BLANK, f.name)}
        ignored = given - counts
        for name in sorted(ignored):
            if name in _FORBIDDING and event.answers:
                raise HookError(f"a {event.name} hook answered {name!r}, which that event does not honour")
            self._metrics.add(HOOK_ANSWERS_IGNORED, labels=(event.name,))
            logger.warning(
                "a %s hook answered %r, which that event does not honour", event.name, name, extra={"upload": event.upload.id}
            )
        if ignored:
            answer = HookResponse(**{name: getattr(answer, name) for name in given & counts})
        _check(event, answer)
        return answer


def _is_kept(dispatcher: Dispatcher, event: HookEvent) -> bool:
    return isinstance(dispatcher, Subscriber) and type(event) in dispatcher.kept


def changed(info: UploadInfo, change: Changes) -> UploadInfo:
    """An upload that is to be created, after the changes of a pre-create answer."""
    given = _given(change)
    notes = dict(info.notes) | dict(given.pop("notes", {}))
    for name, key in (("expire_after", EXPIRE_AFTER), ("expire_finished_after", EXPIRE_FINISHED_AFTER)):
        if name in given:
            notes[key] = f"{given.pop(name):g}"
    return replace(info, **given, notes=notes)


def _given(change: Changes) -> dict[str, Any]:
    return {f.name: value for f in fields(change) if (value := getattr(change, f.name)) is not None}


def _check(event: HookEvent, answer: HookResponse) -> None:
    for name, value in answer.headers.items():
        if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum() or not value.isprintable():
            raise HookError(f"a {event.name} hook answered a header that cannot be sent")
    if answer.status is not None and not 200 <= answer.status <= 599:
        raise HookError(f"a {event.name} hook answered the status {answer.status}")
    if answer.change is not None:
        _check_change(answer.change)


def _check_change(change: Changes) -> None:
    if change.id is not None:
        try:
            checked_id(change.id)
        except InvalidId as error:
            raise HookError(f"a pre-create hook answered an id that cannot be one: {error}") from None
    if change.max_length is not None and change.max_length < 0:
        raise HookError(f"a pre-create hook answered the limit {change.max_length}")
    for seconds in (change.expire_after, change.expire_finished_after):
        if seconds is not None and not 0 < seconds < float("inf"):
            raise HookError(f"a pre-create hook answered the lifetime {seconds}")
    if change.expires is not None and change.expires.tzinfo is None:
        raise HookError(f"a pre-create hook answered the time {change.expires} without its zone")
    if change.metadata is not None and not change.metadata.header.isprintable():
        raise HookError("a pre-create hook answered metadata that cannot be sent in a header")
    if reserved := _CORE_NOTES & (change.notes or {}).keys():
        raise HookError(f"a pre-create hook answered the note {min(reserved)!r}, which is the server's own")


def merge(first: HookResponse | None, second: HookResponse | None) -> HookResponse | None:
    """Two answers as one: what the second says wins."""
    if first is None or second is None:
        return first or second
    change = second.change
    if first.change is not None and change is not None:
        both = {**_given(first.change), **_given(change)}
        if first.change.notes and change.notes:
            both["notes"] = {**first.change.notes, **change.notes}
        change = Changes(**both)
    replaced = {name.lower() for name in second.headers}
    return HookResponse(
        status=second.status if second.status is not None else first.status,
        headers={**{n: v for n, v in first.headers.items() if n.lower() not in replaced}, **second.headers},
        body=second.body if second.body is not None else first.body,
        reject=second.reject,
        stop=second.stop,
        change=change or first.change,
    )
