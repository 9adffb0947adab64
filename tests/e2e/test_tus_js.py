"""tus-js-client, the client in most browsers, under Node."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.needs import need
from tusd.testing.server import ServerProcess

from .files import MIB, downloaded_sha256, head, offset, random_file, sha256

CLIENTS = Path(__file__).parents[1] / "clients"
Start = Callable[..., ServerProcess]


class Place(Protocol):
    """Somewhere to upload."""

    @property
    def url(self) -> str: ...


class Client:
    """A node process that uploads one file."""

    def __init__(self, server: Place, file: Path, options: dict[str, Any] | None = None, **job: Any) -> None:
        node = need("node", how="Debian: apt-get install nodejs npm")
        if not (CLIENTS / "node_modules" / "tus-js-client").is_dir():
            need("tus-js-client", how="npm install --prefix tests/clients --no-package-lock")
        job |= {"file": str(file), "endpoint": server.url, "options": {"chunkSize": MIB, **(options or {})}}
        self.process = subprocess.Popen(
            [node, "upload.mjs", json.dumps(job)], cwd=CLIENTS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def events(self) -> Iterator[dict[str, Any]]:
        """What the client says, as it says it. A client that hangs is ended after a minute."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(60, self.process.kill)
        watchdog.start()
        try:
            with self.process.stdout:
                for line in self.process.stdout:
                    assert line.startswith("{"), line + self.process.stdout.read()
                    yield json.loads(line)
            assert self.process.wait(60) >= 0, "the client hung"
        finally:
            watchdog.cancel()

    def wait(self) -> dict[str, Any]:
        """The last event."""
        events = list(self.events())
        assert events
        return events[-1]


def test_uploads_in_chunks(tusd_server: Start, tmp_path: Path) -> None:
    server, file = tusd_server(), random_file(tmp_path / "file", 10 * MIB + 7)
    last = Client(server, file).wait()
    assert last["event"] == "success"
    assert downloaded_sha256(last["url"]) == sha256(file)


def test_uploads_with_the_creation(tusd_server: Start, tmp_path: Path) -> None:
    server, file = tusd_server(), random_file(tmp_path / "file", 3 * MIB)
    last = Client(server, file, {"uploadDataDuringCreation": True, "chunkSize": 8 * MIB}).wait()
    assert last["event"] == "success"
    assert downloaded_sha256(last["url"]) == sha256(file)


@pytest.mark.parametrize("size", [0, 1])
def test_uploads_next_to_nothing(tusd_server: Start, tmp_path: Path, size: int) -> None:
    server, file = tusd_server(), random_file(tmp_path / "file", size)
    last = Client(server, file).wait()
    assert last["event"] == "success"
    assert offset(last["url"]) == size
    assert downloaded_sha256(last["url"]) == sha256(file)


def test_uploads_in_parallel_and_concatenates(tusd_server: Start, tmp_path: Path) -> None:
    server, file = tusd_server(), random_file(tmp_path / "file", 20 * MIB + 3)
    last = Client(server, file, {"parallelUploads": 4}).wait()
    assert last["event"] == "success"
    assert head(last["url"])[1]["upload-concat"].startswith("final;http://")
    assert downloaded_sha256(last["url"]) == sha256(file)


def test_declares_a_deferred_length_at_the_end(tusd_server: Start, tmp_path: Path) -> None:
    server, file = tusd_server(), random_file(tmp_path / "file", 5 * MIB + 11)
    last = Client(server, file, {"uploadLengthDeferred": True}).wait()
    assert last["event"] == "success"
    assert int(head(last["url"])[1]["upload-length"]) == 5 * MIB + 11
    assert downloaded_sha256(last["url"]) == sha256(file)


def test_terminates(tusd_server: Start, tmp_path: Path) -> None:
    server, file = tusd_server(), random_file(tmp_path / "file", 5 * MIB)
    events = list(Client(server, file, abortAt=2 * MIB, terminate=True).events())
    aborted = next(event for event in events if event["event"] == "aborted")
    assert head(aborted["url"])[0] == 404
    assert [path for path in (server.directory / "data").rglob("*") if path.is_file()] == []


