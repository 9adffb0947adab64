"""The figures of the HTTP side: what is counted, from when, and that gauges come back to zero however a connection ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.proc import need_proc, wait_for_workers, worker_of
from tests.server.certificates import make_pair

from tusd.testing.server import ServerProcess
from tusd.web.figures import BYTES_SENT, CONNECTIONS_OPEN, REQUEST_DURATION, REQUESTS_ACTIVE
from tusd.web.requests import RequestIds

from .conftest import Serve
from .raw import Connection, chunked, patch, post, request
from .serving import Served, path_of
from .test_connections import eventually

MIB = 1024 * 1024
"""A body of it goes past aiohttp, straight to the file."""


def gauge(server: Served, name: str) -> float:
    return server.metrics.sums.get((name, ()), 0)


def connections(server: Served) -> float:
    return gauge(server, CONNECTIONS_OPEN.name)


def active(server: Served) -> float:
    return gauge(server, REQUESTS_ACTIVE.name)


def requests(server: Served) -> dict[str, float]:
    """Method -> requests."""
    return {labels[0]: found for (name, labels), found in list(server.metrics.sums.items()) if name == "tusd_requests_total"}


def durations(server: Served) -> dict[tuple[str, ...], list[float]]:
    """Method and class of the status -> seconds of each request."""
    return {labels: found for (name, labels), found in list(server.metrics.observed.items()) if name == REQUEST_DURATION.name}


def errors(server: Served) -> dict[tuple[str, ...], float]:
    """Status and code -> answers."""
    return {labels: found for (name, labels), found in list(server.metrics.sums.items()) if name == "tusd_errors_total"}


def sent(server: Served) -> float:
    return gauge(server, BYTES_SENT.name)


def seconds(server: Served, method: str) -> float:
    """How long the one request of this method took."""
    (found,) = [values for labels, values in durations(server).items() if labels[0] == method]
    (value,) = found
    return value


# --- what is counted


def test_requests_on_one_connection(server: Served) -> None:
    with server.connect() as connection:
        path = path_of(connection.ask(post({"Upload-Length": 10})))
        assert connection.ask(patch(path, 0, b"hello")).status == 204
        assert connection.ask(patch(path, 0, b"hello")).status == 409
        assert connection.ask(patch(path, 5, b"world")).status == 204
        assert connection.ask(request("HEAD", path)).status == 200
        assert connection.ask(request("GET", path)).body == b"helloworld"
        assert connection.ask(request("DELETE", path)).status == 204
        assert connection.ask(request("HEAD", path)).status == 404
        assert connection.ask(request("OPTIONS", "/files/")).status == 200
        assert connections(server) == 1
        assert requests(server) == {"POST": 1, "PATCH": 3, "HEAD": 2, "GET": 1, "DELETE": 1, "OPTIONS": 1}
        assert {labels: len(found) for labels, found in durations(server).items()} == {
            ("POST", "2xx"): 1,
            ("PATCH", "2xx"): 2,
            ("PATCH", "4xx"): 1,
            ("HEAD", "2xx"): 1,
            ("HEAD", "4xx"): 1,
            ("GET", "2xx"): 1,
            ("DELETE", "2xx"): 1,
            ("OPTIONS", "2xx"): 1,
        }
        assert errors(server) == {("409", "ERR_MISMATCHED_OFFSET"): 1, ("404", "ERR_UPLOAD_NOT_FOUND"): 1}
        assert active(server) == 0
    eventually(0, lambda: connections(server))


def test_the_method_that_is_meant_counts(server: Served) -> None:
    path = server.create(5)
    override = {"X-HTTP-Method-Override": "patch", "Upload-Offset": 0, "Content-Type": "application/offset+octet-stream"}
    assert server.ask(request("POST", path, override, b"hello")).status == 204
    assert server.ask(request("GET", path, {"X-HTTP-Method-Override": "DELETE"})).status == 200
    assert requests(server) == {"POST": 1, "PATCH": 1, "GET": 1}
    eventually({("POST", "2xx"), ("PATCH", "2xx"), ("GET", "2xx")}, lambda: set(durations(server)))


def test_methods_that_clients_make_up_are_one_label(server: Served) -> None:
    for method in ("PROPFIND", "MKCOL", "LOCK"):
        assert server.ask(request(method, "/files/x")).status == 405
        assert server.ask(request("POST", "/files/x", {"X-HTTP-Method-Override": f"{method}-2"})).status == 405
    assert requests(server) == {"other": 6}
    assert {labels: len(found) for labels, found in durations(server).items()} == {("other", "4xx"): 6}


def test_what_is_no_upload_is_not_counted(server: Served) -> None:
    for path in ("/", "/healthz", "/hello", "/elsewhere"):
        server.ask(request("GET", path))
    assert requests(server) == {}
    assert durations(server) == {}


def test_a_connection_too_many(serve: Serve) -> None:
    server = serve(max_connections=1)
    with server.connect() as first:
        assert first.ask(request("OPTIONS", "/files/")).status == 200
        with server.connect() as second:
            assert second.ask(request("OPTIONS", "/files/")).status == 503
        assert errors(server) == {("503", "ERR_TOO_MANY_CONNECTIONS"): 1}
        eventually(1, lambda: connections(server))
    eventually(0, lambda: connections(server))


# --- bytes of downloads


def test_bytes_sent(server: Served) -> None:
    path = server.upload(os.urandom(3 * MIB))
    assert sent(server) == 0
    assert server.ask(request("GET", path, {"Range": "bytes=10-109"})).status == 206
    eventually(100, lambda: sent(server))
    assert server.ask(request("HEAD", path)).status == 200
    assert server.ask(request("GET", path, {"Range": f"bytes={4 * MIB}-"})).status == 416
    assert len(server.ask(request("GET", path)).body) == 3 * MIB
    eventually(100 + 3 * MIB, lambda: sent(server))


def test_bytes_are_counted_while_they_go(server: Served) -> None:
    size = 20 * MIB
    path = server.upload(os.urandom(size))
    reader = server.connect(receive_buffer=4096)
    reader.send(request("GET", path))
    eventually(True, lambda: sent(server) > 0)
    assert active(server) == 1
    reader.reset()
    eventually(0, lambda: active(server))
    assert sent(server) < size


# --- when a request begins


def test_waiting_for_a_request_is_no_part_of_it(server: Served) -> None:
    with server.connect() as connection:
        for method in ("OPTIONS", "HEAD"):
            time.sleep(0.5)
            connection.ask(request(method, "/files/x"))
            assert seconds(server, method) < 0.45


def test_a_slow_head_is_a_part_of_its_request(server: Served) -> None:
    with server.connect() as connection:
        for method in ("OPTIONS", "HEAD"):
            time.sleep(0.4)
            data = request(method, "/files/x")
            connection.send(data[:20])
            time.sleep(0.2)
            connection.send(data[20:])
            assert connection.answer(method).status < 500
            assert 0.19 < seconds(server, method) < 0.59


def test_a_request_that_waits_behind_another(server: Served) -> None:
    path = server.create(5)
    release = server.hold(path)
    with server.connect() as connection:
        connection.send(request("HEAD", path) + request("OPTIONS", "/files/"))
        time.sleep(0.2)
        assert active(server) == 1
        release.set()
        assert connection.answer("HEAD").status == connection.answer("OPTIONS").status == 200
    assert seconds(server, "HEAD") > 0.15
    assert seconds(server, "OPTIONS") > 0.15


def test_many_requests_at_once(server: Served) -> None:
    """More than aiohttp parses at once, the last with a body."""
    path = server.create(5)
    with server.connect() as connection:
        connection.send(request("OPTIONS", "/files/") * 200 + patch(path, 0, b"hello"))
        assert {connection.answer().status for _ in range(200)} == {200}
        assert connection.answer().status == 204
        time.sleep(0.5)
        assert connection.ask(request("HEAD", path)).status == 200
    assert requests(server) == {"POST": 1, "OPTIONS": 200, "PATCH": 1, "HEAD": 1}
    assert seconds(server, "HEAD") < 0.45


def test_the_log_and_the_figures_agree() -> None:
    entry = RequestIds().entry(None, time.monotonic() - 5)
    entry.end()
    assert 5 <= entry.seconds < 6


# --- gauges come back to zero


@pytest.mark.parametrize("size", [1000, 2 * MIB])
def test_clients_that_vanish(server: Served, size: int) -> None:
    paths = [server.create(size) for _ in range(3)]
    download = server.upload(os.urandom(20 * MIB))
    locked = server.create(5)
    release = server.hold(locked)
    silent, half_a_head, stalled, in_chunks, reading, waiting = clients = [server.connect() for _ in range(6)]
    half_a_head.send(patch(paths[0], 0)[:30])
    stalled.send(patch(paths[1], 0, bytes(size))[: -size // 2])
    in_chunks.send(patch(paths[2], 0, headers={"Transfer-Encoding": "chunked"}) + chunked(bytes(size), 500)[: size // 2])
    reading.send(request("GET", download))
    waiting.send(request("HEAD", locked))
    eventually((6, 4), lambda: (connections(server), active(server)))
    for client in clients:
        client.reset()
    eventually((0, 1), lambda: (connections(server), active(server)))
    release.set()
    eventually(0, lambda: active(server))
    assert silent.socket.fileno() == -1
    assert sum(requests(server).values()) == sum(map(len, durations(server).values()))


@pytest.mark.parametrize("size", [1000, 2 * MIB])
def test_a_stop(server: Served, size: int) -> None:
    path = server.create(size)
    download = server.upload(os.urandom(20 * MIB))
    idle, stalled, reading = clients = [server.connect() for _ in range(3)]
    assert idle.ask(request("OPTIONS", "/files/")).status == 200
    stalled.send(patch(path, 0, bytes(size))[: -size // 2])
    reading.send(request("GET", download))
    eventually((3, 2), lambda: (connections(server), active(server)))
    server.stop(1)
    assert (connections(server), active(server)) == (0, 0)
    assert sum(requests(server).values()) == sum(map(len, durations(server).values()))
    for client in clients:
        client.close()


def test_a_stop_where_tls_does_not_end(serve: Serve, tmp_path: Path) -> None:
    """A client that takes no leave holds the transport for half a minute; the connection has been ended all the same."""
    pair = make_pair(tmp_path, "figures")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.certificate, pair.key)
    server = serve(tls=tls)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            plain = stack.enter_context(socket.create_connection(("127.0.0.1", server.address[1]), timeout=10))
            client = stack.enter_context(pair.client().wrap_socket(plain, server_hostname="127.0.0.1"))
            client.sendall(request("OPTIONS", "/files/"))
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert connections(server) == 3
        server.run(server.site.stop(1))
        assert connections(server) == 0
    assert connections(server) == 0


# --- as a real server shows them


def shown(server: ServerProcess, name: str) -> float:
    text = urllib.request.urlopen(f"http://{server.host}:{server.port}/metrics", timeout=10).read().decode()
    return float(re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[0])


def test_connections_of_several_workers_one_of_which_is_killed(tusd_server: Callable[..., ServerProcess]) -> None:
    need_proc()
    server = tusd_server({"server": {"workers": 2}})
    wait_for_workers(server)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Connection((server.host, server.port))) for _ in range(6)]
        for client in clients:
            assert client.ask(request("OPTIONS", "/files/")).status == 200
        eventually(7, lambda: shown(server, "tusd_connections_open"))  # whoever looks is one
        victim = worker_of(server, clients[0].socket)
        left = [client for client in clients if worker_of(server, client.socket) != victim]
        os.kill(victim, signal.SIGKILL)
        eventually(len(left) + 1, lambda: shown(server, "tusd_connections_open"))
    eventually(1, lambda: shown(server, "tusd_connections_open"))


def test_a_reload(tusd_server: Callable[..., ServerProcess]) -> None:
    """The generation that drains counts its own connections, and none when it has gone."""
    server = tusd_server({"server": {"shutdown_timeout": "3s"}})
    assert server.process is not None
    with Connection((server.host, server.port)) as idle, Connection((server.host, server.port)) as stalled:
        assert idle.ask(request("OPTIONS", "/files/")).status == 200
        path = path_of(stalled.ask(post({"Upload-Length": 10})))
        stalled.send(patch(path, 0, b"hello", announce=10))
        eventually((3, 1), lambda: (shown(server, "tusd_connections_open"), shown(server, "tusd_requests_active")))
        server.process.send_signal(signal.SIGHUP)
        eventually(True, lambda: "INFO reloaded" in server.log)
        assert shown(server, "tusd_requests_active") == 1
        stalled.send(b"world")
        assert stalled.answer().status == 204
        eventually((1, 0), lambda: (shown(server, "tusd_connections_open"), shown(server, "tusd_requests_active")))
