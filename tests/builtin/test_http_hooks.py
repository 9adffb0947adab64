"""HTTP hooks: real servers on loopback, good and bad, and the requests that they get."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import random
import re
import ssl
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict
from tests.server.certificates import openssl
from tests.tcp import tcp_server

from tusd import plugin, registry
from tusd.builtin.http_dispatcher import HttpDispatcher, opened, signature
from tusd.builtin.http_hooks import HttpHooks, key_of
from tusd.config import StartErrors
from tusd.hooks import DEFAULT_EVENTS, HookEvent, HookResponse, PostFinish, PostReceive, PreCreate
from tusd.model import Metadata, UploadId, UploadInfo
from tusd.options import shown
from tusd.plugin import HookError
from tusd.protocol.messages import Head
from tusd.testing.server import free_port

HEAD = Head("POST", "/files/", CIMultiDict({"Authorization": "Bearer of-the-client", "Host": "up.example"}), "10.0.0.9")
INFO = UploadInfo(id=UploadId("abc"), length=12, offset=5, metadata=Metadata({"name": "Grüße\n\"'".encode()}))
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "http-hooks.md"


def asked() -> HookEvent:
    return PreCreate(upload=INFO, head=HEAD)


def told() -> HookEvent:
    return PostFinish(upload=INFO, head=HEAD)


# --- a hook that does what it is told


@dataclass
class Received:
    """A request as it came over the wire."""

    line: str
    headers: CIMultiDict[str]
    body: bytes


Act = Callable[[asyncio.StreamWriter], Awaitable[None]]
"""What a hook does instead of an orderly answer."""


@dataclass
class Hook:
    """A server on a free port. It does the next of `acts` with each request, and the last of them with all that follow."""

    acts: list[bytes | Act]
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once a connection has ended."""
    reader: asyncio.StreamReader = field(default_factory=asyncio.StreamReader)
    """Of the connection that came last."""
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.reader = reader
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            try:
                while not writer.is_closing():
                    self.requests.append(await _request(reader))
                    act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
                    if isinstance(act, bytes):
                        writer.write(act)
                    else:
                        await act(writer)
                    await writer.drain()
            finally:
                self.ended.set()


async def _request(reader: asyncio.StreamReader) -> Received:
    line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers: CIMultiDict[str] = CIMultiDict()
    for one in filter(None, lines):
        name, _, value = one.partition(": ")
        headers.add(name, value)
    return Received(line, headers, await reader.readexactly(int(headers["Content-Length"])))


def reply(status: int, body: bytes = b"", **headers: str) -> bytes:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@asynccontextmanager
async def hook(*acts: bytes | Act, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> AsyncIterator[Hook]:
    """A hook that runs."""
    found = Hook(list(acts) or [reply(204)])
    async with tcp_server(found.serve, host, ssl=tls) as port:
        found.url = f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}/hooks"
        yield found


@asynccontextmanager
async def dispatcher(endpoint: str, **options: object) -> AsyncIterator[HttpDispatcher]:
    """With next to no waits."""
    chosen = HttpHooks.Options(**{"endpoint": endpoint, "backoff": 0.01, **options})  # type: ignore[arg-type]
    async with opened(chosen, logging.getLogger("hooks")) as found:
        yield found


# --- what is sent


async def test_an_event_is_sent_as_go_tells_it() -> None:
    async with hook() as server, dispatcher(f"{server.url}?token=t%2B1") as hooks:
        event = asked()
        assert await hooks.dispatch(event) is None
    (request,) = server.requests
    assert request.line == "POST /hooks?token=t%2B1 HTTP/1.1"
    assert request.body == plugin.encode_event(event)
    assert json.loads(request.body)["Event"]["Upload"]["MetaData"] == {"name": "Grüße\n\"'"}
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Hook-Name"] == "pre-create"
    assert request.headers["webhook-id"] == event.delivery_id == json.loads(request.body)["DeliveryID"]
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 60
    assert request.headers["Accept-Encoding"] == "identity"
    assert request.headers["User-Agent"].startswith("tusd/")
    assert not {"webhook-signature", "Authorization", "Cookie"} & request.headers.keys()


async def test_a_large_event_arrives_whole() -> None:
    event = PreCreate(upload=UploadInfo(id=UploadId("a"), length=1, metadata=Metadata({"big": b"x" * 900_000})), head=HEAD)
    async with hook() as server, dispatcher(server.url) as hooks:
        await hooks.dispatch(event)
    assert json.loads(server.requests[0].body)["Event"]["Upload"]["MetaData"] == {"big": "x" * 900_000}