def test_resumes_from_another_process(tusd_server: Start, tmp_path: Path) -> None:
    server, file = tusd_server(), random_file(tmp_path / "file", 8 * MIB)
    urls = str(tmp_path / "urls.json")
    events = list(Client(server, file, urls=urls, abortAt=3 * MIB).events())
    first = next(event for event in events if event["event"] == "aborted")
    assert 3 * MIB <= offset(first["url"]) < 8 * MIB
    again = list(Client(server, file, urls=urls, resume=True).events())
    assert {"event": "previous", "count": 1} in again
    assert again[-1] == {"event": "success", "url": first["url"]}
    assert downloaded_sha256(first["url"]) == sha256(file)


@pytest.mark.parametrize("options", [{}, {"parallelUploads": 3}], ids=["one", "parallel"])
def test_goes_on_after_the_server_was_killed(tusd_server: Start, tmp_path: Path, options: dict[str, Any]) -> None:
    server, file = tusd_server(), random_file(tmp_path / "file", 48 * MIB)
    client = Client(server, file, options)
    killed, last = 0, {}
    for last in client.events():
        if last["event"] == "progress" and killed < 2 and last["sent"] > (killed + 1) * 12 * MIB:
            killed += 1
            server.kill()
            server.start()
    assert killed == 2
    assert last["event"] == "success"
    assert downloaded_sha256(last["url"]) == sha256(file)


def test_goes_on_after_the_server_was_stopped_in_order(tusd_server: Start, tmp_path: Path) -> None:
    server, file = tusd_server(), random_file(tmp_path / "file", 48 * MIB)
    stopped, last, urls = False, {}, set()
    for last in Client(server, file, {"chunkSize": 64 * MIB}).events():
        if last["event"] == "url":
            urls.add(last["url"])
        if last["event"] == "progress" and not stopped and last["sent"] > 10 * MIB:
            stopped = True
            server.restart()
    assert stopped
    assert last["event"] == "success"
    assert urls == {last["url"]}, "the client started over"
    assert downloaded_sha256(last["url"]) == sha256(file)


IETF = ["ietf-draft-03", "ietf-draft-05"]  # interop versions 5 and 6


@pytest.mark.parametrize("protocol", IETF)
@pytest.mark.parametrize("size", [1, 5 * MIB + 7])
def test_speaks_the_ietf_draft(tusd_server: Start, tmp_path: Path, protocol: str, size: int) -> None:
    server, file = tusd_server(), random_file(tmp_path / "file", size)
    last = Client(server, file, {"protocol": protocol}).wait()
    assert last["event"] == "success"
    assert downloaded_sha256(last["url"]) == sha256(file)


@pytest.mark.parametrize("protocol", IETF)
def test_speaks_the_ietf_draft_without_knowing_the_length(tusd_server: Start, tmp_path: Path, protocol: str) -> None:
    server, file = tusd_server(), random_file(tmp_path / "file", 5 * MIB + 11)
    last = Client(server, file, {"protocol": protocol, "uploadLengthDeferred": True}).wait()
    assert last["event"] == "success"
    assert downloaded_sha256(last["url"]) == sha256(file)


@pytest.mark.parametrize("protocol", IETF)
def test_resumes_in_the_ietf_draft(tusd_server: Start, tmp_path: Path, protocol: str) -> None:
    server, file = tusd_server(), random_file(tmp_path / "file", 8 * MIB)
    urls = str(tmp_path / "urls.json")
    events = list(Client(server, file, {"protocol": protocol}, urls=urls, abortAt=3 * MIB).events())
    first = next(event for event in events if event["event"] == "aborted")
    assert 3 * MIB <= offset(first["url"]) < 8 * MIB
    again = list(Client(server, file, {"protocol": protocol}, urls=urls, resume=True).events())
    assert again[-1] == {"event": "success", "url": first["url"]}
    assert downloaded_sha256(first["url"]) == sha256(file)


@pytest.mark.parametrize("protocol", IETF)
def test_goes_on_in_the_ietf_draft_after_the_server_was_killed(tusd_server: Start, tmp_path: Path, protocol: str) -> None:
    server, file = tusd_server(), random_file(tmp_path / "file", 24 * MIB)
    killed, last = False, {}
    for last in Client(server, file, {"protocol": protocol, "chunkSize": 32 * MIB}).events():
        if last["event"] == "progress" and not killed and last["sent"] > 6 * MIB:
            killed = True
            server.kill()
            server.start()
    assert killed
    assert last["event"] == "success"
    assert downloaded_sha256(last["url"]) == sha256(file)
