"""Hooks that are a function in Python, within the server's own process."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from tusd import plugin
from tusd.plugin import HookError, HookEvent, HookResponse

Function = Callable[[HookEvent], Any]


def _function(text: str) -> str:
    module, colon, name = text.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise ValueError("not the name of a function; write package.module:function")
    return text


class PythonHooks:
    """Call a function in Python, sync or async."""

    api_version = 1

    class Options(plugin.HookOptions):
        """The block in `hooks:`."""

        function: Annotated[str, AfterValidator(_function)] = "hooks:hook"
        """Which: `package.module:function`, as Python imports it. It gets the event, and may answer."""
        timeout: Annotated[plugin.Duration, Field(gt=0)] = 30
        """How long it may take before it has failed."""
        threads: Annotated[int, Field(ge=1)] = 8
        """How many calls of a function that is not `async` that ask (pre-), and how many that tell (post-), run at once in one worker, each in a thread."""

    def __init__(self, options: Options) -> None:
        self.options = options

    @plugin.hookimpl
    @asynccontextmanager
    async def open_hooks(self) -> AsyncIterator[plugin.Dispatcher]:
        """Import the function. Raises `OSError` when there is none."""
        dispatcher = PythonDispatcher(imported(self.options.function), self.options)
        try:
            yield dispatcher
        finally:
            dispatcher.close()


def imported(name: str) -> Function:
    """The function of that name. Raises `OSError`, saying what is wrong."""
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever the module does when it is imported
        raise OSError(f"{name}: {type(error).__name__}: {error}; is it on PYTHONPATH?") from error
    if not callable(found):
        raise OSError(f"{name} is not a function")
    function: Function = found
    return function


class PythonDispatcher(plugin.Dispatcher):
    """Calls one function with every event."""

    def __init__(self, function: Function, options: PythonHooks.Options) -> None:
        self.events = options.wanted
        self._function = function
        self._options = options
        # What is told never takes the places of what clients wait for.
        self._asking = ThreadPoolExecutor(options.threads, "tusd-python-hooks-asking")
        self._telling = ThreadPoolExecutor(options.threads, "tusd-python-hooks-telling")

    def close(self) -> None:
        """No event comes any more; what runs is not waited for."""
        for threads in (self._asking, self._telling):
            threads.shutdown(wait=False, cancel_futures=True)

    async def dispatch(self, event: HookEvent) -> HookResponse | None:
        try:
            async with asyncio.timeout(self._options.timeout) as limit:
                answer = await self._call(event)
        except TimeoutError:
            if not limit.expired():
                raise
            raise HookError(f"{self._options.function} took longer than {self._options.timeout:g} s") from None
        except SystemExit as error:  # it would end the event loop, and the server with it
            raise HookError(f"{self._options.function} called sys.exit, which is not for hooks: return, or raise") from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise HookError(f"{self._options.function} waited for what was cancelled") from error
        if answer is None or isinstance(answer, HookResponse):
            return answer
        return plugin.answer_from_json(answer)

    async def _call(self, event: HookEvent) -> object:
        if inspect.iscoroutinefunction(self._function):
            return await self._function(event)
        threads = self._asking if event.asked else self._telling
        answer = await asyncio.get_running_loop().run_in_executor(threads, self._called, event)
        return await answer if inspect.isawaitable(answer) else answer

    def _called(self, event: HookEvent) -> object:
        try:
            return self._function(event)
        except StopIteration as error:  # no future takes one: whoever waits would wait for ever
            raise RuntimeError("a hook raised StopIteration") from error
