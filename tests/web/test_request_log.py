"""One line for each request, with nothing in it that is a secret."""

from __future__ import annotations

import base64
import json
import os
import re
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tusd.testing.server import ServerProcess

from .raw import Connection, patch, post, request
from .serving import path_of

Start = Callable[..., ServerProcess]
ID = "24e533e02ec3bc40c387f1a0e460e216"
SECRET = "hunter2-secret"


def events(server: ServerProcess) -> list[dict[str, Any]]:
    """The lines of requests in a JSON log."""
    found = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    return [event for event in found if event["logger"] == "tusd.requests" and not event["message"].startswith("OPTIONS")]


def line_of(server: ServerProcess, message: str) -> dict[str, Any]:
    """The one line of a request; it may take a moment to appear."""
    deadline = time.monotonic() + 5
    while not (found := [event for event in events(server) if event["message"] == message]):
        assert time.monotonic() < deadline, server.log
        time.sleep(0.01)
    assert len(found) == 1, found
    return found[0]


@pytest.fixture(params=["uvloop", "asyncio"])
def server(request: pytest.FixtureRequest, tusd_server: Start) -> ServerProcess:
    """A server that logs in JSON."""
    config = {"loop": request.param, "read_timeout": "300ms", "behind_proxy": True}
    return tusd_server({"server": config, "logging": {"format": "json"}})


def connect(server: ServerProcess) -> Connection:
    return Connection((server.host, server.port))


def test_what_a_line_has(server: ServerProcess) -> None:
    with connect(server) as connection:
        created = connection.ask(post({"Upload-Length": 10, "X-Request-ID": "mine-1"}, b"hello"))
        path = path_of(created)
        assert created["X-Request-ID"] == "mine-1"
        assert connection.ask(patch(path, 5, b"world")).status == 204
        assert connection.ask(request("GET", path)).body == b"helloworld"
    upload = path.rpartition("/")[2]
    event = line_of(server, "POST /files/")
    assert event.pop("time").endswith("Z")
    assert 0 < event.pop("ms") < 5000
    assert event == {
        "level": "info",
        "logger": "tusd.requests",
        "message": "POST /files/",
        "status": 201,
        "outcome": "ok",
        "received": 5,
        "sent": 0,
        "request_id": "mine-1",
        "upload": upload[:8],
        "peer": "127.0.0.1",
    }
    appended = line_of(server, f"PATCH /files/{upload[:8]}")
    assert (appended["status"], appended["upload"], appended["received"]) == (204, upload[:8], 5)
    assert re.fullmatch("[0-9a-f]{16}", appended["request_id"])
    assert line_of(server, f"GET /files/{upload[:8]}")["sent"] == 10
    assert upload not in server.log


def test_outcomes(server: ServerProcess) -> None:
    body = os.urandom(600_000)
    with connect(server) as connection:
        paths = [path_of(connection.ask(post({"Upload-Length": len(body)}))) for _ in range(4)]
        shown = [path[: len("/files/") + 8] for path in paths]
        answer = connection.ask(patch(paths[0], 7, b"x"))
        assert answer["X-Request-ID"] == line_of(server, f"PATCH {shown[0]}")["request_id"], "errors tell it"
    event = line_of(server, f"PATCH {shown[0]}")
    assert (event["status"], event["outcome"], event["code"]) == (409, "refused", "ERR_MISMATCHED_OFFSET")
    with connect(server) as connection:
        assert connection.ask(request("GET", "/elsewhere")).status == 404
    event = line_of(server, "GET /elsewhere")
    assert (event["status"], event["outcome"]) == (404, "refused")
    stalled = connect(server)
    stalled.send(patch(paths[1], 0, body)[:-1000])
    assert stalled.answer().status == 503
    event = line_of(server, f"PATCH {shown[1]}")
    assert (event["outcome"], event["received"], event["level"]) == ("timeout", len(body) - 1000, "info")
    gone = connect(server)
    gone.send(patch(paths[2], 0, body)[:-1000])
    gone.reset()
    event = line_of(server, f"PATCH {shown[2]}")
    assert (event["outcome"], event["code"], event["level"]) == ("client-gone", "ERR_UNEXPECTED_EOF", "info")
    with connect(server) as first, connect(server) as second:
        first.send(patch(paths[3], 0, body)[:-1000])
        time.sleep(0.1)
        assert second.ask(request("HEAD", paths[3])).status == 200
        assert first.answer().status == 423
    assert line_of(server, f"PATCH {shown[3]}")["outcome"] == "interrupted"
    assert not [line for line in server.log.splitlines() if '"error"' in line or '"warning"' in line]
    stalled.close()


