"""A real server process for tests: `python -m tusd serve` on a free port of 127.0.0.1."""

from __future__ import annotations

import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import count, islice
from pathlib import Path
from typing import Any, Self

import yaml

TRACEBACK = "Traceback (most recent call last)"


_LOWEST, _HIGHEST = 10_000, 32_767
_places = count(secrets.randbelow(_HIGHEST - _LOWEST))


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses, and another one at each call.

    It stays free until a server comes, or comes again: systems take ports from 32768 on for servers that name none and for
    connections. Each process begins at a port of its own and takes those that follow. Raises `OSError` when none is free."""
    for place in islice(_places, _HIGHEST - _LOWEST):
        port = _LOWEST + place % (_HIGHEST - _LOWEST)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port of 127.0.0.1 is free")


class ServerProcess:
    """One server: its configuration file, its process and its log, all below `directory`.

    `config` is a mapping or YAML text. Unless it says otherwise the server listens on a free port of 127.0.0.1 and keeps
    uploads and run files below `directory`. As a context manager it starts, and ends its process whatever happens.
    """

    def __init__(
        self, directory: Path, config: Mapping[str, Any] | str | None = None, *, env: Mapping[str, str] | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.config = _completed(config, directory)
        """The configuration as the server gets it."""
        self.config_file = directory / "config.yaml"
        self.config_file.write_text(yaml.safe_dump(self.config, sort_keys=False))
        self.log_file = directory / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}

    @property
    def host(self) -> str:
        """The host of `server.listen`."""
        return str(self.config["server"]["listen"]).rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port of `server.listen`."""
        return int(str(self.config["server"]["listen"]).rpartition(":")[2])

    @property
    def base_path(self) -> str:
        """The path below which uploads live."""
        return str(self.config["server"].get("base_path", "/files/"))

    @property
    def url(self) -> str:
        """Where uploads are created."""
        return f"http://{self.host}:{self.port}{self.base_path}"

    @property
    def log(self) -> str:
        """All that the process has written to stdout and stderr, of earlier starts, too."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def start(self, timeout: float = 20) -> None:
        """Start the process and wait until it answers. Raises `AssertionError` with the log when it does not."""
        assert self.process is None, "the server runs already"
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tusd", "serve", "-c", str(self.config_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=self._env,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout
        while not self._answers():
            if self.process.poll() is not None:
                status, self.process = self.process.returncode, None
                raise AssertionError(f"the server ended with status {status} instead of starting; its log:\n{self.log}")
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"the server did not answer at {self.url} within {timeout:g} s; its log:\n{self.log}")
            time.sleep(0.02)

    def stop(self, timeout: float = 20) -> int:
        """End the server in order (SIGTERM) and return its exit status. Raises `AssertionError` when it does not end."""
        process = self._running()
        process.terminate()
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the server did not end within {timeout:g} s of SIGTERM; its log:\n{self.log}") from None
        self._end_group(process)
        return status

    def kill(self) -> None:
        """End the server and its workers at once (SIGKILL), as a power cut would."""
        process = self._running()
        self._end_group(process)

    def restart(self) -> None:
        """`stop`, unless it does not run, and `start` again: same port, same files."""
        if self.process is not None:
            self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.process is not None:
            self.kill()

    def _running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None, "the server does not run"
        return self.process

    def _end_group(self, process: subprocess.Popen[bytes]) -> None:
        """Kill what is left of the process and its workers; they are a process group of their own."""
        deadline = time.monotonic() + 1
        try:
            while time.monotonic() < deadline:  # workers whose parent is gone end a moment later than it
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                time.sleep(0.005)
        except ProcessLookupError:
            pass  # all have ended
        process.wait()
        self.process = None

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=2)
        try:
            connection.request("OPTIONS", self.base_path)
            return connection.getresponse().status < 500
        except (OSError, http.client.HTTPException):
            return False  # not yet
        finally:
            connection.close()


def _completed(config: Mapping[str, Any] | str | None, directory: Path) -> dict[str, Any]:
    """The configuration with the address and the directories that it leaves open."""
    given = yaml.safe_load(config) if isinstance(config, str) else config
    full: dict[str, Any] = {key: value for key, value in (given or {}).items()}
    full["server"] = {"listen": f"127.0.0.1:{free_port()}", "run_directory": str(directory / "run"), **(full.get("server") or {})}
    storage = {"use": "file", **(full.get("storage") or {})}
    if storage["use"] == "file":
        storage = {"directory": str(directory / "data"), **storage}
    full["storage"] = storage
    return full
