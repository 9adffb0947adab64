"""The servers of `tests.tcp` leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings
from contextlib import suppress

import pytest

from tests.tcp import tcp_server


async def idle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("turns", range(8))
async def test_a_connection_that_comes_as_the_server_ends_is_closed(turns: int) -> None:
    """However far the loop has come with it: a task that is cancelled before its first step runs no `finally`."""
    async with tcp_server(idle) as port:
        client = socket.create_connection(("127.0.0.1", port), timeout=5)
        for _ in range(turns):
            await asyncio.sleep(0)
    client.setblocking(False)
    with client, suppress(ConnectionError):
        async with asyncio.timeout(5):
            assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
    with warnings.catch_warnings(record=True) as unclosed:
        gc.collect()
    assert not unclosed


async def test_a_client_that_reads_nothing_does_not_keep_it_open() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(bytes(1 << 20))
            await writer.drain()

    async with asyncio.timeout(5):
        async with tcp_server(flood) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.sleep(0.05)
    writer.close()


async def test_an_error_of_the_talk_is_the_test_s() -> None:
    async def wrong(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise ValueError("what came was wrong")

    with pytest.raises(ValueError, match="what came was wrong"):
        async with tcp_server(wrong) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await reader.read()
            writer.close()
