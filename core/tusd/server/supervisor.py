"""Several worker processes on the same listening sockets, in generations.

The supervisor opens nothing that serves: it forks workers, restarts one that dies, replaces all of them at a reload, and passes a
stop on. It never serves a request, so it has no event loop: it sleeps in `select` until a signal, a word of a worker or a restart
is due. With each worker it shares a pair of sockets; a worker whose supervisor was killed sees the end of it and stops.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..errors import StartError
from .systemd import Notifier

logger = logging.getLogger("tusd")

EXIT_START_ERROR = 2
"""Exit status of a process that could not start because of its configuration or surroundings."""

READY, LEAVE, ANSWER = b"r", b"l", b"a"
"""What a worker and its supervisor say to each other: "I serve"; "end, your successors serve"; "are you there?", and the same as "yes"."""

OPENING_TIMEOUT = 60.0
"""Seconds that a new generation has to open; then the old one goes on."""

_SHORT_LIFE = 10.0
"""Seconds. A worker that lived longer is restarted at once; others wait, twice as long each time."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_PATIENCE = 5.0
"""Seconds that a worker gets beyond its own shutdown time-out before it is killed."""

_NEVER = float("inf")
_STOPPING = (signal.SIGTERM, signal.SIGINT)
# Windows lacks two of them, and os.fork, too; this module is imported there all the same.
_HEEDED = tuple(one for one in signal.Signals if one.name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGCHLD"))


@dataclass(frozen=True, slots=True)
class Job:
    """What the workers of one generation do."""

    work: Callable[[int, socket.socket], int]
    """`work(number, supervisor)` is called in the worker's process; it returns an exit status or raises `StartError`. Through the socket
    it says READY, answers ANSWER, and hears LEAVE; when that reads as ended the worker is to stop."""
    count: int
    shutdown_timeout: float


@dataclass(slots=True)
class _Slot:
    """The place of one worker, which keeps its number over restarts."""

    number: int
    due: float
    """When to start the worker; infinite while it runs or must wait for the first one."""
    pause: float = 0
    pid: int = 0
    started: float = 0
    channel: socket.socket | None = None
    ready: bool = False
    answered: bool = False

    def say(self, what: bytes) -> None:
        with contextlib.suppress(OSError):  # it has died, as will be seen, or does not read
            if self.channel is not None:
                self.channel.send(what)

    def hang_up(self) -> None:
        if self.channel is not None:
            self.channel.close()
            self.channel = None


@dataclass(slots=True)
class _Generation:
    """The first worker starts alone, so that what is wrong is told once; when it is ready the others follow."""

    number: int
    job: Job
    began: float
    slots: list[_Slot] = field(default_factory=list)
    kill_at: float = _NEVER
    leaving: bool = False

    def __post_init__(self) -> None:
        self.slots = [_Slot(number, due=0 if number == 0 else _NEVER) for number in range(self.job.count)]

    @property
    def ready(self) -> bool:
        return all(slot.ready for slot in self.slots)

    @property
    def alive(self) -> bool:
        return any(slot.pid for slot in self.slots)

    def leave(self) -> None:
        """Start nothing more, and kill what has not ended in time."""
        self.leaving = True
        for slot in self.slots:
            slot.due = _NEVER
        self.kill_at = min(self.kill_at, time.monotonic() + self.job.shutdown_timeout + _PATIENCE)

    def kill(self) -> None:
        self.kill_at = _NEVER
        for slot in self.slots:
            if slot.pid:
                logger.warning("worker killed", extra={"worker": slot.number, "pid": slot.pid})
                os.kill(slot.pid, signal.SIGKILL)


class Supervisor:
    """Runs the workers of a job. At SIGHUP `load` gives the next job, or raises `StartError`; `settled` is told later whether that serves
    now, or the one before goes on. `close` is called when no more connections are to be accepted."""

    def __init__(
        self,
        job: Job,
        *,
        load: Callable[[], Job],
        settled: Callable[[bool], None],
        close: Callable[[], None],
        ready: Callable[[], None],
        notifier: Notifier,
    ) -> None:
        self._load = load
        self._settled = settled
        self._close = close
        self._announce = ready
        self._notifier = notifier
        self._current = _Generation(1, job, time.monotonic())
        self._coming: _Generation | None = None
        self._left: list[_Generation] = []
        """Those that serve no more and have not ended."""
        self._announced = False
        self._reload_wanted = False
        self._stopping = False
        self._beat_at = time.monotonic() + notifier.alive_every if notifier.alive_every else _NEVER
        self._status = 0

    def run(self) -> int:
        """Supervise until SIGTERM or SIGINT; return the exit status. A second signal kills the workers."""
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_write.setblocking(False)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        for number in _HEEDED:
            signal.signal(number, lambda *_: None)  # its number arrives at the wake-up descriptor
        while not self._stopping or any(generation.alive for generation in self._generations()):
            self._start_what_is_due()
            channels = {slot.channel: (generation, slot) for generation, slot in self._slots() if slot.channel is not None}
            readable, _, _ = select.select([self._wake_read, *channels], [], [], self._pause())
            for one in readable:
                if one is self._wake_read:
                    self._heed(one.recv(4096))
                else:
                    self._hear(*channels[one])
            self._reap()
            self._do_what_is_late()
            self._reload()
        return self._status

    def _generations(self) -> list[_Generation]:
        return [self._current, *([self._coming] if self._coming else []), *self._left]

    def _slots(self) -> Iterator[tuple[_Generation, _Slot]]:
        for generation in self._generations():
            for slot in generation.slots:
                yield generation, slot

    # --- signals and words

    def _heed(self, numbers: bytes) -> None:
        for number in numbers:
            if number in _STOPPING and not self._stopping:
                logger.info("stopping", extra={"signal": signal.Signals(number).name})
                self._stop()
            elif number in _STOPPING:
                self._kill()
            elif number == signal.SIGHUP:
                self._reload_wanted = True
                waits = self._coming or self._left or not self._announced
                logger.info("reloading" + (" when the workers of before have ended" if waits else ""), extra={"signal": "SIGHUP"})

    def _stop(self) -> None:
        """Tell the workers to stop, in the way in which a supervisor's death would."""
        self._stopping = True
        self._notifier.stopping()
        self._close()
        for generation in self._generations():
            generation.leave()
            for slot in generation.slots:
                slot.hang_up()

    def _kill(self) -> None:
        for generation in self._generations():
            if generation.alive:
                self._status = self._status or 1
                generation.kill()

    def _hear(self, generation: _Generation, slot: _Slot) -> None:
        if slot.channel is None:
            return  # hung up within this turn
        try:
            said = slot.channel.recv(64)
        except OSError:
            said = b""
        if not said:
            slot.hang_up()  # it has ended, or is about to
            return
        slot.answered = True
        if READY in said:
            slot.ready = True
            if slot.number == 0:
                for other in generation.slots:
                    if not other.pid and not generation.leaving:
                        other.due = 0
            if generation is self._coming and generation.ready:
                self._succeed(generation)
            elif not self._announced:
                self._announced = True
                self._announce()

    # --- reloads

    def _reload(self) -> None:
        """Begin the reload that is wanted, once nothing is left of the one before."""
        if not self._reload_wanted or self._stopping or self._coming or self._left or not self._announced:
            return
        self._reload_wanted = False
        self._notifier.reloading()
        began = time.monotonic()
        try:
            job = self._load()
        except StartError as error:
            self._refuse(str(error))
        except Exception:
            logger.exception("not reloaded")
            self._refuse("")
        else:
            self._coming = _Generation(self._current.number + 1, job, began)

    def _refuse(self, why: str) -> None:
        for line in why.splitlines():
            logger.error("not reloaded: %s", line)
        self._notifier.ready("serving; the last reload was refused, see the log")

    def _succeed(self, new: _Generation) -> None:
        """The new generation serves: let the old one end."""
        old, self._current, self._coming = self._current, new, None
        self._left.append(old)
        old.leave()
        for slot in old.slots:
            slot.say(LEAVE)
        self._settled(True)
        self._notifier.ready(f"serving, generation {new.number}")
        logger.info("reloaded", extra={"generation": new.number, "seconds": round(time.monotonic() - new.began, 3)})

    def _abandon(self, generation: _Generation, why: str) -> None:
        """The new generation does not come to serve: the old one goes on."""
        self._coming = None
        self._left.append(generation)
        generation.leave()
        for slot in generation.slots:
            slot.hang_up()
        self._settled(False)
        self._refuse(why)

    # --- time

    def _pause(self) -> float | None:
        """Seconds to sleep; None: until something happens."""
        times = [self._beat_at, *(slot.due for _, slot in self._slots())]
        times += [generation.kill_at for generation in self._generations()]
        times += [self._coming.began + OPENING_TIMEOUT] if self._coming else []
        due = min(times)
        return None if due == _NEVER else max(0.0, due - time.monotonic())

    def _do_what_is_late(self) -> None:
        now = time.monotonic()
        if self._coming and now >= self._coming.began + OPENING_TIMEOUT:
            self._abandon(self._coming, f"its workers did not serve within {OPENING_TIMEOUT:g} s; what does a plugin wait for?")
        for generation in self._generations():
            if now >= generation.kill_at:
                self._status = self._status or (1 if self._stopping else 0)
                generation.kill()
        self._left = [generation for generation in self._left if generation.alive]
        if now >= self._beat_at and self._notifier.alive_every:
            self._beat_at = now + self._notifier.alive_every
            if any(slot.answered for slot in self._current.slots):
                self._notifier.alive()
            for slot in self._current.slots:
                slot.answered = False
                slot.say(ANSWER)

    # --- processes

    def _start_what_is_due(self) -> None:
        for generation, slot in self._slots():
            if not self._stopping and slot.due <= time.monotonic():
                self._start(generation, slot)

    def _start(self, generation: _Generation, slot: _Slot) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        slot.hang_up()  # with the worker that was here before
        slot.ready = False
        slot.channel, theirs = socket.socketpair()
        slot.channel.setblocking(False)
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEEDED)  # a signal between fork and the child's own handlers would be lost
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            # SIGINT and SIGHUP, which a terminal sends to all, still do nothing: the supervisor passes them on in its way. They are not ignored,
            # because what a worker starts would ignore them, too.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEEDED)
            self._be_worker(generation, slot.number, theirs)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEEDED)
        theirs.close()
        slot.pid, slot.started, slot.due = pid, time.monotonic(), _NEVER

    def _be_worker(self, generation: _Generation, number: int, supervisor: socket.socket) -> None:
        status = 1
        try:
            for _, slot in self._slots():
                slot.hang_up()  # the supervisor's ends: while anybody has one, its worker would not see the supervisor die
            self._wake_read.close()
            self._wake_write.close()
            status = generation.job.work(number, supervisor)
        except StartError as error:
            self._say_why(generation, str(error))
            status = EXIT_START_ERROR
        except BaseException:
            logger.exception("worker failed")
        finally:
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            os._exit(status)  # the rest of the stack is the supervisor's

    def _say_why(self, generation: _Generation, why: str) -> None:
        """At the start on the terminal; while others serve, in the log."""
        if generation.number == 1 and not self._announced:
            print(why, file=sys.stderr)
            return
        for line in why.splitlines():
            logger.error("cannot serve: %s", line)

    def _reap(self) -> None:
        for generation, slot in [*self._slots()]:
            if slot.pid:
                pid, wait_status = os.waitpid(slot.pid, os.WNOHANG)
                if pid:
                    slot.pid = 0
                    self._ended(generation, slot, pid, os.waitstatus_to_exitcode(wait_status))

    def _ended(self, generation: _Generation, slot: _Slot, pid: int, status: int) -> None:
        slot.hang_up()
        if self._stopping:
            self._status = self._status or (1 if status else 0)
            return
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        if generation.leaving:
            return
        if generation is self._coming:
            self._abandon(generation, f"a worker of the new generation ended ({how}) before all served; the log above says why")
            return
        if status == EXIT_START_ERROR and not self._announced:
            self._status = status  # it has said why; another one would say the same
            self._stop()
            return
        lived = time.monotonic() - slot.started
        slot.pause = 0 if lived > _SHORT_LIFE else min(_LONGEST_PAUSE, slot.pause * 2 or _FIRST_PAUSE)
        slot.due = time.monotonic() + slot.pause
        logger.error(
            "worker ended; another takes its place",
            extra={"worker": slot.number, "pid": pid, "ended": how, "pause": slot.pause},
        )
