"""SIGHUP: a new generation takes over without a refused or broken request, and whatever is wrong changes nothing."""

from __future__ import annotations

import http.client
import os
import random
import re
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.server.certificates import make_pair, served
from tests.server.running import Server, serving, until

KIB = 1024


def config(workers: int = 1, server: str = "", **sections: str) -> str:
    lines = [f"server: {{workers: {workers}, shutdown_timeout: 2s, {server or 'listen: 127.0.0.1:0'}}}"]
    return "\n".join([*lines, *(f"{name}: {value}" for name, value in sections.items())]) + "\n"


def reload(server: Server, text: str | None = None) -> str:
    """Send SIGHUP, perhaps with another configuration, and wait for the outcome: the lines of the log that tell it."""
    if text is not None:
        (server.log_file.parent / "tusd.yaml").write_text(text)
    before = len(server.log)
    server.process.send_signal(signal.SIGHUP)
    until(lambda: re.search(r'INFO reloaded|"message": "reloaded"|not reloaded', server.log[before:]))
    return server.log[before:]


class Load:
    """Clients that each note what went wrong. `answered` counts requests that got the answer they should."""

    def __init__(self, server: Server, context: ssl.SSLContext | None) -> None:
        self.answered = 0
        self._context = context
        self.wrong: list[str] = []
        self._address = server.url.split("/")[2]
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def run(self, client: Callable[[], None], count: int) -> None:
        for _ in range(count):
            self._threads.append(threading.Thread(target=self._repeat, args=(client,)))
            self._threads[-1].start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in self._threads)

    def fresh(self) -> None:
        """One request on a new connection."""
        connection = self._connect()
        self._ask(connection, "POST", "/files/", 201, {"Upload-Length": "5"})
        connection.close()

    def kept(self) -> None:
        """Several on one connection, with pauses, until the server says that it is the last one."""
        connection = self._connect()
        for _ in range(50):
            if self._ask(connection, "OPTIONS", "/files/", 200).headers.get("Connection") == "close":
                break
            time.sleep(random.choice((0, 0, 0, 0.001, 0.01, 0.2)))
        connection.close()

    def upload(self) -> None:
        """A whole upload: created, appended to, asked for; its connection is made anew where the server closes it."""
        body = os.urandom(random.choice((10, 300 * KIB)))
        connection = self._connect()
        answer = self._ask(connection, "POST", "/files/", 201, {"Upload-Length": str(len(body))})
        path = "/" + answer.headers["Location"].split("/", 3)[3]
        headers = {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        self._ask(connection, "PATCH", path, 204, headers, body)
        answer = self._ask(connection, "HEAD", path, 200)
        assert answer.headers["Upload-Offset"] == str(len(body))
        connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        """One that connects again by itself after `Connection: close`."""
        if self._context is not None:
            return http.client.HTTPSConnection(self._address, timeout=10, context=self._context)
        return http.client.HTTPConnection(self._address, timeout=10)

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        status: int,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> http.client.HTTPResponse:
        connection.request(method, path, body, {"Tus-Resumable": "1.0.0", **(headers or {})})
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == status, f"{method}: {answer.status} {text!r}"
        self.answered += 1
        return answer

    def _repeat(self, client: Callable[[], None]) -> None:
        while not self._stop.is_set() and len(self.wrong) < 10:
            try:
                client()
            except Exception as error:
                self.wrong.append(f"{client.__name__}: {error!r}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loop", "workers", "tls"), [("asyncio", 1, "https"), ("asyncio", 2, "http"), ("uvloop", 1, "http"), ("uvloop", 2, "https")]
)
def test_no_request_is_lost_while_generations_change(tmp_path: Path, loop: str, workers: int, tls: str) -> None:
    pair = make_pair(tmp_path, "server") if tls == "https" else None
    listen = "'127.0.0.1:0'" if pair is None else f"{{address: '127.0.0.1:0', tls: {pair.yaml}}}"
    with serving(tmp_path, config(workers, f"listen: {listen}, loop: {loop}")) as server:
        load = Load(server, None if pair is None else pair.client())
        for client, count in ((load.fresh, 4), (load.kept, 6), (load.upload, 4)):
            load.run(client, count)
        for _ in range(3):
            assert "reloaded" in reload(server)
            time.sleep(0.3)
        load.stop()
        assert load.wrong == []
        assert load.answered > 100
        assert "reloaded generation=4" in server.log
        assert "Traceback" not in server.log
        assert server.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_an_idle_connection_may_ask_once_more(tmp_path: Path, workers: int) -> None:
    with serving(tmp_path, config(workers)) as server:
        until(lambda: server.log.count("serving") == workers)
        connection = http.client.HTTPConnection(server.url.split("/")[2], timeout=10)
        connection.request("OPTIONS", "/files/")
        first = connection.getresponse()
        first.read()
        assert first.headers.get("Connection") != "close"
        kept = connection.sock
        reload(server)
        connection.request("OPTIONS", "/files/")
        assert connection.sock is kept
        last = connection.getresponse()
        assert (last.status, last.headers["Connection"]) == (200, "close")
        connection.close()


