"""The whole server with its uploads in a bucket: real clients, a real S3 server, processes that are killed."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.services.faults import (
    INTERNAL_ERROR,
    SLOW_DOWN,
    CutAnswer,
    CutRequest,
    Delay,
    Drop,
    Fault,
    FaultProxy,
    HideNewer,
    Hold,
    LoseAnswer,
    lists,
    s3_error,
)
from tests.services.servers import S3Bucket
from tusd.testing.server import ServerProcess

from .files import MIB, downloaded_sha256, head, offset, random_file, sha256
from .test_crash import create, send
from .test_tus_js import Client

Start = Callable[..., ServerProcess]


def config(bucket: S3Bucket, **options: object) -> dict[str, Any]:
    """A server's configuration for this bucket."""
    server = bucket.server
    keys = {"access_key_id": server.access_key, "secret_access_key": server.secret_key}
    return {
        "storage": {"use": "s3", "bucket": bucket.name, "endpoint": server.endpoint, "region": server.region, **keys, **options}
    }


def keys_of(bucket: S3Bucket) -> list[str]:
    """What lies in the bucket, with the objects of multipart uploads that are still open."""
    with bucket.server.client() as client:
        objects = client.list_objects_v2(Bucket=bucket.name).get("Contents", [])
        open_ones = client.list_multipart_uploads(Bucket=bucket.name).get("Uploads", [])
        return [found["Key"] for found in objects] + [f"(open) {found['Key']}" for found in open_ones]


def downloaded(url: str) -> bytes:
    """What the server serves at an upload URL."""
    with urllib.request.urlopen(url, timeout=60) as response:
        return bytes(response.read())


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"chunkSize": 3 * MIB}, 20 * MIB + 7),
        ({"chunkSize": 8 * MIB}, 20 * MIB),
        ({"chunkSize": 64 * MIB, "uploadDataDuringCreation": True}, 20 * MIB + 1),
        ({"chunkSize": 3 * MIB, "uploadLengthDeferred": True}, 14 * MIB + 3),
        ({"parallelUploads": 3}, 20 * MIB + 5),
        ({"protocol": "ietf-draft-05"}, 12 * MIB + 1),
        ({}, 0),
        ({}, 1),
    ],
    ids=["small-chunks", "chunks", "with-creation", "deferred", "parallel", "ietf", "nothing", "one-byte"],
)
def test_uploads_and_downloads(
    tusd_server: Start, tmp_path: Path, localstack_bucket: S3Bucket, options: dict[str, Any], size: int
) -> None:
    server, file = tusd_server(config(localstack_bucket, part_size="5MiB")), random_file(tmp_path / "file", size)
    last = Client(server, file, options).wait()
    assert last["event"] == "success", server.log
    assert downloaded_sha256(last["url"]) == sha256(file)
    finished = last["url"].rpartition("/")[2]
    found = keys_of(localstack_bucket)
    assert {finished, f"{finished}.info"} <= set(found)
    assert not [key for key in found if key.startswith("(open)") or key.endswith(".part")], "something was left behind"


def test_terminates(tusd_server: Start, tmp_path: Path, localstack_bucket: S3Bucket) -> None:
    server, file = tusd_server(config(localstack_bucket, part_size="5MiB")), random_file(tmp_path / "file", 20 * MIB)
    events = list(Client(server, file, {"chunkSize": 3 * MIB}, abortAt=12 * MIB, terminate=True).events())
    aborted = next(event for event in events if event["event"] == "aborted")
    assert head(aborted["url"])[0] == 404
    assert keys_of(localstack_bucket) == []


def test_killed_again_and_again_in_mid_upload(tusd_server: Start, tmp_path: Path, localstack_bucket: S3Bucket) -> None:
    server = tusd_server(config(localstack_bucket, part_size="5MiB"))
    file = random_file(tmp_path / "file", 40 * MIB)
    data = file.read_bytes()
    url = create(server, len(data))
    at, kills, further, dice = 0, 0, 0, random.Random(1)
    while at < len(data):
        killer = threading.Timer(dice.uniform(0.1, 0.8), server.kill) if kills < 6 else None
        if killer:
            killer.start()
        send(url, data[: at + 9 * MIB] if kills % 2 else data, at, pace=0.01)
        if killer:
            killer.join()
            kills += 1
            server.start()
        now = offset(url)
        assert at <= now <= len(data), "an acknowledged byte was lost"
        further += now > at
        at = now
    assert kills == 6
    assert further > 1, "nothing of an interrupted request was kept"
    assert downloaded_sha256(url) == sha256(file)


def test_two_servers_take_turns_on_one_bucket(tusd_server: Start, tmp_path: Path, localstack_bucket: S3Bucket) -> None:
    shared: dict[str, Any] = {
        **config(localstack_bucket, part_size="5MiB"),
        "locking": {"use": "file", "directory": str(tmp_path / "locks")},
    }
    servers = [tusd_server(shared), tusd_server(shared)]
    file = random_file(tmp_path / "file", 30 * MIB + 11)
    data = file.read_bytes()
    url = create(servers[0], len(data))
    path = url.split("/", 3)[3]
    at, turn = 0, 0
    while at < len(data):
        here, there = (f"http://{server.host}:{server.port}/{path}" for server in (servers[turn % 2], servers[(turn + 1) % 2]))
        size = (1, 3 * MIB, 7 * MIB, 11 * MIB)[turn % 4]
        assert send(here, data[: at + size], at) == 204
        at = min(len(data), at + size)
        assert offset(there) == offset(here) == at
        turn += 1
    for server in servers:
        assert downloaded_sha256(f"http://{server.host}:{server.port}/{path}") == sha256(file)


