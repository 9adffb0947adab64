"""Hooks that are executables in a folder, as tusd has always run them.

    <directory>/pre-create        is run for each pre-create event, in that folder

It gets the event as JSON on stdin and `TUS_ID`, `TUS_SIZE`, `TUS_OFFSET` in its environment. Exit status 0: what it wrote to stdout, if
anything, is its answer as JSON. Another status: the hook has failed. What it writes to stderr is the server's stderr.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO, Annotated

from pydantic import Field

from tusd import plugin
from tusd.plugin import HookError, HookEvent, HookResponse

_MOST_SHOWN = 200
"""Characters of a failed hook's output that the log gets."""
_READ = 64 << 10
Process = Popen[bytes]


class FileHooks:
    """Run executables in a folder, one for each event."""

    api_version = 1

    class Options(plugin.HookOptions):
        """The block in `hooks:`."""

        directory: Path = Path("./hooks")
        """The folder; an executable in it that is named like an event gets that event."""
        timeout: Annotated[plugin.Duration, Field(gt=0)] = 30
        """How long one may run before it is killed, with all that it has started, and has failed."""
        concurrency: Annotated[int, Field(ge=1)] = 16
        """How many that ask (pre-), and how many that tell (post-), run at once in one worker; further events wait."""
        size_limit: plugin.Size = 1 << 20
        """The most that one may write to stdout."""

    def __init__(self, options: Options) -> None:
        self.options = options

    @plugin.hookimpl
    @asynccontextmanager
    async def open_hooks(self) -> AsyncIterator[plugin.Dispatcher]:
        """Look for the executables; new ones are found at the next start or reload. Raises `OSError`."""
        yield FileDispatcher(self.options, executables(self.options.directory))


def executables(directory: Path) -> dict[str, Path]:
    """Event -> its executable. Raises `OSError` for a folder that is not there, and for a file that cannot be run."""
    if not directory.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder; make it, or set another directory", str(directory))
    found = {}
    for event in plugin.EVENTS:
        path = directory.absolute() / event.name
        if path.is_file():
            if not os.access(path, os.X_OK):
                raise PermissionError(errno.EACCES, "is not executable; chmod +x it, or take it away", str(path))
            found[event.name] = path
    return found


class FileDispatcher(plugin.Dispatcher):
    """Runs one process for each event."""

    def __init__(self, options: FileHooks.Options, found: dict[str, Path]) -> None:
        self.events = frozenset(event for event in plugin.EVENTS if event.name in found)
        self._found = found
        self._options = options
        # What is told never takes the places of what clients wait for.
        self._asking = asyncio.Semaphore(options.concurrency)
        self._telling = asyncio.Semaphore(options.concurrency)

    async def dispatch(self, event: HookEvent) -> HookResponse | None:
        async with self._asking if event.asked else self._telling:
            status, out = await self._run(self._found[event.name], event)
        if status != 0:
            said = out[:_MOST_SHOWN].decode("utf-8", "replace").strip()
            raise HookError(f"{self._found[event.name]} ended with status {status}" + (f": {said}" if said else ""))
        return plugin.decode_answer(out) if out.strip() else None

    async def _run(self, path: Path, event: HookEvent) -> tuple[int, bytes]:
        info = event.upload
        environment = {**os.environ, "TUS_ID": info.id, "TUS_SIZE": str(info.length or 0), "TUS_OFFSET": str(info.offset)}
        if isinstance(event, plugin.PreCreate):
            environment["TUS_ID"] = ""
        try:
            with _as_file(plugin.encode_event(event)) as stdin:
                process = _started(path, stdin, environment)
        except OSError as error:
            raise HookError(f"{path} cannot be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(self._options.timeout):
                out = await self._output(process, path)
                return await _status(process), out
        except BaseException as error:
            await _end(process)
            if isinstance(error, TimeoutError):
                raise HookError(f"{path} ran longer than {self._options.timeout:g} s and was killed") from None
            raise

    async def _output(self, process: Process, path: Path) -> bytes:
        assert process.stdout is not None
        out = bytearray()
        with process.stdout as stdout:
            os.set_blocking(stdout.fileno(), False)
            while (piece := stdout.read(_READ)) != b"":
                if piece is None:
                    await _readable(stdout.fileno())
                    continue
                out += piece
                if len(out) > self._options.size_limit:
                    raise HookError(f"{path} wrote more than {self._options.size_limit} bytes to stdout and was killed")
        return bytes(out)


def _as_file(text: bytes) -> IO[bytes]:
    """A nameless file in memory that holds the text: a hook may read it, or not, and open `/dev/stdin`, which asyncio's own
    sockets do not allow."""
    file: IO[bytes] = os.fdopen(os.memfd_create("event"), "w+b") if hasattr(os, "memfd_create") else tempfile.TemporaryFile()
    try:
        file.write(text)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def _started(path: Path, stdin: IO[bytes], environment: dict[str, str]) -> Process:
    """Run it. Not by the event loop: uvloop's lets a process inherit copies of its stdin and stdout, so that what a hook leaves running holds
    its output open. Raises `OSError`."""
    return Popen([path], bufsize=0, stdin=stdin, stdout=PIPE, cwd=path.parent, env=environment, start_new_session=True)


async def _readable(fd: int) -> None:
    """Wait until there is something to read, or the end."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)


async def _status(process: Process) -> int:
    """How it has ended. One that has closed its stdout ends in a moment, as a rule."""
    pause = 0.0005
    while (status := process.poll()) is None:
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.05)
    return status


async def _end(process: Process) -> None:
    """Kill a hook and what it has started: they are a process group of their own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await plugin.in_thread(process.wait)
