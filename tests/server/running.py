"""The command `tusd` in a process of its own, as an operator types it."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

TUSD = [sys.executable, "-m", "tusd"]


def tusd(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, command: Sequence[str] = TUSD
) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    return subprocess.run(
        [*command, *arguments],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@dataclass
class Answer:
    """A response that has been read."""

    status: int
    headers: Message
    body: bytes


@dataclass
class Server:
    """A server that has said where to upload."""

    process: subprocess.Popen[str]
    said: str
    """Its ready line."""
    log_file: Path

    @property
    def log(self) -> str:
        """What it has written to stderr."""
        return self.log_file.read_text()

    @property
    def url(self) -> str:
        """Where to upload."""
        found = re.search(r"upload to (\S+)", self.said)
        assert found is not None, self.said
        return found[1]

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection(self.url.split("/")[2], timeout=10)
        connection.request(method, path, body or None, {"Tus-Resumable": "1.0.0", **(headers or {})})
        response = connection.getresponse()
        answer = Answer(response.status, response.headers, response.read())
        connection.close()
        return answer

    def create(self, length: int) -> str:
        """Create an upload; its path."""
        location = self.request("POST", "/files/", {"Upload-Length": str(length)}).headers["Location"]
        return "/" + location.split("/", 3)[3]

    def begin_patch(self, path: str, length: int, beginning: bytes) -> socket.socket:
        """A PATCH whose client has sent only the beginning so far."""
        host, port = self.url.split("/")[2].split(":")
        client = socket.create_connection((host, int(port)), timeout=10)
        head = f"PATCH {path} HTTP/1.1\r\nHost: {host}\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
        head += f"Content-Type: application/offset+octet-stream\r\nContent-Length: {length}\r\n\r\n"
        client.sendall(head.encode() + beginning)
        return client

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(15)


@contextmanager
def serving(directory: Path, config: str, *arguments: str, command: Sequence[str] = TUSD) -> Iterator[Server]:
    """A server with this configuration, stopped in the end whatever happens."""
    file, out_file, log_file = directory / "tusd.yaml", directory / "out", directory / "log"
    file.write_text(config)
    with out_file.open("wb") as out, log_file.open("wb") as log:
        process = subprocess.Popen(
            [*command, *(arguments or ("-c", str(file)))],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        until(lambda: "upload to" in out_file.read_text() or process.poll() is not None)
        said = out_file.read_text()
        assert process.poll() is None, log_file.read_text()
        yield Server(process, said, log_file)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended, and its workers with it
        process.wait()


def until(condition: Callable[[], object], seconds: float = 15) -> None:
    """Wait for something to happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
