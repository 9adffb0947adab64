'''Everything a plugin needs; import nothing else of tusd. This page is the contract.

A plugin is a class behind an entry point. It takes its options, and opens one object for a seam; opening and closing are in
one place, as in a pytest fixture. This is a whole one:

    from collections.abc import AsyncIterator
    from contextlib import asynccontextmanager
    from pathlib import Path
    from tusd import plugin

    class ShelfStorage:
        """Keep uploads on a shelf."""                     # `tusd plugins` prints this line

        api_version = 1                                    # the version of this page it was written for
        scope = plugin.Scope.HOST                          # who else sees what it holds: PROCESS, HOST or CLUSTER

        class Options(plugin.Options):                     # the YAML block, minus `use`
            directory: Path = Path("./shelf")
            room: plugin.Size = 0

        def __init__(self, options: Options) -> None:
            self.options = options

        @plugin.hookimpl
        @asynccontextmanager
        async def open_storage(self, worker: plugin.Worker) -> AsyncIterator[plugin.DataStore]:
            yield ShelfStore(self.options, worker.logger)

    [project.entry-points."tusd.storage"]
    shelf = "tusd_plugin_shelf:ShelfStorage"               # storage: {use: shelf, room: 10GiB}

One object serves one worker process and lives on its event loop; whatever blocks goes to a thread. A hookimpl may leave out
`worker`. `scope` is stated by plugins for storage, locking and limiting: it is compared with `server.workers` before anything
is opened. One class may serve several seams: it is loaded once for each name in the configuration.

A plugin under `plugins:` may wrap a seam instead of filling it. A wrapper has one right shape (it cannot be an
`asynccontextmanager` itself):

    class CountingStorage:
        """Count what is appended."""

        @plugin.hookimpl(wrapper=True)
        def open_storage(self, worker):
            opening = yield                                # what the wrapped plugin, or the next wrapper, returned
            return self.wrap(opening)

        @asynccontextmanager
        async def wrap(self, opening):
            async with opening as store:
                yield CountingStore(store)                 # a plugin.WrappedStore

Prove a plugin right with `tusd.testing` (`StorageSuite`, `LockingSuite`, `LimitingSuite`, `HooksSuite`, `MetricsSuite`).
'''

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pluggy
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from .blocks import Blocks
from .errors import (
    HookError,
    IncompleteUpload,
    LeaseLost,
    LockUnavailable,
    QuotaExceeded,
    StorageFull,
    StorageUnavailable,
    TooManyRequests,
    TusError,
    UploadExists,
    UploadNotFound,
)
from .hook_wire import answer_from_json, decode_answer, encode_event, event_as_json, headers_of
from .hooks import (
    DEFAULT_EVENTS,
    EVENTS,
    NO_REQUEST,
    Changes,
    Dispatcher,
    HookEvent,
    HookResponse,
    PostCreate,
    PostExpire,
    PostFail,
    PostFinish,
    PostReceive,
    PostTerminate,
    PreAccess,
    PreCreate,
    PreFinish,
    PreTerminate,
)
from .limiting import Allowance, FreeAllowance, Limiter
from .locking import Lease, Locker
from .metrics import Metrics
from .model import Eviction, Final, Metadata, Metric, Partial, Scope, State, UploadId, UploadInfo, utcnow
from .pieces import Cutter, Memory, Piece
from .protocol.messages import Append, Create, Discover, Head, Inspect, Read, Request, Response, Terminate
from .sending import Sending
from .sidecar import Sidecar, decode_sidecar, encode_sidecar
from .storage import Atomic, Body, Capability, Concatenable, DataStore, Listable, Readable, Terminable, Upload
from .threads import in_thread
from .waiting import unbroken
from .wrapping import WrappedStore, WrappedUpload

