"""The log: one event, one line on stderr, as text for people or as JSON for machines.

    logger.info("upload created", extra={"upload": info.id, "length": info.length})

    2026-01-31T12:00:00.123Z INFO upload created upload=24e533e0 length=1024
    {"time": "2026-01-31T12:00:00.123Z", "level": "info", "logger": "tusd", "message": "upload created", "upload": "24e533e0", ...}

What stands in `extra` becomes fields. An upload URL is a secret, so ids of uploads are cut to 8 characters, in the field
`upload` and wherever 32 or more hex digits stand together. Control characters are escaped: whatever a client sends, it cannot
forge a line. The traceback of a bug follows its text line, indented.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, TextIO

from ..web.requests import Entry, RequestLog

Format = Literal["text", "json"]

SHORT_ID = 8
"""Characters of an upload id that a log line shows: enough to find its other lines, too few to find the upload."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_ID = re.compile(r"(?<![0-9A-Za-z])([0-9a-f]{8})[0-9a-f]{24,}")
_SAFE = re.compile(r"[A-Za-z0-9/._~%:@!$&'()*+,;=-]*").fullmatch
"""Finds a path that needs no quotes and no escapes, in text and in JSON."""
_LONGEST_PATH = 200
_PIPE_TAKES = 4096
"""Bytes that a pipe takes as a whole or not at all (PIPE_BUF of Linux; POSIX says 512 at the least)."""
_PLAIN = re.compile(r'[^\s"=\\]+')


def set_up(*, level: str, format: Format, full_upload_ids: bool, worker: int | None = None, stream: TextIO | None = None) -> None:
    """Send all of this process's logging to stderr (or `stream`). `worker` numbers this process when there are several."""
    formatter = _FORMATTERS[format](full_upload_ids=full_upload_ids, worker=worker)
    handler = _Handler(stream or sys.stderr, formatter)
    handler.addFilter(_worth_a_line)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a reader of stderr that went away must not disturb an upload
    logging.getLogger("aiohttp.access").setLevel(logging.CRITICAL + 1)


def request_log() -> RequestLog | None:
    """Writes one line for each request to where `set_up` sends the log; None when its level leaves them out."""
    root = logging.getLogger()
    handler = next((one for one in root.handlers if isinstance(one, _Handler)), None)
    return None if handler is None or root.level > logging.INFO else handler.log_request


def escape(text: str) -> str:
    r"""`text` with everything that is not printable as `\n`, `\x1b`, `\u2028`; backslashes stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _worth_a_line(record: logging.LogRecord) -> bool:
    """Not what libraries call an error and is only a client that went away."""
    error = record.exc_info[1] if record.exc_info else None
    if record.name in ("asyncio", "aiohttp.server") and isinstance(error, ConnectionError | TimeoutError):
        return False
    return not (record.name == "asyncio" and record.msg == "socket.send() raised exception.")


def _now() -> str:
    """The time as a line begins with it."""
    second, fraction = divmod(time.time(), 1)
    return f"{_second(int(second))}.{int(fraction * 1000):03}Z"


@lru_cache(maxsize=2)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class _Formatter(logging.Formatter, ABC):
    fact = " %s=%s"
    worker_field = " worker={}"

    def __init__(self, *, full_upload_ids: bool, worker: int | None) -> None:
        super().__init__()
        self._end = "" if worker is None else self.worker_field.format(worker)
        self._full_upload_ids = full_upload_ids
        self._worker = worker

    def _shorten(self, text: str) -> str:
        return text if self._full_upload_ids else _ID.sub(r"\1", text)

    def _time(self, record: logging.LogRecord) -> str:
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"

    def _traceback(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info)] if record.exc_info else []
        parts += [self.formatStack(record.stack_info)] if record.stack_info else []
        return self._shorten("\n".join(parts))

    def _fields(self, record: logging.LogRecord) -> Iterator[tuple[str, object]]:
        for key, value in vars(record).items():
            if key in _STANDARD or value is None:
                continue
            if key == "upload" and not self._full_upload_ids:
                value = str(value)[:SHORT_ID]
            if not isinstance(value, bool | int | float):
                value = self._shorten(str(value))
            yield key, value
        if self._worker is not None:
            yield "worker", self._worker

    @abstractmethod
    def request(self, entry: Entry) -> str:
        """The line of a request, made by hand: this costs a fifth of what a log record does."""

    def _path(self, entry: Entry) -> str:
        """The path with only the beginning of an upload's id."""
        path, at = entry.path, entry.id_at
        if self._full_upload_ids:
            shown = path
        elif at:
            shown = path[: at + SHORT_ID]
        else:
            shown = _ID.sub(r"\1", path)
        return shown if len(shown) <= _LONGEST_PATH else shown[:_LONGEST_PATH] + "..."

    def _facts(self, entry: Entry) -> str:
        """The fields that not every request has."""
        upload = entry.upload if entry.upload is None or self._full_upload_ids else entry.upload[:SHORT_ID]
        facts = (("code", entry.code), ("upload", upload), ("peer", entry.peer))
        return "".join([self.fact % fact for fact in facts if fact[1]]) + self._end


