"""Measure our S3 store, and other servers beside it, against one S3 server, in one run:

    python -m tests.bench.s3 --peer other='other-server --port {port} --bucket {bucket} --endpoint {endpoint}' --work large,small

Without `--endpoint` that S3 server is `tests/bench/sink.py`, which throws bodies away, so that it is hardly what is measured, and which
counts requests. Any other is measured in the same way: `--endpoint http://127.0.0.1:9000`, with the keys in AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY. `--ours NAME='{part_size: 8MiB}'` adds one more of ours with these options of the store, or, after a `|`, another
command: `--ours old='{} | /other/venv/bin/tusd serve -c {config}'`.

Servers take turns, each with a bucket of its own; figures are medians over the rounds. CPU and peak memory are those of the server's
process tree, and so are temporary bytes: the most that lay in its TMPDIR at once. That folder is on tmpfs, which flatters a server that
uses it. Needs Linux, boto3 and `wrk`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.bench import sink
from tests.bench.bench import BODY, MIB, TUS, Connection, Figures, Server, check, posts, report, wrk
from tusd.testing.server import free_port

GIB = 1024 * MIB
CONNECTIONS = 8
COMMAND = f"{sys.executable} -m tusd serve -c {{config}}"


class S3:
    """The S3 server that all are measured against."""

    def __init__(self, endpoint: str, counts: bool) -> None:
        self.endpoint = endpoint
        self.keys = {
            "AWS_ACCESS_KEY_ID": os.environ.get("AWS_ACCESS_KEY_ID", "bench"),
            "AWS_SECRET_ACCESS_KEY": os.environ.get("AWS_SECRET_ACCESS_KEY", "bench-secret"),
            "AWS_REGION": os.environ.get("AWS_REGION", "us-east-1"),
        }
        self._counts = counts
        config = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
        self._client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=self.keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.keys["AWS_SECRET_ACCESS_KEY"],
            region_name=self.keys["AWS_REGION"],
            config=config,
        )

    def make(self, bucket: str) -> None:
        self._client.create_bucket(Bucket=bucket)

    def empty(self, bucket: str) -> None:
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            if found := page.get("Contents", []):
                self._client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": thing["Key"]} for thing in found]})

    def remove(self, bucket: str) -> None:
        """As far as it goes: what a server writes that is just being ended may lie in it."""
        with contextlib.suppress(ClientError):
            self.empty(bucket)
            self._client.delete_bucket(Bucket=bucket)

    def requests(self) -> dict[str, int]:
        """How many of each operation since the last call; nothing when the server does not count them."""
        if not self._counts:
            return {}
        counts: dict[str, int] = json.load(urllib.request.urlopen(f"{self.endpoint}/-/counts"))
        urllib.request.urlopen(f"{self.endpoint}/-/reset").close()
        return counts


@dataclass
class S3Server(Server):
    """A server under measurement that stores to a bucket."""

    s3: S3 = field(kw_only=True)
    options: str = "{}"
    """More of ours, as YAML between braces."""
    bucket: str = ""
    operations: dict[str, dict[str, float]] = field(default_factory=dict)
    """Work -> operation -> requests per upload."""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self.bucket = f"bench-{uuid.uuid4().hex[:12]}"
        self.s3.make(self.bucket)
        try:
            with super().running():
                yield
        finally:
            self.s3.remove(self.bucket)

    def storage(self) -> str:
        options = self.options.strip()[1:-1]
        region = self.s3.keys["AWS_REGION"]
        return f'{{use: s3, bucket: {self.bucket}, endpoint: "{self.s3.endpoint}", region: {region}{", " if options else ""}{options}}}'

    def blanks(self) -> Mapping[str, str]:
        return {"bucket": self.bucket, "endpoint": self.s3.endpoint}

    def environment(self) -> Mapping[str, str]:
        (self.directory / "tmp").mkdir()
        return {**self.s3.keys, "TMPDIR": str(self.directory / "tmp")}

    def clean(self) -> None:
        self.s3.empty(self.bucket)

    def temporary(self) -> int:
        """Bytes in its TMPDIR now."""
        total = 0
        for path in (self.directory / "tmp").rglob("*"):
            with contextlib.suppress(OSError):
                total += path.stat().st_blocks * 512
        return total


class Watch:
    """What a server needs while a work runs."""

    def __init__(self, server: S3Server, work: str) -> None:
        self._server = server
        self._work = work
        self._over = threading.Event()
        self._temporary = 0
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        for pid in self._server.tree():
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
        self._server.s3.requests()
        self._thread.start()
        self._cpu, self._began = self._server.cpu(), time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self._seconds, self._cpu = time.perf_counter() - self._began, self._server.cpu() - self._cpu
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self._temporary = max(self._temporary, self._server.temporary())

    def large(self, size: int, uploads: int) -> Figures:
        """Figures of a work that sent so many bytes."""
        found = {f"{self._work} MiB/s": size / self._seconds / MIB, f"{self._work} cpu s/GiB": self._cpu / (size / GIB)}
        return found | self._more(uploads)

    def small(self, uploads: int, rate: float | None = None) -> Figures:
        """Figures of a work that made so many uploads."""
        found = {f"{self._work} /s": rate or uploads / self._seconds, f"{self._work} cpu s/1000": 1000 * self._cpu / uploads}
        return found | self._more(uploads)

    def _more(self, uploads: int) -> Figures:
        counts = {name: count / uploads for name, count in self._server.s3.requests().items()}
        self._server.operations[self._work] = counts
        found = {f"{self._work} peak MiB": self._server.memory("VmHWM"), f"{self._work} temp MiB": self._temporary / MIB}
        self._server.clean()
        return found | ({f"{self._work} S3 requests": sum(counts.values())} if counts else {})


def send(port: int, source: Path, size: int, step: int) -> None:
    """One upload in PATCHes of so many bytes."""
    connection = Connection(port)
    path = connection.create(size)
    with source.open("rb") as file:
        for offset in range(0, size, step):
            length = min(step, size - offset)
            connection.send("PATCH", path, {**BODY, "Upload-Offset": offset, "Content-Length": length})
            connection.socket.sendfile(file, offset, length)
            status, headers = connection.receive()
            check(status == 204 and int(headers["upload-offset"]) == offset + length, f"PATCH answered {status}")
            if headers.get("connection", "").lower() == "close":
                connection.close()
                connection = Connection(port)
    connection.close()


def large(server: S3Server, source: Path) -> Figures:
    """One upload in one PATCH."""
    size = source.stat().st_size
    with Watch(server, "large") as watch:
        send(server.port, source, size, size)
    return watch.large(size, 1)


def patches(server: S3Server, source: Path) -> Figures:
    """One upload in PATCHes of 64 MiB."""
    size = source.stat().st_size
    with Watch(server, "64 MiB PATCHes") as watch:
        send(server.port, source, size, 64 * MIB)
    return watch.large(size, 1)


def parallel(server: S3Server, source: Path) -> Figures:
    """32 uploads at once, together as large as the source (32 MiB each for 1 GiB)."""
    size = source.stat().st_size // 32
    with Watch(server, "32 at once") as watch, ThreadPoolExecutor(32) as threads:
        for done in [threads.submit(send, server.port, source, size, size) for _ in range(32)]:
            done.result()
    return watch.large(32 * size, 32)


def small(server: S3Server, source: Path) -> Figures:
    """Whole uploads of 1 KiB in one POST each."""
    with Watch(server, "1 KiB") as watch:
        rate, _, count = wrk(server, posts(1024), CONNECTIONS)
    return watch.small(count, rate)


def medium(server: S3Server, source: Path) -> Figures:
    """Whole uploads of 64 KiB in one POST each."""
    with Watch(server, "64 KiB") as watch:
        rate, _, count = wrk(server, posts(65536), CONNECTIONS)
    return watch.small(count, rate)


def steps(server: S3Server, source: Path) -> Figures:
    """Uploads of 1 KiB as most clients send them: a POST, then a PATCH."""
    end = time.perf_counter() + 5

    def client() -> int:
        connection, count = Connection(server.port), 0
        while time.perf_counter() < end:
            path = connection.create(1024)
            connection.send("PATCH", path, {**BODY, "Upload-Offset": 0, "Content-Length": 1024})
            connection.socket.sendall(bytes(1024))
            status, _ = connection.receive()
            check(status == 204, f"PATCH answered {status}")
            count += 1
        connection.close()
        return count

    with Watch(server, "POST+PATCH") as watch, ThreadPoolExecutor(CONNECTIONS) as threads:
        count = sum(done.result() for done in [threads.submit(client) for _ in range(CONNECTIONS)])
    return watch.small(count)


def head(server: S3Server, source: Path) -> Figures:
    """HEADs of an upload that is half there, with a part and a tail, each on one of 8 connections with an upload of its own."""
    end, paths = 0.0, []
    for _ in range(CONNECTIONS):
        connection = Connection(server.port)
        paths.append(connection.create(100 * MIB))
        connection.send("PATCH", paths[-1], {**BODY, "Upload-Offset": 0, "Content-Length": 51 * MIB})
        with source.open("rb") as file:
            connection.socket.sendfile(file, 0, 51 * MIB)
        check(connection.receive()[0] == 204, "PATCH failed")
        connection.close()

    def client(path: str) -> int:
        connection, count = Connection(server.port), 0
        while time.perf_counter() < end:
            connection.send("HEAD", path, TUS)
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.socket.recv(65536)
            check(data.split()[1] == b"200", f"HEAD answered {data[:100]!r}")
            count += 1
        connection.close()
        return count

    with Watch(server, "HEAD") as watch, ThreadPoolExecutor(CONNECTIONS) as threads:
        end = time.perf_counter() + 3
        count = sum(done.result() for done in [threads.submit(client, path) for path in paths])
    return watch.small(count)


WORK: dict[str, Callable[[S3Server, Path], Figures]] = {
    f.__name__: f for f in (large, patches, parallel, small, medium, steps, head)
}


@contextlib.contextmanager
def endpoint(given: str | None, latency: float) -> Iterator[S3]:
    """The S3 server given, or our own."""
    if given:
        yield S3(given.rstrip("/"), counts=False)
        return
    port = free_port()
    process = subprocess.Popen([sys.executable, sink.__file__, "--port", str(port), "--latency", str(latency)])
    try:
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            check(process.poll() is None, "the S3 server did not start")
            time.sleep(0.05)
        yield S3(f"http://127.0.0.1:{port}", counts=True)
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", help="URL of an S3 server (default: our own, tests/bench/sink.py)")
    parser.add_argument("--latency", type=float, default=0, help="milliseconds that our own S3 server takes for each answer")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND", help="another server")
    parser.add_argument("--ours", action="append", default=[], metavar="NAME={OPTIONS}", help="ours with options")
    parser.add_argument("--workers", default="1", help="server.workers of ours; 1,2 measures with one and with two")
    parser.add_argument("--only", help="measure only the servers with these names")
    parser.add_argument("--work", default=",".join(WORK), help="which of %(default)s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=1024, help="size of the large upload")
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server outlives a benchmark that is stopped
    if not shutil.which("wrk"):
        sys.exit("the benchmark needs wrk; Debian and Ubuntu: apt-get install wrk")
    with endpoint(arguments.endpoint, arguments.latency) as s3, tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        numbers = [int(number) for number in arguments.workers.split(",")]
        ours = [S3Server("tusd" if number == 1 else f"tusd x{number}", COMMAND, number, s3=s3) for number in numbers]
        for name, _, text in (mine.partition("=") for mine in arguments.ours):
            options, _, command = text.partition("|")
            ours.append(S3Server(name, command.strip() or COMMAND, 1, s3=s3, options=options))
        peers = [S3Server(name, command, 1, s3=s3) for name, _, command in (peer.partition("=") for peer in arguments.peer)]
        wanted = arguments.only.split(",") if arguments.only else [server.name for server in [*ours, *peers]]
        servers = [server for server in [*ours, *peers] if server.name in wanted]
        figures: dict[str, dict[str, list[float]]] = {server.name: {} for server in servers}
        source = Path(folder) / "source"
        with source.open("wb") as file:
            for _ in range(arguments.mib):
                file.write(os.urandom(MIB))
        for _ in range(arguments.rounds):
            for server in servers:
                measure(server, source, arguments.work.split(","), figures[server.name])
    report(figures, [mine.name for mine in ours if mine in servers], [peer.name for peer in peers if peer in servers])
    for server in servers:
        for work, requests in server.operations.items():
            if requests:
                each = (f"{name} {count:.2f}" for name, count in sorted(requests.items()))
                print(f"{server.name}: {work}: S3 requests for an upload:", *each)
    if arguments.json:
        arguments.json.write_text(json.dumps({"figures": figures, "requests": {s.name: s.operations for s in servers}}, indent=1))


def measure(server: S3Server, source: Path, work: list[str], found: dict[str, list[float]]) -> None:
    """One round of one server."""
    with server.running():
        found.setdefault("start s", []).append(server.start_s)
        found.setdefault("memory at start MiB", []).append(server.memory())
        for name in work:
            try:
                for key, value in WORK[name](server, source).items():
                    found.setdefault(key, []).append(value)
            except (RuntimeError, EOFError, OSError, ClientError) as error:
                print(f"{server.name}: {name} failed: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