async def test_an_answer_may_come_before_a_large_event_is_read() -> None:
    """The hook answers after the first bytes and reads no more."""

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply(200, b'{"RejectUpload": true}'))
        await asyncio.Event().wait()

    big = UploadInfo(id=UploadId("a"), length=1, metadata=Metadata({"big": b"x" * 900_000}))
    async with tcp_server(early) as port, dispatcher(f"http://127.0.0.1:{port}/", attempts=1, timeout=5) as hooks:
        answer = await hooks.dispatch(PreCreate(upload=big, head=HEAD))
    assert answer == HookResponse(reject=True)


def test_it_gets_the_events_that_go_sends_or_those_that_are_named() -> None:
    options = HttpHooks.Options(endpoint="http://a/")
    assert options.wanted == DEFAULT_EVENTS
    assert HttpHooks.Options(endpoint="http://a/", events=["post-finish"]).wanted == {PostFinish}


async def test_credentials_of_the_endpoint_are_basic_authentication() -> None:
    async with hook() as server, dispatcher(server.url.replace("//", "//us%40er:p%3Aä@")) as hooks:
        await hooks.dispatch(asked())
        assert "@" not in server.requests[0].line
        assert server.requests[0].headers["Authorization"] == "Basic dXNAZXI6cDrDpA=="  # us@er:p:ä


async def test_headers_of_the_client_are_repeated_if_the_operator_says_so() -> None:
    sent = CIMultiDict([("x-TENANT", "a"), ("X-Tenant", "b"), ("Authorization", "Bearer c"), ("Cookie", "gr\udcfc\xfc=1")])
    event = PreCreate(upload=INFO, head=Head("POST", "/", sent))
    options = {"forward_headers": ["X-Tenant", "cookie", "X-Absent", "User-Agent"], "headers": {"X-Api-Key": "k"}}
    async with hook() as server, dispatcher(server.url, **options) as hooks:
        await hooks.dispatch(event)
        sent.add("User-Agent", "of the client")
        await hooks.dispatch(event)
    assert server.requests[1].headers.getall("User-Agent") == ["of the client"]
    headers = server.requests[0].headers
    assert headers.getall("X-Tenant") == ["a", "b"]
    assert headers["Cookie"] == "gr\ufffdü=1"
    assert (headers["X-Api-Key"], headers.getall("Accept")) == ("k", ["application/json"])
    assert not {"Authorization", "X-Absent"} & headers.keys()
    assert headers["User-Agent"].startswith("tusd/")  # the client sent none at first


async def test_the_operator_may_name_us_otherwise() -> None:
    async with hook() as server, dispatcher(server.url, headers={"user-agent": "uploads"}) as hooks:
        await hooks.dispatch(asked())
    assert server.requests[0].headers.getall("User-Agent") == ["uploads"]


async def test_the_environment_and_cookies_change_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("no_proxy", "")
    async with hook(reply(204, Set_Cookie="a=b; Path=/")) as server:
        for url in (server.url, server.url.replace("127.0.0.1", "localhost")):  # which, unlike an address, may have cookies
            async with dispatcher(url) as hooks:
                await hooks.dispatch(asked())
                await hooks.dispatch(asked())
    assert len(server.requests) == 4
    assert not any({"Cookie", "Authorization"} & one.headers.keys() for one in server.requests)