def test_a_download_that_is_broken_off(server: ServerProcess) -> None:
    size = 30_000_000
    with connect(server) as connection:
        path = path_of(connection.ask(post({"Upload-Length": size}, os.urandom(size))))
    reader = Connection((server.host, server.port), receive_buffer=4096)
    reader.send(request("GET", path))
    taken = 0
    while taken < 5_000_000:
        taken += len(reader.socket.recv(1 << 18))
    reader.reset()
    event = line_of(server, f"GET {path[:15]}")
    assert (event["status"], event["outcome"]) == (200, "client-gone")
    assert 0 < event["sent"] < size


def test_the_client_behind_a_proxy(server: ServerProcess) -> None:
    with connect(server) as connection:
        connection.ask(request("GET", "/files/x", {"X-Forwarded-For": "1.2.3.4, 192.0.2.7, 10.0.0.9"}))
    assert line_of(server, "GET /files/x")["peer"] == "192.0.2.7"


def test_what_machines_ask_again_and_again_has_no_line_if_it_goes_well(server: ServerProcess) -> None:
    with connect(server) as connection:
        for path in ("/healthz", "/readyz", "/metrics"):
            assert connection.ask(request("GET", path)).status == 200
        connection.ask(request("DELETE", "/metrics"))
        connection.ask(request("DELETE", "/healthz"))
    assert line_of(server, "DELETE /metrics")["status"] == 405
    assert line_of(server, "DELETE /healthz")["status"] == 405
    assert not [event for event in events(server) if event["message"].startswith("GET ")]


@pytest.mark.parametrize("logging", [{"requests": False}, {"level": "warning"}])
def test_switched_off(tusd_server: Start, logging: dict[str, object]) -> None:
    server = tusd_server({"logging": logging})
    with connect(server) as connection:
        assert connection.ask(request("GET", "/files/x", {"X-Request-ID": "a"}))["X-Request-ID"] == "a"
    server.stop()
    assert "requests:" not in server.log


@pytest.mark.parametrize("workers", [1, 2])
def test_no_line_is_lost_or_torn(tusd_server: Start, workers: int) -> None:
    """Not by other processes that write to the same pipe, and not by a stop."""
    server = tusd_server({"server": {"workers": workers}, "logging": {"format": "text"}})
    connections = [connect(server) for _ in range(20)]
    for _ in range(50):
        for connection in connections:
            connection.send(request("GET", "/files/" + "y" * 100))
    for connection in connections:
        for _ in range(50):
            assert connection.answer().status == 404
        connection.close()
    server.stop()
    lines = [line for line in server.log.splitlines() if "yyyyyyyy" in line]
    assert len(lines) == 1000
    pattern = r"\S+Z INFO requests: GET /files/y{8} status=404 outcome=refused ms=\d+\.\d received=0 sent=\d+ request_id=\w{16} "
    pattern += r"code=ERR_UPLOAD_NOT_FOUND upload=yyyyyyyy peer=127\.0\.0\.1( worker=[01])?"
    assert [line for line in lines if not re.fullmatch(pattern, line)] == []
    assert len({line.split("request_id=")[1].split()[0] for line in lines}) == 1000, "ids are not repeated"


# --- secrets

PLUGIN = '''
from contextlib import asynccontextmanager
from tusd import plugin


class Broken(plugin.Dispatcher):
    events = frozenset({plugin.PreCreate})

    async def dispatch(self, event):
        raise RuntimeError("a bug of a plugin")


class Breaking:
    """Fails."""

    @plugin.hookimpl
    @asynccontextmanager
    async def open_hooks(self):
        yield Broken()
'''


def planted(method: str, path: str, body: bytes = b"", **more: object) -> bytes:
    """A request with secrets wherever clients keep them."""
    metadata = base64.b64encode(SECRET.encode()).decode()
    headers = {
        "Authorization": f"Bearer {SECRET}",
        "Cookie": f"session={SECRET}",
        "Proxy-Authorization": f"Basic {SECRET}",
        "X-Api-Key": SECRET,
        "Referer": f"https://example.com/?token={SECRET}",
        "X-Request-ID": f"not valid {SECRET}",
        "User-Agent": SECRET,
        "Upload-Metadata": f"filename {metadata}",
        "Upload-Offset": 0,
        "Content-Type": "application/offset+octet-stream",
        **more,
    }
    return request(method, f"{path}?token={SECRET}&sig={SECRET}", {k.replace("_", "-"): v for k, v in headers.items()}, body)


