"""Several worker processes on the same listening sockets.

The supervisor binds nothing and opens nothing itself: it forks workers, restarts one that dies, and passes a stop on. It holds the
sockets open for workers that are still to start, and closes them when it stops: a new connection would wait in vain. It never serves a request, so it has no event loop: it sleeps in `select` until a signal, a report or a restart is due.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import StartError

logger = logging.getLogger("tusd")

EXIT_START_ERROR = 2
"""Exit status of a process that could not start because of its configuration or surroundings."""

_SHORT_LIFE = 10.0
"""Seconds. A worker that lived longer is restarted at once; others wait, twice as long each time."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_PATIENCE = 5.0
"""Seconds that a worker gets beyond its own shutdown time-out before it is killed."""

_STOPPING = (signal.SIGTERM, signal.SIGINT)

Work = Callable[[int, int, Callable[[], None]], int]
"""What a worker does: `work(number, supervisor, ready)` returns an exit status or raises `StartError`. `supervisor` is a file descriptor that reads
as ended when the worker is to stop, which includes a supervisor that was killed; `ready()` reports that it serves."""


@dataclass(slots=True)
class _Slot:
    """The place of one worker, which keeps its number over restarts."""

    number: int
    due: float
    """When to start the worker; infinite while it runs or must wait for the first one."""
    pause: float = 0
    pid: int = 0
    started: float = 0


class Supervisor:
    """Runs `count` workers. The first starts alone, so that what is wrong is told once; when it is ready the others follow."""

    def __init__(
        self, work: Work, count: int, sockets: list[socket.socket], *, shutdown_timeout: float, ready: Callable[[], None]
    ) -> None:
        self._work = work
        self._sockets = sockets
        self._shutdown_timeout = shutdown_timeout
        self._announce = ready
        self._slots = [_Slot(number, due=0 if number == 0 else float("inf")) for number in range(count)]
        self._stopping = False
        self._kill_at = float("inf")
        self._ready = False
        self._status = 0

    def run(self) -> int:
        """Supervise until SIGTERM or SIGINT; return the exit status. A second signal kills the workers."""
        self._alive, self._living = os.pipe()  # workers watch the first end; nobody else holds the second
        self._reports, self._report = os.pipe()
        self._wake, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (*_STOPPING, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # its number arrives at the wake-up descriptor
        while not self._stopping or any(slot.pid for slot in self._slots):
            self._start_what_is_due()
            for readable in select.select([self._wake, self._reports], [], [], self._pause())[0]:
                received = os.read(readable, 4096)
                if readable == self._wake:
                    self._heed(received)
                elif not self._ready:
                    self._first_is_ready()
            self._reap()
            if time.monotonic() >= self._kill_at:
                self._kill()
        return self._status

    def _heed(self, numbers: bytes) -> None:
        for number in numbers:
            if number in _STOPPING and not self._stopping:
                logger.info("stopping", extra={"signal": signal.Signals(number).name})
                self._stop()
            elif number in _STOPPING:
                self._kill()

    def _stop(self) -> None:
        """Tell the workers to stop: closing the pipe tells them what a supervisor's death would."""
        self._stopping = True
        os.close(self._living)
        for listener in self._sockets:
            listener.close()
        self._kill_at = time.monotonic() + self._shutdown_timeout + _PATIENCE

    def _kill(self) -> None:
        self._kill_at = float("inf")
        self._status = self._status or 1
        for slot in self._slots:
            if slot.pid:
                logger.warning("worker killed", extra={"worker": slot.number, "pid": slot.pid})
                os.kill(slot.pid, signal.SIGKILL)

    def _first_is_ready(self) -> None:
        self._ready = True
        for slot in self._slots:
            if not slot.pid:
                slot.due = 0
        self._announce()

    def _pause(self) -> float | None:
        """Seconds to sleep; None: until something happens."""
        due = min(self._kill_at, *(slot.due for slot in self._slots)) if not self._stopping else self._kill_at
        return None if due == float("inf") else max(0.0, due - time.monotonic())

    def _start_what_is_due(self) -> None:
        for slot in self._slots:
            if not self._stopping and slot.due <= time.monotonic():
                self._start(slot)

    def _start(self, slot: _Slot) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        held = {*_STOPPING, signal.SIGCHLD}
        signal.pthread_sigmask(signal.SIG_BLOCK, held)  # a signal between fork and the child's own handlers would be lost
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the supervisor passes it on in its way
            signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
            self._be_worker(slot.number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
        slot.pid, slot.started, slot.due = pid, time.monotonic(), float("inf")

    def _be_worker(self, number: int) -> None:
        status = 1
        try:
            os.close(self._living)
            status = self._work(number, self._alive, lambda: _write(self._report))
        except StartError as error:
            print(error, file=sys.stderr)
            status = EXIT_START_ERROR
        except BaseException:
            logger.exception("worker failed")
        finally:
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            os._exit(status)  # the rest of the stack is the supervisor's

    def _reap(self) -> None:
        for slot in self._slots:
            if not slot.pid:
                continue
            pid, wait_status = os.waitpid(slot.pid, os.WNOHANG)
            if pid:
                self._ended(slot, os.waitstatus_to_exitcode(wait_status))

    def _ended(self, slot: _Slot, status: int) -> None:
        pid, slot.pid = slot.pid, 0
        if self._stopping:
            self._status = self._status or (1 if status else 0)
            return
        if status == EXIT_START_ERROR and not self._ready:
            self._status = status  # it has said why; another one would say the same
            self._stop()
            return
        lived = time.monotonic() - slot.started
        slot.pause = 0 if lived > _SHORT_LIFE else min(_LONGEST_PAUSE, slot.pause * 2 or _FIRST_PAUSE)
        slot.due = time.monotonic() + slot.pause
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        logger.error(
            "worker ended; another takes its place",
            extra={"worker": slot.number, "pid": pid, "ended": how, "pause": slot.pause},
        )


def _write(report: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # a supervisor that died is seen at the other pipe
        os.write(report, b"r")
