"""How an upload gets on, told to hooks, which may stop it."""

from __future__ import annotations

import asyncio

from ..errors import UploadStopped
from ..hooks import HookResponse, PostReceive
from ..storage import Upload
from .body import AppendBody
from .context import Context, Exchange


class Reporter:
    """Tells of one request's bytes as they become safe, for the time of the context."""

    def __init__(self, context: Context, exchange: Exchange, upload: Upload, body: AppendBody) -> None:
        body.watch(self._saved)
        self._context = context
        self._exchange = exchange
        self._upload = upload
        self._offset = self._told = upload.info.offset
        self._telling: list[asyncio.Task[None]] = []
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._wait()

    def __exit__(self, *failure: object) -> None:
        assert self._timer is not None
        self._timer.cancel()
        self._offset = self._upload.info.offset
        if self._offset != self._told:
            self._tell()

    def _saved(self, offset: int) -> None:
        self._offset = offset

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._context.policy.progress_interval, self._tick)

    def _tick(self) -> None:
        # A hook that does not keep up is told less often, and then of all that came meanwhile.
        if self._offset != self._told and all(task.done() for task in self._telling):
            self._tell()
        self._wait()

    def _tell(self) -> None:
        self._told = self._offset
        event = PostReceive(upload=self._upload.info.at(self._offset), head=self._exchange.head)
        self._telling = self._context.announcer.tell(event, self._context.background, self._heard)

    def _heard(self, answer: HookResponse) -> None:
        if answer.stop:
            self._exchange.source.stop(UploadStopped(hook=answer))
