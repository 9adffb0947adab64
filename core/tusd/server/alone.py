"""One process that serves without a supervisor, and reloads within itself: a new generation opens beside the old one, which drains."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable

from ..errors import StartError
from .generation import PATIENCE, Generation
from .listening import Sockets
from .plan import Plan, check_succession, dup, left_for_a_restart
from .supervisor import OPENING_TIMEOUT
from .systemd import Notifier
from .worker import end_without_what_hangs, loop_factory

logger = logging.getLogger("tusd")


def run_alone(
    plan: Plan,
    sockets: Sockets,
    *,
    load: Callable[[], Plan],
    settled: Callable[[Plan], None],
    ready: Callable[[], None],
    notifier: Notifier,
) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status. SIGHUP calls `load` and serves what it returns.

    `settled` gets the plan that is to serve after a reload, and the one before again if it cannot; `ready` is called once requests are served. Raises `StartError`.
    """
    alone = _Alone(plan, sockets, load, settled, notifier)
    with asyncio.Runner(loop_factory=loop_factory(plan.config.server.loop)) as runner:
        with contextlib.suppress(asyncio.CancelledError):  # told to stop before it served
            runner.run(alone.serve(ready))
    logger.info("stopped")
    return 0


class _Alone:
    def __init__(
        self, plan: Plan, sockets: Sockets, load: Callable[[], Plan], settled: Callable[[Plan], None], notifier: Notifier
    ) -> None:
        self._plan = plan
        self._sockets = sockets
        self._load = load
        self._settled = settled
        self._notifier = notifier
        self._number = 1
        self._generations: set[Generation] = set()
        """Those that have opened and not ended."""

    async def serve(self, ready: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._opening = asyncio.current_task()
        self._told, self._wanted = asyncio.Event(), asyncio.Event()
        if sys.platform != "win32":  # there asyncio.Runner cancels the task at Ctrl-C, and there is nothing else
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._stop, number)
            self._loop.add_signal_handler(signal.SIGHUP, self._want)
        self._current = await self._open(self._plan)
        self._opening = None
        logger.info("serving")
        ready()
        tasks = [asyncio.create_task(work) for work in (self._reload_when_wanted(), self._beat())]
        try:
            await self._told.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for generation in self._generations:
                generation.leave(patiently=False)
            for generation in [*self._generations]:
                await generation.ended()

    def _stop(self, number: signal.Signals) -> None:
        logger.info("stopping", extra={"signal": number.name})
        self._notifier.stopping()
        for handled in (signal.SIGTERM, signal.SIGINT):
            self._loop.remove_signal_handler(handled)
            signal.signal(handled, signal.SIG_DFL)  # a second one ends the process at once
        self._sockets.close()
        end_without_what_hangs(self._plan.config.server.shutdown_timeout + PATIENCE)
        self._told.set()
        if self._opening is not None:
            self._opening.cancel()

    def _want(self) -> None:
        waits = len(self._generations) != 1
        logger.info("reloading" + (" when the generation of before has ended" if waits else ""), extra={"signal": "SIGHUP"})
        self._wanted.set()

    async def _open(self, plan: Plan) -> Generation:
        generation = Generation(plan, dup(plan.listeners(self._sockets)), 0)
        await generation.open()
        self._generations.add(generation)
        return generation

    async def _beat(self) -> None:
        while self._notifier.alive_every:
            self._notifier.alive()
            await asyncio.sleep(self._notifier.alive_every)

    async def _reload_when_wanted(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            began, old = self._loop.time(), self._current
            self._notifier.reloading()
            try:
                await self._reload()
            except StartError as error:
                for line in str(error).splitlines():
                    logger.error("not reloaded: %s", line)
                self._notifier.ready("serving; the last reload was refused, see the log")
                continue
            except Exception:
                logger.exception("not reloaded")
                self._notifier.ready("serving; the last reload failed, see the log")
                continue
            self._number += 1
            self._notifier.ready(f"serving, generation {self._number}")
            logger.info("reloaded", extra={"generation": self._number, "seconds": round(self._loop.time() - began, 3)})
            old.leave(patiently=True)
            await self._see_off(old)

    async def _reload(self) -> None:
        """Put another generation in the place of the current one. Raises `StartError`, having changed nothing."""
        # In a thread, because plugins are imported; sockets are bound here, so that a stop finds and closes them.
        new = await asyncio.to_thread(self._load)
        check_succession(self._plan, new)
        try:
            self._sockets.bind(new.config)
            self._settled(new)  # before it opens, because a site writes to the log as it finds it
            async with asyncio.timeout(OPENING_TIMEOUT):
                current = await self._open(new)
        except BaseException as error:
            if not self._told.is_set():
                self._sockets.keep(self._plan.config)
            self._settled(self._plan)
            if isinstance(error, TimeoutError):
                raise StartError(f"it did not open within {OPENING_TIMEOUT:g} s; what does a plugin wait for?") from None
            raise
        for option in left_for_a_restart(self._plan, new):
            logger.warning("%s takes effect with a restart only", option)
        self._plan, self._current = new, current
        self._sockets.keep(new.config)

    async def _see_off(self, old: Generation) -> None:
        try:
            if await old.given_up():
                logger.error("a plugin of the old generation did not close in time; going on without it")
            else:
                await old.ended()
        except Exception:
            logger.exception("the old generation did not end in order")
        self._generations.discard(old)