@pytest.mark.parametrize(("loop", "workers"), [("asyncio", 1), ("uvloop", 1), ("uvloop", 2)])
def test_an_upload_that_ends_in_time_is_not_interrupted(tmp_path: Path, loop: str, workers: int) -> None:
    with serving(tmp_path, config(workers, f"listen: '127.0.0.1:0', loop: {loop}")) as server:
        body = os.urandom(1000 * KIB)
        path = server.create(len(body))
        client = server.begin_patch(path, len(body), body[:-100])
        stored = tmp_path / "data" / path.rpartition("/")[2]
        until(lambda: stored.stat().st_size == len(body) - 100)
        reload(server)
        time.sleep(0.5)
        client.sendall(body[-100:])
        assert client.makefile("rb").readline().startswith(b"HTTP/1.1 204 ")
        client.close()
        assert stored.read_bytes() == body


@pytest.mark.parametrize(("loop", "workers"), [("asyncio", 1), ("uvloop", 1), ("uvloop", 2)])
def test_an_upload_that_does_not_is_interrupted_and_resumed(tmp_path: Path, loop: str, workers: int) -> None:
    with serving(tmp_path, config(workers, f"listen: '127.0.0.1:0', loop: {loop}")) as server:
        body = os.urandom(1000 * KIB)
        path, half = server.create(len(body)), 500 * KIB
        client = server.begin_patch(path, len(body), body[:half])
        stored = tmp_path / "data" / path.rpartition("/")[2]
        until(lambda: stored.stat().st_size == half)
        began = time.monotonic()
        reload(server)
        answer = client.makefile("rb").read().decode()
        assert answer.startswith("HTTP/1.1 503 ")
        assert f"Upload-Offset: {half}\r\n" in answer
        assert time.monotonic() - began < 3
        client.close()
        assert server.request("HEAD", path).headers["Upload-Offset"] == str(half)
        headers = {"Upload-Offset": str(half), "Content-Type": "application/offset+octet-stream"}
        assert server.request("PATCH", path, headers, body[half:]).status == 204
        assert stored.read_bytes() == body


@pytest.mark.parametrize("workers", [1, 2])
def test_the_next_request_takes_an_upload_over_from_the_old_generation(tmp_path: Path, workers: int) -> None:
    """Locks hold between the generations: whoever asks the new one makes the old one let go."""
    with serving(tmp_path, config(workers)) as server:
        path = server.create(1000)
        client = server.begin_patch(path, 1000, b"x" * 400)
        until(lambda: (tmp_path / "data" / path.rpartition("/")[2]).stat().st_size == 400)
        reload(server)
        assert server.request("HEAD", path).headers["Upload-Offset"] == "400"
        assert client.makefile("rb").readline().startswith(b"HTTP/1.1 423 ")
        client.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_options_take_effect(tmp_path: Path, workers: int) -> None:
    with serving(tmp_path, config(workers)) as server:
        assert "Tus-Max-Size" not in server.request("OPTIONS", "/files/").headers
        assert re.search(r"INFO reloaded generation=2 seconds=\d+\.\d+\n", reload(server))
        said = reload(server, config(workers, uploads="{max_size: 1000}", logging="{format: json}"))
        assert '"message": "reloaded", "generation": 3, "seconds": ' in said
        assert server.request("OPTIONS", "/files/").headers["Tus-Max-Size"] == "1000"
        server.stop()
        assert '"message": "stopped"' in server.log


