"""The server's process: python -m tests.services.gcs FOLDER PORT [PUBLIC_KEY_FILE]. It ends when its standard input does."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aiohttp import web

from tests.services.gcs.server import Server
from tests.services.gcs.store import Store


async def main(folder: Path, port: int, key: Path | None) -> None:
    """Serve until nobody holds the other end of standard input, so that nothing is left of a test run that was killed."""
    store = Store(folder)
    server = Server(store, key.read_text() if key else None)
    runner = web.AppRunner(server.app(), access_log=None, auto_decompress=False, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(sys.stdin, over.set)
    await over.wait()
    await runner.cleanup()
    store.close()


asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None))