@pytest.mark.parametrize(
    ("late", "which", "end", "stopped"),
    [
        ("UploadPart", {"part": 3}, 20 * MIB, True),
        ("PutObject", {"key": "*.part"}, 7 * MIB, True),
        ("PutObject", {"key": "*.info"}, 20 * MIB, False),
    ],
    ids=["part", "tail", "info"],
)
def test_what_a_holder_sends_late_replaces_nothing(
    tusd_server: Start,
    tmp_path: Path,
    localstack_bucket: S3Bucket,
    localstack_faults: FaultProxy,
    late: str,
    which: dict[str, Any],
    end: int,
    stopped: bool,
) -> None:
    """A server loses its lock without noticing, here because its locks are its own, while a request of its is on the way to the bucket, and
    other bytes of the same upload are acknowledged by another server meanwhile."""
    options: dict[str, Any] = {"part_size": "5MiB", "concurrency": 2}
    slow = tusd_server({**config(localstack_bucket.through(localstack_faults.endpoint), **options), "locking": {"use": "memory"}})
    other = tusd_server({**config(localstack_bucket, **options), "locking": {"use": "memory"}})
    data, wrong = os.urandom(21 * MIB), os.urandom(21 * MIB)
    url = create(slow, len(data))
    elsewhere = f"http://{other.host}:{other.port}/" + url.split("/", 3)[3]
    assert send(elsewhere, data[: 6 * MIB], 0) == 204
    held = localstack_faults.add(Hold(), late, **which)
    sending = threading.Thread(target=send, args=(url, data[: 6 * MIB] + wrong[6 * MIB : end], 6 * MIB))
    sending.start()
    held.wait()
    assert slow.process is not None
    if stopped:
        os.kill(slow.process.pid, signal.SIGSTOP)
    begin = offset(elsewhere)
    assert send(elsewhere, data[:begin] + data[begin : 14 * MIB], begin) == 204
    held.release()
    if stopped:
        held.finish()
        os.kill(slow.process.pid, signal.SIGCONT)
    sending.join()
    assert offset(elsewhere) >= 14 * MIB
    at = offset(elsewhere)
    assert send(elsewhere, data, at) == 204
    found = downloaded(elsewhere)
    known = [found[n : n + MIB] in (data[n : n + MIB], wrong[n : n + MIB]) for n in range(0, len(data), MIB)]
    assert len(found) == len(data) and all(known)
    assert found[begin : 14 * MIB] == data[begin : 14 * MIB], "acknowledged bytes were replaced"


def test_silent_clients_do_not_keep_others_out(tusd_server: Start, tmp_path: Path, localstack_bucket: S3Bucket) -> None:
    """They hold all memory for bodies until somebody wants it; what they have sent is kept."""
    server = tusd_server(config(localstack_bucket, part_size="5MiB", buffer="16MiB"))
    data, silent = os.urandom(12 * MIB), []
    for _ in range(5):
        url = create(server, len(data))
        path = url.split("/", 3)[3]
        connection = socket.create_connection((server.host, server.port), timeout=60)
        head = f"PATCH /{path} HTTP/1.1\r\nHost: {server.host}\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
        head += f"Content-Type: application/offset+octet-stream\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data[:MIB])
        silent.append((url, connection))
    url = create(server, len(data))
    began = time.monotonic()
    assert send(url, data, 0) == 204
    assert time.monotonic() - began < 40
    assert downloaded(url) == data
    answers = [connection.recv(4096).split()[1] for _, connection in silent[:3]]
    assert answers == [b"503"] * 3
    for _, connection in silent:
        connection.close()
    assert [offset(url) for url, _ in silent[:3]] == [MIB] * 3


def test_what_goes_wrong_on_the_way_to_the_bucket(
    tusd_server: Start, tmp_path: Path, localstack_bucket: S3Bucket, localstack_faults: FaultProxy
) -> None:
    """Each fault strikes several requests of an upload. Clients see some seconds, or are told to come again; never other bytes."""
    through = config(localstack_bucket.through(localstack_faults.endpoint), part_size="5MiB")
    server = tusd_server(through)
    dice = random.Random(3)
    faults: list[Fault] = [
        INTERNAL_ERROR,
        SLOW_DOWN,
        s3_error(503, "SlowDown", done=True),
        Drop(),
        CutRequest(1000),
        LoseAnswer(),
        CutAnswer(10),
        CutAnswer(10, "reset"),
        Delay(request=0.2, answer=0.2),
        HideNewer(60),
    ]
    struck = 0
    for fault in faults:
        data = os.urandom(12 * MIB + dice.randrange(MIB))
        localstack_faults.clear()
        rules = [localstack_faults.add(fault, lists if isinstance(fault, HideNewer) else None, skip=n) for n in (1, 3, 4, 7)]
        url, tries, at = "", 0, 0
        while at < len(data):
            tries += 1
            assert tries < 20, f"{fault} is never got over; {server.log}"
            try:
                url = url or create(server, len(data))
            except AssertionError:
                continue  # the bucket could not be asked: the client tries again
            send(url, data[: dice.choice((at + 3 * MIB, len(data)))], at)
            status, headers = head(url)
            assert status in (200, 423), f"{status} after {fault}"
            if status == 200:
                assert int(headers["upload-offset"]) >= at
                at = int(headers["upload-offset"])
        assert downloaded(url) == data, fault
        struck += sum(len(rule.seen) for rule in rules)
        for rule in rules:
            rule.release()
    assert struck >= 3 * (len(faults) - 1)