__all__ = [
    "API_VERSION",
    "DEFAULT_EVENTS",
    "EVENTS",
    "NO_REQUEST",
    "Allowance",
    "Append",
    "Atomic",
    "Blocks",
    "Body",
    "Capability",
    "Changes",
    "Concatenable",
    "Create",
    "Cutter",
    "DataStore",
    "Discover",
    "Dispatcher",
    "Duration",
    "Eviction",
    "Final",
    "FreeAllowance",
    "Head",
    "HookError",
    "HookEvent",
    "HookOptions",
    "HookResponse",
    "IncompleteUpload",
    "Inspect",
    "Lease",
    "LeaseLost",
    "Limiter",
    "Listable",
    "LockUnavailable",
    "Locker",
    "Memory",
    "Metadata",
    "Metric",
    "Metrics",
    "Mode",
    "Options",
    "Partial",
    "Piece",
    "PostCreate",
    "PostExpire",
    "PostFail",
    "PostFinish",
    "PostReceive",
    "PostTerminate",
    "PreAccess",
    "PreCreate",
    "PreFinish",
    "PreTerminate",
    "QuotaExceeded",
    "Read",
    "Readable",
    "Request",
    "Response",
    "Routes",
    "Scope",
    "Secret",
    "Sending",
    "Sidecar",
    "Size",
    "State",
    "StorageFull",
    "StorageUnavailable",
    "Terminable",
    "Terminate",
    "TooManyRequests",
    "TusError",
    "Upload",
    "UploadExists",
    "UploadId",
    "UploadInfo",
    "UploadNotFound",
    "Worker",
    "WrappedStore",
    "WrappedUpload",
    "add_routes",
    "answer_from_json",
    "decode_answer",
    "decode_sidecar",
    "encode_event",
    "encode_sidecar",
    "event_as_json",
    "headers_of",
    "hookimpl",
    "in_thread",
    "open_hooks",
    "open_limiting",
    "open_locking",
    "open_metrics",
    "open_storage",
    "parse_duration",
    "parse_size",
    "unbroken",
    "utcnow",
]

API_VERSION = 1
"""Grows when a plugin written for this page would no longer work."""

hookspec = pluggy.HookspecMarker("tusd")
hookimpl = pluggy.HookimplMarker("tusd")
"""Marks a method as an implementation of the hookspec of the same name. `wrapper=True` wraps; other arguments are refused."""


# --- the hookspecs


@hookspec(firstresult=True)
def open_storage(worker: Worker) -> AbstractAsyncContextManager[DataStore] | None:
    """Open the data store uploads are kept in. A server has one."""


@hookspec(firstresult=True)
def open_locking(worker: Worker) -> AbstractAsyncContextManager[Locker] | None:
    """Open the locker that keeps two requests from working on one upload. A server has one."""


@hookspec
def open_limiting(worker: Worker) -> AbstractAsyncContextManager[Limiter] | None:
    """Open a limiter. They are asked in the order of the configuration."""


@hookspec
def open_hooks(worker: Worker) -> AbstractAsyncContextManager[Dispatcher] | None:
    """Open a dispatcher of hook events. They are asked in the order of the configuration; the first refusal ends it."""


@hookspec
def open_metrics(worker: Worker) -> AbstractAsyncContextManager[Metrics] | None:
    """Open something that takes figures."""


@hookspec
def add_routes(worker: Worker, routes: Routes) -> None:
    """Add routes beside the uploads: `routes.get("/about", handler)`, for operators `routes.get("/figures", handler, admin=True)`."""


# --- what the hookspecs are given


@dataclass(frozen=True, slots=True)
class Worker:
    """The worker process that opens a plugin's object."""

    plugin: str
    """Where the plugin stands in the configuration, such as `storage:file` or `hooks[1]:http`."""
    logger: logging.Logger
    """Writes to the server's log under the plugin's name."""
    metrics: Metrics
    """Takes figures of metrics that the plugin declares as `Metric` constants; all configured `metrics` get them."""
    directory: Path
    """For files that the workers of one host share, below `server.run_directory`; the plugin makes it when it needs it."""
    number: int = 0
    """0 for the first worker of the host, then 1, 2, ... While a reload hands over, a worker of each generation has it."""


Handler = Callable[[Head], Awaitable[Response]]


_OWN_PATHS = ("/healthz", "/readyz", "/debug/profile")
_AN_UPLOADS = re.compile("/[0-9a-f]{32}")
"""How the URL of an upload begins whose id the server has made up, where `server.base_path` is /."""


