"""File hooks: real scripts, good and bad."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest
import uvloop
from multidict import CIMultiDict

from tusd.builtin.file_hooks import FileDispatcher, FileHooks, executables
from tusd.errors import StartError
from tusd.hooks import EVENTS, HookEvent, HookResponse, PostFinish, PreAccess, PreCreate, PreFinish
from tusd.model import Metadata, UploadId, UploadInfo
from tusd.plugin import HookError
from tusd.protocol.messages import Head
from tusd.testing.server import ServerProcess

Start = Callable[..., ServerProcess]
HEAD = Head(
    "POST", "/files/", CIMultiDict({"x-request-id": "r1", "Host": "up.example"}), "10.0.0.9", peer_port=51544, client="10.0.0.9"
)
INFO = UploadInfo(id=UploadId("abc"), length=12, offset=5, metadata=Metadata({"name": "Grüße\n\"'".encode()}))
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "file-hooks.md"


def script(directory: Path, name: str, text: str, interpreter: str = "/bin/sh") -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!{interpreter}\n{text}")
    path.chmod(0o755)
    return path


def alive(directory: Path) -> list[str]:
    """What still runs of a hook that wrote its `pid`, and of what it has started. The dead that nobody has buried do not count."""
    group, found = (directory / "pid").read_text().strip(), []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(") ")[2].split()
            if fields[2] == group and fields[0] not in "ZX":
                found.append(stat.parent.name)
    return found


async def none_alive(directory: Path) -> None:
    """A killed process ends a moment later."""
    async with asyncio.timeout(3):
        while alive(directory):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def dispatcher(directory: Path, **options: object) -> FileDispatcher:
    return FileDispatcher(FileHooks.Options(directory=directory, **options), executables(directory))  # type: ignore[arg-type]


def event(kind: type[HookEvent] = PreCreate) -> HookEvent:
    return kind(upload=INFO, head=HEAD)


async def test_it_gets_the_event_as_go_tells_it(tmp_path: Path) -> None:
    script(tmp_path, "post-finish", 'cat > told; echo "$TUS_ID $TUS_SIZE $TUS_OFFSET $PWD" > env')
    assert await dispatcher(tmp_path).dispatch(event(PostFinish)) is None
    told = json.loads((tmp_path / "told").read_text())
    assert re.fullmatch("[0-9a-f]{32}", told.pop("DeliveryID"))
    assert told == {
        "Type": "post-finish",
        "Event": {
            "Upload": {
                "ID": "abc",
                "Size": 12,
                "SizeIsDeferred": False,
                "Offset": 5,
                "MetaData": {"name": "Grüße\n\"'"},
                "IsPartial": False,
                "IsFinal": False,
                "PartialUploads": None,
                "Storage": None,
            },
            "HTTPRequest": {
                "Method": "POST",
                "URI": "/files/",
                "RemoteAddr": "10.0.0.9:51544",
                "Header": {"X-Request-Id": ["r1"], "Host": ["up.example"]},
            },
        },
    }
    assert (tmp_path / "env").read_text() == f"abc 12 5 {tmp_path}\n"


async def test_it_gets_what_is_noted_of_the_upload(tmp_path: Path) -> None:
    script(tmp_path, "pre-access", "cat > told")
    noted = replace(INFO, notes={"owner": "Ännchen"})
    assert await dispatcher(tmp_path).dispatch(PreAccess(upload=noted, head=HEAD, access="append")) is None
    told = json.loads((tmp_path / "told").read_text())["Event"]
    assert (told["Notes"], told["Access"]) == ({"owner": "Ännchen"}, "append")


@pytest.mark.parametrize("reading", ["cat", "cat /dev/stdin", "cat - < /dev/stdin", "head -c 1000000"])
async def test_it_reads_stdin_as_it_likes(tmp_path: Path, reading: str) -> None:
    script(tmp_path, "post-finish", f"{reading} > told")
    big = replace(INFO, metadata=Metadata({"big": b"x" * 300_000}))  # more than a pipe holds
    await dispatcher(tmp_path).dispatch(PostFinish(upload=big, head=HEAD))
    assert json.loads((tmp_path / "told").read_text())["Event"]["Upload"]["MetaData"] == {"big": "x" * 300_000}


async def test_an_upload_that_does_not_exist_yet_has_no_id(tmp_path: Path) -> None:
    script(tmp_path, "pre-create", 'cat > told; echo "[$TUS_ID]" > env')
    await dispatcher(tmp_path).dispatch(event())
    assert json.loads((tmp_path / "told").read_text())["Event"]["Upload"]["ID"] == ""
    assert (tmp_path / "env").read_text() == "[]\n"


async def test_what_it_writes_is_its_answer(tmp_path: Path) -> None:
    answer = {
        "RejectUpload": True,
        "httpresponse": {"statuscode": 403, "Header": {"X-A": "1"}, "Body": "no"},
        "ChangeFileInfo": {
            "ID": "other",
            "MetaData": {"a": "ü"},
            "Storage": {"Path": "x"},
            "MaxSize": 9,
            "ExpireAfter": 60,
            "Notes": {"n": "1"},
        },
        "Unknown": [1],
    }
    script(tmp_path, "pre-create", f"cat >/dev/null; cat <<'END'\n{json.dumps(answer)}\nEND")
    found = await dispatcher(tmp_path).dispatch(event())
    assert isinstance(found, HookResponse)
    assert (found.reject, found.status, found.headers, found.body) == (True, 403, {"X-A": "1"}, "no")
    assert found.change is not None
    assert (found.change.id, found.change.storage, found.change.max_length) == ("other", {"Path": "x"}, 9)
    assert found.change.metadata == Metadata({"a": "ü".encode()})
    assert (found.change.expire_after, found.change.notes) == (60, {"n": "1"})


@pytest.mark.parametrize("text", ["true", "exit 0", "exec cat >/dev/null", "echo"])
async def test_it_need_not_read_or_answer(tmp_path: Path, text: str) -> None:
    script(tmp_path, "pre-create", text)
    big = replace(INFO, metadata=Metadata({"big": b"x" * 300_000}))  # more than a pipe holds
    assert await dispatcher(tmp_path).dispatch(PreCreate(upload=big, head=HEAD)) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo out of order; exit 3", "ended with status 3: out of order"),
        ("kill -9 $$", "ended with status -9"),
        ("echo '{'", "not JSON"),
        ("echo '[]'", "answer is a list, not an object"),
        ("""echo '{"RejectUpload": "yes"}'""", "RejectUpload is text, not true or false"),
        ("""echo '{"HTTPResponse": {"StatusCode": "4"}}'""", "StatusCode is text, not a whole number"),
        ("""echo '{"ChangeFileInfo": {"MetaData": {"a": 1}}}'""", "MetaData.a is a whole number, not text"),
        ("""echo '{"ChangeFileInfo": {"MetaData": {"a b": "1"}}}'""", "the metadata key 'a b'"),
        ("""echo '{"ChangeFileInfo": {"ExpiresAt": "tomorrow"}}'""", "ExpiresAt is not a time"),
        ("head -c 20000 /dev/zero; sleep 60", "wrote more than 10000 bytes"),
        ("sleep 60", "ran longer than 1 s"),
        ("sleep 60 & wait", "ran longer than 1 s"),
        ("sleep 60 & exit 0", "ran longer than 1 s"),
    ],
)
async def test_what_is_no_answer_is_a_failure(tmp_path: Path, text: str, message: str) -> None:
    script(tmp_path, "pre-create", f"echo $$ > pid\n{text}")
    began = time.monotonic()
    with pytest.raises(HookError, match=re.escape(message)) as caught:
        await dispatcher(tmp_path, timeout=1, size_limit=10_000).dispatch(event())
    assert not str(caught.value).endswith(": ")
    assert time.monotonic() - began < 10
    await none_alive(tmp_path)


async def test_what_is_no_program_is_a_failure(tmp_path: Path) -> None:
    path = script(tmp_path, "pre-create", "", interpreter="/nowhere/python")
    with pytest.raises(HookError, match="cannot be run"):
        await dispatcher(tmp_path).dispatch(event())
    path.unlink()


async def test_a_cancelled_event_leaves_no_process(tmp_path: Path) -> None:
    script(tmp_path, "pre-create", "echo $$ > pid; sleep 60")
    task = asyncio.create_task(dispatcher(tmp_path).dispatch(event()))
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await none_alive(tmp_path)


LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])


@LOOPS
def test_one_that_is_cancelled_at_whatever_moment_leaves_nothing(
    tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    script(tmp_path, "pre-create", "echo $$ > pid; sleep 60 & wait")

    async def cancelled(steps: int) -> None:
        task = asyncio.create_task(dispatcher(tmp_path).dispatch(event()))
        for _ in range(steps):
            await asyncio.sleep(0.001 * max(0, steps - 5))
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(cancelled(8))  # makes the loop's own threads and descriptors
        gc.collect()
        processes, descriptors = children(), len(os.listdir("/proc/self/fd"))
        for steps in range(10):
            runner.run(cancelled(steps))
        gc.collect()  # what is closed only now is an error
        assert children() == processes
        assert len(os.listdir("/proc/self/fd")) <= descriptors


def children() -> list[str]:
    """The processes that this one has started, zombies too."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = stat.read_text().rpartition(") ")
            if int(rest.split()[1]) == os.getpid():
                found.append(name)
    return found