class _Handler(logging.StreamHandler[TextIO]):
    """Writes records at once, and requests in batches: those that end in one turn of the event loop, before anything else is written."""

    def __init__(self, stream: TextIO, formatter: TextFormatter | JsonFormatter) -> None:
        super().__init__(stream)
        self.setFormatter(formatter)
        self._request = formatter.request
        self._lines: list[str] = []

    def log_request(self, entry: Entry) -> None:
        """Write the line of a request soon. For the event loop's thread."""
        if not self._lines:
            asyncio.get_running_loop().call_soon(self.flush)
        self._lines.append(self._request(entry))

    def emit(self, record: logging.LogRecord) -> None:
        self._write_requests()
        super().emit(record)

    def flush(self) -> None:
        self._write_requests()
        try:
            super().flush()
        except (OSError, ValueError):
            pass  # nobody reads it, and that must not disturb an upload

    def _write_requests(self) -> None:
        """In pieces that a pipe takes as a whole: other processes write to it, too."""
        self.acquire()
        try:
            lines = self._lines[:]
            del self._lines[: len(lines)]  # the event loop's thread may have added some since
            at = 0
            while at < len(lines):
                size, end = 0, at
                while end < len(lines) and (end == at or size + len(lines[end]) <= _PIPE_TAKES):
                    size += len(lines[end])
                    end += 1
                self.stream.write("".join(lines[at:end]))
                super().flush()
                at = end
        except (OSError, ValueError):
            pass
        finally:
            self.release()


class TextFormatter(_Formatter):
    """For people: time, level, who (unless it is the core), message, fields."""

    def format(self, record: logging.LogRecord) -> str:
        words = [self._time(record), record.levelname]
        if record.name != "tusd":
            words.append(escape(record.name.removeprefix("tusd.")) + ":")
        words.append(escape(self._shorten(record.getMessage())))
        words += [f"{escape(key)}={_quoted(value)}" for key, value in self._fields(record)]
        lines = [" ".join(words)]
        lines += ["    " + escape(line) for line in self._traceback(record).splitlines()]
        return "\n".join(lines)

    def request(self, entry: Entry) -> str:
        path = self._path(entry)
        if not _SAFE(path):
            path = escape(path.encode("ascii", "backslashreplace").decode())
        line = (
            f"{_now()} INFO requests: {entry.method} {path} status={entry.status} outcome={entry.outcome} "
            f"ms={entry.seconds * 1000:.1f} received={entry.received} sent={entry.sent} request_id={entry.request_id}"
        )
        return f"{line}{self._facts(entry)}\n"


class JsonFormatter(_Formatter):
    """For machines: one object a line, a traceback in `traceback`."""

    fact = ', "%s": "%s"'
    worker_field = ', "worker": {}'

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, object] = {
            "time": self._time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._shorten(record.getMessage()),
        }
        event.update((key, value) for key, value in self._fields(record) if key not in event)
        if traceback := self._traceback(record):
            event["traceback"] = traceback
        return json.dumps(event)

    def request(self, entry: Entry) -> str:
        path = self._path(entry)
        target = f'{entry.method} {path}"' if _SAFE(path) else json.dumps(f"{entry.method} {path}")[1:]
        line = (
            f'{{"time": "{_now()}", "level": "info", "logger": "tusd.requests", "message": "{target}, '
            f'"status": {entry.status}, "outcome": "{entry.outcome}", "ms": {entry.seconds * 1000:.1f}, '
            f'"received": {entry.received}, "sent": {entry.sent}, "request_id": "{entry.request_id}"'
        )
        return f"{line}{self._facts(entry)}}}\n"


_FORMATTERS: dict[Format, type[TextFormatter | JsonFormatter]] = {"text": TextFormatter, "json": JsonFormatter}


def _quoted(value: object) -> str:
    """As it is when it cannot be mistaken for several fields, else as a JSON string."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) and text.isprintable() else escape(json.dumps(text, ensure_ascii=False))
