"""The whole server with its uploads in a bucket: real clients, processes that are killed and stopped, two servers, memory."""

from __future__ import annotations

import random
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.e2e.files import downloaded_sha256, head, offset, random_file, sha256
from tests.e2e.test_crash import create, send
from tests.e2e.test_tus_js import Client

from gcs_rig import KIB, MIB, Place
from tusd.testing.server import ServerProcess

Start = Callable[..., ServerProcess]


def config(place: Place, **options: object) -> dict[str, Any]:
    """A server's configuration for this bucket."""
    return {"storage": {"use": "gcs", **place.options, "give_up_after": 10, **options}}


@pytest.mark.parametrize(
    ("client", "size"),
    [
        ({"chunkSize": 3 * MIB, "uploadLengthDeferred": True}, 10 * MIB + 3),
        ({"parallelUploads": 3}, 10 * MIB + 5),
        ({"protocol": "ietf-draft-05", "uploadDataDuringCreation": True}, 5 * MIB + 1),
    ],
    ids=["deferred", "parallel", "ietf"],
)
def test_uploads_and_downloads(tusd_server: Start, place: Place, tmp_path: Path, client: dict[str, Any], size: int) -> None:
    server, file = tusd_server(config(place, part_size="2MiB")), random_file(tmp_path / "file", size)
    last = Client(server, file, client).wait()
    assert last["event"] == "success", server.log
    assert downloaded_sha256(last["url"]) == sha256(file)
    assert server.stop() == 0
    finished = last["url"].rpartition("/")[2]
    left = [name for name in place.names() if not name.endswith(".info") and f"{name}.info" not in place.names()]
    assert {finished, f"{finished}.info"} <= set(place.names())
    assert left == [], "pieces were left behind"


def test_killed_again_and_again_in_mid_upload(tusd_server: Start, place: Place, tmp_path: Path) -> None:
    server = tusd_server(config(place, part_size="512KiB"))
    file = random_file(tmp_path / "file", 24 * MIB)
    data = file.read_bytes()
    url = create(server, len(data))
    at, kills, further, dice = 0, 0, 0, random.Random(1)
    while at < len(data):
        killer = threading.Timer(dice.uniform(0.1, 0.5), server.kill) if kills < 3 else None
        if killer:
            killer.start()
        send(url, data[: at + 6 * MIB] if kills % 2 else data, at, pace=0.01)
        if killer:
            killer.join()
            kills += 1
            server.start()
        now = offset(url)
        assert at <= now <= len(data), "an acknowledged byte was lost"
        further += now > at
        at = now
    assert kills == 3
    assert further > 1, "nothing of an interrupted request was kept"
    assert downloaded_sha256(url) == sha256(file)


def test_two_servers_take_turns_on_one_bucket(tusd_server: Start, place: Place, tmp_path: Path) -> None:
    shared = {**config(place), "locking": {"use": "file", "directory": str(tmp_path / "locks")}}
    servers = [tusd_server(shared), tusd_server(shared)]
    file = random_file(tmp_path / "file", 8 * MIB + 11)
    data = file.read_bytes()
    path = urlsplit(create(servers[0], len(data))).path
    at, turn = 0, 0
    while at < len(data):
        here, there = (f"http://{one.host}:{one.port}{path}" for one in (servers[turn % 2], servers[(turn + 1) % 2]))
        assert send(here, data[: at + (1, 700 * KIB, 3 * MIB)[turn % 3]], at) == 204
        at = min(len(data), at + (1, 700 * KIB, 3 * MIB)[turn % 3])
        assert offset(there) == offset(here) == at
        turn += 1
    for server in servers:
        assert downloaded_sha256(f"http://{server.host}:{server.port}{path}") == sha256(file)


def test_terminates(tusd_server: Start, place: Place, tmp_path: Path) -> None:
    server, file = tusd_server(config(place)), random_file(tmp_path / "file", 8 * MIB)
    events = list(Client(server, file, {"chunkSize": 2 * MIB}, abortAt=4 * MIB, terminate=True).events())
    aborted = next(event for event in events if event["event"] == "aborted")
    assert head(aborted["url"])[0] == 404
    assert place.names() == []


def test_memory_is_bounded_by_the_buffer(tusd_server: Start, place: Place) -> None:
    """The peak of a server that takes 160 MiB, eight bodies at once, with a buffer of 16 MiB. Threads, connections and what the allocator
    keeps take some 45 MiB, of which an upload that is seven times as large takes no more."""
    server = tusd_server(config(place, part_size="4MiB", buffer="16MiB", concurrency=4))
    size = 20 * MIB
    urls = [create(server, size) for _ in range(8)]
    send(create(server, 4 * MIB), bytes(4 * MIB), 0)
    before = _resident(server, "VmRSS")
    clients = [threading.Thread(target=send, args=(url, bytes(size), 0)) for url in urls]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert [offset(url) for url in urls] == [size] * 8
    peak = _resident(server, "VmHWM")
    assert peak - before < 80 * MIB, f"{peak >> 20} MiB at the peak, {before >> 20} MiB before"


def _resident(server: ServerProcess, which: str) -> int:
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(rf"^{which}:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


def test_a_bucket_that_does_not_answer_is_told_to_clients_as_something_that_passes(tusd_server: Start, place: Place) -> None:
    server = tusd_server(config(place, give_up_after=0))
    url = create(server, 10)
    assert send(url, b"12345", 0) == 204
    place.server.kill()
    try:
        assert send(url, b"1234567890", 5) == 503
        status, headers = head(url)
        assert (status, "retry-after" in headers) == (423, True)
        assert re.search(r"get_info_object of \w{8}… failed with no answer", server.log)
        assert url.rpartition("/")[2] not in server.log
    finally:
        place.server.start()
    assert offset(url) == 5
    assert send(url, b"1234567890", 5) == 204


def test_a_client_that_is_gone_leaves_its_bytes(tusd_server: Start, place: Place) -> None:
    server = tusd_server(config(place))
    url = create(server, 10 * MIB)
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30) as connection:
        head_lines = f"PATCH {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
        head_lines += f"Content-Type: application/offset+octet-stream\r\nContent-Length: {10 * MIB}\r\n\r\n"
        connection.sendall(head_lines.encode() + bytes(700 * KIB))
        time.sleep(0.3)
    deadline = time.monotonic() + 20
    while (at := offset(url)) < 700 * KIB and time.monotonic() < deadline:
        time.sleep(0.05)
    assert at == 700 * KIB
