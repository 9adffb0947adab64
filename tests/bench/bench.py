"""Measure this server, and others beside it, in one run: `make bench`, or

    python tests/bench/bench.py --peer other='other-server --port {port} --dir {dir}' --work large,small --rounds 3

`{port}` and `{dir}` are filled in for every start; docs/explanation/performance.md says how others are started. Servers take turns (A B A B ...), since a machine's speed changes from one minute to the next; figures are medians over the rounds, and the
last columns are ours over the peers'. CPU and memory are those of the server's whole process tree, read from /proc. Data lies on
tmpfs, so that the disk does not speak; only loopback is used. Needs Linux, `wrk` and `ab` (Debian: apt-get install wrk
apache2-utils).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tusd.testing.server import free_port

TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20
TUS = {"Tus-Resumable": "1.0.0"}
BODY = {**TUS, "Content-Type": "application/offset+octet-stream"}
Figures = dict[str, float]


@dataclass
class Server:
    """One server under measurement, running on a free port with a fresh directory."""

    name: str
    command: str
    workers: int
    pid: int = 0
    port: int = 0
    directory: Path = field(default_factory=Path)
    start_s: float = 0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start it, wait until it accepts connections, and end it by its pid."""
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="tusd-bench-", dir="/dev/shm"))
        (self.directory / "config.yaml").write_text(
            f'server: {{listen: "127.0.0.1:{self.port}", run_directory: "{self.directory}/run", workers: {self.workers}}}\n'
            f"storage: {self.storage()}\nlogging: {{level: warning}}\n"
        )
        blanks = {"port": self.port, "dir": self.directory, "config": self.directory / "config.yaml", **self.blanks()}
        argv = [word.format(**blanks) for word in shlex.split(self.command)]
        with open(self.directory / "log", "wb") as log:
            began = time.perf_counter()
            process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True, env=os.environ | self.environment())
        self.pid = process.pid
        try:
            self._wait_until_up(process, began)
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            shutil.rmtree(self.directory, ignore_errors=True)

    def storage(self) -> str:
        """The section of our configuration."""
        return f'{{use: file, directory: "{self.directory}/data"}}'

    def blanks(self) -> Mapping[str, str]:
        """More that a command may ask for in braces."""
        return {}

    def environment(self) -> Mapping[str, str]:
        """Variables that the server gets besides ours."""
        return {}

    def _wait_until_up(self, process: subprocess.Popen[bytes], began: float) -> None:
        while True:
            with contextlib.suppress(OSError, EOFError):
                connection = Connection(self.port)
                connection.send("OPTIONS", "/files/", TUS)
                connection.receive()
                self.start_s = time.perf_counter() - began
                connection.close()
                time.sleep(1)  # other workers start after the first
                return
            if process.poll() is not None or time.perf_counter() - began > 30:
                sys.exit(f"{self.name} did not start:\n{(self.directory / 'log').read_text()}")
            time.sleep(0.01)

    def clean(self) -> None:
        """Remove the uploads of the work just done, so that tmpfs does not fill up."""
        for path in self.directory.rglob("*"):
            if path.is_file() and path.name not in ("log", "config.yaml") and "run" not in path.parts:
                path.unlink(missing_ok=True)

    def cpu(self) -> float:
        """Seconds of CPU, user and system."""
        total = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def memory(self, key: str = "VmRSS") -> float:
        """Resident memory in MiB; `VmHWM` for the peak."""
        total = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith(key):
                        total += int(line.split()[1])
        return total / 1024

    def share(self) -> float:
        """As `memory`, with what several processes have in common counted once (the sum of their Pss)."""
        total = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1])
        return total / 1024

    def tree(self) -> list[int]:
        """The ids of its processes."""
        found, todo = [], [self.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            with contextlib.suppress(OSError):
                for children in Path(f"/proc/{pid}/task").glob("*/children"):
                    todo += [int(child) for child in children.read_text().split()]
        return found


class Connection:
    """A kept connection that speaks just enough HTTP."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, method: str, path: str, headers: Mapping[str, str | int]) -> None:
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self._port}", *(f"{n}: {v}" for n, v in headers.items())]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def receive(self) -> tuple[int, dict[str, str]]:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self.socket.recv(65536)
            if not piece:
                raise EOFError(f"connection closed after {data[:200]!r}")
            data += piece
        head, _, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(rest) < int(headers.get("content-length", 0)):
            rest += self.socket.recv(65536)
        return int(first.split()[1]), headers

    def create(self, length: int) -> str:
        self.send("POST", "/files/", {**TUS, "Upload-Length": length, "Content-Length": 0})
        status, headers = self.receive()
        check(status == 201, f"POST answered {status}")
        return urlsplit(headers["location"]).path

    def close(self) -> None:
        self.socket.close()


def check(true: bool, what: str) -> None:
    """A wrong answer makes a figure worthless."""
    if not true:
        raise RuntimeError(what)


def large(server: Server, source: Path) -> Figures:
    """One upload in one PATCH."""
    size = source.stat().st_size
    seconds, cpu = one_patch(server, source, 1)
    return {"large PATCH MiB/s": size / seconds / MIB, "large PATCH cpu s/GiB": cpu / (size / 2**30)}


def huge(server: Server, source: Path) -> Figures:
    """As `large` with 10 GiB or a little more: what it adds to the server's memory."""
    before = server.memory()
    one_patch(server, source, -(-10 * 1024 * MIB // source.stat().st_size))
    return {"10 GiB PATCH memory MiB": server.memory("VmHWM") - before}


def one_patch(server: Server, source: Path, times: int) -> tuple[float, float]:
    """Send a file several times over as one upload; returns seconds, and those of the server's CPU."""
    size = source.stat().st_size * times
    connection = Connection(server.port)
    path = connection.create(size)
    cpu, began = server.cpu(), time.perf_counter()
    connection.send("PATCH", path, {**BODY, "Upload-Offset": 0, "Content-Length": size})
    with source.open("rb") as file:
        for _ in range(times):
            connection.socket.sendfile(file, 0)
    status, headers = connection.receive()
    seconds, cpu = time.perf_counter() - began, server.cpu() - cpu
    check(status == 204 and int(headers["upload-offset"]) == size, f"PATCH answered {status}")
    connection.close()
    server.clean()
    return seconds, cpu


def chunks(server: Server, source: Path) -> Figures:
    """One upload in PATCHes of 1 MiB on one connection."""
    size = min(source.stat().st_size, 256 * MIB)
    connection = Connection(server.port)
    path = connection.create(size)
    cpu, began = server.cpu(), time.perf_counter()
    with source.open("rb") as file:
        for offset in range(0, size, MIB):
            connection.send("PATCH", path, {**BODY, "Upload-Offset": offset, "Content-Length": MIB})
            connection.socket.sendfile(file, offset, MIB)
            status, headers = connection.receive()
            check(status == 204, f"PATCH answered {status}")
            if headers.get("connection", "").lower() == "close":
                connection.close()
                connection = Connection(server.port)
    seconds, cpu = time.perf_counter() - began, server.cpu() - cpu
    connection.close()
    server.clean()
    return {"1 MiB PATCHes MiB/s": size / seconds / MIB, "1 MiB PATCHes cpu s/GiB": cpu / (size / 2**30)}


def wrk(server: Server, script: str, connections: int = 32) -> tuple[float, float, int]:
    """Requests per second, milliseconds of server CPU each, and how many there were."""
    file = server.directory / "wrk.lua"
    file.write_text(script)
    command = ["wrk", "-t1", f"-c{connections}", "-d5s", "-s", str(file), f"http://127.0.0.1:{server.port}/files/"]
    cpu = server.cpu()
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    cpu = server.cpu() - cpu
    server.clean()
    check("Non-2xx" not in output, f"requests were refused:\n{output}")
    words = [line.split() for line in output.splitlines()]
    rate = next(float(w[1]) for w in words if w[:1] == ["Requests/sec:"])
    count = next(int(w[0]) for w in words if w[1:3] == ["requests", "in"])
    return rate, 1000 * cpu / count, count


def posts(size: int) -> str:
    """A script for `wrk`: whole uploads of so many bytes."""
    headers = {**BODY, "Upload-Length": size, "Upload-Metadata": "filename d29ybGQucGRm,filetype dGV4dC9wbGFpbg=="}
    lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    return "\n".join(['wrk.method = "POST"', f'wrk.body = string.rep("x", {size})', *lines])


def small(server: Server, source: Path) -> Figures:
    """Whole uploads of 1 KiB in one POST each."""
    rate, cpu, _ = wrk(server, posts(1024))
    return {"1 KiB uploads /s": rate, "1 KiB uploads cpu ms": cpu}


def head(server: Server, source: Path) -> Figures:
    """HEAD of one unfinished upload over 32 connections: each takes the upload's lock, so handing over is measured, too."""
    connection = Connection(server.port)
    path = connection.create(1000)
    connection.close()
    count = 20_000
    command = ["ab", "-q", "-i", "-k", "-c", "32", "-n", str(count), "-H", "Tus-Resumable: 1.0.0"]
    cpu = server.cpu()
    url = f"http://127.0.0.1:{server.port}{path}"
    output = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    cpu = server.cpu() - cpu
    server.clean()
    check("Non-2xx" not in output, f"HEAD was refused:\n{output}")
    rate = next(float(line.split()[3]) for line in output.splitlines() if line.startswith("Requests per second"))
    return {"HEAD /s": rate, "HEAD cpu ms": 1000 * cpu / count}


def stalled(server: Server, source: Path) -> Figures:
    """500 uploads, each with a PATCH that has stalled half-way: memory for one."""
    connection = Connection(server.port)
    paths = [connection.create(100_000) for _ in range(500)]
    connection.close()
    time.sleep(1)
    before = server.memory()
    stuck = []
    for path in paths:
        connection = Connection(server.port)
        connection.send("PATCH", path, {**BODY, "Upload-Offset": 0, "Content-Length": 100_000})
        connection.socket.sendall(bytes(50_000))
        stuck.append(connection)
    time.sleep(2)
    after = server.memory()
    for connection in stuck:
        connection.close()
    time.sleep(1)
    server.clean()
    return {"stalled upload KiB": (after - before) * 1024 / len(paths)}


WORK: dict[str, Callable[[Server, Path], Figures]] = {f.__name__: f for f in (large, chunks, small, head, stalled, huge)}
USUAL = [name for name in WORK if name != "huge"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=COMMAND", help="another server to measure beside ours"
    )
    parser.add_argument("--ours", default=f"{sys.executable} -m tusd serve -c {{config}}", help="the command of our server")
    parser.add_argument("--workers", default="1", help="server.workers of ours; 1,2 measures with one and with two")
    parser.add_argument("--work", default=",".join(USUAL), help=f"which of {','.join(WORK)} (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=512, help="size of the large upload")
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server outlives a benchmark that is stopped
    if not (shutil.which("wrk") and shutil.which("ab")):
        sys.exit("the benchmark needs wrk and ab; Debian and Ubuntu: apt-get install wrk apache2-utils")
    counts = [int(count) for count in arguments.workers.split(",")]
    ours = [Server("tusd" if count == 1 else f"tusd x{count}", arguments.ours, count) for count in counts]
    peers = [Server(name, command, 1) for name, _, command in (peer.partition("=") for peer in arguments.peer)]
    servers = [*ours, *peers]
    figures: dict[str, dict[str, list[float]]] = {server.name: {} for server in servers}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        source = Path(folder) / "source"
        with source.open("wb") as file:
            for _ in range(arguments.mib):
                file.write(os.urandom(MIB))
        for _ in range(arguments.rounds):
            for server in servers:
                measure(server, source, arguments.work.split(","), figures[server.name])
    report(figures, [server.name for server in ours], [server.name for server in peers])
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


def measure(server: Server, source: Path, work: list[str], found: dict[str, list[float]]) -> None:
    """One round of one server."""
    with server.running():
        found.setdefault("start s", []).append(server.start_s)
        found.setdefault("memory at start MiB", []).append(server.memory())
        found.setdefault("  shared counted once", []).append(server.share())
        for name in work:
            try:
                for key, value in WORK[name](server, source).items():
                    found.setdefault(key, []).append(value)
            except (RuntimeError, EOFError, OSError) as error:
                print(f"{server.name}: {name} failed: {error}", file=sys.stderr)


def report(figures: dict[str, dict[str, list[float]]], ours: list[str], peers: list[str]) -> None:
    """Medians side by side, and ours over each peer's."""
    medians = {name: {key: statistics.median(values) for key, values in found.items()} for name, found in figures.items()}
    pairs = [(mine, peer) for mine in ours for peer in peers]
    print(f"{'':26}" + "".join(f"{name:>12}" for name in medians) + "".join(f"{f'{mine} / {peer}':>18}" for mine, peer in pairs))
    for key in dict.fromkeys(key for found in medians.values() for key in found):
        row = {name: found.get(key, float("nan")) for name, found in medians.items()}
        ratios = [row[mine] / row[peer] if row[peer] else float("nan") for mine, peer in pairs]
        print(f"{key:26}" + "".join(f"{value:12.2f}" for value in row.values()) + "".join(f"{ratio:18.2f}" for ratio in ratios))


if __name__ == "__main__":
    main()
