"""104 (Upload Resumption Supported) to clients that do not read."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import cast

import pytest
from aiohttp import HttpVersion, HttpVersion10, HttpVersion11, web
from tests.protocol.heads import head, info

from tusd.protocol.ietf import INTEROP, Ietf
from tusd.protocol.messages import Announced, Progress
from tusd.protocol.rules import Policy
from tusd.protocol.urls import Origins
from tusd.web.interim import Interim

PROGRESS = b"HTTP/1.1 104 Upload Resumption Supported\r\nUpload-Offset: 5\r\nUpload-Draft-Interop-Version: 8\r\n\r\n"


class Pair:
    """Two ends of a connection: the server's transport and the client's socket."""

    def __init__(self, transport: asyncio.Transport, client: socket.socket) -> None:
        self.transport = transport
        self.client = client

    def interim(self, version: HttpVersion = HttpVersion11) -> Interim:
        request = cast(web.BaseRequest, SimpleNamespace(transport=self.transport, version=version))
        return Interim(request, Ietf(Policy(), Origins()), head("POST", headers={INTEROP: "8"}, tus=False))

    async def received(self) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(loop.sock_recv(self.client, 1 << 20), 0.2)
        except TimeoutError:
            return b""


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    server, client = socket.socketpair()
    client.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=server)
    with client:
        yield Pair(transport, client)
        transport.abort()
        await asyncio.sleep(0)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tusd.web.interim._EVERY", 0.0)


@pytest.mark.usefixtures("often")
async def test_progress_is_dropped_while_the_client_does_not_read(pair: Pair) -> None:
    interim = pair.interim()
    interim(Progress(5))
    assert await pair.received() == PROGRESS
    while not pair.transport.get_write_buffer_size():
        pair.transport.write(bytes(65536))
    waiting = pair.transport.get_write_buffer_size()
    for _ in range(1000):
        interim(Progress(5))
    assert pair.transport.get_write_buffer_size() == waiting
    interim(Announced(info()))  # once a request, and the client cannot do without
    assert pair.transport.get_write_buffer_size() > waiting


async def test_of_progress_there_is_one_a_second(pair: Pair) -> None:
    interim = pair.interim()
    interim(Progress(5))
    assert await pair.received() == b""
    interim._next = 0
    interim(Progress(5))
    interim(Progress(6))
    assert await pair.received() == PROGRESS


@pytest.mark.usefixtures("often")
async def test_nothing_goes_to_old_clients_and_to_those_that_are_gone(pair: Pair) -> None:
    old = pair.interim(HttpVersion10)
    old(Announced(info()))
    old(Progress(5))
    assert await pair.received() == b""
    pair.transport.close()
    pair.interim()(Announced(info()))
    assert await pair.received() == b""