async def test_so_many_run_at_once_and_no_more(tmp_path: Path) -> None:
    script(tmp_path, "pre-create", "echo b >> log; sleep 0.2; echo e >> log")
    hooks = dispatcher(tmp_path, concurrency=2)
    await asyncio.gather(*(hooks.dispatch(event()) for _ in range(6)))
    running = most = 0
    for line in (tmp_path / "log").read_text().split():
        running += 1 if line == "b" else -1
        most = max(most, running)
    assert (running, most) == (0, 2)


async def test_what_is_told_does_not_hold_up_what_is_asked(tmp_path: Path) -> None:
    script(tmp_path, "post-finish", "touch runs; sleep 60")
    script(tmp_path, "pre-create", "echo '{\"RejectUpload\": true}'")
    hooks = dispatcher(tmp_path, concurrency=1)
    told = asyncio.create_task(hooks.dispatch(event(PostFinish)))
    async with asyncio.timeout(5):
        while not (tmp_path / "runs").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert await hooks.dispatch(event()) == HookResponse(reject=True)
    told.cancel()
    await asyncio.wait([told])


@LOOPS
def test_what_it_leaves_running_goes_on_and_is_not_waited_for(
    tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """It has nothing of the server's, and nothing of the hook's output, on either event loop."""
    script(
        tmp_path,
        "post-finish",
        "ls -l /proc/self/fd > fds; (until test -e go; do sleep 0.02; done; touch done) > /dev/null 2>&1 < /dev/null &",
    )
    inherited = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(inherited, True)  # as what systemd or a library may have left

    async def dispatched() -> None:
        async with asyncio.timeout(20):
            assert await dispatcher(tmp_path, timeout=5).dispatch(event(PostFinish)) is None
            (tmp_path / "go").touch()
            while not (tmp_path / "done").exists():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    try:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(dispatched())
    finally:
        os.close(inherited)
    told = [line.partition(":")[2].split()[1] for line in (tmp_path / "fds").read_text().splitlines()[1:]]
    assert told == ["0", "1", "2", "3"]  # the last is the folder that ls reads


async def test_it_wants_what_is_there(tmp_path: Path) -> None:
    script(tmp_path, "pre-create", "")
    script(tmp_path, "pre-finish", "")
    script(tmp_path, "README", "")
    assert dispatcher(tmp_path).events == {PreCreate, PreFinish}
    for kind in EVENTS:
        script(tmp_path, kind.name, "")
    assert dispatcher(tmp_path).events == set(EVENTS)


def test_a_folder_or_file_that_cannot_be_used_ends_the_start(tmp_path: Path, tusd_server: Start) -> None:
    config = {"hooks": [{"use": "file", "directory": str(tmp_path / "hooks")}]}
    for expected in ("no such folder", "is not executable; chmod"):
        with pytest.raises(AssertionError, match=expected):
            tusd_server(config)
        script(tmp_path / "hooks", "pre-create", "").chmod(0o644)
    assert issubclass(StartError, Exception)


def ask(server: ServerProcess, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[HTTPResponse, str]:
    connection = HTTPConnection(server.host, server.port, timeout=20)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(
            method, path, body, {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream", **named}
        )
        answer = connection.getresponse()
        return answer, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_the_hook_of_the_page_in_a_server(tmp_path: Path, tusd_server: Start, loop: str) -> None:
    (code,) = re.findall(r'```sh title="pre-create"\n#!/bin/sh\n(.*?)```', PAGE.read_text(), re.DOTALL)
    script(tmp_path / "hooks", "pre-create", code)
    script(tmp_path / "hooks", "post-finish", "cat > finished.$TUS_ID.tmp && mv finished.$TUS_ID.tmp finished.$TUS_ID")
    server = tusd_server({"server": {"loop": loop}, "hooks": [{"use": "file", "directory": str(tmp_path / "hooks")}]})
    refused, text = ask(server, "POST", "/files/", b"hello", Upload_Length="5")
    assert (refused.status, text) == (422, "a file name is needed")
    taken, _ = ask(server, "POST", "/files/", b"hello", Upload_Length="5", Upload_Metadata="filename YQ==")
    assert taken.status == 201
    told = tmp_path / "hooks" / f"finished.{(taken.getheader('Location') or '').rpartition('/')[2]}"
    deadline = time.monotonic() + 10
    while not told.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert json.loads(told.read_text())["Event"]["Upload"]["Offset"] == 5
    assert server.stop() == 0


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_hook_heeds_signals_that_the_workers_do_not(tmp_path: Path, tusd_server: Start, loop: str) -> None:
    script(tmp_path / "hooks", "pre-create", "sed -n 's/SigIgn:\\t*//p' /proc/self/status > ignored")
    server = tusd_server(
        {"server": {"loop": loop, "workers": 2}, "hooks": [{"use": "file", "directory": str(tmp_path / "hooks")}]}
    )
    assert ask(server, "POST", "/files/", b"hello", Upload_Length="5")[0].status == 201
    ignored = int((tmp_path / "hooks" / "ignored").read_text(), 16)
    assert [one for one in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE) if ignored >> (one - 1) & 1] == []


def test_pre_finish_is_honest(tmp_path: Path, tusd_server: Start) -> None:
    """A hook that fails never passes for one that agrees: the upload is not complete until it succeeds."""
    script(tmp_path / "hooks", "pre-finish", "echo run >> runs; test -e healthy")
    server = tusd_server({"hooks": [{"use": "file", "directory": str(tmp_path / "hooks")}]})
    answer, _ = ask(server, "POST", "/files/", b"hello", Upload_Length="5")
    assert answer.status == 500
    path = "/files/" + (answer.getheader("Location") or "").rpartition("/")[2]
    assert ask(server, "HEAD", path)[0].status == 423
    assert ask(server, "GET", path)[0].status == 409
    (tmp_path / "hooks" / "healthy").touch()
    assert ask(server, "HEAD", path)[0].status == 200
    assert ask(server, "GET", path)[1] == "hello"
    assert (tmp_path / "hooks" / "runs").read_text().count("run") == 3


def test_post_receive_stops_an_upload(tmp_path: Path, tusd_server: Start) -> None:
    script(
        tmp_path / "hooks",
        "post-receive",
        """cat >/dev/null; echo '{"StopUpload": true, "HTTPResponse": {"StatusCode": 409, "Body": "enough"}}'""",
    )
    server = tusd_server(
        {"uploads": {"progress_interval": "100ms"}, "hooks": [{"use": "file", "directory": str(tmp_path / "hooks")}]}
    )
    created, _ = ask(server, "POST", "/files/", Upload_Length="1000000", Content_Type="text/plain")
    path = "/files/" + (created.getheader("Location") or "").rpartition("/")[2]
    connection = HTTPConnection(server.host, server.port, timeout=20)
    connection.putrequest("PATCH", path)
    for name, value in {"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Content-Length": "1000000"}.items():
        connection.putheader(name, value)
    connection.putheader("Content-Type", "application/offset+octet-stream")
    connection.endheaders(b"x" * 500_000)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (409, b"enough")
    connection.close()
    assert ask(server, "HEAD", path)[0].status == 404


def test_a_hook_that_hangs_holds_no_other_upload(tmp_path: Path, tusd_server: Start) -> None:
    script(tmp_path / "hooks", "pre-create", "grep -q slow && sleep 5; exit 0")
    server = tusd_server({"hooks": [{"use": "file", "directory": str(tmp_path / "hooks")}]})
    slow = HTTPConnection(server.host, server.port, timeout=20)
    slow.request("POST", "/files/", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "5", "Upload-Metadata": "slow"})
    began = time.monotonic()
    assert ask(server, "POST", "/files/", b"hello", Upload_Length="5")[0].status == 201
    assert time.monotonic() - began < 3
    slow.close()
