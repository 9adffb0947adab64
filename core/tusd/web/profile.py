"""What the process spends its time on: a sampling profile, taken while it serves."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import Counter
from types import FrameType
from urllib.parse import parse_qs

from ..protocol.messages import Head, Response

_RATE = 100
"""Samples a second."""
_LONGEST, _DEFAULT = 60.0, 10.0
"""Seconds."""
_DEEPEST = 200
"""Frames of a stack that are told, from its inner end."""


class Profile:
    """Answers `/debug/profile?seconds=10`: stacks of all threads and how often each was seen, in the collapsed format that flamegraph.pl,
    inferno and speedscope read. One profile at a time."""

    def __init__(self) -> None:
        self._running = False

    async def __call__(self, head: Head) -> Response:
        """400 for seconds that are not 1 to 60, 409 while another one runs."""
        try:
            seconds = float(parse_qs(head.query).get("seconds", [str(_DEFAULT)])[-1])
        except ValueError:
            seconds = 0
        if not 1 <= seconds <= _LONGEST:
            return _text(400, f"seconds: a number from 1 to {_LONGEST:g}\n")
        if self._running:
            return _text(409, "another profile is being taken\n")
        if head.method == "HEAD":
            return _text(200, "")
        self._running = True
        try:
            return _text(200, await _sampled(seconds))
        finally:
            self._running = False


async def _sampled(seconds: float) -> str:
    """Sample in a thread of its own, which ends when we are cancelled."""
    stacks: Counter[str] = Counter()
    stop = threading.Event()
    thread = threading.Thread(target=_sample, args=(stacks, seconds, stop), name="profile", daemon=True)
    thread.start()
    try:
        await asyncio.sleep(seconds)
    finally:
        stop.set()
    while thread.is_alive():  # noqa: ASYNC110  # a sample takes no longer than a millisecond
        await asyncio.sleep(0.005)
    return "".join(f"{stack} {count}\n" for stack, count in stacks.most_common())


def _sample(stacks: Counter[str], seconds: float, stop: threading.Event) -> None:
    me = threading.get_ident()
    due = time.monotonic()
    end = due + seconds
    while (now := time.monotonic()) < end:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            if ident != me:
                stacks[_stack(names.get(ident, "unknown"), frame)] += 1
        due = max(due + 1 / _RATE, now)
        if stop.wait(max(0.0, due - time.monotonic())):
            return


def _stack(thread: str, frame: FrameType | None) -> str:
    """`MainThread;module:function;...`, outermost first."""
    names: list[str] = []
    while frame is not None and len(names) < _DEEPEST:
        names.append(f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_qualname}")
        frame = frame.f_back
    names.append(thread)
    return ";".join(name.replace(";", ",").replace(" ", "_") for name in reversed(names))


def _text(status: int, text: str) -> Response:
    return Response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")], text.encode())
