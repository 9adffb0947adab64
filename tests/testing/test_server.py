from __future__ import annotations

import http.client
import itertools
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.testing.inner_pytest import run_pytest

from tusd.testing.server import ServerProcess, free_port


def create(server: ServerProcess) -> tuple[int, str]:
    """Create an upload; returns the status and where it is."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
    try:
        connection.request("POST", server.base_path, headers={"Tus-Resumable": "1.0.0", "Upload-Length": "5"})
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Location", "")
    finally:
        connection.close()


def test_a_server_starts_stops_and_starts_again(tusd_server: Callable[..., ServerProcess]) -> None:
    server = tusd_server()
    process = server.process
    assert process is not None and process.poll() is None
    assert create(server)[0] == 201
    assert list((server.directory / "data").glob("*.info"))
    server.restart()
    assert process.returncode == 0
    assert server.process is not process
    server.kill()
    assert server.process is None
    server.start()
    assert create(server)[0] == 201
    assert server.stop() == 0
    assert server.log.count("serving") == 3


def test_the_workers_of_a_killed_server_end_with_it(tusd_server: Callable[..., ServerProcess]) -> None:
    server = tusd_server({"server": {"workers": 2}})
    server.kill()
    with pytest.raises(ConnectionRefusedError):
        create(server)
    server.start()
    assert create(server)[0] == 201
    assert server.stop() == 0


def test_a_free_port_stays_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else is given it: neither who asks for one later, nor connections, nor servers that name none."""
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50 and max(ports) < 32_768
    monkeypatch.setattr("tusd.testing.server._places", itertools.count(ports[0] - 10_000))
    with socket.create_server(("127.0.0.1", ports[0])):
        assert free_port() != ports[0], "somebody listens there"


def test_what_the_configuration_says_is_kept(tusd_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    port = free_port()
    server = tusd_server(f"server: {{listen: '127.0.0.1:{port}', base_path: /up/}}\nstorage: {{use: memory}}\n")
    assert server.url == f"http://127.0.0.1:{port}/up/"
    assert "directory" not in server.config["storage"]
    status, location = create(server)
    assert (status, location.startswith(server.url)) == (201, True)
    other = tusd_server({"storage": {"directory": str(tmp_path / "elsewhere")}})
    assert create(other)[0] == 201
    assert list((tmp_path / "elsewhere").glob("*.info"))


def test_a_server_that_cannot_start_shows_its_log(tusd_server: Callable[..., ServerProcess]) -> None:
    server = tusd_server({"storage": {"use": "file", "directroy": "x"}}, start=False)
    with pytest.raises(AssertionError, match=re.compile("status 2.*directroy", re.DOTALL)):
        server.start()
    assert server.process is None


def test_the_environment_is_handed_over(tusd_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    config = {"storage": {"directory": "${KIT_DIRECTORY}"}}
    server = tusd_server(config, env={"KIT_DIRECTORY": str(tmp_path / "from-env")})
    assert create(server)[0] == 201
    assert list((tmp_path / "from-env").glob("*.info"))


def test_leaving_the_context_ends_the_process(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        process = server.process
    assert process is not None and process.returncode == -signal.SIGKILL
    assert server.process is None


def test_a_traceback_in_the_log_fails_the_test(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "def add_traceback(server):\n"
        "    server.log_file.write_text('Traceback (most recent call last):\\n  ValueError: hidden')\n"
        "def test_strict(tusd_server):\n    add_traceback(tusd_server(start=False))\n"
        "def test_lenient(tusd_server):\n    add_traceback(tusd_server(start=False, tracebacks=True))\n"
    )
    run = run_pytest(tmp_path, "-rA")
    assert run.returncode == 1
    assert "ERROR test_it.py::test_strict - Failed: the server's log has a traceback" in run.stdout
    assert "ERROR test_it.py::test_lenient" not in run.stdout
    assert "ValueError: hidden" in run.stdout


def test_the_pytest_plugin_imports_next_to_nothing() -> None:
    code = "import tusd.testing.pytest_plugin, sys; print(*(m for m in ('aiohttp', 'pydantic', 'yaml', 'asyncio') if m in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
