"""The dispatcher and real services: good ones, bad ones, and some that speak no gRPC at all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from multidict import CIMultiDict
from pydantic import ValidationError
from tests.server.certificates import Pair, make_pair, openssl
from tests.tcp import tcp_server

from grpc_services import OURS, Context, answer, event, service
from tusd.plugin import (
    DEFAULT_EVENTS,
    Dispatcher,
    Head,
    HookError,
    HookResponse,
    PostFinish,
    PreFinish,
)
from tusd.testing.server import free_port
from tusd_plugin_grpc_hooks import GrpcHooks
from tusd_plugin_grpc_hooks.dispatcher import GrpcDispatcher, channel, pause

REJECTION = answer(rejectUpload=True, httpResponse={"statusCode": 403, "body": "no"})


@asynccontextmanager
async def dispatcher(endpoint: str, **options: object) -> AsyncIterator[Dispatcher]:
    """As a server opens it, with attempts that follow one another at once."""
    validated = GrpcHooks.Options.model_validate({"endpoint": endpoint, "backoff": "1ms", **options})
    async with channel(validated) as opened:
        yield GrpcDispatcher(validated, opened, logging.getLogger("tusd.test"))


class Recorder:
    """A handler that remembers what it was called with, and answers with one thing after another, the last one for ever."""

    def __init__(self, *answers: bytes | grpc.StatusCode) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.metadata: list[dict[str, list[str | bytes]]] = []

    async def __call__(self, request: bytes, context: Context) -> bytes:
        self.requests.append(request)
        found: dict[str, list[str | bytes]] = {}
        for key, value in context.invocation_metadata() or ():
            found.setdefault(key, []).append(value)
        self.metadata.append(found)
        now = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(now, grpc.StatusCode):
            await context.abort(now, f"not now, {len(self.requests)}")
        return now


async def test_the_service_is_told_and_its_answer_counts() -> None:
    handler = Recorder(REJECTION)
    async with service(handler) as endpoint, dispatcher(endpoint) as hooks:
        assert await hooks.dispatch(event()) == HookResponse(reject=True, status=403, body="no")
    told = OURS.Request.FromString(handler.requests[0])
    assert (told.type, told.event.upload.size, told.event.httpRequest.header["X-Request-Id"]) == ("pre-create", 12, "r1")


async def test_a_service_that_says_nothing() -> None:
    async with service(Recorder(b"")) as endpoint, dispatcher(endpoint) as hooks:
        assert await hooks.dispatch(event(PostFinish)) is None


async def test_a_unix_socket(tmp_path: Path) -> None:
    async with service(Recorder(REJECTION), f"unix:{tmp_path}/hooks.sock") as endpoint, dispatcher(endpoint) as hooks:
        assert await hooks.dispatch(event()) == HookResponse(reject=True, status=403, body="no")


async def test_it_wants_what_it_is_told_to_want() -> None:
    async with dispatcher("127.0.0.1:1") as hooks:
        assert hooks.events == DEFAULT_EVENTS
    async with dispatcher("127.0.0.1:1", events=["pre-finish", "post-finish"]) as hooks:
        assert hooks.events == {PreFinish, PostFinish}


# --- attempts


@pytest.mark.parametrize("status", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"])
async def test_what_may_pass_is_tried_again(status: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tusd.test")
    handler = Recorder(grpc.StatusCode[status], grpc.StatusCode[status], REJECTION)
    async with service(handler) as endpoint, dispatcher(endpoint) as hooks:
        assert await hooks.dispatch(event()) == HookResponse(reject=True, status=403, body="no")
    assert len(handler.requests) == 3
    assert len(set(handler.requests)) == 1, "the same event has the same delivery id"
    assert [record.getMessage() for record in caplog.records if record.name == "tusd.test"] == [
        f"{endpoint} answered {status}: not now, {n} (attempt {n} of 3)" for n in (1, 2)
    ]


@pytest.mark.parametrize("attempts", [1, 4])
async def test_there_are_so_many_attempts_and_no_more(attempts: int) -> None:
    handler = Recorder(grpc.StatusCode.UNAVAILABLE)
    async with service(handler) as endpoint, dispatcher(endpoint, attempts=attempts) as hooks:
        with pytest.raises(HookError, match=rf"UNAVAILABLE: not now, {attempts} \(attempt {attempts} of {attempts}\)") as caught:
            await hooks.dispatch(event())
    assert len(handler.requests) == attempts
    assert not caught.value.permanent


@pytest.mark.parametrize("status", [one for one in grpc.StatusCode if one is not grpc.StatusCode.OK], ids=lambda one: one.name)
async def test_every_status(status: grpc.StatusCode) -> None:
    passing = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
    broken = {"UNKNOWN", "INTERNAL", "DATA_LOSS", "ABORTED", "CANCELLED"}
    handler = Recorder(status)
    async with service(handler) as endpoint, dispatcher(endpoint) as hooks:
        with pytest.raises(HookError, match=f"{endpoint} answered {status.name}: not now") as caught:
            await hooks.dispatch(event())
    assert caught.value.permanent == (status.name not in passing | broken)
    assert len(handler.requests) == (3 if status.name in passing else 1)


def test_the_waits_grow_and_chance_shortens_them() -> None:
    for attempt, whole in ((1, 0.5), (2, 1), (3, 2), (7, 32), (8, 60), (20, 60)):
        waits = [pause(0.5, attempt) for _ in range(1000)]
        assert whole * 0.5 <= min(waits) < whole * 0.55
        assert whole * 0.95 < max(waits) <= whole
    assert pause(0, 9) == 0


async def test_it_waits_between_attempts() -> None:
    times: list[float] = []

    async def handler(request: bytes, context: Context) -> bytes:
        times.append(time.monotonic())
        await context.abort(grpc.StatusCode.UNAVAILABLE, "")
        return b""

    async with service(handler) as endpoint, dispatcher(endpoint, backoff="80ms") as hooks:
        with pytest.raises(HookError):
            await hooks.dispatch(event())
    first, second, third = times
    assert second - first >= 0.04 and third - second >= 0.08


async def test_a_service_that_comes_up_between_attempts() -> None:
    port = free_port()
    async with dispatcher(f"127.0.0.1:{port}", backoff="200ms", attempts=6) as hooks:
        with pytest.raises(HookError, match=f"127.0.0.1:{port} answered UNAVAILABLE: .*Connection refused"):
            async with dispatcher(f"127.0.0.1:{port}") as impatient:
                await impatient.dispatch(event())
        asking = asyncio.create_task(hooks.dispatch(event()))
        await asyncio.sleep(0.1)
        assert not asking.done()
        async with service(Recorder(REJECTION), f"127.0.0.1:{port}"):
            assert await asking == HookResponse(reject=True, status=403, body="no")


async def test_a_service_that_was_away_for_long_is_found_at_once() -> None:
    """gRPC by itself would wait longer and longer between connections, and fail all calls meanwhile."""
    port = free_port()
    async with dispatcher(f"127.0.0.1:{port}", attempts=1) as hooks:
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            with pytest.raises(HookError, match="UNAVAILABLE"):
                await hooks.dispatch(event())
            await asyncio.sleep(0.05)
        async with service(Recorder(REJECTION), f"127.0.0.1:{port}"):
            async with asyncio.timeout(2):
                while True:
                    with contextlib.suppress(HookError):
                        assert await hooks.dispatch(event()) is not None
                        break
                    await asyncio.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for its own socket in /proc")
async def test_a_connection_whose_other_end_has_vanished_ends() -> None:
    async with service(Recorder(b"")) as endpoint, dispatcher(endpoint) as hooks:
        await hooks.dispatch(event())
        found = []
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as one:
                if one.family != socket.AF_UNIX and one.getpeername()[1] == int(endpoint.rpartition(":")[2]):
                    found.append(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
    assert found == [10_000]


async def test_a_service_that_hangs_is_too_slow() -> None:
    calls = 0

    async def handler(request: bytes, context: Context) -> bytes:
        nonlocal calls
        calls += 1
        await asyncio.sleep(60)
        return REJECTION

    async with service(handler) as endpoint, dispatcher(endpoint, timeout="200ms", attempts=2) as hooks:
        began = time.monotonic()
        with pytest.raises(HookError, match="DEADLINE_EXCEEDED") as caught:
            await hooks.dispatch(event())
        assert 0.4 <= time.monotonic() - began < 3
    assert calls == 2
    assert not caught.value.permanent


async def test_a_cancelled_event_ends_its_call() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def handler(request: bytes, context: Context) -> bytes:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return b""

    async with service(handler) as endpoint, dispatcher(endpoint) as hooks:
        asking = asyncio.create_task(hooks.dispatch(event()))
        await asyncio.wait_for(begun.wait(), 10)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(ended.wait(), 10)


async def test_a_cancelled_event_does_not_wait_for_its_next_attempt() -> None:
    handler = Recorder(grpc.StatusCode.UNAVAILABLE)
    async with service(handler) as endpoint, dispatcher(endpoint, backoff="60s") as hooks:
        asking = asyncio.create_task(hooks.dispatch(event()))
        while not handler.requests:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        asking.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert time.monotonic() - began < 5
    assert len(handler.requests) == 1


# --- services that misbehave


async def test_many_events_at_once() -> None:
    handler = Recorder(REJECTION)
    async with service(handler) as endpoint, dispatcher(endpoint) as hooks:
        found = await asyncio.gather(*(hooks.dispatch(event()) for _ in range(300)))
    assert found == [HookResponse(reject=True, status=403, body="no")] * 300
    assert len({OURS.Request.FromString(one).deliveryId for one in handler.requests}) == 300


async def test_an_answer_that_is_no_message() -> None:
    handler = Recorder(b"hello")
    async with service(handler) as endpoint, dispatcher(endpoint) as hooks:
        with pytest.raises(HookError, match=f"{endpoint}: the service's answer is not a HookResponse"):
            await hooks.dispatch(event())
        assert await hooks.dispatch(event(PostFinish)) is None, "it has arrived, and no answer would count"
    assert len(handler.requests) == 2


@pytest.mark.parametrize(("compression", "excess"), [(None, 1), (grpc.Compression.Gzip, 1), (grpc.Compression.Gzip, 900_000)])
async def test_an_answer_that_is_too_large(
    caplog: pytest.LogCaptureFixture, compression: grpc.Compression | None, excess: int
) -> None:
    large = answer(httpResponse={"body": "x" * 1_000_000})
    handler = Recorder(large)
    async with service(handler, compression=compression) as endpoint:
        async with dispatcher(endpoint, size_limit=len(large)) as hooks:
            assert await hooks.dispatch(event()) is not None
        async with dispatcher(endpoint, size_limit=len(large) - excess) as hooks:
            with pytest.raises(HookError, match="larger than max"):
                await hooks.dispatch(event())
            assert await hooks.dispatch(event(PostFinish)) is None
    assert len(handler.requests) == 3, "asking again would not help"
    assert re.search("the event post-finish is delivered; its answer is left: .*larger than max", caplog.text)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2 (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def http2(status: int) -> bytes:
    """What a web server that knows no gRPC answers: SETTINGS, then HEADERS with a status and content-type: text/html."""
    fields = b"\x08\x03%d" % status + b"\x0f\x10\x09text/html"
    return frame(4, 0, 0) + frame(1, 0x5, 1, fields)


async def read_call(reader: asyncio.StreamReader) -> None:
    """Read until a client has sent the whole of its first call: a DATA frame with END_STREAM."""
    await reader.readexactly(24)
    while True:
        head = await reader.readexactly(9)
        await reader.readexactly(int.from_bytes(head[:3], "big"))
        if head[3] == 0 and head[4] & 1:
            return


@pytest.mark.parametrize(
    ("said", "message", "permanent"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "UNAVAILABLE", False),
        (b"\x00" * 1000, "UNAVAILABLE", False),
        (b"220 mail.example ESMTP\r\n", "UNAVAILABLE", False),
        (b"", "UNAVAILABLE", False),
        (http2(503), "UNAVAILABLE", False),
        (http2(404), "UNIMPLEMENTED", True),
        (http2(401), "UNAUTHENTICATED", True),
        (http2(200), "UNKNOWN", False),
        (frame(4, 0, 0) + frame(3, 0, 1, b"\0\0\0\x08"), "CANCELLED", False),  # RST_STREAM
        (frame(4, 0, 0) + frame(7, 0, 0, b"\0\0\0\0\0\0\0\x0b"), "UNAVAILABLE", False),  # GOAWAY
        (frame(4, 0, 0) + frame(1, 4, 1, b"\x88"), "UNAVAILABLE", False),  # and then it ends the connection
    ],
)
async def test_what_is_no_grpc_service(said: bytes, message: str, permanent: bool) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            if said.startswith(frame(4, 0, 0)):
                writer.write(said[:9])
                await read_call(reader)
                writer.write(said[9:])
            else:
                writer.write(said)
            await writer.drain()

    async with tcp_server(talk) as port, dispatcher(f"127.0.0.1:{port}", timeout=5) as hooks:
        with pytest.raises(HookError, match=f"127.0.0.1:{port} answered {message}") as caught:
            await hooks.dispatch(event())
    assert caught.value.permanent == permanent


async def test_a_server_that_takes_connections_and_says_nothing() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with tcp_server(talk) as port, dispatcher(f"127.0.0.1:{port}", timeout="300ms", attempts=2) as hooks:
        with pytest.raises(HookError, match="DEADLINE_EXCEEDED"):
            await hooks.dispatch(event())


async def test_a_service_that_dies_in_the_middle_of_a_call(tmp_path: Path) -> None:
    port = free_port()
    script = tmp_path / "service.py"
    script.write_text(
        f"""
