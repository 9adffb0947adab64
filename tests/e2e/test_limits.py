"""Limits of a server with two workers, as its clients meet them."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.proc import need_proc, wait_for_workers, worker_of
from tests.server.running import until
from tusd.testing.server import ServerProcess

from .files import MIB, downloaded_sha256, random_file, sha256
from .test_tus_js import Client

Start = Callable[..., ServerProcess]
MB = 1_000_000
OCTETS = "application/offset+octet-stream"


class Answer:
    """A response that has been read."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def code(self) -> str:
        return self.body.decode().partition(":")[0]

    @property
    def path(self) -> str:
        """Of the upload that was created."""
        return "/" + self.headers["Location"].split("/", 3)[3]


def started(start: Start, *limiting: Mapping[str, Any], **server: object) -> ServerProcess:
    """A server with two workers, both of which serve, that believes what 127.0.0.1 says of its clients."""
    found = start({"server": {"workers": 2, "behind_proxy": True, **server}, "limiting": list(limiting)})
    wait_for_workers(found)
    return found


def ask(
    server: ServerProcess,
    method: str,
    path: str = "/files/",
    body: bytes = b"",
    client: str = "192.0.2.1",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request of a client, on a connection of its own."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=20)
    given = {"Tus-Resumable": "1.0.0", "X-Forwarded-For": client, "Origin": "https://app.example.com", **(headers or {})}
    connection.request(method, path, body or None, given)
    answer = Answer(connection.getresponse())
    connection.close()
    return answer


def create(server: ServerProcess, length: int = 10, client: str = "192.0.2.1", metadata: str = "") -> Answer:
    return ask(server, "POST", client=client, headers={"Upload-Length": str(length), "Upload-Metadata": metadata})


def send(server: ServerProcess, path: str, body: bytes, client: str = "192.0.2.1") -> Answer:
    return ask(server, "PATCH", path, body, client, {"Upload-Offset": "0", "Content-Type": OCTETS})


def begin(server: ServerProcess, path: str, client: str = "192.0.2.1") -> socket.socket:
    """A PATCH of ten bytes of which five have been sent, and stored."""
    found = socket.create_connection((server.host, server.port), timeout=10)
    lines = [f"PATCH {path} HTTP/1.1", "Host: x", "Tus-Resumable: 1.0.0", "Upload-Offset: 0", f"Content-Type: {OCTETS}"]
    lines += [f"X-Forwarded-For: {client}", "Content-Length: 10", "Expect: 100-continue", "", ""]
    found.sendall("\r\n".join(lines).encode())
    assert found.recv(1000).startswith(b"HTTP/1.1 100"), "it was admitted"
    found.sendall(b"01234")
    return found


def end(client: socket.socket) -> None:
    client.sendall(b"56789")
    assert client.recv(1000).startswith(b"HTTP/1.1 204")
    client.close()


# --- requests a second


def test_requests_beyond_the_rate_are_told_when_to_come_again(tusd_server: Start) -> None:
    server = started(tusd_server, {"use": "rate", "requests_per_client": 2, "burst": "10s"})
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        answers = [*pool.map(lambda _: create(server), range(40))]
    took = time.monotonic() - began
    good, refused = [a for a in answers if a.status == 201], [a for a in answers if a.status == 429]
    assert len(good) + len(refused) == 40
    assert 20 <= len(good) <= 21 + 2 * took, "both workers count together"
    for answer in refused:
        assert answer.code == "ERR_TOO_MANY_REQUESTS"
        assert answer.headers["Retry-After"] == "1"
        assert answer.headers["Tus-Resumable"] == "1.0.0"
        assert "retry-after" in answer.headers["Access-Control-Expose-Headers"].lower()
    assert create(server, client="192.0.2.2").status == 201
    head = ask(server, "HEAD", good[0].path)
    assert (head.status, head.headers["Retry-After"]) == (423, "1"), "clients start over after any other failure"
    assert ask(server, "OPTIONS").status == 200
    time.sleep(1.05)
    assert ask(server, "HEAD", good[0].path).status == 200


def test_a_network_of_ipv6_is_one_client(tusd_server: Start) -> None:
    server = started(tusd_server, {"use": "rate", "requests_per_client": 1, "burst": "10s"})
    answers = [create(server, client=f"2001:db8::{number:x}").status for number in range(20)]
    assert 10 <= answers.count(201) < 20
    assert create(server, client="2001:db8:0:1::1").status == 201


def test_tus_js_client_comes_again(tusd_server: Start, tmp_path: Path) -> None:
    """It has to be told that 429 is worth another try."""
    server = started(tusd_server, {"use": "rate", "requests_per_client": 8, "burst": "250ms"})
    file = random_file(tmp_path / "file", 5 * MIB)
    client = Client(server, file, {"chunkSize": MIB // 2}, retry=[429])
    last = client.wait()
    assert last["event"] == "success"
    assert "429" in server.log
    time.sleep(0.5)
    assert downloaded_sha256(last["url"]) == sha256(file)


# --- requests at once


def test_uploads_beyond_the_limit_are_refused_until_one_ends(tusd_server: Start) -> None:
    server = started(tusd_server, {"use": "concurrency", "uploads_per_client": 3, "requests_per_client": 5})
    running = [begin(server, create(server).path) for _ in range(3)]
    path = create(server).path
    answer = send(server, path, b"0123456789")
    assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
    assert ask(server, "HEAD", path).status == 200
    assert send(server, create(server, client="192.0.2.2").path, b"0123456789", "192.0.2.2").status == 204
    end(running.pop())
    assert send(server, path, b"0123456789").status == 204
    running.pop().close()
    until(lambda: send(server, create(server).path, b"0123456789").status == 204)
    end(running.pop())


def test_who_has_many_slow_requests_keeps_nobody_else_out(tusd_server: Start) -> None:
    server = started(tusd_server, {"use": "concurrency", "requests_per_client": 3})
    running = [begin(server, create(server).path) for _ in range(3)]
    head = ask(server, "HEAD", "/files/x")
    assert (head.status, head.headers["Retry-After"]) == (423, "1")
    assert create(server).status == 429
    assert ask(server, "OPTIONS").status == 200
    assert create(server, client="192.0.2.2").status == 201
    for client in running:
        end(client)
    assert create(server).status == 201


def test_uploads_of_a_killed_worker_no_longer_count(tusd_server: Start) -> None:
    need_proc()
    server = started(tusd_server, {"use": "concurrency", "uploads_per_client": 4})
    running = [begin(server, create(server).path) for _ in range(4)]
    workers = [worker_of(server, client) for client in running]
    path = create(server).path
    assert send(server, path, b"0123456789").status == 429
    os.kill(workers[0], signal.SIGKILL)
    lost = [client for client, worker in zip(running, workers, strict=True) if worker == workers[0]]
    until(lambda: begins(server, path), 5)
    more = [begin(server, create(server).path) for _ in lost]
    assert send(server, path, b"0123456789").status == 429
    for client in {*running, *more} - {*lost}:
        end(client)
    for client in lost:
        client.close()


def begins(server: ServerProcess, path: str) -> bool:
    try:
        return send(server, path, b"0123456789").status == 204
    except (OSError, http.client.HTTPException):
        return False  # it came to the worker that was killed


def test_both_generations_count_together(tusd_server: Start) -> None:
    server = started(tusd_server, {"use": "concurrency", "uploads_per_client": 2}, shutdown_timeout="20s")
    assert server.process is not None
    running = [begin(server, create(server).path) for _ in range(2)]
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "INFO reloaded" in server.log)
    path = create(server).path
    assert send(server, path, b"0123456789").status == 429
    end(running.pop())
    assert send(server, path, b"0123456789").status == 204
    end(running.pop())


# --- bytes a second


def took(*work: Callable[[], object]) -> list[float]:
    """Seconds that each of these takes, all begun at once."""
    began = time.monotonic()
    with ThreadPoolExecutor(len(work)) as pool:

        def one(call: Callable[[], object]) -> float:
            call()
            return time.monotonic() - began

        return [*pool.map(one, work)]


def upload(server: ServerProcess, size: int, client: str = "192.0.2.1", metadata: str = "") -> str:
    """A whole upload; its path."""
    path = create(server, size, client, metadata).path
    assert send(server, path, os.urandom(size), client).status == 204
    return path


def test_bodies_of_one_client_share_and_others_do_not_wait(tusd_server: Start) -> None:
    server = started(tusd_server, {"use": "rate", "bytes_per_client": "4MB", "bytes_burst": 0})
    path = upload(server, 4 * MB, "192.0.2.9")
    one, other, alone, download = took(
        lambda: upload(server, 4 * MB, "192.0.2.1"),
        lambda: upload(server, 4 * MB, "192.0.2.1"),
        lambda: upload(server, 4 * MB, "192.0.2.2"),
        lambda: ask(server, "GET", path, client="192.0.2.3"),
    )
    assert 1.9 < max(one, other) < 5
    assert min(one, other) > 1.5
    assert 0.9 < alone < 2.5, "four would share for four seconds"
    assert 0.9 < download < 2.5


def test_clients_may_be_told_apart_by_metadata(tusd_server: Start) -> None:
    server = started(tusd_server, {"use": "rate", "bytes_per_client": "4MB", "bytes_burst": 0, "client": "metadata team"})
    red, also_red, blue = took(
        lambda: upload(server, 4 * MB, "192.0.2.1", "team cmVk"),
        lambda: upload(server, 4 * MB, "192.0.2.2", "team cmVk"),
        lambda: upload(server, 4 * MB, "192.0.2.1", "team Ymx1ZQ=="),
    )
    assert 1.9 < max(red, also_red) < 5
    assert 0.9 < blue < 2.5, "three would share for three seconds"


def test_all_clients_share_what_the_host_may(tusd_server: Start) -> None:
    """10 MB at 5 MB/s."""
    server = started(tusd_server, {"use": "rate", "bytes": "5MB", "bytes_burst": 0})
    seconds = took(*(lambda n=n: upload(server, 5 * MB, f"192.0.2.{n}") for n in range(2)))
    assert 1.9 < max(seconds) < 5
    assert min(seconds) > 1.5


def test_a_slow_body_does_not_count_as_a_slow_client(tusd_server: Start) -> None:
    """Only what the client is waited for does."""
    limits = {"read_timeout": "500ms", "min_transfer_rate": 200_000}
    server = started(tusd_server, {"use": "rate", "bytes_per_client": "100kB", "bytes_burst": 0}, **limits)
    (seconds,) = took(lambda: upload(server, 200_000))
    assert 1.9 < seconds < 5


def test_a_body_that_waits_lets_go_when_the_upload_is_wanted(tusd_server: Start) -> None:
    server = started(tusd_server, {"use": "rate", "bytes_per_client": "5kB", "bytes_burst": 0})
    path = create(server, 10 * MB).path
    answers: list[Answer] = []
    sending = threading.Thread(target=lambda: answers.append(send(server, path, os.urandom(10 * MB))))
    sending.start()
    time.sleep(0.5)
    (seconds,) = took(lambda: ask(server, "HEAD", path))
    assert seconds < 3, "a piece of the body waits much longer"
    sending.join(10)
    assert [answer.status for answer in answers] == [423]