# --- signatures


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """Their libraries' own example."""
    found = signature([key_of(SECRET)], "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_the_code_of_the_page_believes_us_and_nobody_else() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    page: dict[str, Any] = {}
    exec(code, page)
    is_ours = page["is_ours"]
    other, text = "whsec_" + "QUJD" * 8, "a text that is itself the key"
    async with hook() as server, dispatcher(server.url, secret=[other, SECRET, text]) as hooks:
        await hooks.dispatch(asked())
    request = server.requests[0]
    assert len(request.headers["webhook-signature"].split()) == 3
    assert is_ours(SECRET, request.headers, request.body)
    assert is_ours(other, request.headers, request.body)
    assert not is_ours("whsec_" + "QUJE" * 8, request.headers, request.body)
    assert not is_ours(SECRET, request.headers, request.body + b" ")
    for name, value in (("webhook-id", "another"), ("webhook-timestamp", str(int(time.time()) - 1))):
        assert not is_ours(SECRET, CIMultiDict({**request.headers, name: value}), request.body)
    old = str(int(time.time()) - 301)
    forged = {"webhook-id": "a", "webhook-timestamp": old, "webhook-signature": signature([key_of(SECRET)], "a", old, b"{}")}
    assert not is_ours(SECRET, forged, b"{}")
    assert key_of(text) == text.encode()


# --- what is answered


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (reply(204), None),
        (reply(200), None),
        (reply(200, b" \n"), None),
        (reply(202, b"{}"), HookResponse()),
        (reply(200, b'{"RejectUpload": true}', Content_Type="text/plain"), HookResponse(reject=True)),
        (reply(200, b"{}", Content_Encoding="identity"), HookResponse()),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + reply(200, b"{}"), HookResponse()),
        (b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", HookResponse()),
        (b"HTTP/1.0 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", HookResponse()),
    ],
)
async def test_an_answer_is_any_2xx(answer: bytes, expected: HookResponse | None) -> None:
    async with hook(answer) as server, dispatcher(server.url) as hooks:
        assert await hooks.dispatch(asked()) == expected
    assert len(server.requests) == 1


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    """As of Python's `http.server`."""

    async def old_style(writer: asyncio.StreamWriter) -> None:
        writer.write(b'HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{"HTTPResponse": {"Headers": {"A": "ignored"}}}')
        writer.close()

    async with hook(old_style) as server, dispatcher(server.url) as hooks:
        assert await hooks.dispatch(asked()) == HookResponse()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"<html>", "a hook's answer is not JSON"),
        (b"[]", "answer is a list, not an object"),
        (b'{"RejectUpload": "yes"}', "RejectUpload is text, not true or false"),
        (b'{"HTTPResponse": {"StatusCode": "4"}}', "StatusCode is text, not a whole number"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b" " * 200_001, "answered more than 200000 bytes"),
    ],
)
async def test_a_2xx_that_is_no_answer_is_a_failure_and_asked_once(answer: bytes, message: str) -> None:
    async with hook(reply(200, answer)) as server, dispatcher(server.url, size_limit=200_000) as hooks:
        with pytest.raises(HookError, match=re.escape(message)) as caught:
            await hooks.dispatch(asked())
        assert str(caught.value).startswith(server.url)
    assert len(server.requests) == 1
    assert not caught.value.permanent


async def test_who_has_taken_an_event_that_is_only_told_may_say_what_he_likes(caplog: pytest.LogCaptureFixture) -> None:
    """Telling it again would be telling it twice."""
    answers = [
        reply(200, b"OK"),
        reply(201, b" " * 2000),
        reply(200, b"x", Content_Encoding="br"),
        reply(200, b'{"StopUpload": true}'),
    ]
    async with hook(*answers) as server, dispatcher(server.url, size_limit=1000) as hooks:
        for n in range(3):
            assert await hooks.dispatch(told()) is None
            assert len(caplog.messages) == n + 1
        assert await hooks.dispatch(told()) == HookResponse(stop=True)  # which the core says that it ignores
        assert f"a post-finish hook has taken the event, but: {server.url}: a hook's answer is not JSON" in caplog.messages[0]
        with pytest.raises(HookError, match="not JSON"):
            server.acts = [reply(200, b"OK")]
            await hooks.dispatch(PostReceive(upload=INFO, head=HEAD))  # may stop the upload
    assert len(server.requests) == 5


