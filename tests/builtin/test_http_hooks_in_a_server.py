"""HTTP hooks of a whole server: what its clients get to see of them."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tusd.testing.server import ServerProcess

Start = Callable[..., ServerProcess]
Event = Mapping[str, Any]
Answer = tuple[int, Mapping[str, object]]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "http-hooks.md"


@dataclass
class Hook:
    """A hook in threads, made of Python's `http.server`, as the one that comes with Go tusd: its answers end with their connection."""

    answer: Callable[[Event], Answer]
    url: str = ""
    told: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)
    """Headers and body of every request."""
    over: threading.Event = field(default_factory=threading.Event)
    """Set at the end of the test; hooks that hang wait for it."""

    def events(self, kind: str = "") -> list[Event]:
        found = [json.loads(body) for _, body in self.told]
        return [one for one in found if one["Type"].startswith(kind)]

    def wait_for(self, kind: str, count: int = 1) -> list[Event]:
        """Post-hooks are told in the background."""
        deadline = time.monotonic() + 10
        while len(found := self.events(kind)) < count:
            assert time.monotonic() < deadline, self.events()
            time.sleep(0.02)
        return found


@contextmanager
def hook(answer: Callable[[Event], Answer]) -> Iterator[Hook]:
    found = Hook(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.told.append(({name.lower(): value for name, value in self.headers.items()}, body))
            status, content = found.answer(json.loads(body))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            if status == 503:
                self.send_header("Retry-After", "7")
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Not on the terminal."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Clients that are gone are part of the game."""

    with Server(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}/hooks"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield found
        finally:
            found.over.set()
            server.shutdown()
            thread.join()


def config(server: Hook, **options: object) -> dict[str, object]:
    return {"hooks": [{"use": "http", "endpoint": server.url, "backoff": "10ms", **options}]}


def ask(server: ServerProcess, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[HTTPResponse, str]:
    connection = HTTPConnection(server.host, server.port, timeout=20)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(
            method, path, body, {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream", **named}
        )
        answer = connection.getresponse()
        return answer, answer.read().decode()
    finally:
        connection.close()


def path_of(answer: HTTPResponse) -> str:
    return "/files/" + (answer.getheader("Location") or "").partition("/files/")[2]


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_hook_that_was_written_for_go(tusd_server: Start, loop: str) -> None:
    def answer(event: Event) -> Answer:
        response: dict[str, Any] = {"HTTPResponse": {"Headers": {}}}  # not `Header`: Go ignores it, too
        if event["Type"] == "pre-create":
            metadata = event["Event"]["Upload"]["MetaData"]
            if "filename" in metadata:
                response["ChangeFileInfo"] = {"ID": "prefix-1", "MetaData": {"filename": metadata["filename"], "time": "now"}}
            else:
                response["RejectUpload"] = True
                response["HTTPResponse"] |= {"StatusCode": 400, "Body": "no filename provided"}
        return 200, response

    with hook(answer) as hooks:
        server = tusd_server({"server": {"loop": loop}, **config(hooks)})
        refused, text = ask(server, "POST", "/files/", b"hello", Upload_Length="5", Upload_Metadata="name YQ==")
        assert (refused.status, text) == (400, "no filename provided")
        taken, _ = ask(server, "POST", "/files/", b"hello", Upload_Length="5", Upload_Metadata="filename YQ==,name Yg==")
        assert (taken.status, path_of(taken)) == (201, "/files/prefix-1")
        metadata = ask(server, "HEAD", "/files/prefix-1")[0].getheader("Upload-Metadata") or ""
        assert sorted(metadata.split(",")) == ["filename YQ==", "time bm93"]
        (finished,) = hooks.wait_for("post-finish")
        assert finished["Event"]["Upload"]["Storage"]["Path"].endswith("prefix-1")
        assert server.stop() == 0
    assert {event["Type"] for event in hooks.events()} == {"pre-create", "post-create", "post-receive", "post-finish"}


def test_pre_finish_is_honest(tusd_server: Start) -> None:
    """A hook that fails never passes for one that agrees: the upload is not complete until it does."""
    status = 500
    with hook(lambda event: (status, {})) as hooks:
        server = tusd_server(config(hooks, events=["pre-finish"], attempts=2))
        answer, _ = ask(server, "POST", "/files/", b"hello", Upload_Length="5")
        assert answer.status == 500
        path = path_of(answer)
        assert ask(server, "HEAD", path)[0].status == 423
        assert ask(server, "GET", path)[0].status == 409
        status = 403  # is a failure, too, and no refusal
        assert ask(server, "HEAD", path)[0].status == 423
        assert len(hooks.told) == 2 + 2 + 1
        status = 200
        assert ask(server, "HEAD", path)[0].status == 200
        assert ask(server, "GET", path)[1] == "hello"
        assert ask(server, "HEAD", path)[0].status == 200
    assert len(hooks.told) == 6
    assert len({headers["webhook-id"] for headers, _ in hooks.told}) == 1


def test_what_is_told_arrives_in_order_though_the_hook_stumbles(tusd_server: Start) -> None:
    seen: set[str] = set()

    def answer(event: Event) -> Answer:
        known = event["DeliveryID"] in seen
        seen.add(event["DeliveryID"])
        return (200 if known else 502), {}

    with hook(answer) as hooks:
        server = tusd_server(config(hooks, events=["post-create", "post-finish", "post-terminate"]))
        path = path_of(ask(server, "POST", "/files/", b"hello", Upload_Length="5")[0])
        assert ask(server, "DELETE", path)[0].status == 204
        hooks.wait_for("post-terminate", 2)
        assert server.stop() == 0
    expected = ["post-create", "post-finish", "post-terminate"]
    assert [event["Type"] for event in hooks.events()] == [name for name in expected for _ in range(2)]
    ids = [headers["webhook-id"] for headers, _ in hooks.told]
    assert ids[::2] == ids[1::2]
    assert len(set(ids)) == 3


def test_an_outbox_delivers_what_the_hook_could_not_take(tusd_server: Start) -> None:
    statuses = iter([500, 500, 200, 410])
    with hook(lambda event: (next(statuses), {})) as hooks:
        options = {"events": ["post-finish"], "attempts": 2, "forward_headers": ["Authorization"], "delivery": "at-least-once"}
        server = tusd_server(config(hooks, **options))
        ask(server, "POST", "/files/", b"hello", Upload_Length="5", Authorization="Bearer me")
        hooks.wait_for("post-finish", 3)
        ask(server, "POST", "/files/", b"other", Upload_Length="5")
        hooks.wait_for("post-finish", 4)
        deadline = time.monotonic() + 10
        while "answered 410" not in server.log:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert server.stop() == 0
    headers = [one for one, _ in hooks.told]
    assert [one.get("authorization") for one in headers] == ["Bearer me"] * 3 + [None]
    assert len({one["webhook-id"] for one in headers[:3]}) == 1
    assert headers[3]["webhook-id"] != headers[0]["webhook-id"]


def test_a_hook_that_hangs_holds_no_other_upload(tusd_server: Start) -> None:
    def answer(event: Event) -> Answer:
        if "slow" in event["Event"]["Upload"]["MetaData"] or event["Type"] == "post-finish":
            hooks.over.wait(60)
        return 200, {}

    with hook(answer) as hooks:
        server = tusd_server(config(hooks))
        slow = HTTPConnection(server.host, server.port, timeout=20)
        slow.request("POST", "/files/", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "5", "Upload-Metadata": "slow"})
        hooks.wait_for("pre-create")
        began = time.monotonic()
        for _ in range(3):
            assert ask(server, "POST", "/files/", b"hello", Upload_Length="5")[0].status == 201
        assert time.monotonic() - began < 5
        hooks.wait_for("post-finish", 3)
        slow.close()


@pytest.mark.parametrize("kind", ["pre-create", "post-create"])
def test_a_stop_does_not_wait_for_a_hook_that_hangs(tusd_server: Start, kind: str) -> None:
    def answer(event: Event) -> Answer:
        hooks.over.wait(60)
        return 200, {}

    with hook(answer) as hooks:
        server = tusd_server({"server": {"shutdown_timeout": "1s"}, **config(hooks, events=[kind])})
        connection = HTTPConnection(server.host, server.port, timeout=20)
        connection.request("POST", "/files/", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "5"})
        hooks.wait_for(kind)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 8
        connection.close()


def test_clients_learn_that_a_hook_failed_and_nothing_of_it(tusd_server: Start) -> None:
    with hook(lambda event: (503, {"inner": "details"})) as hooks:
        hooks.url = hooks.url.replace("//", "//user:hunter2@") + "?token=hunter2"
        server = tusd_server(config(hooks, attempts=1))
        answer, text = ask(server, "POST", "/files/", b"hello", Upload_Length="5")
    assert (answer.status, answer.getheader("Retry-After")) == (500, "7")
    assert text.startswith("ERR_HOOK_FAILED: ")
    assert not re.search("details|503|127|hunter2|hooks", text)
    assert 'answered 503: {"inner": "details"}' in server.log.replace("\\", "")
    assert "hunter2" not in server.log


def test_a_hook_believes_what_is_signed_and_sees_whose_request_it_is(tusd_server: Start) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    page: dict[str, Any] = {}
    exec(code, page)
    with hook(lambda event: (200, {})) as hooks:
        server = tusd_server(
            config(hooks, events=["pre-create"], secret="${HOOK_SECRET}", forward_headers=["Authorization"]),
            env={"HOOK_SECRET": SECRET},
        )
        assert ask(server, "POST", "/files/", Upload_Length="5", Authorization="Bearer me")[0].status == 201
    ((headers, body),) = hooks.told
    assert headers["authorization"] == "Bearer me"
    assert page["is_ours"](SECRET, headers, body)


def test_a_certificate_that_is_not_there_ends_the_start(tusd_server: Start) -> None:
    with pytest.raises(AssertionError, match=r"hooks\[0\]:http: cannot be opened: ca: .*none.pem cannot be used: no such file"):
        tusd_server({"hooks": [{"use": "http", "endpoint": "https://a.invalid/", "ca": "none.pem"}]})
