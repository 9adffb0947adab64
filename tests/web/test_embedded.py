"""`tusd.web.application` inside an application of somebody else: aiohttp's own connections, another base path."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import tusd.web
from tusd.config import StartErrors
from tusd.hooks import Dispatcher, HookEvent, HookResponse, PostFinish, PreCreate

from .raw import OCTETS, Answer, Connection, chunked, patch, post, request
from .serving import LOOPS, InThread, path_of
from .test_connections import EXPECT, SIZES, eventually

KIB = 1024


class Told(Dispatcher):
    """Remembers events."""

    events = frozenset({PreCreate, PostFinish})

    def __init__(self) -> None:
        self.names: list[str] = []

    async def dispatch(self, event: HookEvent) -> HookResponse | None:
        self.names.append(event.name)
        return None


class Outer(InThread):
    """Runs an application."""

    def __init__(self, make: Callable[[], web.Application], loop: str) -> None:
        super().__init__(loop)
        self._make = make

    def connect(self, **options: Any) -> Connection:
        return Connection(self.address, **options)

    def connections(self) -> int:
        assert self.runner.server is not None
        return len(self.runner.server.connections)

    async def serve(self, stop: asyncio.Event) -> None:
        self.runner = web.AppRunner(self._make(), shutdown_timeout=5)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.address = self.runner.addresses[0]
        self.serves()
        await stop.wait()
        await self.runner.cleanup()


@web.middleware
async def marking(request: web.Request, handler: Any) -> web.StreamResponse:
    """A middleware of the outer application."""
    response: web.StreamResponse = await handler(request)
    if not response.prepared:
        response.headers["X-Outer"] = "yes"
    return response


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., Outer]]:
    """Starts applications; afterwards they are stopped, and none may have logged an error."""
    started: list[Outer] = []

    def start(make: Callable[[], web.Application]) -> Outer:
        started.append(Outer(make, str(request.param)))
        started[-1].start()
        return started[-1]

    yield start
    for outer in started:
        outer.stop()
    errors = [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert not errors, errors


def settings(directory: Path, **server: object) -> dict[str, object]:
    return {
        "server": {"run_directory": str(directory / "run"), "read_timeout": "5s", **server},
        "storage": {"use": "file", "directory": str(directory / "data")},
    }


@pytest.fixture
def outer(run: Callable[..., Outer], tmp_path: Path) -> Outer:
    """An application with uploads at /up/."""

    def make() -> web.Application:
        app = web.Application(middlewares=[marking])
        app.add_subapp("/up/", tusd.web.application(settings(tmp_path)))
        return app

    return run(make)


def create(outer: Outer, length: int, base: str = "/up/") -> str:
    with outer.connect() as connection:
        answer = connection.ask(post({"Upload-Length": length}, path=base))
        assert answer.status == 201, answer
        assert path_of(answer).startswith(base)
        return path_of(answer)


def stored(directory: Path, path: str) -> bytes:
    return (directory / "data" / path.rpartition("/")[2]).read_bytes()


@pytest.mark.parametrize("size", [0, *SIZES])
def test_whole_uploads_on_one_connection(outer: Outer, tmp_path: Path, size: int) -> None:
    body = os.urandom(size)
    with outer.connect() as connection:
        for _ in range(3):
            created = connection.ask(post({"Upload-Length": size}, path="/up/"))
            assert created["X-Outer"] == "yes", "middlewares may change small answers"
            path = path_of(created)
            assert connection.ask(patch(path, 0, body)).status == 204
            assert connection.ask(request("HEAD", path))["Upload-Offset"] == str(size)
            assert connection.ask(request("GET", path)).body == body
            assert connection.ask(patch(path, 7 + size, b"x")).status == 409
            assert stored(tmp_path, path) == body
            assert connection.ask(request("DELETE", path)).status == 204
            assert connection.ask(request("GET", "/elsewhere")).status == 404
        for method in ("OPTIONS", "POST"):
            assert connection.ask(request(method, "/up", {"Upload-Length": 1})).status in (200, 201, 204)


def test_bodies_that_are_chunked_or_pipelined(outer: Outer, tmp_path: Path) -> None:
    body = os.urandom(800 * KIB)
    path, other = create(outer, len(body)), create(outer, len(body))
    with outer.connect() as connection:
        connection.send(patch(path, 0, headers={"Transfer-Encoding": "chunked"}) + chunked(body, 5000))
        connection.send(patch(other, 0, body) + request("HEAD", other) + request("GET", path))
        assert [connection.answer().status for _ in range(2)] == [204, 204]
        assert connection.answer("HEAD")["Upload-Offset"] == str(len(body))
        assert connection.answer().body == body
    assert stored(tmp_path, path) == stored(tmp_path, other) == body


@pytest.mark.parametrize("size", SIZES)
def test_continue_is_sent_once_and_only_for_what_is_taken(outer: Outer, size: int) -> None:
    path = create(outer, size)
    with outer.connect() as connection:
        connection.send(patch(path, 0, headers=EXPECT, announce=size))
        assert connection.answer().status == 100
        assert connection.silent()
        connection.send(os.urandom(size))
        assert connection.answer().status == 204
    with outer.connect() as connection:
        connection.send(patch(path, 7, headers=EXPECT, announce=size))
        assert connection.answer().status == 409


@pytest.mark.parametrize("size", SIZES)
def test_a_request_for_the_same_upload_interrupts(outer: Outer, tmp_path: Path, size: int) -> None:
    path = create(outer, size)
    with outer.connect() as first, outer.connect() as second:
        first.send(patch(path, 0, os.urandom(size))[: -size // 2])
        eventually(size // 2, lambda: len(stored(tmp_path, path)))
        began = time.monotonic()
        assert second.ask(request("HEAD", path))["Upload-Offset"] == str(size // 2)
        assert time.monotonic() - began < 0.5
        answer = first.answer()
        assert (answer.status, answer.code, answer["Upload-Offset"]) == (423, "ERR_UPLOAD_INTERRUPTED", str(size // 2))


@pytest.mark.parametrize("size", SIZES)
def test_a_client_that_vanishes(outer: Outer, tmp_path: Path, size: int) -> None:
    path = create(outer, size)
    connection = outer.connect()
    connection.send(patch(path, 0, os.urandom(size))[: -size // 2])
    eventually(size // 2, lambda: len(stored(tmp_path, path)))
    connection.reset()
    eventually(0, outer.connections)
    with outer.connect() as again:
        assert again.ask(request("HEAD", path))["Upload-Offset"] == str(size // 2)


def test_a_download_that_is_broken_off_is_no_error(outer: Outer) -> None:
    size = 20_000 * KIB
    path = create(outer, size)
    with outer.connect() as connection:
        assert connection.ask(patch(path, 0, os.urandom(size))).status == 204
    for _ in range(3):
        reader = outer.connect(receive_buffer=4096)
        reader.send(request("GET", path))
        reader.socket.recv(10000)
        reader.reset()
    eventually(0, outer.connections)


@pytest.mark.parametrize("size", SIZES)
def test_the_outer_application_stops(outer: Outer, tmp_path: Path, size: int) -> None:
    body = os.urandom(size)
    path = create(outer, size)
    with outer.connect() as connection, outer.connect() as idle:
        assert idle.ask(request("OPTIONS", "/up/")).status == 200
        connection.send(patch(path, 0, body)[: -size // 2])
        eventually(size // 2, lambda: len(stored(tmp_path, path)))
        assert outer.stop() < 3
        answer = connection.answer()
        assert (answer.status, answer.code, answer["Upload-Offset"]) == (503, "ERR_SERVER_SHUTDOWN", str(size // 2))
        assert idle.ended()
    assert stored(tmp_path, path) == body[: size // 2]


def test_a_body_that_aiohttp_would_decode_is_refused(outer: Outer) -> None:
    path = create(outer, 5)
    with outer.connect() as connection:
        answer = connection.ask(
            request(
                "PATCH", path, {"Upload-Offset": 0, "Content-Type": OCTETS, "Content-Encoding": "gzip"}, gzip.compress(b"12345")
            )
        )
        assert (answer.status, answer.code) == (501, "ERR_NOT_IMPLEMENTED")
    with outer.connect() as connection:
        headers = {"Upload-Offset": 0, "Content-Type": OCTETS, "Content-Encoding": "identity"}
        assert connection.ask(request("PATCH", path, headers, b"12345")).status == 204


def test_a_stalled_body_times_out(run: Callable[..., Outer], tmp_path: Path) -> None:
    def make() -> web.Application:
        app = web.Application()
        app.add_subapp("/up/", tusd.web.application(settings(tmp_path, read_timeout="300ms")))
        return app

    outer = run(make)
    for size in SIZES:
        path = create(outer, size)
        with outer.connect() as connection:
            connection.send(patch(path, 0, os.urandom(size))[: -size // 2])
            answer = connection.answer()
            assert (answer.status, answer.code, answer["Upload-Offset"]) == (503, "ERR_READ_TIMEOUT", str(size // 2))


def test_mounted_within_others_and_twice(run: Callable[..., Outer], tmp_path: Path) -> None:
    """Each with its own backends and dispatchers."""
    told = [Told(), Told()]

    def make() -> web.Application:
        outermost, middle = web.Application(), web.Application()
        for name, one in zip(("a", "b"), told, strict=True):
            middle.add_subapp(f"/{name}/", tusd.web.application(settings(tmp_path / name), dispatchers=[one]))
        outermost.add_subapp("/middle", middle)
        return outermost

    outer = run(make)
    path = create(outer, 5, "/middle/a/")
    with outer.connect() as connection:
        assert connection.ask(patch(path, 0, b"hello")).status == 204
        assert connection.ask(request("HEAD", path.replace("/a/", "/b/"))).status == 404
    eventually(["pre-create", "post-finish"], lambda: told[0].names)
    assert told[1].names == []
    assert stored(tmp_path / "a", path) == b"hello"


def test_alone_with_a_configuration_file(run: Callable[..., Outer], tmp_path: Path) -> None:
    """Not mounted at all, uploads go to /."""
    file = tmp_path / "tusd.yaml"
    file.write_text(f"server: {{run_directory: '{tmp_path}/run'}}\nstorage: {{use: memory}}\nlocking: {{use: memory}}\n")
    outer = run(lambda: tusd.web.application(file))
    path = create(outer, 5, "/")
    with outer.connect() as connection:
        assert connection.ask(patch(path, 0, b"hello")).status == 204
        assert connection.ask(request("GET", path)).body == b"hello"


def test_what_is_wrong_is_said_at_once() -> None:
    with pytest.raises(StartErrors) as caught:
        tusd.web.application({"storage": {"use": "memory"}, "server": {"workers": 4, "read_timeout": "soon"}, "lock": {}})
    said = str(caught.value)
    assert 'config lock: unknown section (did you mean "locking"?)' in said
    assert "config server.read_timeout: not a duration" in said
    with pytest.raises(StartErrors, match="`memory` keeps uploads in one process"):
        tusd.web.application({"storage": {"use": "memory"}, "server": {"workers": 4}})


# --- what is beside the uploads


PLUGIN = """
from tusd import plugin

