"""Routes of plugins, outside the upload path."""

from __future__ import annotations

import textwrap
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tusd.testing.server import ServerProcess

PLUGIN = '''
from tusd import plugin

class About:
    """Say what this is."""

    @plugin.hookimpl
    def add_routes(self, routes):
        routes.get("/about", self.about)
        routes.get("/broken", self.broken)

    async def about(self, head):
        return plugin.Response(200, [("Content-Type", "text/plain")], f"about {head.query}".encode())

    async def broken(self, head):
        raise RuntimeError("secret inner text")
'''
Start = Callable[..., ServerProcess]


def get(url: str) -> tuple[int, bytes, str | None]:
    """Status, body and request id of a GET."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, response.read(), response.headers["X-Request-ID"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers["X-Request-ID"]


@pytest.fixture
def server(tusd_server: Start, tmp_path: Path) -> ServerProcess:
    """A server with a plugin of one file."""
    file = tmp_path / "about.py"
    file.write_text(textwrap.dedent(PLUGIN))
    return tusd_server({"plugins": [{"use": str(file)}]}, tracebacks=True)


def test_a_route_answers(server: ServerProcess) -> None:
    base = f"http://{server.host}:{server.port}"
    assert get(f"{base}/about?x=1") == (200, b"about x=1", None)
    assert get(f"{base}/elsewhere")[0] == 404


def test_a_plugins_bug_is_in_the_log_and_nowhere_else(server: ServerProcess) -> None:
    status, body, request_id = get(f"http://{server.host}:{server.port}/broken")
    assert status == 500
    assert b"secret" not in body
    assert request_id
    assert request_id in server.log
    assert "secret inner text" in server.log