@dataclass(slots=True)
class Routes:
    """Collects routes. A path is absolute and exact. It lies outside `server.base_path`; where that is `/` it is no URL that the server gives to
    an upload, and hooks cannot choose it."""

    base_path: str
    found: dict[str, Handler] = field(default_factory=dict)
    """Path -> handler, of all plugins."""
    admin: dict[str, Handler] = field(default_factory=dict)
    """The same for operators only."""

    def get(self, path: str, handler: Handler, *, admin: bool = False) -> None:
        """Answer GET (and HEAD) of `path` by `await handler(head)`. `admin`: at `server.admin_listen` and not elsewhere, if there is one.
        Raises `ValueError` for a path that is taken or not allowed."""
        if not path.startswith("/") or (self.base_path != "/" and (path + "/").startswith(self.base_path)):
            raise ValueError(f"route {path!r}: must begin with / and lie outside server.base_path {self.base_path!r}")
        if self.base_path == "/" and _AN_UPLOADS.match(path):
            raise ValueError(f"route {path!r}: begins with 32 hexadecimal digits, as the URL of an upload does")
        if path in _OWN_PATHS:
            raise ValueError(f"route {path!r}: is one of the server's own")
        if path in self.found or path in self.admin:
            raise ValueError(f"route {path!r}: another plugin has it already")
        (self.admin if admin else self.found)[path] = handler


# --- options


_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)b?\s*", re.IGNORECASE | re.ASCII)
_POWERS = " kmgtp"
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_size(value: object) -> object:
    """`50GiB` (2**30), `5MB` (10**6), `1024` -> bytes. Raises `ValueError` for other text."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value)
    if not match:
        raise ValueError("not a size; write a number of bytes, or 512KiB, 5MB, 50GiB")
    number, power, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** _POWERS.index(power.lower() or " "))


def parse_duration(value: object) -> object:
    """`7d`, `1h30m`, `250ms` -> seconds; a bare number is seconds. Raises `ValueError` for other text."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        return float(text)
    if not text or _DURATION.sub("", text):
        raise ValueError("not a duration; write 30s, 250ms, 1h30m, 7d")
    return sum(float(n) * _SECONDS[unit] for n, unit in _DURATION.findall(text))


def _parse_mode(value: object) -> int:
    # YAML reads 0664 as a number in octal, but 664 as one in decimal: no permissions are as large as that.
    number = f"{value:o}" if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o777 else ""
    text = value if isinstance(value, str) else number
    if not re.fullmatch(r"(0o?)?[0-7]{1,4}", text):
        raise ValueError('not file permissions; write three octal digits in quotes, such as "0664"')
    return int(text.removeprefix("0o"), 8)


Size = Annotated[
    int, BeforeValidator(parse_size), Field(ge=0), WithJsonSchema({"type": ["integer", "string"], "examples": ["50GiB"]})
]
"""A number of bytes, written `50GiB`, `5MB` or `1024`."""
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(ge=0, allow_inf_nan=False),
    WithJsonSchema({"type": ["number", "string"], "examples": ["1h30m"]}),
]
"""Seconds, written `7d`, `1h30m`, `250ms` or `30`."""
Mode = Annotated[
    int,
    BeforeValidator(_parse_mode),
    PlainSerializer(lambda mode: f"{mode:04o}", return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "examples": ["0664"]}),
]
"""File permissions, written in octal: `"0664"`."""
Secret = Annotated[str, Field(json_schema_extra={"writeOnly": True})]
"""Text that `tusd config show` and logs never print."""


class Options(BaseModel):
    """The base of a plugin's `Options`: a frozen pydantic model. Unknown keys are errors that show file, line and column.
    The docstring under an option is its description in `tusd config schema`."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )


EventName = Literal[
    "pre-create",
    "post-create",
    "pre-access",
    "post-receive",
    "pre-finish",
    "post-finish",
    "post-fail",
    "pre-terminate",
    "post-terminate",
    "post-expire",
]


class HookOptions(Options):
    """The base of the `Options` of plugins for `hooks:`. The core reads these fields."""

    events: list[EventName] | None = None
    """The events that it gets; not set: those that it can have at all (`file`), or the classic ones (all others)."""
    forward_headers: list[str] = []
    """Headers of the client's request that are repeated in requests to the hook, and kept with events in an outbox, such as Authorization."""
    delivery: Literal["best-effort", "at-least-once"] = "best-effort"
    """at-least-once: post events, except post-receive, are kept on disk until they are delivered, whatever happens to the server."""
    outbox: Path = Path("./outbox")
    """The folder that they are kept in, with at-least-once; of this entry alone."""
    give_up_after: Annotated[Duration, Field(gt=0)] = 259200
    """How long it is tried to deliver one; then it is parked, and `tusd hooks` can retry or drop it."""

    @property
    def wanted(self) -> frozenset[type[HookEvent]]:
        """The classes of `events`; none given: `DEFAULT_EVENTS`. For dispatchers that can carry any event."""
        return DEFAULT_EVENTS if self.events is None else frozenset(one for one in EVENTS if one.name in self.events)
