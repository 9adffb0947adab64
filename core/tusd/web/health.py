"""Whether the process lives, and whether its backends can be used."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping

from ..errors import TusError
from ..protocol.messages import Head, Response

Check = Callable[[], Awaitable[None]]

_FRESH = 1.0
"""Seconds for which an answer of the backends counts: whoever asks more often asks them no more often."""
_PATIENCE = 2.0
"""Seconds that a backend gets to answer."""
PROBES = _LIVES, _READY = "/healthz", "/readyz"


class Health:
    """Answers `/healthz` and `/readyz`.

    `checks`: what a backend is called -> a call that raises when it cannot be used. A backend that does not answer is not asked again until
    it does."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self.draining = False
        self._checks = checks
        self._asked: dict[str, asyncio.Task[None]] = {}
        self._look: asyncio.Task[dict[str, str | None]] | None = None
        self._looked_at = float("-inf")

    def pages(self, *, details: bool) -> dict[str, Callable[[Head], Awaitable[Response]]]:
        """Path -> handler. `details`: as JSON, with each backend's name and error text."""

        async def lives(head: Head) -> Response:
            return _as_json(200, {"status": "ok"}) if details else _as_word(200, "ok")

        async def ready(head: Head) -> Response:
            found = await self._found()
            failed = self.draining or any(error is not None for error in found.values())
            status, word = (503, "unavailable") if failed else (200, "ok")
            if not details:
                return _as_word(status, word)
            backends = {
                label: {"state": "ok"} if error is None else {"state": "failed", "error": error} for label, error in found.items()
            }
            return _as_json(status, {"status": "draining" if self.draining else word, "backends": backends})

        return {_LIVES: lives, _READY: ready}

    async def _found(self) -> dict[str, str | None]:
        """Each backend's error text, at most a second old; whoever asks meanwhile waits for the same answer."""
        now = asyncio.get_running_loop().time()
        if self._look is None or (self._look.done() and now - self._looked_at > _FRESH):
            self._look = asyncio.create_task(self._ask())
        return await asyncio.shield(self._look)

    async def _ask(self) -> dict[str, str | None]:
        for label, check in self._checks.items():
            if label not in self._asked:
                self._asked[label] = asyncio.create_task(_checked(check))
        await asyncio.wait(self._asked.values(), timeout=_PATIENCE)
        found = {label: _error(task) for label, task in self._asked.items()}
        self._asked = {label: task for label, task in self._asked.items() if not task.done()}
        self._looked_at = asyncio.get_running_loop().time()
        return found


async def _checked(check: Check) -> None:
    await check()


def _error(task: asyncio.Task[None]) -> str | None:
    if not task.done():
        return f"no answer within {_PATIENCE:g} s"
    if task.cancelled():
        return "interrupted"
    error = task.exception()
    if error is None:
        return None
    return str(error) if isinstance(error, TusError) else f"{type(error).__name__}: {error}"


def _as_word(status: int, word: str) -> Response:
    return Response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")], f"{word}\n".encode())


def _as_json(status: int, value: object) -> Response:
    return Response(
        status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")], json.dumps(value).encode() + b"\n"
    )