async def endless(writer: asyncio.StreamWriter) -> None:
    """A body that never ends."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
        await writer.drain()


async def test_an_endless_answer_is_cut_off() -> None:
    async with hook(endless) as server, dispatcher(server.url, size_limit=1_000_000) as hooks:
        with pytest.raises(HookError, match="answered more than 1000000 bytes"):
            await hooks.dispatch(asked())
        await asyncio.wait_for(server.ended.wait(), 5)


async def test_a_compressed_answer_is_refused_unread() -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    for coding in ("gzip", "br", "GZIP, identity"):
        async with hook(reply(200, bomb, Content_Encoding=coding)) as server, dispatcher(server.url) as hooks:
            with pytest.raises(HookError, match="answered with a Content-Encoding"):
                await hooks.dispatch(asked())
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 422, 451, 499, 300, 301, 302, 303, 304, 307, 308])
async def test_a_refusal_is_final(status: int) -> None:
    async with hook() as elsewhere:
        answer = reply(status, b"" if status == 304 else b"out of\norder", Location=elsewhere.url)
        async with hook(answer) as server, dispatcher(server.url) as hooks:
            with pytest.raises(HookError, match=f"{server.url} answered {status}") as caught:
                await hooks.dispatch(asked())
    assert caught.value.permanent
    assert ("redirects are not followed" if status < 400 else ": out of order") in str(caught.value)
    assert (len(server.requests), elsewhere.connections) == (1, 0)


# --- trying again


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def hang_up_in_the_middle(writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"Reject')
    writer.close()


async def reset(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def hang(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def slow_head(writer: asyncio.StreamWriter) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" * 100:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.05)


async def slow_body(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1000):
        writer.write(b" ")
        await asyncio.sleep(0.05)


async def slow_refusal(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 503 No\r\nContent-Length: 1000\r\n\r\n")
    await asyncio.sleep(60)


async def continue_for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(0.02)


TEMPORARY = [
    *(
        pytest.param(reply(status, b"busy"), f"answered {status}: busy", id=str(status))
        for status in (408, 425, 429, 500, 503, 599)
    ),
    pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "cannot be asked", id="garbage"),
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "cannot be asked", id="bad length"),
    pytest.param(b"HTTP/1.1 200 OK\r\nA: " + b"a" * 100_000 + b"\r\n\r\n", "cannot be asked", id="huge header"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "cannot be asked", id="bad chunk"),
    pytest.param(hang_up, "cannot be asked: Server disconnected", id="hangs up"),
    pytest.param(hang_up_in_the_middle, "cannot be asked", id="hangs up in the middle"),
    pytest.param(reset, "cannot be asked", id="resets"),
]
SLOW = [
    pytest.param(act, "did not answer within 0.3 s", id=act.__name__)
    for act in (hang, slow_head, slow_body, slow_refusal, continue_for_ever)
]


@pytest.mark.parametrize(("act", "message"), TEMPORARY)
async def test_what_may_pass_is_tried_again(act: bytes | Act, message: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hooks")
    good = reply(200, b'{"RejectUpload": true}')
    event = asked()
    async with hook(act, act, good) as server, dispatcher(server.url) as hooks:
        assert await hooks.dispatch(event) == HookResponse(reject=True)
    assert [one.headers["webhook-id"] for one in server.requests] == [event.delivery_id] * 3
    assert len({one.body for one in server.requests}) == 1
    assert ["attempt 1 of 3" in caplog.messages[0], "attempt 2 of 3" in caplog.messages[1]] == [True, True]
    async with hook(act) as server, dispatcher(server.url, attempts=2) as hooks:
        with pytest.raises(HookError, match=re.escape(message)) as caught:
            await hooks.dispatch(event)
        assert str(caught.value).startswith(server.url)
        assert "\n" not in str(caught.value)
    assert len(server.requests) == 2
    assert not caught.value.permanent


@pytest.mark.parametrize(("act", "message"), SLOW)
async def test_what_is_too_slow_is_tried_again(act: Act, message: str) -> None:
    began = time.monotonic()
    async with hook(act) as server, dispatcher(server.url, timeout=0.3, attempts=2) as hooks:
        with pytest.raises(HookError, match=message):
            await hooks.dispatch(told())
        assert 0.6 <= time.monotonic() - began < 5
        assert len(server.requests) == 2
    async with hook(act, reply(200, b"{}")) as server, dispatcher(server.url, timeout=0.3) as hooks:
        assert await hooks.dispatch(told()) == HookResponse()


async def test_nobody_is_there() -> None:
    async with dispatcher(f"http://127.0.0.1:{free_port()}/", attempts=2) as hooks:
        with pytest.raises(HookError, match=r"/ cannot be asked: .*[Cc]onnect") as caught:
            await hooks.dispatch(asked())
    assert not caught.value.permanent
    async with dispatcher("http://nobody.invalid/", attempts=1) as hooks:
        with pytest.raises(HookError, match=r"http://nobody.invalid/ cannot be asked"):
            await hooks.dispatch(asked())


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("30", 30, 30),
        ("0", 0, 0),
        ("999999", 3600, 3600),
        ("9" * 5000, 3600, 3600),
        ("in 600 s", 500, 600),
        ("in -60 s", 0, 0),
        ("-1", None, None),
        ("soon", None, None),
        ("1.5", None, None),
        ("²", None, None),
        ("Mon, 99 Foo 2026 12:00:00 GMT", None, None),
    ],
)
async def test_retry_after(text: str, least: float | None, most: float | None) -> None:
    if text.startswith("in "):
        text = format_datetime(datetime.now(UTC) + timedelta(seconds=int(text.split()[1])), usegmt=True)
    for status in (429, 503):
        async with hook(reply(status, Retry_After=text)) as server, dispatcher(server.url, attempts=1) as hooks:
            with pytest.raises(HookError) as caught:
                await hooks.dispatch(asked())
        found = caught.value.retry_after
        assert found is None if least is None or most is None else found is not None and least <= found <= most


@pytest.mark.parametrize("status", [500, 502, 408, 425, 302, 404])
async def test_retry_after_counts_after_429_and_503_only(status: int) -> None:
    async with hook(reply(status, Retry_After="30")) as server, dispatcher(server.url, attempts=1) as hooks:
        with pytest.raises(HookError) as caught:
            await hooks.dispatch(asked())
    assert caught.value.retry_after is None


async def test_retry_after_is_waited_for() -> None:
    async with hook(reply(503, Retry_After="1"), reply(200, b"{}")) as server, dispatcher(server.url) as hooks:
        began = time.monotonic()
        assert await hooks.dispatch(asked()) == HookResponse()
        assert 1 <= time.monotonic() - began < 10
    first, second = (int(one.headers["webhook-timestamp"]) for one in server.requests)
    assert second > first


async def test_whoever_is_asked_does_not_wait_in_vain() -> None:
    """45 s is the most in all, so a wait of 60 is not begun; the client is told instead."""
    async with hook(reply(503, Retry_After="60")) as server, dispatcher(server.url) as hooks:
        began = time.monotonic()
        with pytest.raises(HookError, match=r"answered 503$") as caught:
            await hooks.dispatch(asked())
        assert time.monotonic() - began < 5
    assert caught.value.retry_after == 60
    assert len(server.requests) == 1


def test_waits_double_by_chance_and_end_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(backoff: float, retry_after: float | None = None) -> list[float]:
        options = HttpHooks.Options(endpoint="http://a/", backoff=backoff)
        hooks = HttpDispatcher(options, None, logging.getLogger())  # type: ignore[arg-type]
        return [hooks._wait(attempt, retry_after) for attempt in (1, 2, 3, 20)]

    assert waits(0) == [0, 0, 0, 0]
    assert waits(1, 30)[:3] == [30, 30, 30]
    assert waits(1, 3600) == [60, 60, 60, 60]
    found = [waits(1) for _ in range(50)]
    for n, least in ((0, 0.5), (1, 1), (2, 2)):
        assert all(least <= one[n] <= 2 * least for one in found)
        assert len({one[n] for one in found}) > 40
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    assert waits(1) == [1, 2, 4, 60]


# --- connections


async def test_events_share_a_connection() -> None:
    async with hook(reply(200, b"{}"), reply(404, b"no"), reply(204)) as server, dispatcher(server.url) as hooks:
        await hooks.dispatch(asked())
        with pytest.raises(HookError):
            await hooks.dispatch(asked())
        await hooks.dispatch(asked())
    assert (len(server.requests), server.connections) == (3, 1)


async def test_a_connection_that_was_closed_meanwhile_is_not_used() -> None:
    async def answer_and_close(writer: asyncio.StreamWriter) -> None:
        writer.write(reply(204))
        await writer.drain()
        writer.close()

    async with hook(answer_and_close) as server, dispatcher(server.url, attempts=1) as hooks:
        for _ in range(5):
            await hooks.dispatch(told())
            await asyncio.sleep(0.02)
    assert (len(server.requests), server.connections) == (5, 5)


async def test_a_request_that_meets_the_end_of_its_connection_is_the_same_event_again() -> None:
    """The hook cannot tell whether its answer arrived, so it gets the event again, under the same id."""
    event = told()
    async with hook(reply(204), hang_up, reply(204)) as server, dispatcher(server.url) as hooks:
        await hooks.dispatch(told())
        await hooks.dispatch(event)
    first, second, third = (one.headers["webhook-id"] for one in server.requests)
    assert (second, third) == (event.delivery_id, event.delivery_id)
    assert first == event.delivery_id  # post-finish happens to an upload once
    assert server.connections == 2


async def test_events_that_happen_again_are_other_events() -> None:
    async with hook() as server, dispatcher(server.url) as hooks:
        await hooks.dispatch(asked())
        await hooks.dispatch(asked())
    assert len({one.headers["webhook-id"] for one in server.requests}) == 2


async def test_a_cancelled_event_closes_its_connection() -> None:
    async def until_gone(writer: asyncio.StreamWriter) -> None:
        assert await server.reader.read() == b""

    async with hook(until_gone) as server, dispatcher(server.url) as hooks:
        task = asyncio.create_task(hooks.dispatch(asked()))
        while not server.requests:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert not server.ended.is_set()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 1)
        await asyncio.wait_for(server.ended.wait(), 1)


async def test_a_cancelled_wait_ends_at_once() -> None:
    async with hook(reply(500)) as server, dispatcher(server.url, backoff=30) as hooks:
        task = asyncio.create_task(hooks.dispatch(told()))
        while not server.requests:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 1)
        assert len(server.requests) == 1


# --- how many, how long


async def test_so_many_run_at_once_and_no_more() -> None:
    running = most = 0

    async def count(writer: asyncio.StreamWriter) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.1)
        running -= 1
        writer.write(reply(204))

    async with hook(count) as server, dispatcher(server.url, concurrency=2) as hooks:
        await asyncio.gather(*(hooks.dispatch(told()) for _ in range(6)))
    assert (len(server.requests), most) == (6, 2)


async def test_who_waits_for_another_attempt_takes_no_place() -> None:
    async with hook(reply(500), reply(204)) as server, dispatcher(server.url, concurrency=1, backoff=30) as hooks:
        waiting = asyncio.create_task(hooks.dispatch(told()))
        while not server.requests:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.wait_for(hooks.dispatch(told()), 5)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert len(server.requests) == 2


async def test_what_is_told_never_takes_the_places_of_those_who_ask() -> None:
    async def by_kind(writer: asyncio.StreamWriter) -> None:
        if server.requests[-1].headers["Hook-Name"] == "post-finish":
            await asyncio.sleep(60)
        writer.write(reply(204))

    async with hook(by_kind) as server, dispatcher(server.url, concurrency=1) as hooks:
        telling = [asyncio.create_task(hooks.dispatch(told())) for _ in range(3)]
        while not server.requests:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.wait_for(hooks.dispatch(asked()), 5)
        for task in telling:
            task.cancel()
        assert await asyncio.gather(*telling, return_exceptions=True)
    assert [one.headers["Hook-Name"] for one in server.requests] == ["post-finish", "pre-create"]


async def test_whoever_is_asked_waits_so_long_and_no_longer() -> None:
    async with hook(hang) as server, dispatcher(server.url, timeout=0.2, attempts=3, backoff=0.1, concurrency=1) as hooks:
        began = time.monotonic()
        found = await asyncio.gather(*(hooks.dispatch(asked()) for _ in range(8)), return_exceptions=True)
        assert time.monotonic() - began < 3
    assert all(isinstance(one, HookError) and not one.permanent for one in found)
    assert any("gave no answer within 0.6 s" in str(one) for one in found)


# --- nothing leaks


@pytest.mark.parametrize(
    "act", [reply(404), reply(500), reply(302), reply(200, b"x"), b"garbage\r\n\r\n", hang_up, hang, reply(200, b" " * 2000)]
)
async def test_no_message_has_credentials(act: bytes | Act, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with hook(act) as server:
        endpoint = server.url.replace("//", "//user:hunter2@") + "?token=hunter2"
        options = {"headers": {"X-Key": "hunter2"}, "timeout": 0.3, "attempts": 2, "size_limit": 1000, "secret": SECRET}
        async with dispatcher(endpoint, **options) as hooks:
            with pytest.raises(HookError) as caught:
                await hooks.dispatch(asked())
    assert str(caught.value).startswith(server.url)
    for text in (str(caught.value), caplog.text, "".join(traceback.format_exception(caught.value))):
        assert "hunter2" not in text and SECRET not in text and "user" not in text


def test_the_configuration_is_shown_without_secrets() -> None:
    options = registry.load(
        "hooks",
        "http",
        {"endpoint": "https://me:hunter2@a.example/h?t=hunter2", "secret": SECRET, "headers": {"X-Key": "hunter2"}},
    ).options
    found = shown(options)
    assert found["endpoint"] == "https://********@a.example/h?********"
    assert (found["secret"], found["headers"]) == (["********"], {"X-Key": "********"})
    assert "hunter2" not in str(found)
    assert shown(HttpHooks.Options(endpoint="http://:token@a/"))["endpoint"] == "http://********@a/"
    assert shown(HttpHooks.Options(endpoint="http://[::1]:8000/h"))["endpoint"] == "http://[::1]:8000/h"


# --- configuration


def test_the_configuration_and_the_answer_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = PAGE.read_text()
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    (tmp_path / "config.yaml").write_text(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0])
    _, found = registry.configure(tmp_path / "config.yaml")
    (loaded,) = [one for one in found.loaded if one.seam == "hooks"]
    assert isinstance(loaded.options, HttpHooks.Options)
    assert loaded.options.secret == (SECRET,)
    answer = plugin.decode_answer(re.findall(r"```json\n(.*?)```", page, re.DOTALL)[0].encode())
    assert answer == HookResponse(reject=True, status=422, body="a file name is needed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "endpoint: missing; it has no default"),
        *(
            ({"endpoint": text}, "endpoint: not the URL of a hook; write https://app.example.com/hooks")
            for text in (
                "hunter2",
                "/hooks",
                "ftp://hunter2/",
                "http://",
                "http://a:hunter2/",
                "http://a/#hunter2",
                "http://a b/",
                "",
            )
        ),
        ({"endpoint": "http://a/\nhunter2"}, "endpoint: not the URL of a hook"),
        ({"timeout": 0}, "timeout: should be greater than 0"),
        ({"attempts": 0}, "attempts: should be greater than or equal to 1"),
        ({"backoff": "2m"}, "backoff: should be less than or equal to 60"),
        ({"concurrency": 0}, "concurrency: should be greater than or equal to 1"),
        ({"secret": "hunter2"}, "secret: shorter than 24 bytes; make one: echo whsec_$(openssl rand -base64 32)"),
        ({"secret": [SECRET, "whsec_" + "hunter2!" * 8]}, "secret[1]: what stands after whsec_ is not base64"),
        ({"secret": "whsec_" + "aGk="}, "secret: shorter than 24 bytes"),
        ({"forward_headers": ["Host"]}, "forward_headers: Host is set by the server itself; leave it out"),
        ({"forward_headers": ["Transfer-Encoding"]}, "Transfer-Encoding is set by the server itself"),
        ({"forward_headers": ["content-length"]}, "content-length is set by the server itself"),
        ({"forward_headers": ["Webhook-Signature"]}, "Webhook-Signature is set by the server itself"),
        ({"forward_headers": ["a b"]}, "forward_headers: not the name of a header"),
        ({"headers": {"Connection": "hunter2"}}, "Connection is set by the server itself"),
        ({"headers": {"X-A:": "hunter2"}}, "not the name of a header"),
        ({"headers": {"X-A": "hunter2\r\nX-B: 1"}}, "headers.X-A: not the value of a header"),
        ({"headers": {"x-a": "hunter2"}, "forward_headers": ["X-A"]}, "the header x-a has two values"),
        ({"endpoint": "http://u:hunter2@a/", "forward_headers": ["Authorization"]}, "the header authorization has two values"),
        ({"endpoint": "https://a/", "key": "k.pem"}, "key is without its certificate"),
        ({"endpoint": "https://a/", "ca": "ca.pem", "verify": False}, "ca says what to verify with"),
        ({"verify": False}, "ca, certificate, key and verify are for https"),
        ({"ca": "ca.pem"}, "ca, certificate, key and verify are for https"),
        ({"certificate": "c.pem"}, "ca, certificate, key and verify are for https"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(options: Mapping[str, object], message: str) -> None:
    with pytest.raises(StartErrors) as caught:
        registry.load("hooks", "http", {"endpoint": "http://a/", **options} if options else {})
    assert message in str(caught.value)
    assert "hunter2" not in str(caught.value)


# --- TLS


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a folder, and what it has signed."""

    directory: Path

    @property
    def ca(self) -> Path:
        return self.directory / "ca.crt"

    def make(self) -> None:
        self.directory.mkdir()
        self._request("ca", "-x509", "-subj", "/CN=ca", "-addext", "keyUsage=critical,keyCertSign")

    def sign(self, name: str, alternative: str) -> None:
        """`<name>.crt` and `<name>.key`, for `IP:127.0.0.1` or `DNS:some.host`."""
        (self.directory / "extensions").write_text(f"subjectAltName={alternative}\n")
        self._request(name, "-subj", f"/CN={name}")
        openssl(
            *("x509", "-req", "-in", self._path(name, "crt"), "-days", "2", "-extfile", str(self.directory / "extensions")),
            *(
                "-CA",
                self._path("ca", "crt"),
                "-CAkey",
                self._path("ca", "key"),
                "-CAcreateserial",
                "-out",
                self._path(name, "crt"),
            ),
        )

    def server(self, name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._path(name, "crt"), self._path(name, "key"))
        return context

    def _path(self, name: str, ending: str) -> str:
        return str(self.directory / f"{name}.{ending}")

    def _request(self, name: str, *more: str) -> None:
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        openssl("req", *curve, "-keyout", self._path(name, "key"), "-out", self._path(name, "crt"), *more)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    found = Authority(tmp_path_factory.mktemp("tls") / "ours")
    found.make()
    found.sign("here", "IP:127.0.0.1")
    found.sign("elsewhere", "DNS:elsewhere.example")
    found.sign("client", "DNS:tusd")
    return found


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    found = Authority(tmp_path_factory.mktemp("tls") / "theirs")
    found.make()
    found.sign("client", "DNS:tusd")
    return found


