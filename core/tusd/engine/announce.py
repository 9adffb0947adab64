"""Ask (pre-*) and tell (post-*) the operator's hooks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from ..errors import HookError, InvalidId, TusError
from ..hooks import Changes, Dispatcher, HookEvent, HookResponse
from ..metrics import Metrics
from ..model import UploadInfo
from ..protocol.urls import checked_id
from .background import Background
from .figures import HOOK_ERRORS, HOOK_INVOCATIONS

logger = logging.getLogger("tusd.hooks")


class Announcer:
    """Carries events to the dispatchers that want them, in the order of the configuration."""

    def __init__(self, dispatchers: Sequence[Dispatcher], metrics: Metrics) -> None:
        self._dispatchers = tuple(dispatchers)
        self._metrics = metrics
        self._wanted = frozenset[type[HookEvent]]().union(*(d.events for d in dispatchers))

    @property
    def silent(self) -> bool:
        """Whether nobody is asked or told anything."""
        return not self._wanted

    def wants(self, kind: type[HookEvent]) -> bool:
        """Whether anybody wants such events; others need not be built."""
        return kind in self._wanted

    async def ask(self, event: HookEvent) -> HookResponse | None:
        """The merged answer: each dispatcher sees what the ones before it changed, the first refusal ends it, later headers win.
        Raises `HookError`."""
        merged: HookResponse | None = None
        for dispatcher in self._dispatchers:
            if type(event) not in dispatcher.events:
                continue
            answer = await self._dispatch(dispatcher, event)
            if answer is None:
                continue
            merged = merge(merged, answer)
            if answer.reject:
                return merged
            if answer.change is not None:
                event = replace(event, upload=changed(event.upload, answer.change))
        return merged

    def tell(self, event: HookEvent, background: Background) -> None:
        """Dispatch in the background; whatever is answered is ignored, and a failure is logged."""
        for dispatcher in self._dispatchers:
            if type(event) in dispatcher.events:
                background.start(self._told(dispatcher, event), f"the hook {event.name}", event.upload.id)

    async def _told(self, dispatcher: Dispatcher, event: HookEvent) -> None:
        try:
            await self._dispatch(dispatcher, event)
        except HookError as error:
            logger.warning("the hook %s failed: %s", event.name, error, extra={"upload": event.upload.id})

    async def _dispatch(self, dispatcher: Dispatcher, event: HookEvent) -> HookResponse | None:
        self._metrics.add(HOOK_INVOCATIONS, labels=(event.name,))
        try:
            answer = await dispatcher.dispatch(event)
            if answer is not None and event.answers:
                _check(event, answer)
            return answer
        except TusError:
            self._metrics.add(HOOK_ERRORS, labels=(event.name,))
            raise
        except Exception as error:
            self._metrics.add(HOOK_ERRORS, labels=(event.name,))
            logger.exception("the hook %s raised", event.name, extra={"upload": event.upload.id})
            raise HookError(f"the hook {event.name} raised {type(error).__name__}") from error


def changed(info: UploadInfo, change: Changes) -> UploadInfo:
    """An upload that is to be created, after the changes of a pre-create answer."""
    return replace(info, **_given(change))


def _given(change: Changes) -> dict[str, Any]:
    return {f.name: value for f in fields(change) if (value := getattr(change, f.name)) is not None}


def _check(event: HookEvent, answer: HookResponse) -> None:
    blank = HookResponse()
    for f in fields(answer):
        if f.name not in event.answers and getattr(answer, f.name) != getattr(blank, f.name):
            raise HookError(f"a {event.name} hook answered {f.name!r}, which that event does not honour")
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
    if change.metadata is not None and not change.metadata.header.isprintable():
        raise HookError("a pre-create hook answered metadata that cannot be sent in a header")


def merge(first: HookResponse | None, second: HookResponse | None) -> HookResponse | None:
    """Two answers as one: what the second says wins."""
    if first is None or second is None:
        return first or second
    change = second.change
    if first.change is not None and change is not None:
        change = replace(first.change, **_given(change))
    replaced = {name.lower() for name in second.headers}
    return HookResponse(
        status=second.status if second.status is not None else first.status,
        headers={**{n: v for n, v in first.headers.items() if n.lower() not in replaced}, **second.headers},
        body=second.body if second.body is not None else first.body,
        reject=second.reject,
        change=change or first.change,
    )
