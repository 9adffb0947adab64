"""TCP servers that speak as a test likes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[object, object, None]]


@asynccontextmanager
async def tcp_server(talk: Talk, host: str = "127.0.0.1", **options: object) -> AsyncIterator[int]:
    """Let `talk` have each connection to a free port, which is yielded, and close it when `talk` returns.

    `options` go to `asyncio.start_server`. At the end nothing is left: neither a connection that has come at the last moment nor a
    task. Then an error of `talk` is raised, unless it says that somebody has gone.
    """
    connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
    over = False

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if over:
            writer.transport.abort()
            return
        task = asyncio.create_task(talk(reader, writer))
        connections[task] = writer
        task.add_done_callback(lambda _: writer.close())  # not in a `finally` of the task: it may be cancelled before it begins

    server = await asyncio.start_server(accepted, host, 0, **options)  # type: ignore[arg-type]
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        over = True
        for listening in server.sockets:
            asyncio.get_running_loop().remove_reader(listening.fileno())
        # asyncio forgets a socket that it has just accepted if the server is closed before its task begins
        await asyncio.sleep(0)
        server.close()
        for task in connections:
            task.cancel()
        ends = await asyncio.gather(*connections, return_exceptions=True)
        for writer in connections.values():
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()
    for end in ends:
        if isinstance(end, Exception) and not isinstance(end, OSError | EOFError):
            raise end