async def test_a_certificate_of_our_authority_is_trusted(authority: Authority) -> None:
    async with hook(tls=authority.server("here")) as server, dispatcher(server.url, ca=authority.ca) as hooks:
        assert await hooks.dispatch(asked()) is None
        assert await hooks.dispatch(asked()) is None
    assert (len(server.requests), server.connections) == (2, 1)


@pytest.mark.parametrize("case", ["unknown authority", "another host", "the system's authorities"])
async def test_a_certificate_that_is_not_trusted_gets_no_event(
    authority: Authority, stranger: Authority, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "hooks")
    name = "elsewhere" if case == "another host" else "here"
    options = {"the system's authorities": {}, "another host": {"ca": authority.ca}}.get(case, {"ca": stranger.ca})
    reason = "certificate is not valid for '127.0.0.1'" if case == "another host" else "unable to get local issuer certificate"
    async with hook(tls=authority.server(name)) as server, dispatcher(server.url, **options) as hooks:
        with pytest.raises(HookError, match=f"^{re.escape(server.url)} cannot be asked securely: .*{reason}") as caught:
            await hooks.dispatch(asked())
    assert not caught.value.permanent
    assert server.requests == []
    assert "attempt" not in caplog.text  # there is none but the first


async def test_any_certificate_will_do_where_the_operator_says_so(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    async with hook(tls=authority.server("elsewhere")) as server:
        url = server.url.replace("//", "//u:hunter2@")
        async with dispatcher(url, verify=False) as hooks:
            assert await hooks.dispatch(asked()) is None
    assert f"verify is false: whoever is on the way to {server.url} can read events" in caplog.text
    assert "hunter2" not in caplog.text


async def test_the_hook_may_want_to_see_a_certificate(authority: Authority, stranger: Authority, tmp_path: Path) -> None:
    context = authority.server("here")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.ca)
    both = tmp_path / "both.pem"
    both.write_text("".join((authority.directory / f"client.{ending}").read_text() for ending in ("key", "crt")))
    pair = {"certificate": authority.directory / "client.crt", "key": authority.directory / "client.key"}
    wrong = {"certificate": stranger.directory / "client.crt", "key": stranger.directory / "client.key"}
    async with hook(tls=context) as server:
        for good in (pair, {"certificate": both}):
            async with dispatcher(server.url, ca=authority.ca, **good) as hooks:
                assert await hooks.dispatch(asked()) is None
        for bad in ({}, wrong):
            async with dispatcher(server.url, ca=authority.ca, attempts=1, **bad) as hooks:
                with pytest.raises(HookError, match="cannot be"):
                    await hooks.dispatch(asked())
    assert len(server.requests) == 2


