"""The built-in dispatchers, through the door that everybody's plugins go through."""

from __future__ import annotations

import asyncio
import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from tusd.builtin.file_hooks import FileHooks
from tusd.builtin.http_hooks import HttpHooks
from tusd.builtin.python_hooks import PythonHooks
from tusd.hooks import EVENTS, HookEvent
from tusd.plugin import HookError, event_as_json
from tusd.testing.hooks import HooksSuite, Receiver

# --- executables


class Scripts(Receiver):
    """A folder of executables, all alike: each writes its event down, and then does what `act` says."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "received").mkdir(parents=True)
        for kind in EVENTS:
            path = directory / kind.name
            path.write_text('#!/bin/sh\ncat > "received/$$.tmp" && mv "received/$$.tmp" "received/$$.json"\n. ./act\n')
            path.chmod(0o755)
        self._told: list[dict[str, Any]] = []
        self._act("true")

    def _act(self, code: str) -> None:
        (self.directory / "act").write_text(code)

    def received(self) -> list[dict[str, Any]]:
        found = sorted((self.directory / "received").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        self._told += [json.loads(path.read_text()) for path in found]
        for path in found:
            path.unlink()
        return list(self._told)

    def answer(self, answer: Mapping[str, Any] | None) -> None:
        (self.directory / "answer").write_text("" if answer is None else json.dumps(answer))
        self._act("cat answer")

    def echo(self) -> None:
        self._act("""printf '{"HTTPResponse": {"Body": "%s"}}' "$TUS_ID" """)

    def fail(self) -> None:
        self._act("echo out of order; exit 3")

    def babble(self) -> None:
        self._act("echo '{\"RejectUpload\": '")

    def hang(self) -> None:
        self._act("sleep 60 & wait")

    def running(self) -> list[str]:
        """The processes that work in the folder."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.readlink(process / "cwd") == str(self.directory):
                    found.append((process / "cmdline").read_text())
        return found


class TestFileHooks(HooksSuite):
    plugin = FileHooks

    @pytest.fixture
    def receiver(self, tmp_path: Path) -> Receiver:
        self.scripts = Scripts(tmp_path / "hooks")
        return self.scripts

    @pytest.fixture
    def options(self, receiver: Receiver) -> Mapping[str, object]:
        return {"directory": str(self.scripts.directory)}

    async def left_behind(self) -> Sequence[object]:
        """The killed go a moment later."""
        deadline = time.monotonic() + 3
        while (found := self.scripts.running()) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return found


# --- functions


class Functions(Receiver):
    """Functions that write their event down, and then do as they are told."""

    def __init__(self) -> None:
        self._told: list[dict[str, Any]] = []
        self._act: Callable[[HookEvent], object] = lambda event: None
        self._hangs = False
        self.ended = threading.Event()
        """Functions in threads hang until then."""

    def call(self, event: HookEvent) -> object:
        """A hook in a thread."""
        self._told.append(event_as_json(event))
        if self._hangs:
            self.ended.wait(60)
        return self._act(event)

    async def call_async(self, event: HookEvent) -> object:
        """A hook in the event loop."""
        self._told.append(event_as_json(event))
        await asyncio.sleep(60 if self._hangs else 0)
        return self._act(event)

    def received(self) -> list[dict[str, Any]]:
        return list(self._told)

    def answer(self, answer: Mapping[str, Any] | None) -> None:
        self._act = lambda event: answer if answer is None else dict(answer)

    def echo(self) -> None:
        self._act = lambda event: {"HTTPResponse": {"Body": event.upload.id}}

    def fail(self) -> None:
        self._act = _fail

    def babble(self) -> None:
        self._act = lambda event: {"RejectUpload": "yes"}

    def hang(self) -> None:
        self._hangs = True


def _fail(event: HookEvent) -> None:
    raise ValueError(f"cannot take {event}")


class TestPythonHooks(HooksSuite):
    plugin = PythonHooks
    failures = (HookError, ValueError)
    function = "call"

    @pytest.fixture
    def receiver(self) -> Iterator[Receiver]:
        functions, module = Functions(), ModuleType("hooks_under_test")
        module.hook = getattr(functions, self.function)  # type: ignore[attr-defined]
        sys.modules[module.__name__] = module
        yield functions
        functions.ended.set()
        del sys.modules[module.__name__]

    @pytest.fixture
    def options(self) -> Mapping[str, object]:
        return {"function": "hooks_under_test:hook"}


class TestAsyncPythonHooks(TestPythonHooks):
    function = "call_async"


# --- a URL


class Endpoint(Receiver, ThreadingHTTPServer):
    """A server that writes each event down, and then does as it is told."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        ThreadingHTTPServer.__init__(self, ("127.0.0.1", 0), Handler)
        self.told: list[dict[str, Any]] = []
        self.act: Callable[[dict[str, Any]], tuple[int, str] | None] = lambda event: (204, "")
        """Event -> status and body; None: it hangs."""
        self.hanging = 0

    def received(self) -> list[dict[str, Any]]:
        return list(self.told)

    def answer(self, answer: Mapping[str, Any] | None) -> None:
        self.act = lambda event: (200, "" if answer is None else json.dumps(answer))

    def echo(self) -> None:
        self.act = lambda event: (200, json.dumps({"HTTPResponse": {"Body": event["Event"]["Upload"]["ID"]}}))

    def fail(self) -> None:
        self.act = lambda event: (500, "out of order")

    def babble(self) -> None:
        self.act = lambda event: (200, "<html>It works!</html>")

    def hang(self) -> None:
        self.act = lambda event: None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are used again
    disable_nagle_algorithm = True
    server: Endpoint

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return
        event = json.loads(body)
        self.server.told.append(event)
        if (done := self.server.act(event)) is None:
            self.server.hanging += 1
            select.select([self.connection], [], [], 60)  # until the dispatcher has closed it
            self.server.hanging -= 1
            self.close_connection = True
            return
        self.send_response(done[0])
        self.send_header("Content-Length", str(len(done[1].encode())))
        self.end_headers()
        self.wfile.write(done[1].encode())

    def handle(self) -> None:
        with suppress(ConnectionError):  # a dispatch was cancelled
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        """Not on the terminal."""


class TestHttpHooks(HooksSuite):
    plugin = HttpHooks
    impatient: ClassVar[Mapping[str, object]] = {"timeout": "300ms", "attempts": 1}
    secrets = ("hunter2", "whsec_")

    @pytest.fixture
    def receiver(self) -> Iterator[Receiver]:
        with Endpoint() as self.endpoint:
            serving = threading.Thread(target=self.endpoint.serve_forever, args=(0.02,))
            serving.start()
            yield self.endpoint
            self.endpoint.shutdown()
            serving.join()

    @pytest.fixture
    def options(self, receiver: Receiver) -> Mapping[str, object]:
        endpoint = f"http://me:hunter2@127.0.0.1:{self.endpoint.server_port}/hooks?token=hunter2"
        return {"endpoint": endpoint, "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "backoff": "10ms"}

    async def left_behind(self) -> Sequence[object]:
        """Connections close a moment later."""
        deadline = time.monotonic() + 3
        while self.endpoint.hanging and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return ["a request"] * self.endpoint.hanging
