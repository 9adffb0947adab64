"""The log: one event, one line on stderr, as text for people or as JSON for machines.

    logger.info("upload created", extra={"upload": info.id, "length": info.length})

    2026-01-31T12:00:00.123Z INFO upload created upload=24e533e0 length=1024
    {"time": "2026-01-31T12:00:00.123Z", "level": "info", "logger": "tusd", "message": "upload created", "upload": "24e533e0", ...}

What stands in `extra` becomes fields. An upload URL is a secret, so ids of uploads are cut to 8 characters, in the field
`upload` and wherever 32 or more hex digits stand together. Control characters are escaped: whatever a client sends, it cannot
forge a line. The traceback of a bug follows its text line, indented.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal, TextIO

Format = Literal["text", "json"]

SHORT_ID = 8
"""Characters of an upload id that a log line shows: enough to find its other lines, too few to find the upload."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_ID = re.compile(r"(?<![0-9A-Za-z])([0-9a-f]{8})[0-9a-f]{24,}")
_PLAIN = re.compile(r'[^\s"=\\]+')


def set_up(*, level: str, format: Format, full_upload_ids: bool, worker: int | None = None, stream: TextIO | None = None) -> None:
    """Send all of this process's logging to stderr (or `stream`). `worker` numbers this process when there are several."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_FORMATTERS[format](full_upload_ids=full_upload_ids, worker=worker))
    handler.addFilter(_worth_a_line)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a reader of stderr that went away must not disturb an upload
    logging.getLogger("aiohttp.access").setLevel(logging.CRITICAL + 1)


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


class _Formatter(logging.Formatter):
    def __init__(self, *, full_upload_ids: bool, worker: int | None) -> None:
        super().__init__()
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


class JsonFormatter(_Formatter):
    """For machines: one object a line, a traceback in `traceback`."""

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


_FORMATTERS: dict[Format, type[TextFormatter | JsonFormatter]] = {"text": TextFormatter, "json": JsonFormatter}


def _quoted(value: object) -> str:
    """As it is when it cannot be mistaken for several fields, else as a JSON string."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) and text.isprintable() else escape(json.dumps(text, ensure_ascii=False))
