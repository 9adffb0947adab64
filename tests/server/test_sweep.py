"""Expired uploads leave a real server, and `tusd sweep` shows and removes them."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path

import pytest
import yaml
from tests.server.running import tusd

from tusd.testing.server import ServerProcess


def ask(server: ServerProcess, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, str]:
    """Status and Location."""
    connection = HTTPConnection(server.host, server.port, timeout=10)
    try:
        connection.request(method, path, body, {"Tus-Resumable": "1.0.0", **headers})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.getheader("Location") or ""
    finally:
        connection.close()


def upload(server: ServerProcess, length: int, body: bytes) -> str:
    """The path of a new upload."""
    headers = {"Upload-Length": str(length), "Content-Type": "application/offset+octet-stream"}
    status, location = ask(server, "POST", "/files/", headers, body)
    assert status == 201
    return "/files/" + location.rpartition("/")[2]


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_is_left_of_what_has_expired(tmp_path: Path, workers: int) -> None:
    rules = {"expire_after": "1s", "expire_finished_after": "2s", "sweep_interval": "200ms"}
    with ServerProcess(tmp_path, {"server": {"workers": workers}, "uploads": rules}) as full:
        paths = [upload(full, 10, b"01234"), upload(full, 5, b"01234")]
        assert [ask(full, "HEAD", path, {})[0] for path in paths] == [200, 200]
        deadline = time.monotonic() + 15
        while os.listdir(tmp_path / "data"):
            assert time.monotonic() < deadline, os.listdir(tmp_path / "data")
            time.sleep(0.1)
        assert [ask(full, "HEAD", path, {})[0] for path in paths] == [404, 404]
        assert full.log.count("removed an upload: expired") == 2


def test_the_command_shows_and_removes_beside_a_server(tmp_path: Path) -> None:
    config = {"uploads": {"expire_after": "1h"}}
    with ServerProcess(tmp_path, config) as server:
        old, new = upload(server, 10, b"01234"), upload(server, 10, b"01234")
        name = old.rpartition("/")[2]
        past = time.time() - 7200
        info = tmp_path / "data" / f"{name}.info"
        kept = json.loads(info.read_text())
        kept["tusd"]["created"] = datetime.fromtimestamp(past, UTC).isoformat()
        info.write_text(json.dumps(kept))
        os.utime(tmp_path / "data" / name, (past, past))
        shown = tusd("sweep", "-c", str(server.config_file), "--dry-run", cwd=tmp_path)
        assert shown.returncode == 0, shown.stderr
        first, last = shown.stdout.splitlines()
        assert first.startswith(f"{name[:8]}  expired  5 bytes  idle for 72")
        assert last == "1 upload would be removed"
        assert (tmp_path / "data" / name).exists()
        gone = tusd("sweep", "-c", str(server.config_file), cwd=tmp_path)
        assert gone.stdout.splitlines()[1] == "1 upload removed"
        assert sorted(os.listdir(tmp_path / "data")) == sorted([new.rpartition("/")[2], new.rpartition("/")[2] + ".info"])
        assert tusd("sweep", "-c", str(server.config_file), cwd=tmp_path).stdout == "0 uploads removed\n"


def test_it_is_not_swept_where_locks_do_not_reach(tmp_path: Path) -> None:
    config = {"storage": {"use": "file", "directory": str(tmp_path / "data")}, "locking": {"use": "memory"}}
    (tmp_path / "tusd.yaml").write_text(yaml.safe_dump(config))
    result = tusd("sweep", "-c", "tusd.yaml", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("locking: `memory` guards one process, and a server may be at work in another; use --dry-run")
    assert tusd("sweep", "-c", "tusd.yaml", "--dry-run", cwd=tmp_path).stdout == "0 uploads would be removed\n"
