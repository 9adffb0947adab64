"""The whole process: SIGTERM ends it in order whatever its clients do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from tusd.testing.server import ServerProcess

from .raw import Connection, patch, post, request
from .serving import path_of

KIB = 1024


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_sigterm_with_clients_of_all_kinds(tusd_server: Callable[..., ServerProcess], loop: str) -> None:
    """An idle one, one that stalls in a body, one that sends on, one that does not read its download."""
    server = tusd_server({"server": {"loop": loop, "shutdown_timeout": "3s"}})
    address = (server.host, server.port)
    body = os.urandom(4000 * KIB)
    with Connection(address) as idle, Connection(address) as stalled, Connection(address) as sending:
        paths = [path_of(idle.ask(post({"Upload-Length": 10**9}))) for _ in range(2)]
        done = path_of(idle.ask(post({"Upload-Length": 8 * len(body)}, body * 8)))
        with Connection(address, receive_buffer=4096) as reading:
            reading.send(request("GET", done))
            stalled.send(patch(paths[0], 0, body, announce=10**9))
            sending.send(patch(paths[1], 0, body, announce=10**9))
            time.sleep(0.3)
            assert server.process is not None
            server.process.terminate()
            sending.send_as_far_as_it_goes(body * 5)
            for connection in (stalled, sending):
                answer = connection.answer()
                assert (answer.status, answer.code) == (503, "ERR_SERVER_SHUTDOWN")
                assert int(answer["Upload-Offset"]) >= len(body)
            assert idle.ended()
            began = time.monotonic()
            assert server.process.wait(10) == 0
            assert time.monotonic() - began < 5
    server.kill()  # what is left of its process group: nothing
    server.start()
    with Connection(address) as connection:
        head = connection.ask(request("HEAD", paths[0]))
        assert head["Upload-Offset"] == str(len(body))