@pytest.mark.parametrize("workers", [1, 2])
def test_addresses_come_and_go(tmp_path: Path, workers: int) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with serving(tmp_path, config(workers, f"listen: ['127.0.0.1:0', 'unix:{one}']")) as server:
        assert connects(one)
        reload(server, config(workers, f"listen: ['unix:{two}', '127.0.0.1:0']"))
        assert connects(two)
        assert not one.exists()
        assert server.request("OPTIONS", "/files/").status == 200
        said = reload(server, config(workers, "listen: '192.0.2.1:80'"))
        assert "not reloaded: " in said
        assert "tusd.yaml:1:44 server.listen: cannot listen on 192.0.2.1:80: this host has no such address" in said
        assert connects(two)
        assert server.request("OPTIONS", "/files/").status == 200
        assert server.stop() == 0
        assert not two.exists()


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(b"OPTIONS /files/ HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        return client.makefile("rb").readline().startswith(b"HTTP/1.1 20")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_that_is_given_up_is_refused(tmp_path: Path, workers: int) -> None:
    """Also by workers that began while it was still open."""
    with serving(tmp_path, config(workers, "listen: ['127.0.0.1:0', 'localhost:0']")) as server:
        ports = [int(port) for port in re.findall(r":(\d+)/", server.said)]
        reload(server, config(workers, "listen: '127.0.0.1:0'"))
        until(lambda: server.log.count("stopped") == workers if workers > 1 else refused(ports[-1]))
        assert refused(ports[-1])
        assert not refused(ports[0])


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("server: {worker: 2}", 'tusd.yaml:1:10 server.worker: unknown option (did you mean "workers"?)'),
        ("uploads: {max_size: x}\nstorage: {use: fiel}", 'tusd.yaml:2:11 storage.use: no plugin "fiel" (did you mean "file"?)'),
        ("server: {listen: {address: 'a:1', tls: {certificate: c, key: k}}}", "tusd.yaml:1:10 server.listen: tls.certificate: "),
        ("", "tusd.yaml the file is empty"),
        ("locking: {use: file, directory: ./other}", "tusd.yaml:1:1 locking: has changed"),
        ("storage: {use: memory}", "tusd.yaml:1:1 storage: `memory` serves one generation of workers"),
        ("server: {run_directory: ./elsewhere}", "tusd.yaml:1:10 server.run_directory: has changed"),
    ],
)
def test_a_bad_file_changes_nothing(tmp_path: Path, workers: int, text: str, expected: str) -> None:
    with serving(tmp_path, config(workers)) as server:
        path = server.create(5)
        said = reload(server, text)
        lines = [line.partition(" ERROR not reloaded: ")[2] for line in said.splitlines()]
        assert any(line.removeprefix(f"{tmp_path}/").startswith(expected) for line in lines), said
        assert "INFO reloaded" not in said
        assert server.request("HEAD", path).status == 200
        assert "reloaded generation=2" in reload(server, config(workers))
        assert server.request("HEAD", path).status == 200
        assert server.stop() == 0


def test_what_lives_in_one_process_is_not_reloaded(tmp_path: Path) -> None:
    text = config(storage="{use: memory}", locking="{use: memory}")
    with serving(tmp_path, text) as server:
        path = server.create(5)
        said = reload(server)
        assert "storage: `memory` serves one generation of workers, and a reload has two for a while; restart instead" in said
        assert server.request("HEAD", path).status == 200


SLOW = '''
import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from tusd import plugin

class Slow:
    """A storage wrapper that opens, or fails, as a file says."""

    @plugin.hookimpl(wrapper=True)
    def open_storage(self):
        opening = yield
        return self.wrap(opening)

    @asynccontextmanager
    async def wrap(self, opening):
        how = Path("how").read_text()
        if how == "fail":
            raise plugin.StorageUnavailable("the disk is on strike")
        if how == "break":
            raise RuntimeError("a bug")
        if how == "hang":
            Path("hangs").touch()
            await asyncio.sleep(3600)
        async with opening as store:
            yield store
'''


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "how").write_text("good")
    return tmp_path / "how"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("how", "why"), [("fail", "the disk is on strike"), ("break", "RuntimeError: a bug")])