import asyncio, grpc

async def invoke(request, context):
    print("called", flush=True)
    await asyncio.sleep(60)

async def main():
    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(invoke)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("proto.HookHandler", {{"InvokeHook": method}})])
    server.add_insecure_port("127.0.0.1:{port}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()

asyncio.run(main())
"""
    )
    process = await asyncio.create_subprocess_exec(sys.executable, script, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ready\n"
        async with dispatcher(f"127.0.0.1:{port}", attempts=2) as hooks:
            asking = asyncio.create_task(hooks.dispatch(event()))
            assert await process.stdout.readline() == b"called\n"
            process.send_signal(signal.SIGKILL)
            with pytest.raises(HookError, match=r"UNAVAILABLE.*\(attempt 2 of 2\)") as caught:
                await asking
            assert not caught.value.permanent
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_details_are_cut() -> None:
    async def handler(request: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.INTERNAL, "a\r\nb " + "x" * 3000)
        return b""

    async with service(handler) as endpoint, dispatcher(endpoint) as hooks:
        with pytest.raises(HookError) as caught:
            await hooks.dispatch(event())
    assert str(caught.value) == f"{endpoint} answered INTERNAL: a b {'x' * 496}"


# --- forwarded headers


async def test_headers_that_are_forwarded() -> None:
    headers = CIMultiDict(
        [
            ("Authorization", "Bearer s3cret"),
            ("X-Tenant", "a"),
            ("x-tenant", "b"),
            ("X-Name", "Gr\u00fc\u00dfe \udcff %41"),
            ("X-Token-Bin", "\u00fc\udcff\x01"),
            ("X-Other", "1"),
        ]
    )
    handler = Recorder(b"")
    wanted = ["Authorization", "X-Tenant", "x-name", "x-token-BIN", "X-Absent"]
    async with service(handler) as endpoint, dispatcher(endpoint, forward_headers=wanted) as hooks:
        await hooks.dispatch(event(head=Head("POST", "/files/", headers)))
    (got,) = handler.metadata
    got.pop("user-agent")
    assert got == {
        "authorization": ["Bearer s3cret"],
        "x-tenant": ["a", "b"],
        "x-name": ["Gr%C3%BC%C3%9Fe %FF %41"],
        "x-token-bin": [b"\xc3\xbc\xff\x01"],
    }


async def test_no_header_is_forwarded_unasked() -> None:
    handler = Recorder(b"")
    async with service(handler) as endpoint, dispatcher(endpoint) as hooks:
        await hooks.dispatch(event(head=Head("POST", "/files/", CIMultiDict({"Authorization": "Bearer s3cret"}))))
    assert set(handler.metadata[0]) == {"user-agent"}


@pytest.mark.parametrize("fails", ["status", "answer", "connection"])
async def test_a_failure_does_not_tell_credentials(fails: str) -> None:
    handler = Recorder(b"hello" if fails == "answer" else grpc.StatusCode.INTERNAL)
    head = Head("POST", "/files/", CIMultiDict({"Authorization": "Bearer s3cret"}))
    async with service(handler) as endpoint:
        place = f"127.0.0.1:{free_port()}" if fails == "connection" else endpoint
        async with dispatcher(place, forward_headers=["authorization"]) as hooks:
            with pytest.raises(HookError) as caught:
                await hooks.dispatch(event(head=head))
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


# --- TLS


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """Self-signed: one of the service, one of tusd, one of nobody; and one of a service that is known by a name."""
    folder = tmp_path_factory.mktemp("pairs")
    found = {name: make_pair(folder, name) for name in ("service", "tusd", "stranger")}
    named = Pair(folder / "named.crt", folder / "named.key")
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
        *("-subj", "/CN=named", "-addext", "subjectAltName=DNS:hooks.internal"),
        *("-keyout", str(named.key), "-out", str(named.certificate)),
    )
    return {**found, "named": named}


def serving(pair: Pair, clients: Pair | None = None) -> grpc.ServerCredentials:
    """The credentials of a service; with `clients`, it asks for a certificate of theirs."""
    chain = [(pair.key.read_bytes(), pair.certificate.read_bytes())]
    roots = None if clients is None else clients.certificate.read_bytes()
    return grpc.ssl_server_credentials(chain, roots, clients is not None)


async def test_tls(pairs: dict[str, Pair]) -> None:
    tls = {"ca": pairs["service"].certificate}
    async with service(Recorder(REJECTION), credentials=serving(pairs["service"])) as endpoint:
        async with dispatcher(endpoint, tls=tls) as hooks:
            assert await hooks.dispatch(event()) == HookResponse(reject=True, status=403, body="no")


@pytest.mark.parametrize("trusted", ["stranger", None])
async def test_a_service_that_nobody_vouches_for(pairs: dict[str, Pair], trusted: str | None) -> None:
    handler = Recorder(REJECTION)
    tls = {} if trusted is None else {"ca": pairs[trusted].certificate}
    async with service(handler, credentials=serving(pairs["service"])) as endpoint, dispatcher(endpoint, tls=tls) as hooks:
        with pytest.raises(HookError, match=r"UNAVAILABLE: .*(CERTIFICATE_VERIFY_FAILED|certificate verify failed)"):
            await hooks.dispatch(event())
    assert handler.requests == []


async def test_the_name_of_the_service(pairs: dict[str, Pair]) -> None:
    ca = pairs["named"].certificate
    async with service(Recorder(REJECTION), credentials=serving(pairs["named"])) as endpoint:
        async with dispatcher(endpoint, tls={"ca": ca, "server_name": "hooks.internal"}) as hooks:
            assert await hooks.dispatch(event()) is not None
        for wrong in ({"ca": ca}, {"ca": ca, "server_name": "other.internal"}):
            async with dispatcher(endpoint, tls=wrong) as hooks:
                with pytest.raises(HookError, match="UNAVAILABLE"):
                    await hooks.dispatch(event())


async def test_a_service_that_asks_for_our_certificate(pairs: dict[str, Pair]) -> None:
    handler = Recorder(REJECTION)
    ca = pairs["service"].certificate

    def showing(pair: Pair) -> dict[str, Path]:
        return {"ca": ca, "certificate": pair.certificate, "key": pair.key}

    async with service(handler, credentials=serving(pairs["service"], clients=pairs["tusd"])) as endpoint:
        async with dispatcher(endpoint, tls=showing(pairs["tusd"])) as hooks:
            assert await hooks.dispatch(event()) is not None
        for wrong in ({"ca": ca}, showing(pairs["stranger"])):
            async with dispatcher(endpoint, tls=wrong) as hooks:
                with pytest.raises(HookError, match="UNAVAILABLE"):
                    await hooks.dispatch(event())
    assert len(handler.requests) == 1


async def test_tls_and_no_tls(pairs: dict[str, Pair]) -> None:
    handler = Recorder(REJECTION)
    async with service(handler) as plain, service(handler, credentials=serving(pairs["service"])) as secure:
        for endpoint, tls in ((plain, {"ca": pairs["service"].certificate}), (secure, None)):
            async with dispatcher(endpoint, tls=tls, timeout=2, attempts=1) as hooks:
                with pytest.raises(HookError, match=r"UNAVAILABLE|DEADLINE_EXCEEDED"):
                    await hooks.dispatch(event())
    assert handler.requests == []


def test_files_that_cannot_be_used(pairs: dict[str, Pair], tmp_path: Path) -> None:
    one, other = pairs["tusd"], pairs["stranger"]
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing\n")
    locked = tmp_path / "locked.key"
    openssl("ec", "-in", str(one.key), "-aes256", "-passout", "pass:secret", "-out", str(locked))
    for tls, message in (
        ({"ca": tmp_path / "absent.pem"}, f"No such file or directory: '{tmp_path}/absent.pem'"),
        ({"ca": empty}, f"tls.ca: {empty} holds no certificate in PEM"),
        ({"certificate": one.certificate, "key": other.key}, f"tls.key: {other.key} are no pair"),
        ({"certificate": empty, "key": one.key}, f"tls.certificate: {empty} and"),
        ({"certificate": one.certificate, "key": locked}, "or the key is encrypted"),
        ({"certificate": one.certificate, "key": tmp_path}, "Is a directory"),
    ):
        options = GrpcHooks.Options.model_validate({"endpoint": "127.0.0.1:1", "tls": tls})
        with pytest.raises(OSError, match=re.escape(message)) as caught:
            channel(options)
        assert not isinstance(caught.value, ssl.SSLError)


# --- options


@pytest.mark.parametrize(
    "endpoint", ["localhost:50051", "hooks_1.svc:1", "[::1]:65535", "unix:/run/hooks.sock", "unix:hooks.sock"]
)
def test_endpoints(endpoint: str) -> None:
    assert GrpcHooks.Options(endpoint=endpoint).endpoint == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        *("", "localhost", "localhost:", "localhost:0", "localhost:65536", ":50051", "::1:50051", "http://localhost:50051"),
        *(
            "user:password@localhost:1",
            "localhost:1/path",
            "unix:",
            "unix:/a b",
            "dns:///localhost:1",
            "local host:1",
            "localhost:1\n",
        ),
    ],
)
def test_what_is_no_endpoint(endpoint: str) -> None:
    with pytest.raises(ValidationError, match=r"write host:port, \[v6 address\]:port or unix:/path.sock") as caught:
        GrpcHooks.Options(endpoint=endpoint)
    assert "password" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["grpc-timeout", "TE", "Host", "User-Agent", "Content-Length", "Connection", "a b", "", "ü", ":path"]
)
def test_headers_that_cannot_be_forwarded(name: str) -> None:
    with pytest.raises(ValidationError, match="cannot be sent as metadata"):
        GrpcHooks.Options(endpoint="a:1", forward_headers=[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "endpoint\n  Field required"),
        ({"endpoint": "a:1", "timeout": 0}, "greater than 0"),
        ({"endpoint": "a:1", "backoff": "61s"}, "less than or equal to 60"),
        ({"endpoint": "a:1", "attempts": 0}, "greater than or equal to 1"),
        ({"endpoint": "a:1", "attempts": 21}, "less than or equal to 20"),
        ({"endpoint": "a:1", "tls": {"certificate": "x"}}, "certificate and key belong together"),
        ({"endpoint": "a:1", "tls": {"key": "x"}}, "certificate and key belong together"),
        ({"endpoint": "a:1", "tls": True}, "tls"),
        ({"endpoint": "a:1", "events": ["pre-party"]}, "events.0"),
        ({"endpoint": "a:1", "secret": "x"}, "Extra inputs"),
    ],
)
def test_options_that_are_wrong(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        GrpcHooks.Options.model_validate(options)
