"""server/worker.py: a server that serves, stops in order, and says so in its log."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.server.running import TUSD, Server, serving, tusd, until


def config(workers: int = 1, server: str = "", **sections: str) -> str:
    lines = [f"server: {{listen: '127.0.0.1:0', workers: {workers}, {server}}}"]
    return "\n".join([*lines, *(f"{name}: {value}" for name, value in sections.items())])


def answer(client: socket.socket) -> bytes:
    """The status line of the answer that comes."""
    with client.makefile("rb") as stream:
        return stream.readline()


def offset_after_restart(directory: Path, path: str) -> int:
    with serving(directory, config()) as server:
        return int(server.request("HEAD", path).headers["Upload-Offset"])


@pytest.mark.parametrize(
    ("loop", "workers", "number"),
    [("asyncio", 1, signal.SIGTERM), ("uvloop", 1, signal.SIGINT), ("asyncio", 2, signal.SIGINT), ("uvloop", 2, signal.SIGTERM)],
)
def test_a_signal_stops_in_order(tmp_path: Path, loop: str, workers: int, number: signal.Signals) -> None:
    with serving(tmp_path, config(workers, f"loop: {loop}")) as server:
        server.create(5)
        assert server.stop(number) == 0
        assert f"stopping signal={number.name}" in server.log
        assert server.log.count("INFO stopped") == workers
        assert "Traceback" not in server.log
        with pytest.raises(ConnectionRefusedError):
            server.request("OPTIONS", "/files/")


@pytest.mark.parametrize(("loop", "workers"), [("asyncio", 1), ("uvloop", 1), ("uvloop", 2)])
def test_a_stop_interrupts_uploads_and_keeps_their_bytes(tmp_path: Path, loop: str, workers: int) -> None:
    with serving(tmp_path, config(workers, f"loop: {loop}")) as server:
        path = server.create(1000)
        client = server.begin_patch(path, 1000, b"x" * 600)
        data = tmp_path / "data" / path.rpartition("/")[2]
        until(lambda: data.stat().st_size == 600)
        assert server.stop() == 0
        assert answer(client).startswith(b"HTTP/1.1 503 ")
        client.close()
    assert offset_after_restart(tmp_path, path) == 600


HOOK = '''
import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from tusd import plugin

class Thoughtful(plugin.Dispatcher):
    """Takes its time to allow an upload."""

    events = frozenset({plugin.PreCreate})

    async def dispatch(self, event):
        Path("asked").touch()
        await asyncio.sleep(1.5)

class Hooks:
    """Open it."""

    @plugin.hookimpl
    @asynccontextmanager
    async def open_hooks(self):
        yield Thoughtful()
'''


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_lets_requests_end_and_takes_no_others(tmp_path: Path, workers: int) -> None:
    (tmp_path / "hook.py").write_text(HOOK)
    with serving(tmp_path, config(workers, hooks="[{use: './hook.py:Hooks'}]"), "-c", "tusd.yaml") as server:
        with ThreadPoolExecutor() as threads:
            created = threads.submit(server.create, 5)
            until((tmp_path / "asked").exists)
            server.process.terminate()
            until(lambda: refused(server))
            assert not created.done()
            assert created.result(15).startswith("/files/")
        assert server.process.wait(15) == 0


def refused(server: Server) -> bool:
    """Whether a new connection is refused."""
    try:
        server.request("OPTIONS", "/files/")
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass  # accepted just before the end
    return False


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, config(server="shutdown_timeout: 30s", plugins="[{use: ./slow.py}]"), "-c", "tusd.yaml") as server:
        server.process.terminate()
        until(lambda: "stopping" in server.log)
        assert server.stop() == -signal.SIGTERM


@pytest.fixture(autouse=True)
def slow_plugin(tmp_path: Path) -> None:
    """A storage wrapper that takes an hour to close."""
    (tmp_path / "slow.py").write_text(
        '''
import asyncio
from contextlib import asynccontextmanager
from tusd import plugin

class Slow:
    """Takes its time to close."""

    @plugin.hookimpl(wrapper=True)
    def open_storage(self):
        opening = yield
        return self.wrap(opening)

    @asynccontextmanager
    async def wrap(self, opening):
        async with opening as store:
            yield store
            await asyncio.sleep(3600)  # reached without `finally`: a stop is no exception to plugins
'''
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_a_plugin_that_does_not_close_holds_nobody_up(tmp_path: Path, workers: int) -> None:
    with serving(tmp_path, config(workers, "shutdown_timeout: 0", plugins="[{use: ./slow.py}]")) as server:
        assert server.stop() == 1
        assert "a plugin did not close in time" in server.log


@pytest.mark.parametrize("workers", [1, 2])
def test_a_thread_that_never_ends_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    (tmp_path / "hanging.py").write_text("import time\n\ndef hook(event):\n    time.sleep(3600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    hooks = "[{use: python, function: 'hanging:hook', events: [post-finish], timeout: 100ms}]"
    with serving(tmp_path, config(workers, "shutdown_timeout: 0", hooks=hooks)) as server:
        server.create(0)
        until(lambda: "took longer than 0.1 s" in server.log)
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 10
        assert server.log.count("INFO stopped") == workers


def test_a_stop_while_plugins_open_ends_the_start(tmp_path: Path) -> None:
    text = (tmp_path / "slow.py").read_text()
    (tmp_path / "slow.py").write_text(
        text.replace(
            "async with opening", "print('opening', flush=True)\n        await asyncio.sleep(3600)\n        async with opening"
        )
    )
    (tmp_path / "tusd.yaml").write_text(config(plugins="[{use: ./slow.py}]"))
    process = subprocess.Popen(
        [*TUSD, "-c", "tusd.yaml"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "opening\n"
    process.terminate()
    said, log = process.communicate(timeout=15)
    assert process.returncode == 0
    assert said == ""
    assert "Traceback" not in log


def test_a_killed_worker_is_replaced_while_the_others_serve(tmp_path: Path) -> None:
    with serving(tmp_path, config(2)) as server:
        path = server.create(5)
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        if not children.exists():
            pytest.skip("needs /proc to find the workers of a server")
        until(lambda: server.log.count("serving") == 2)
        before = children.read_text().split()
        os.kill(int(before[0]), signal.SIGKILL)
        until(lambda: len(now := children.read_text().split()) == 2 and before[0] not in now)
        assert "worker ended; another takes its place" in server.log
        for _ in range(20):
            assert server.request("HEAD", path).status == 200
        assert server.stop() == 0


@pytest.mark.parametrize(("loop", "workers"), [("asyncio", 1), ("uvloop", 1), ("uvloop", 2)])
def test_unix_socket(tmp_path: Path, loop: str, workers: int) -> None:
    path = tmp_path / "tusd.sock"
    with serving(tmp_path, f"server: {{listen: 'unix:{path}', loop: {loop}, workers: {workers}}}") as server:
        assert server.url == f"unix:{path}:/files/"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"OPTIONS /files/ HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            assert answer(client).startswith(b"HTTP/1.1 20")
        assert server.stop() == 0
    assert not path.exists()


def test_unix_socket_survives_the_end_of_one_worker(tmp_path: Path) -> None:
    path = tmp_path / "tusd.sock"
    with serving(tmp_path, f"server: {{listen: 'unix:{path}', workers: 2, loop: asyncio}}") as server:
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        if not children.exists():
            pytest.skip("needs /proc to find the workers of a server")
        until(lambda: server.log.count("serving") == 2)
        os.kill(int(children.read_text().split()[1]), signal.SIGTERM)
        until(lambda: "worker ended" in server.log)
        assert path.exists()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_json_log(tmp_path: Path) -> None:
    with serving(tmp_path, config(2, logging="{format: json}")) as server:
        until(lambda: server.log.count("serving") == 2)
        server.stop()
        events = [json.loads(line) for line in server.log.splitlines()]
    found = sorted((event["message"], event.get("worker")) for event in events)
    assert found == [("serving", 0), ("serving", 1), ("stopped", 0), ("stopped", 1), ("stopping", None)]


def test_log_level(tmp_path: Path) -> None:
    with serving(tmp_path, config(logging="{level: error}")) as server:
        server.stop()
        assert server.log == ""


def test_the_log_never_shows_an_upload_url(tmp_path: Path) -> None:
    with serving(tmp_path, config(logging="{level: debug}")) as server:
        path = server.create(5)
        (tmp_path / "data" / path.rpartition("/")[2]).unlink()
        server.request("HEAD", path)
        headers = {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        server.request("PATCH", path, headers, b"12345")
        server.stop()
        assert path.rpartition("/")[2] not in server.log


def test_uvloop_that_is_missing_is_said_when_it_is_asked_for(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "uvloop.py").write_text("raise ImportError('no uvloop here')")
    (tmp_path / "tusd.yaml").write_text(config(server="loop: uvloop"))
    result = tusd("-c", "tusd.yaml", cwd=tmp_path, env={"PYTHONPATH": str(hidden)})
    assert result.stderr == ("server.loop: uvloop cannot be imported (no uvloop here); try: pip install uvloop, or choose auto\n")
    assert result.returncode == 2


def test_a_closed_stderr_and_stdout_disturb_nobody(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    (tmp_path / "tusd.yaml").write_text("server: {listen: 'unix:./s.sock'}\nlogging: {level: debug}\n")
    process = subprocess.Popen([*TUSD, "-c", "tusd.yaml"], cwd=tmp_path, stdout=writing, stderr=writing)
    os.close(writing)
    os.close(reading)
    until((tmp_path / "s.sock").exists)
    until(lambda: _serves(tmp_path / "s.sock"))
    process.terminate()
    assert process.wait(15) == 0


def _serves(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        try:
            client.connect(str(path))
        except ConnectionRefusedError:  # it is bound, and listens in a moment
            return False
        client.sendall(b"OPTIONS /files/ HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        return answer(client).startswith(b"HTTP/1.1 20")