class About:
    @plugin.hookimpl
    def add_routes(self, routes):
        routes.get("/about", self.about)
        routes.get("/about/broken", self.broken, admin=True)

    async def about(self, head):
        async def pieces():
            yield head.query.encode()
            yield b"!"
        return plugin.Response(200, stream=pieces(), length=len(head.query) + 1)

    async def broken(self, head):
        raise RuntimeError("secret inner text")
"""


def get(outer: Outer, path: str, method: str = "GET", address: Any = None) -> Answer:
    with Connection(address or outer.address) as connection:
        return connection.ask(request(method, path))


def with_routes(directory: Path, **sections: object) -> dict[str, object]:
    (directory / "about.py").write_text(PLUGIN)
    return {**settings(directory), "plugins": [{"use": str(directory / "about.py")}], **sections}


def test_routes_where_the_outer_application_wants_them(run: Callable[..., Outer], tmp_path: Path) -> None:
    def make() -> web.Application:
        app, middle = web.Application(middlewares=[marking]), web.Application()
        uploads = tusd.web.application(with_routes(tmp_path))
        app.add_subapp("/up/", uploads)
        middle.add_subapp("/tusd", tusd.web.routes(uploads))
        app.add_subapp("/for/operators", middle)
        return app

    outer = run(make)
    path = create(outer, 5)
    with outer.connect() as connection:
        assert connection.ask(patch(path, 0, b"hello")).status == 204
        metrics = connection.ask(request("GET", "/for/operators/tusd/metrics"))
        assert (metrics.status, metrics["X-Outer"]) == (200, "yes")
        assert b"\ntusd_bytes_received 5\n" in metrics.body
        assert b'\ntusd_requests_total{method="PATCH"} 1\n' in metrics.body
        assert connection.ask(request("GET", "/for/operators/tusd/about?one=1")).body == b"one=1!"
        assert connection.ask(request("HEAD", "/for/operators/tusd/readyz")).status == 200
        assert connection.ask(request("GET", "/for/operators/tusd/readyz")).body == b"ok\n"
        assert connection.ask(request("GET", "/for/operators/tusd/healthz")).body == b"ok\n"
        assert connection.ask(request("DELETE", "/for/operators/tusd/about")).status == 405
        for nothing in ("/metrics", "/tusd/metrics", "/for/operators/tusd/", "/for/operators/tusd/metrics/", "/up/metrics"):
            assert connection.ask(request("GET", nothing)).status == 404
        assert connection.ask(post({"Upload-Length": 1}, path="/for/operators/tusd/")).status == 404


def test_a_bug_in_a_route(outer_with_routes: Outer, caplog: pytest.LogCaptureFixture) -> None:
    answer = get(outer_with_routes, "/tusd/about/broken")
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert answer["X-Request-ID"] in caplog.text
    caplog.clear()


@pytest.fixture
def outer_with_routes(run: Callable[..., Outer], tmp_path: Path) -> Outer:
    """An application with uploads at /up/ and what is beside them at /tusd/, which tells details."""

    def make() -> web.Application:
        app = web.Application()
        uploads = tusd.web.application(with_routes(tmp_path, health={"details": True}))
        app.add_subapp("/up/", uploads)
        app.add_subapp("/tusd/", tusd.web.routes(uploads))
        return app

    return run(make)


def test_health_with_details(outer_with_routes: Outer) -> None:
    backends = {"storage:file": {"state": "ok"}, "locking:file": {"state": "ok"}}
    assert json.loads(get(outer_with_routes, "/tusd/readyz").body) == {"status": "ok", "backends": backends}


def test_routes_on_an_address_of_their_own(run: Callable[..., Outer], tmp_path: Path) -> None:
    """They are unavailable before the uploads are served, and after."""
    uploads = tusd.web.application(with_routes(tmp_path))

    def make() -> web.Application:
        app = web.Application()
        app.add_subapp("/up/", uploads)
        return app

    class WithOperators(Outer):
        async def serve(self, stop: asyncio.Event) -> None:
            operators = web.AppRunner(tusd.web.routes(uploads))
            await operators.setup()
            await web.TCPSite(operators, "127.0.0.1", 0).start()
            self.operators = operators.addresses[0]
            self.statuses = [(await asyncio.to_thread(get, self, "/readyz", "GET", self.operators)).status]
            await super().serve(stop)
            self.statuses.append((await asyncio.to_thread(get, self, "/readyz", "GET", self.operators)).status)
            await operators.cleanup()

    outer = WithOperators(make, "asyncio")
    outer.start()
    try:
        assert get(outer, "/readyz", address=outer.operators).status == 200
        assert b"tusd_uploads_created 0" in get(outer, "/metrics", address=outer.operators).body
        assert get(outer, "/metrics").status == 404
    finally:
        outer.stop()
    assert outer.statuses == [503, 503]


def test_routes_of_another_application() -> None:
    with pytest.raises(ValueError, match=r"not an application that tusd\.web\.application has made"):
        tusd.web.routes(web.Application())
