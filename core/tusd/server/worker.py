"""One of several processes that serve, and the event loop that every serving process has."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Literal

from ..errors import StartError
from ..web.app import Listener
from .generation import PATIENCE, Generation
from .plan import Plan
from .supervisor import ANSWER, LEAVE, READY

logger = logging.getLogger("tusd")


def run_worker(plan: Plan, listeners: Sequence[Listener], *, number: int, supervisor: socket.socket) -> int:
    """Serve until the supervisor says LEAVE or closes its end of the connection, or SIGTERM; return the exit status.

    `number` is 0 for the first worker of the host. Raises `StartError` when a backend cannot be opened.
    """
    with asyncio.Runner(loop_factory=loop_factory(plan.config.server.loop)) as runner:
        with contextlib.suppress(asyncio.CancelledError):  # told to stop before it served
            runner.run(_serve(plan, listeners, number, supervisor))
    logger.info("stopped")
    return 0


def loop_factory(loop: Literal["auto", "uvloop", "asyncio"]) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed (twice the small requests), asyncio's own elsewhere. Raises `StartError`."""
    if loop == "asyncio":
        return None
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    except ImportError as error:
        if loop == "uvloop":
            raise StartError(
                f"server.loop: uvloop cannot be imported ({error}); try: pip install uvloop, or choose auto"
            ) from None
        return None
    return factory


def end_without_what_hangs(seconds: float) -> None:
    """End this process after so many seconds, whatever still runs: also when the event loop is stuck, or has ended and threads go on."""
    timer = threading.Timer(seconds, _give_up)
    timer.daemon = True
    timer.start()


async def _serve(plan: Plan, listeners: Sequence[Listener], number: int, supervisor: socket.socket) -> None:
    generation = Generation(plan, listeners, number)
    orders = _Orders(generation, plan.config.server.shutdown_timeout, supervisor)
    await generation.open()
    logger.info("serving")
    orders.say(READY)
    orders.opening = None
    await generation.ended()


class _Orders:
    """What the supervisor says, and SIGTERM. A stop while backends are opened cancels the current task."""

    def __init__(self, generation: Generation, shutdown_timeout: float, supervisor: socket.socket) -> None:
        self.opening = asyncio.current_task()
        self._generation = generation
        self._shutdown_timeout = shutdown_timeout
        self._supervisor = supervisor
        self._ending = False
        self._loop = asyncio.get_running_loop()
        supervisor.setblocking(False)
        self._loop.add_reader(supervisor, self._hear)
        self._loop.add_signal_handler(signal.SIGTERM, self._stop)

    def say(self, what: bytes) -> None:
        """Tell the supervisor; one that has died is heard of in `_hear`."""
        with contextlib.suppress(OSError):
            self._supervisor.send(what)

    def _hear(self) -> None:
        try:
            said = self._supervisor.recv(64)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if ANSWER in said:
            self.say(ANSWER)
        if LEAVE in said:
            self._end(patiently=True)
        elif not said:
            self._loop.remove_reader(self._supervisor)
            self._stop()

    def _stop(self) -> None:
        if self.opening is not None:
            self.opening.cancel()
        self._end(patiently=False)

    def _end(self, *, patiently: bool) -> None:
        self._generation.leave(patiently=patiently)
        if not self._ending:
            self._ending = True
            end_without_what_hangs(self._shutdown_timeout + PATIENCE)


def _give_up() -> None:
    logger.error("a plugin did not close in time; ending without it")
    os._exit(1)
