"""docs/howto/embed.md: its program, run as it stands."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.web.raw import Connection, patch, post, request
from tests.web.serving import path_of

from tusd.config import ServerSection
from tusd.testing.server import free_port

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "embed.md").read_text()


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Where the page's program listens."""
    (source,) = re.findall(r'```python title="program.py"\n(.*?)```', PAGE, re.DOTALL)
    found = free_port()
    assert "port=8080" in source
    (tmp_path / "program.py").write_text(source.replace("port=8080", f"port={found}"))
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "program.py"], cwd=tmp_path, stdout=out, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 15
        while "Running on" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield found
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0, log.read_text()
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_the_program(port: int, tmp_path: Path) -> None:
    body = os.urandom(3_000_000)
    with Connection(("127.0.0.1", port)) as connection:
        refused = connection.ask(post({"Upload-Length": 10**9 + 1}, path="/uploads/"))
        assert (refused.status, refused.body) == (413, b"a gigabyte at the most\n")
        created = connection.ask(post({"Upload-Length": len(body)}, path="/uploads/"))
        path = path_of(created)
        assert created["Location"] == f"http://tus.test{path}" and path.startswith("/uploads/")
        assert connection.ask(patch(path, 0, body[:1_000_000])).status == 204
        assert connection.ask(request("HEAD", path))["Upload-Offset"] == "1000000"
        assert connection.ask(patch(path, 1_000_000, body[1_000_000:])).status == 204
        assert b"\ntusd_uploads_finished 1\n" in connection.ask(request("GET", "/tusd/metrics")).body
        assert connection.ask(request("GET", "/tusd/readyz")).body == b"ok\n"
    upload = path.rpartition("/")[2]
    assert (tmp_path / "data" / upload).read_bytes() == body
    deadline = time.monotonic() + 5
    while json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/complete")) != [upload]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_options_that_the_page_names_exist() -> None:
    (text,) = re.findall(r"These have: (.*?)\.\n", PAGE, re.DOTALL)
    names = re.findall(r"`(\w+)`", text)
    assert len(names) > 5
    assert set(names) <= set(ServerSection.model_fields)
