"""A function as a hook: sync, async, slow, wrong."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict
from pydantic import ValidationError

from tusd.builtin.python_hooks import PythonDispatcher, PythonHooks, imported
from tusd.hooks import DEFAULT_EVENTS, Changes, HookEvent, HookResponse, PostFinish, PreAccess, PreCreate
from tusd.model import Metadata, UploadId, UploadInfo
from tusd.plugin import HookError
from tusd.protocol.messages import Head
from tusd.testing.server import ServerProcess

EVENT = PreCreate(upload=UploadInfo(id=UploadId("abc"), length=5), head=Head("POST", "/files/", CIMultiDict()))


@contextmanager
def calling(function: Callable[[HookEvent], Any], **options: object) -> Iterator[PythonDispatcher]:
    one = PythonDispatcher(function, PythonHooks.Options(**options))  # type: ignore[arg-type]
    try:
        yield one
    finally:
        one.close()


async def test_a_function_runs_in_a_thread_and_a_coroutine_in_the_loop() -> None:
    where: list[str] = []

    def sync(event: HookEvent) -> None:
        where.append(threading.current_thread().name)

    async def coroutine(event: HookEvent) -> None:
        where.append(threading.current_thread().name)

    with calling(sync) as one, calling(coroutine) as other:
        assert await one.dispatch(EVENT) is None
        assert await other.dispatch(EVENT) is None
    assert where[0] != where[1] == "MainThread"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, None),
        (HookResponse(reject=True, status=402), HookResponse(reject=True, status=402)),
        ({"RejectUpload": True, "HTTPResponse": {"StatusCode": 402}}, HookResponse(reject=True, status=402)),
        ({"ChangeFileInfo": {"MaxSize": 7}}, HookResponse(change=Changes(max_length=7))),
        ({}, HookResponse()),
    ],
)
async def test_what_it_returns_is_the_answer(answer: object, expected: HookResponse | None) -> None:
    with calling(lambda event: answer) as one:
        assert await one.dispatch(EVENT) == expected


@pytest.mark.parametrize("answer", [True, "no", [], {"RejectUpload": 1}])
async def test_what_is_no_answer_is_a_failure(answer: object) -> None:
    with calling(lambda event: answer) as one, pytest.raises(HookError, match=r"a hook's answer\S* is"):
        await one.dispatch(EVENT)


async def test_one_that_takes_too_long_has_failed() -> None:
    async def slow(event: HookEvent) -> None:
        await asyncio.sleep(60)

    with calling(slow, timeout=0.05) as one, pytest.raises(HookError, match=r"hooks:hook took longer than 0.05 s"):
        await one.dispatch(EVENT)


async def test_its_own_time_out_is_not_ours() -> None:
    async def own(event: HookEvent) -> None:
        raise TimeoutError("of its own")

    with calling(own) as one, pytest.raises(TimeoutError, match="of its own"):
        await one.dispatch(EVENT)


@pytest.mark.parametrize("raised", [SystemExit(1), StopIteration(), asyncio.CancelledError()])
@pytest.mark.parametrize("is_async", [False, True])
async def test_what_python_itself_raises_has_failed_at_once(raised: BaseException, is_async: bool) -> None:
    """It neither ends the event loop, nor passes for a cancellation of the request, nor is waited for in vain."""

    def sync(event: HookEvent) -> None:
        raise raised

    async def coroutine(event: HookEvent) -> None:
        raise raised

    with calling(coroutine if is_async else sync) as one:
        async with asyncio.timeout(5):
            with pytest.raises((HookError, RuntimeError), match=r"sys\.exit|StopIteration|was cancelled"):
                await one.dispatch(EVENT)


async def test_a_cancellation_of_the_request_is_one() -> None:
    async def slow(event: HookEvent) -> None:
        await asyncio.sleep(60)

    with calling(slow) as one:
        task = asyncio.create_task(one.dispatch(EVENT))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def test_what_is_told_does_not_hold_up_what_is_asked() -> None:
    ended = threading.Event()

    def hook(event: HookEvent) -> HookResponse | None:
        if isinstance(event, PostFinish):
            ended.wait(30)
        return HookResponse(reject=True)

    with calling(hook, threads=1) as one:
        told = asyncio.create_task(one.dispatch(PostFinish(upload=EVENT.upload, head=EVENT.head)))
        await asyncio.sleep(0.01)
        try:
            async with asyncio.timeout(5):
                assert await one.dispatch(EVENT) == HookResponse(reject=True)
        finally:
            ended.set()
            await told


def test_it_gets_the_usual_events_unless_told_otherwise() -> None:
    with calling(lambda event: None) as usual, calling(lambda event: None, events=["pre-access"]) as chosen:
        assert usual.events == DEFAULT_EVENTS
        assert chosen.events == {PreAccess}


@pytest.mark.parametrize("name", ["", "hooks", "a b:c", "hooks:", ":hook", "./hooks.py:hook"])
def test_what_cannot_be_a_function_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=r"package\.module:function"):
        PythonHooks.Options(function=name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("not_here_at_all:hook", "No module named"),
        ("json:missing", "no attribute 'missing'"),
        ("sys:path", "is not a function"),
    ],
)
def test_what_cannot_be_imported_is_said(name: str, message: str) -> None:
    with pytest.raises(OSError, match=message):
        imported(name)
    assert sys.path


HOOKS = """
from tusd.plugin import Changes, HookResponse, PostFinish, PreCreate

def hook(event):
    match event:
        case PreCreate(upload=info) if "owner" not in info.metadata:
            raise ValueError("secret reason")
        case PreCreate(upload=info):
            return HookResponse(change=Changes(id="of-" + info.metadata.text()["owner"]), headers={"X-Seen": "1"})
        case PostFinish(upload=info):
            open("finished", "a").write(info.id)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_in_a_server(tmp_path: Path, tusd_server: Callable[..., ServerProcess], workers: int) -> None:
    (tmp_path / "my_hooks.py").write_text(HOOKS)
    config = {"server": {"workers": workers}, "hooks": [{"use": "python", "function": "my_hooks:hook"}]}
    server = tusd_server(config, env={"PYTHONPATH": str(tmp_path)}, tracebacks=True)

    def create(**headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection(server.host, server.port, timeout=10)
        given = {"Tus-Resumable": "1.0.0", "Upload-Length": "5", "Content-Type": "application/offset+octet-stream", **headers}
        connection.request("POST", "/files/", b"hello", given)
        answer = connection.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return found

    status, headers, _ = create(**{"Upload-Metadata": "owner YW5uYQ=="})
    assert (status, headers["X-Seen"]) == (201, "1")
    assert headers["Location"].endswith("/files/of-anna")
    status, _, body = create()
    assert status == 500
    assert b"secret" not in body
    assert "ValueError: secret reason" in server.log
    deadline = time.monotonic() + 10
    finished = server.directory / "finished"
    while not finished.exists() or finished.read_text() != "of-anna":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert server.stop() == 0


async def test_the_function_of_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "howto" / "python-hooks.md").read_text()
    (code,) = re.findall(r'```python title="my_hooks.py"\n(.*?)```', page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    with calling(names["hook"]) as one:
        assert await one.dispatch(EVENT) == HookResponse(reject=True, status=422, body="a file name is needed\n")
        named = replace(EVENT, upload=replace(EVENT.upload, metadata=Metadata({"filename": b"a"})))
        assert await one.dispatch(named) == HookResponse(change=Changes(expire_after=3600))
