"""`Site.stop`: running appends end within the time-out, with their bytes kept and an answer; open connections may ask until the end."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from tusd.hooks import HookEvent, HookResponse, PreFinish

from .conftest import Serve
from .raw import patch, request
from .serving import Served
from .test_handover import SlowFinish

KIB = 1024


class VerySlowFinish(SlowFinish):
    """Takes long enough to do something else meanwhile, on a slow machine, too."""

    async def dispatch(self, event: HookEvent) -> HookResponse | None:
        await asyncio.sleep(2)
        return None


@pytest.mark.parametrize("size", [100 * KIB, 4000 * KIB])
def test_a_running_append_is_told_to_come_again(server: Served, size: int) -> None:
    body = os.urandom(size)
    path = server.create(size)
    with server.connect() as connection:
        connection.send(patch(path, 0, body)[: -size // 2])
        server.wait_for_offset(path, size // 2)
        assert server.stop() < 3
        answer = connection.answer()
        assert (answer.status, answer.code, answer["Upload-Offset"]) == (503, "ERR_SERVER_SHUTDOWN", str(size // 2)), answer
        assert answer["Retry-After"] == "1"
        assert answer.closes
        assert connection.ended()
    assert server.stored(path) == body[: size // 2]


@pytest.mark.parametrize("size", [100 * KIB, 4000 * KIB])
def test_a_client_that_goes_on_sending_can_read_why(server: Served, size: int) -> None:
    body = os.urandom(size)
    path = server.create(100 * size)
    with server.connect() as connection:
        connection.send(patch(path, 0, body, announce=100 * size))
        server.wait_for_offset(path, size)
        server.begin_stop()
        connection.send_as_far_as_it_goes(body * 20)
        time.sleep(0.2)
        connection.send_as_far_as_it_goes(body * 20)
        assert connection.answer().status == 503
    stored = server.stored(path)
    assert stored[:size] == body


def test_idle_connections_are_closed_and_new_ones_refused(server: Served) -> None:
    with server.connect() as idle, server.connect() as fresh:
        assert idle.ask(request("OPTIONS", "/files/")).status == 200
        fresh.send(b"HEAD /fil")
        assert server.stop() < 2
        assert idle.ended()
        assert fresh.ended()
    with pytest.raises(ConnectionRefusedError):
        server.connect()


@pytest.mark.parametrize(("method", "status"), [("OPTIONS", 200), ("HEAD", 200), ("GET", 200), ("DELETE", 204)])
def test_what_is_asked_on_open_connections_is_answered_until_the_end(serve: Serve, method: str, status: int) -> None:
    server = serve(dispatchers=[VerySlowFinish()])
    path, other = server.create(5), server.create(0)
    with server.connect() as busy, server.connect() as idle, server.connect() as fresh:
        assert idle.ask(request("OPTIONS", "/files/")).status == 200
        busy.send(patch(path, 0, b"hello"))
        server.wait_for_offset(path, 5)
        server.begin_stop()
        until_refused(server)
        for connection in (idle, fresh):
            answer = connection.ask(request(method, "/files/" if method == "OPTIONS" else other))
            assert (answer.status, answer.closes) == (404 if connection is fresh and method == "DELETE" else status, True), answer
            assert connection.ended()
        assert busy.silent(0)
        assert busy.answer().status == 204


def test_an_append_that_comes_too_late_is_told_to_come_again(serve: Serve) -> None:
    server = serve(dispatchers=[VerySlowFinish()])
    path, other = server.create(5), server.create(1000 * KIB)
    with server.connect() as busy, server.connect() as late:
        busy.send(patch(path, 0, b"hello"))
        server.wait_for_offset(path, 5)
        server.begin_stop()
        until_refused(server)
        late.send(patch(other, 0, os.urandom(1000 * KIB))[:-5])
        answer = late.answer()
        assert (answer.status, answer.code, answer["Upload-Offset"]) == (503, "ERR_SERVER_SHUTDOWN", "0")
        assert answer.closes


def test_idle_connections_hold_nobody_up(serve: Serve) -> None:
    server = serve()
    with server.connect() as idle:
        assert idle.ask(request("OPTIONS", "/files/")).status == 200
        assert server.stop() < 1
        assert idle.ended()


def until_refused(server: Served) -> None:
    """Until it stops accepting."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            server.connect().close()
        except (ConnectionRefusedError, ConnectionResetError):
            return
    raise AssertionError("it goes on accepting")


def test_a_request_without_a_body_is_answered(serve: Serve) -> None:
    """A PATCH that has all its bytes and asks a slow hook ends in order."""
    server = serve(dispatchers=[SlowFinish()])
    assert PreFinish in SlowFinish.events
    path = server.create(5)
    with server.connect() as connection:
        connection.send(patch(path, 0, b"hello"))
        server.wait_for_offset(path, 5)
        server.begin_stop()
        answer = connection.answer()
        assert (answer.status, answer["Upload-Offset"]) == (204, "5")
        assert connection.ended()


def test_a_download_that_nobody_reads_does_not_hold_the_end_up(server: Served) -> None:
    path = server.upload(os.urandom(20_000 * KIB))
    with server.connect(receive_buffer=4096) as connection:
        connection.send(request("GET", path))
        time.sleep(0.1)
        assert server.stop(timeout=0.5) < 5


def test_many_running_appends(server: Served) -> None:
    size = 1000 * KIB
    body = os.urandom(size)
    paths = [server.create(size) for _ in range(50)]
    connections = [server.connect() for _ in paths]
    for connection, path in zip(connections, paths, strict=True):
        connection.send(patch(path, 0, body)[: -size // 2])
    for path in paths:
        server.wait_for_offset(path, size // 2)
    assert server.stop() < 4
    for connection, path in zip(connections, paths, strict=True):
        assert connection.answer()["Upload-Offset"] == str(size // 2)
        connection.close()
        assert server.stored(path) == body[: size // 2]


@pytest.mark.parametrize("sends", [b"", b"HEAD /fil", request("OPTIONS", "/files/")])
def test_connections_accepted_in_the_instant_of_the_stop_do_not_hang(serve: Serve, sends: bytes) -> None:
    """While a slow hook holds the end up: the connections were made, and are accepted in the turn of the event loop that stops. Those that ask
    are answered; those that do not end with the last answer."""
    server = serve(dispatchers=[SlowFinish()])
    path = server.create(5)
    with server.connect() as busy:
        busy.send(patch(path, 0, b"hello"))
        server.wait_for_offset(path, 5)
        server.loop.call_soon_threadsafe(time.sleep, 0.2)
        time.sleep(0.05)
        late = [server.connect() for _ in range(20)]
        for connection in late:
            connection.send(sends)
        server.begin_stop()
        began = time.monotonic()
        for connection in late:
            connection.socket.settimeout(3)
            try:
                if sends.endswith(b"\r\n\r\n"):
                    assert connection.answer().status == 200
                assert connection.ended()
            except ConnectionResetError:
                pass  # it was not accepted yet
            connection.close()
        assert time.monotonic() - began < 2, "they are open still"
        assert busy.answer().status == 204
