"""Routes of plugins, outside the upload path."""

from __future__ import annotations

import base64
import re
import textwrap
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tusd.testing.server import ServerProcess, free_port

from .raw import Connection, patch, post, request
from .serving import path_of

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
AMONG_UPLOADS = """
from contextlib import asynccontextmanager
from tusd import plugin

class Pages:
    @plugin.hookimpl
    def add_routes(self, routes):
        routes.get("/figures", self.page, admin=True)
        routes.get("/about/us", self.page)

    async def page(self, head):
        return plugin.Response(200, [("Content-Type", "text/plain")], f"page {head.path}".encode())

class Names(plugin.Dispatcher):
    events = frozenset({plugin.PreCreate})

    async def dispatch(self, event):
        if (name := event.upload.metadata.text().get("name")) is not None:
            return plugin.HookResponse(change=plugin.Changes(id=plugin.UploadId(name)))

class Naming:
    class Options(plugin.HookOptions):
        pass

    def __init__(self, options):
        pass

    @plugin.hookimpl
    @asynccontextmanager
    async def open_hooks(self):
        yield Names()
"""
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


def named(name: str) -> dict[str, object]:
    """Headers of a creation whose upload the hook gives this id."""
    return {"Upload-Length": 5, "Upload-Metadata": f"name {base64.b64encode(name.encode()).decode()}"}


def among_uploads(tusd_server: Start, tmp_path: Path, **options: object) -> ServerProcess:
    """A server with uploads at /, routes among them, and a hook that chooses ids."""
    file = tmp_path / "among.py"
    file.write_text(AMONG_UPLOADS)
    config = {"plugins": [{"use": f"{file}:Pages"}], "hooks": [{"use": f"{file}:Naming"}]}
    return tusd_server({"server": {"base_path": "/", **options}, **config})


def test_routes_among_uploads(tusd_server: Start, tmp_path: Path) -> None:
    server = among_uploads(tusd_server, tmp_path)
    with Connection((server.host, server.port)) as connection:
        for path in ("/figures", "/about/us"):
            assert connection.ask(request("GET", path)).body == f"page {path}".encode()
            assert connection.ask(request("HEAD", path)).status == 200
            assert connection.ask(patch(path, 0, b"hello")).code == "ERR_UPLOAD_NOT_FOUND"
            assert connection.ask(request("DELETE", path)).code == "ERR_UPLOAD_NOT_FOUND"
            assert connection.ask(request("GET", f"{path}/more")).code == "ERR_UPLOAD_NOT_FOUND"
        assert b"tusd_requests_total" in connection.ask(request("GET", "/metrics")).body
        own = path_of(connection.ask(post({"Upload-Length": 5}, path="/")))
        chosen = path_of(connection.ask(post(named("figures-2"), path="/")))
        assert re.fullmatch("/[0-9a-f]{32}", own) and chosen == "/figures-2"
        for path in (own, chosen):
            assert connection.ask(patch(path, 0, b"hello")).status == 204
            assert connection.ask(request("HEAD", path))["Upload-Offset"] == "5"
            assert connection.ask(request("GET", path)).body == b"hello"


def test_a_hook_cannot_choose_the_id_of_a_page(tusd_server: Start, tmp_path: Path) -> None:
    server = among_uploads(tusd_server, tmp_path)
    with Connection((server.host, server.port)) as connection:
        for name in ("figures", "about/us", "metrics", "healthz", "readyz"):
            answer = connection.ask(post(named(name), b"hello", path="/"))
            assert (answer.status, answer.code) == (500, "ERR_HOOK_FAILED")
            assert name not in answer.body.decode()
            assert f"a pre-create hook answered the id '{name}', but a page of the server is at its URL" in server.log
    assert not list((server.directory / "data").rglob("*"))


def test_an_operators_route_is_not_among_uploads_with_an_admin_listener(tusd_server: Start, tmp_path: Path) -> None:
    port = free_port()
    server = among_uploads(tusd_server, tmp_path, admin_listen=f"127.0.0.1:{port}")
    assert get(f"http://127.0.0.1:{port}/figures")[:2] == (200, b"page /figures")
    assert get(f"http://{server.host}:{server.port}/figures")[0] == 404
    assert get(f"http://{server.host}:{server.port}/about/us")[0] == 200


def test_a_route_like_an_uploads_url_is_an_error_at_the_start(tusd_server: Start, tmp_path: Path) -> None:
    file = tmp_path / "shadow.py"
    file.write_text(textwrap.dedent(PLUGIN).replace("/about", f"/{'0af1' * 8}"))
    with pytest.raises(AssertionError, match="ended with status 2") as caught:
        tusd_server({"server": {"base_path": "/"}, "plugins": [{"use": str(file)}]})
    assert f"route '/{'0af1' * 8}': begins with 32 hexadecimal digits" in str(caught.value)
    assert "Traceback" not in str(caught.value)
