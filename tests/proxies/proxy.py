"""Proxies that run the configurations of the documentation, and what stands behind them."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from tests.needs import need
from tests.server.running import until
from tests.web.raw import Connection, request

from tusd.testing.server import ServerProcess, free_port

from .pages import file_of, replaced


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1 and up.example.com."""

    certificate: Path
    key: Path
    both: Path
    """Certificate and key in one file."""


class Proxy(ABC):
    """One proxy process with the configuration of its page, listening on a free port of 127.0.0.1 with TLS.

    `upstreams` are addresses of one or two servers. As a context manager it starts, and ends its processes whatever happens.
    """

    name: ClassVar[str]
    page: ClassVar[str]
    title: ClassVar[str]
    """What the page calls the file."""

    def __init__(self, directory: Path, certificate: Certificate, upstreams: Sequence[str], **changes: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.certificate = certificate
        self.port = free_port()
        self.log_file = directory / "proxy.log"
        text = replaced(file_of(self.page, self.title), self.placeholders(certificate))
        text = replaced(text, {"127.0.0.1:1080": upstreams[0], **changes})
        if len(upstreams) > 1:
            text, found = re.subn(r"# (server .*)127\.0\.0\.1:1081", rf"\g<1>{upstreams[1]}", text)
            assert found == 1, text
        self.command = self.prepared(text)
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def placeholders(self, certificate: Certificate) -> dict[str, str]:
        """What the page's file has in place of ports and paths of this test."""

    @abstractmethod
    def prepared(self, text: str) -> list[str]:
        """Write this configuration; the command that runs it in the foreground."""

    @property
    def log(self) -> str:
        """What it has written to stderr."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def url(self) -> str:
        """Where uploads are created, for clients."""
        return f"https://127.0.0.1:{self.port}/files/"

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        assert self.process is None
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory, start_new_session=True
            )
        until(self._listens)

    def kill(self) -> None:
        """End it and its workers at once."""
        assert self.process is not None
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def connect(self) -> Connection:
        """A connection on which tests say byte for byte what is sent."""
        return TlsConnection(self.port, self.certificate)

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.process is not None:
            self.kill()


class Nginx(Proxy):
    """nginx with one worker process."""

    name = "nginx"
    page = "behind-nginx.md"
    title = "/etc/nginx/conf.d/tusd.conf"

    def placeholders(self, certificate: Certificate) -> dict[str, str]:
        return {
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            "/etc/ssl/up.example.com.crt": str(certificate.certificate),
            "/etc/ssl/up.example.com.key": str(certificate.key),
        }

    def prepared(self, text: str) -> list[str]:
        nginx = need("nginx", how="Debian: apt-get install nginx-light")
        (self.directory / "tusd.conf").write_text(text)
        temporary = "".join(
            f"    {module}_temp_path {self.directory}/{module};\n"
            for module in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;\n" if os.geteuid() == 0 else ""  # its workers read below pytest's directories
        (self.directory / "nginx.conf").write_text(
            f"{user}worker_processes 1;\ndaemon off;\npid {self.directory}/pid;\nerror_log stderr;\nevents {{}}\n"
            f"http {{\n    access_log off;\n{temporary}    include {self.directory}/tusd.conf;\n}}\n"
        )
        return [nginx, "-e", "stderr", "-c", str(self.directory / "nginx.conf")]


class Haproxy(Proxy):
    """HAProxy in one process."""

    name = "haproxy"
    page = "behind-haproxy.md"
    title = "/etc/haproxy/haproxy.cfg"

    def placeholders(self, certificate: Certificate) -> dict[str, str]:
        return {"bind :443": f"bind 127.0.0.1:{self.port}", "/etc/ssl/up.example.com.pem": str(certificate.both)}

    def prepared(self, text: str) -> list[str]:
        haproxy = need("haproxy", how="Debian: apt-get install haproxy")
        (self.directory / "haproxy.cfg").write_text(text)
        return [haproxy, "-db", "-f", str(self.directory / "haproxy.cfg")]


class TlsConnection(Connection):
    """A connection over TLS, HTTP/1.1."""

    def __init__(self, port: int, certificate: Certificate) -> None:
        super().__init__(("127.0.0.1", port))
        context = ssl.create_default_context(cafile=str(certificate.certificate))
        context.set_alpn_protocols(["http/1.1"])
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # 1.3 sends tickets at any time, which would look like answers here
        self.socket = context.wrap_socket(self.socket, server_hostname="127.0.0.1")


@dataclass
class Site:
    """A proxy and the servers behind it, which share a directory of uploads."""

    proxy: Proxy
    servers: list[ServerProcess]

    @property
    def server(self) -> ServerProcess:
        """The first of the servers."""
        return self.servers[0]

    @property
    def url(self) -> str:
        """Where uploads are created, for clients."""
        return self.proxy.url

    def create(self, length: int) -> str:
        """Create an upload; its path."""
        with self.proxy.connect() as connection:
            answer = connection.ask(request("POST", "/files/", {"Upload-Length": length}))
        assert answer.status == 201, answer
        return "/" + answer["Location"].split("/", 3)[3]

    def offset(self, path: str) -> int:
        """Where an upload stands, as a client learns it."""
        with self.proxy.connect() as connection:
            answer = connection.ask(request("HEAD", path))
        assert answer.status == 200, answer
        return int(answer["Upload-Offset"])

    def file(self, path: str) -> Path:
        """The server's file with the bytes of an upload."""
        return Path(self.server.config["storage"]["directory"]) / path.rpartition("/")[2]