MALFORMED = [
    f"GET /files/?token={SECRET} HTTP/1.1\r\nHost: a\r\nAuthorization Bearer {SECRET}\r\n\r\n",
    f"GET /files/?token={SECRET} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer\x01{SECRET}\r\n\r\n",
    f"GET /files/?token={SECRET} HTTP/1.1\r\nHost: a\r\nAuthorization{SECRET}\x7f: x\r\n\r\n",
    f"GET /files/?token={SECRET} HTTP/9.{SECRET}\r\n\r\n",
    f"{SECRET} /files/ HTTP/1.1\r\n\r\n",
    f"GET /files/?token={SECRET}\x00 HTTP/1.1\r\n\r\n",
    f"GET /files/ HTTP/1.1\r\nHost: a\r\nCookie: {SECRET}{'x' * 70000}\r\n\r\n",
    f"GET /{'x' * 70000}?token={SECRET} HTTP/1.1\r\nHost: a\r\n\r\n",
    f"PATCH /files/x HTTP/1.1\r\nHost: a\r\nContent-Length: {SECRET}\r\n\r\n",
    f"PATCH /files/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{SECRET}\r\n",
    f"GET http://user:{SECRET}@host/files/x?token={SECRET} HTTP/1.1\r\nHost: a\r\n\r\n",
    f"GET /files/x HTTP/1.1\r\nHost: {SECRET}@a b\r\n\r\n",
    f"CONNECT {SECRET}:443 HTTP/1.1\r\nHost: a\r\n\r\n",
]


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_no_secret_is_in_any_line(tusd_server: Start, tmp_path: Path, format: str, loop: str) -> None:
    file = tmp_path / "breaking.py"
    file.write_text(textwrap.dedent(PLUGIN))
    server = tusd_server(
        {
            "server": {"loop": loop, "behind_proxy": True, "read_timeout": "200ms"},
            "logging": {"level": "debug", "format": format},
            "hooks": [{"use": str(file), "events": ["pre-create"]}],
        },
        tracebacks=True,
        env={"PYTHONASYNCIODEBUG": "1"},
    )
    with connect(server) as connection:
        assert connection.ask(planted("POST", "/files/", Upload_Length=5)).status == 500
        for method in ("HEAD", "PATCH", "GET", "DELETE"):
            assert connection.ask(planted(method, f"/files/{ID}", b"hello" if method == "PATCH" else b"")).status in (404, 415)
        assert connection.ask(planted("GET", f"/elsewhere/{ID}")).status == 404
        assert connection.ask(planted("GET", "/")).status == 200
        assert connection.ask(planted("POST", "/files/", Upload_Length=5, Tus_Resumable="0.1")).status == 412
        assert connection.ask(planted("POST", "/files/", Upload_Length=SECRET)).status == 400
        assert connection.ask(planted("POST", "/files/", Upload_Length=5, Upload_Metadata=f"a b c {SECRET}")).status == 400
    for text in MALFORMED:
        with connect(server) as connection:
            connection.send_as_far_as_it_goes(text.encode())
            try:
                connection.answer()
            except (EOFError, ConnectionError, TimeoutError):
                pass  # only the log counts here
    server.stop()
    log = server.log
    for secret in (SECRET, base64.b64encode(SECRET.encode()).decode(), ID, "token=", "hunter2"):
        assert secret not in log, next(line for line in log.splitlines() if secret in line)
    assert "a bug of a plugin" in log, "what operators need is there"
    assert log.count("malformed request") >= 5


@pytest.mark.parametrize("format", ["text", "json"])
def test_nothing_that_a_client_sends_makes_a_line(tusd_server: Start, format: str) -> None:
    server = tusd_server({"logging": {"format": format}})
    answered = []
    for path in ("/a%0aINFO", "/files/\u2028INFO=forged", '/"x"=y\\', "/files/\udcff\udcfe", "/" + "long/" * 1000):
        with connect(server) as connection:
            connection.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode("utf-8", "surrogateescape"))
            answered.append(connection.answer().status)
    server.stop()
    lines = [line for line in server.log.splitlines() if "GET " in line]
    assert set(answered) <= {400, 404}, "aiohttp's parsers do not agree on what is malformed"
    assert len(lines) == answered.count(404) >= 2
    assert all(line.isascii() and line.isprintable() and len(line) < 500 for line in lines)
    assert not any(line.startswith(("INFO", "forged")) for line in server.log.splitlines())
    if format == "json":
        assert {json.loads(line)["status"] for line in lines} == {404}