async def test_no_tls_is_spoken_there() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 No TLS here\r\n\r\n")

    async with tcp_server(plain) as port, dispatcher(f"https://127.0.0.1:{port}/", attempts=1) as hooks:
        with pytest.raises(HookError, match=r"(?i)cannot be asked securely: .*(wrong.version|record.layer)"):
            await hooks.dispatch(asked())


def test_files_that_cannot_be_used_end_the_start(authority: Authority, stranger: Authority, tmp_path: Path) -> None:
    encrypted, nonsense = tmp_path / "encrypted.key", tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    openssl("pkey", "-in", str(authority.directory / "client.key"), "-aes256", "-passout", "pass:x", "-out", str(encrypted))
    certificate = authority.directory / "client.crt"

    async def start(options: Mapping[str, object]) -> None:
        async with dispatcher("https://a/", **options):
            raise AssertionError("it started")

    for options, expected in (
        ({"ca": tmp_path / "none.pem"}, f"ca: {tmp_path / 'none.pem'} cannot be used: no such file"),
        ({"ca": nonsense}, f"ca: {nonsense} cannot be used: no certificate"),
        ({"certificate": tmp_path / "none.crt"}, "none.crt cannot be used: no such file"),
        ({"certificate": nonsense}, f"certificate and key: {nonsense} cannot be used"),
        ({"certificate": certificate, "key": encrypted}, "cannot be used: it is encrypted: decrypt it"),
        ({"certificate": certificate, "key": stranger.directory / "client.key"}, "cannot be used: key values mismatch"),
    ):
        with pytest.raises(OSError, match=re.escape(expected)):
            asyncio.run(start(options))


async def test_ipv6() -> None:
    async with hook(host="::1") as server, dispatcher(server.url) as hooks:
        assert await hooks.dispatch(asked()) is None
    assert server.requests[0].headers["Host"].startswith("[::1]:")
