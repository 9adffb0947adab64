"""Run a function in another Python process, with the plugin opened there through the door; and kill that process.

The other process is `python -m tusd.testing.elsewhere`. It reads what to do, pickled, from stdin; the lines that the function
prints come back one by one, its result as the last of them.
"""

from __future__ import annotations

import asyncio
import base64
import os
import pickle
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from .door import Door

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

RESULT = "result: "
PATIENCE = 60
"""Seconds after which the other process is taken to be stuck."""


class Elsewhere:
    """The other process, as a context manager; it is killed at the end, if it still runs.

    `function` is a coroutine function of a module that can be imported; it gets what the door opened, and `args`."""

    def __init__(self, door: Door[Any], function: Callable[..., Awaitable[object]], *args: object) -> None:
        self._job = pickle.dumps((door, function, args))
        self._lines: list[str] = []

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            __name__,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
            limit=2**24,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(self._job)
        self._process.stdin.close()
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._rest()

    async def said(self, line: str) -> None:
        """Wait until the function prints this line."""
        async with asyncio.timeout(PATIENCE):
            while not self._lines or self._lines[-1] != line:
                assert self._process.stdout is not None
                read = await self._process.stdout.readline()
                assert read, f"the other process ended before it said {line!r}; its error stands above"
                self._lines.append(read.decode().rstrip())

    async def kill(self) -> list[str]:
        """Kill the process (SIGKILL); returns all lines that it printed."""
        if self._process.returncode is None:
            self._process.kill()
        await self._rest()
        return self._lines

    async def result(self) -> Any:
        """Wait for the end; what the function returned. Raises `AssertionError` when it failed."""
        await self._rest()
        assert self._lines and self._lines[-1].startswith(RESULT), "the other process failed; its error stands above"
        return pickle.loads(base64.b64decode(self._lines[-1].removeprefix(RESULT)))

    async def _rest(self) -> None:
        async with asyncio.timeout(PATIENCE):
            out, _ = await self._process.communicate()
        complete = out.decode().rpartition("\n")[0]  # a killed process may leave half a line
        self._lines += complete.splitlines()


async def run_elsewhere(
    door: Door[T], function: Callable[Concatenate[T, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
) -> R:
    """What `function` returns in a fresh process."""
    assert not kwargs, "hand everything over by position"
    async with Elsewhere(door, function, *args) as other:
        result: R = await other.result()
        return result


async def _main() -> None:
    door, function, args = pickle.load(sys.stdin.buffer)
    async with door.open() as opened:
        result = await function(opened, *args)
    print(RESULT + base64.b64encode(pickle.dumps(result)).decode(), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
