"""`tusd serve`: from a file to a process, or several, that serve and reload."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .. import __version__
from . import logs
from .alone import run_alone
from .listening import Sockets, is_open, urls
from .plan import Plan, check_succession, load
from .showing import where_uploads_go
from .supervisor import Job, Supervisor
from .systemd import Inherited, Notifier
from .worker import run_worker


def serve(path: Path | None, say: Callable[[str], None]) -> int:
    """Serve until told to stop; return the exit status. `say` gets the line that tells where to upload.

    Raises `StartError` for all that is wrong at the start."""
    plan = load(path)
    _log_as(plan)
    sockets, notifier = Sockets(Inherited(os.environ)), Notifier(os.environ)
    try:
        sockets.bind(plan.config)

        def ready() -> None:
            say(_ready_line(plan, sockets))
            notifier.ready("serving")

        if plan.config.server.processes > 1:
            return _Many(path, plan, sockets).serve(ready, notifier)
        return run_alone(plan, sockets, load=partial(load, path), settled=_log_as, ready=ready, notifier=notifier)
    finally:
        sockets.close()


class _Many:
    """What the workers of a plan do, and which plan serves."""

    def __init__(self, path: Path | None, plan: Plan, sockets: Sockets) -> None:
        self._path = path
        self._plan = plan
        self._next = plan
        self._sockets = sockets

    def serve(self, ready: Callable[[], None], notifier: Notifier) -> int:
        close = self._sockets.close
        job = self._job(self._plan)
        return Supervisor(job, load=self._load, settled=self._settled, close=close, ready=ready, notifier=notifier).run()

    def _load(self) -> Job:
        plan = load(self._path)
        check_succession(self._plan, plan)
        self._sockets.bind(plan.config)
        self._next = plan
        return self._job(plan)

    def _settled(self, accepted: bool) -> None:
        if accepted:
            self._plan = self._next
            _log_as(self._plan)
        self._sockets.keep(self._plan.config)

    def _job(self, plan: Plan) -> Job:
        def work(number: int, supervisor: socket.socket) -> int:
            self._sockets.leave(plan.config)
            _log_as(plan, worker=number)
            return run_worker(plan, plan.listeners(self._sockets), number=number, supervisor=supervisor)

        return Job(work, plan.config.server.processes, plan.config.server.shutdown_timeout)


def _log_as(plan: Plan, worker: int | None = None) -> None:
    logs.set_up(**plan.config.logging.model_dump(exclude={"requests"}), worker=worker)


def _ready_line(plan: Plan, sockets: Sockets) -> str:
    server, listeners = plan.config.server, plan.listeners(sockets)
    public = [listener for listener in listeners if not listener.admin]
    admin = [listener for listener in listeners if listener.admin]
    where = [server.public_url] if server.public_url else urls(public, server.base_path)
    about = ["every interface"] if is_open(listeners) else []
    about += [f"admin at {' and '.join(urls(admin, '/'))}"] if admin else []
    about += [where_uploads_go(plan.registry)]
    return f"tusd {__version__}: upload to {' or '.join(where)} ({'; '.join(about)})"