def test_a_generation_that_cannot_open_changes_nothing(tmp_path: Path, slow: Path, workers: int, how: str, why: str) -> None:
    one = tmp_path / "one"
    with serving(tmp_path, config(workers, plugins="[{use: ./slow.py}]")) as server:
        path = server.create(5)
        slow.write_text(how)
        said = reload(server, config(workers, f"listen: ['127.0.0.1:0', 'unix:{one}']", plugins="[{use: ./slow.py}]"))
        assert why in said
        assert "ERROR not reloaded" in said
        until(lambda: not one.exists())
        assert server.request("HEAD", path).status == 200
        slow.write_text("good")
        assert "reloaded generation=2" in reload(server)
        assert server.request("HEAD", path).status == 200
        assert server.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_while_a_generation_opens(tmp_path: Path, slow: Path, workers: int) -> None:
    with serving(tmp_path, config(workers, plugins="[{use: ./slow.py}]")) as server:
        slow.write_text("hang")
        server.process.send_signal(signal.SIGHUP)
        until((tmp_path / "hangs").exists)
        assert server.request("OPTIONS", "/files/").status == 200
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 2
        assert "Traceback" not in server.log


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_while_the_old_generation_drains(tmp_path: Path, workers: int) -> None:
    with serving(tmp_path, config(workers).replace("shutdown_timeout: 2s", "shutdown_timeout: 12s")) as server:
        path = server.create(1000)
        client = server.begin_patch(path, 1000, b"x" * 600)
        until(lambda: (tmp_path / "data" / path.rpartition("/")[2]).stat().st_size == 600)
        reload(server)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 4
        assert client.makefile("rb").readline().startswith(b"HTTP/1.1 503 ")
        client.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_signals_that_come_while_it_reloads_are_one(tmp_path: Path, workers: int) -> None:
    with serving(tmp_path, config(workers)) as server:
        reload(server)
        (tmp_path / "tusd.yaml").write_text(config(workers, uploads="{max_size: 77}"))
        for _ in range(20):
            server.process.send_signal(signal.SIGHUP)
            time.sleep(0.01)
        until(lambda: "reloaded generation=3" in server.log)
        time.sleep(3.5)
        assert 2 <= server.log.count("INFO reloaded") <= 4
        assert server.request("OPTIONS", "/files/").headers["Tus-Max-Size"] == "77"


def test_the_number_of_workers_follows(tmp_path: Path) -> None:
    with serving(tmp_path, config(2)) as server:
        until(lambda: server.log.count("serving") == 2)
        for workers in (3, 1, 2):
            before = len(server.log)
            reload(server, config(workers))
            assert server.log[before:].count("INFO serving") == workers
        until(lambda: server.log.count("stopped") == 2 + 3 + 1)


def test_what_waits_for_a_restart_is_said(tmp_path: Path) -> None:
    with serving(tmp_path, config(1, "listen: '127.0.0.1:0', loop: asyncio")) as server:
        said = reload(server, config(2, "listen: '127.0.0.1:0', loop: uvloop", uploads="{max_size: 5}"))
        assert "WARNING server.workers takes effect with a restart only" in said
        assert "WARNING server.loop takes effect with a restart only" in said
        assert server.request("OPTIONS", "/files/").headers["Tus-Max-Size"] == "5"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_certificate_is_read_again(tmp_path: Path, workers: int) -> None:
    pair = make_pair(tmp_path, "server")
    with serving(tmp_path, config(workers, f"listen: {{address: '127.0.0.1:0', tls: {pair.yaml}}}")) as server:
        host, _, port = server.url.split("/")[2].partition(":")
        old = served((host, int(port)))
        make_pair(tmp_path, "new").move_to(pair)
        reload(server)
        assert served((host, int(port)), pair.client()) != old
        assert "certificate changed" not in server.log


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_or_process_that_leaves_leaks_nothing(tmp_path: Path, workers: int) -> None:
    with serving(tmp_path, config(workers)) as server:
        descriptors = Path(f"/proc/{server.process.pid}/fd")
        if not descriptors.exists():
            pytest.skip("needs /proc to count open files")
        least = 1000
        for round in range(4):
            reload(server)
            time.sleep(1.5)
            least = min(least, len(list(descriptors.iterdir()))) if round < 2 else least
            server.create(5)
        until(lambda: len(list(descriptors.iterdir())) <= least)  # the connection of the last request ends a moment later
