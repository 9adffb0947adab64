"""/metrics of real servers: one worker and four, killed, reloaded, restarted."""

from __future__ import annotations

import os
import re
import signal
import socket
import urllib.request
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from tests.builtin.test_prometheus_metrics import Samples, sample, samples
from tests.proc import need_proc, wait_for_workers, worker_of
from tests.server.running import until

from tusd.testing.server import ServerProcess, free_port

Start = Callable[..., ServerProcess]
WORKERS = pytest.mark.parametrize("workers", [1, 4])


def server_of(tusd_server: Start, workers: int, **more: Any) -> ServerProcess:
    server = tusd_server({"server": {"workers": workers, "shutdown_timeout": "2s"}, **more})
    wait_for_workers(server)
    return server


def ask(port: int, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    """Status, content type and body, on a connection of its own, so that any worker may answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"] or "", response.read()
    finally:
        connection.close()


def scrape(server: ServerProcess) -> Samples:
    status, kind, body = ask(server.port, "/metrics")
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8"), body
    return samples(body.decode())


def upload(server: ServerProcess, body: bytes = b"abc") -> None:
    """A whole upload in one request, on a connection of its own."""
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(len(body)), "Content-Type": "application/offset+octet-stream"}
    with urllib.request.urlopen(urllib.request.Request(server.url, body, headers), timeout=10) as answer:
        assert answer.status == 201


def begin(server: ServerProcess, length: int) -> socket.socket:
    """An upload whose client has sent three bytes so far."""
    client = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    head = "POST /files/ HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nContent-Type: application/offset+octet-stream\r\n"
    client.sendall(f"{head}Upload-Length: {length}\r\nContent-Length: {length}\r\n\r\nabc".encode())
    return client


def reload(server: ServerProcess) -> None:
    assert server.process is not None
    before = len(server.log)
    server.process.send_signal(signal.SIGHUP)
    until(lambda: re.search("INFO reloaded|not reloaded", server.log[before:]))
    assert "INFO reloaded" in server.log[before:]


def files(server: ServerProcess) -> list[Path]:
    return list((Path(server.config["server"]["run_directory"]) / "metrics-0-prometheus").glob("*.figures"))


@WORKERS
def test_totals_right_after_uploads(tusd_server: Start, workers: int) -> None:
    server = server_of(tusd_server, workers)
    found = scrape(server)
    assert found["tusd_uploads_created", frozenset()] == 0
    for n in range(1, 9):
        upload(server)
        found = scrape(server)
        assert found["tusd_uploads_created", frozenset()] == n
        assert found["tusd_uploads_finished", frozenset()] == n
        assert found["tusd_bytes_received", frozenset()] == 3 * n
        assert sample(found, "tusd_requests_total", method="POST") == n
        assert found["tusd_append_size_bytes_count", frozenset()] == n
    assert ask(server.port, "/files/" + "0" * 32, "DELETE")[0] == 404
    assert sample(scrape(server), "tusd_errors_total", status="404", code="ERR_UPLOAD_NOT_FOUND") == 1
    assert len(files(server)) == workers


@WORKERS
def test_processes_of_all_workers(tusd_server: Start, workers: int) -> None:
    need_proc()
    server = server_of(tusd_server, workers)
    found = {name: value for (name, labels), value in scrape(server).items() if not labels}
    each = found["process_resident_memory_bytes"] / workers
    assert 20e6 < each < 200e6
    assert found["process_open_fds"] > 5 * workers
    soft = int(re.search(r"Max open files\s+(\d+)", Path("/proc/self/limits").read_text())[1])  # type: ignore[index]
    assert found["process_max_fds"] == soft * workers
    assert found["process_cpu_seconds_total"] > 0.05


def test_a_worker_that_is_killed(tusd_server: Start) -> None:
    """Counts are neither lost nor doubled, and what it was doing is not shown as going on."""
    need_proc()
    server = server_of(tusd_server, 2)
    for _ in range(10):
        upload(server)
    with begin(server, 100) as one, begin(server, 100) as other:
        until(lambda: scrape(server)["tusd_uploads_active", frozenset()] == 2)
        assert scrape(server)["tusd_bytes_in_flight", frozenset()] == 200
        before = scrape(server)["process_cpu_seconds_total", frozenset()]
        victim = worker_of(server, one)
        together = worker_of(server, other) == victim
        os.kill(victim, signal.SIGKILL)
        until(lambda: scrape(server)["tusd_uploads_active", frozenset()] == (0 if together else 1))
        until(lambda: server.log.count("INFO serving") == 3)
        for n in range(10):
            found = scrape(server)
            assert found["tusd_uploads_created", frozenset()] == 12 + n
            assert found["tusd_append_size_bytes_count", frozenset()] == 10 + n
            assert found["process_cpu_seconds_total", frozenset()] >= before
            upload(server)
    until(lambda: scrape(server)["tusd_uploads_active", frozenset()] == 0)
    assert len(files(server)) == 2


@WORKERS
def test_a_reload_goes_on_counting(tusd_server: Start, workers: int) -> None:
    server = server_of(tusd_server, workers)
    upload(server)
    with begin(server, 6) as client:
        until(lambda: scrape(server)["tusd_uploads_active", frozenset()] == 1)
        reload(server)
        upload(server)
        found = scrape(server)
        assert found["tusd_uploads_created", frozenset()] == 3
        assert found["tusd_uploads_active", frozenset()] == 1
        client.sendall(b"def")
        assert client.recv(1000).startswith(b"HTTP/1.1 201")
        assert scrape(server)["tusd_uploads_finished", frozenset()] == 3
    until(lambda: scrape(server) and len(files(server)) == workers)
    for _ in range(4):
        found = scrape(server)
        assert found["tusd_uploads_created", frozenset()] == 3
        assert found["tusd_uploads_finished", frozenset()] == 3
        assert found["tusd_uploads_active", frozenset()] == 0


def test_a_restart_begins_at_0(tusd_server: Start) -> None:
    server = server_of(tusd_server, 2)
    upload(server)
    server.kill()
    server.start()
    assert scrape(server)["tusd_uploads_created", frozenset()] == 0
    upload(server)
    assert scrape(server)["tusd_uploads_created", frozenset()] == 1


def test_garbage_does_no_harm(tusd_server: Start) -> None:
    server = server_of(tusd_server, 2)
    upload(server)
    folder = files(server)[0].parent
    for name, content in (
        ("a.figures", os.urandom(5000)),
        ("b.figures", files(server)[0].read_bytes()[:400]),
        ("ended.json", b"{"),
    ):
        (folder / name).write_bytes(content)
    assert scrape(server)["tusd_uploads_created", frozenset()] >= 1
    upload(server)
    assert scrape(server)["tusd_uploads_created", frozenset()] >= 2


def test_a_folder_that_is_gone_is_told(tusd_server: Start) -> None:
    server = server_of(tusd_server, 1)
    folder = files(server)[0].parent
    folder.rename(folder.with_name("elsewhere"))
    status, _, body = ask(server.port, "/metrics")
    assert (status, body) == (503, b"the figures cannot be read; the log says why\n")
    assert str(folder) in server.log
    upload(server)


def test_on_the_admin_listener_only(tusd_server: Start) -> None:
    admin = free_port()
    listen = {"listen": f"127.0.0.1:{free_port()}", "admin_listen": f"127.0.0.1:{admin}"}
    server = tusd_server({"server": listen, "metrics": [{"use": "prometheus", "path": "/figures"}]})
    upload(server)
    assert ask(server.port, "/figures")[0] == 404
    status, _, body = ask(admin, "/figures")
    assert status == 200
    assert b"\ntusd_uploads_created 1\n" in body
    assert ask(admin, "/figures", "HEAD")[0] == 200


def test_nowhere(tusd_server: Start) -> None:
    server = tusd_server({"metrics": []})
    assert ask(server.port, "/metrics")[0] == 404


def test_where_everything_is_the_upload_path(tusd_server: Start) -> None:
    server = tusd_server({"server": {"listen": f"127.0.0.1:{free_port()}", "base_path": "/"}})
    upload(server)
    assert scrape(server)["tusd_uploads_created", frozenset()] == 1


def test_a_run_directory_that_will_not_do(tusd_server: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    server = tusd_server({"server": {"listen": f"127.0.0.1:{free_port()}", "run_directory": str(tmp_path / "file")}}, start=False)
    with pytest.raises(AssertionError, match="ended with status 2"):
        server.start()
    assert "cannot hold figures: Not a directory; set server.run_directory, or write `metrics: []`" in server.log


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("path: metrics", "metrics[0].path: not a path; write /metrics"),
        ("path: /files/metrics", "lie outside server.base_path"),
        ("path: /healthz", "is one of the server's own"),
    ],
)
def test_a_path_that_will_not_do(tusd_server: Start, options: str, said: str) -> None:
    name, _, value = options.partition(": ")
    server = tusd_server({"metrics": [{"use": "prometheus", name: value}]}, start=False)
    with pytest.raises(AssertionError, match="ended with status 2"):
        server.start()
    assert said in server.log
