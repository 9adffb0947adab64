"""The server's process: python -m tests.services.gcs FOLDER. It ends when its standard input does."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from aiohttp import web

from tests.services.gcs.server import Server
from tests.services.gcs.store import Store


async def main(folder: Path, port: int, key: Path | None, interval: float) -> None:
    """Serve until nobody holds the other end of standard input, so that nothing is left of a test run that was killed."""
    store = Store(folder, interval)
    server = Server(store, key.read_text() if key else None)
    runner = web.AppRunner(server.app(), access_log=None, auto_decompress=False, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, over.set)
    await over.wait()
    await runner.cleanup()
    store.close()


parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("--port", type=int, default=0)
parser.add_argument("--key", type=Path, help="the public key of those who are let in; without it everybody is")
parser.add_argument("--interval", type=float, default=0, help="seconds between two changes of one name")
arguments = parser.parse_args()
asyncio.run(main(arguments.folder, arguments.port, arguments.key, arguments.interval))
