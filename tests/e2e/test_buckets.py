"""The whole server with its uploads in a bucket: real clients, a real S3 server, processes that are killed."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
