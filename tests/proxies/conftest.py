"""Each proxy in front of a server, as its page says."""

from __future__ import annotations

import http.client
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.needs import need

from tusd.testing.server import TRACEBACK, ServerProcess

from .pages import tusd_config
from .proxy import Certificate, Haproxy, Nginx, Proxy, Site

PROXIES: list[type[Proxy]] = [Nginx, Haproxy]
MAX_SIZE = 200 << 20
Start = Callable[..., Site]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A self-signed certificate."""
    openssl = need("openssl", how="Debian: apt-get install openssl")
    directory = tmp_path_factory.mktemp("tls")
    made = Certificate(directory / "up.crt", directory / "up.key", directory / "up.pem")
    subprocess.run(
        f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=up.example.com "
        f"-addext subjectAltName=DNS:up.example.com,IP:127.0.0.1 -keyout {made.key} -out {made.certificate}".split(),
        check=True,
        capture_output=True,
    )
    made.both.write_text(made.certificate.read_text() + made.key.read_text())
    return made


@pytest.fixture(autouse=True)
def trusted(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients in Python, node and curl believe the certificate."""
    for variable in ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(variable, str(certificate.certificate))


@pytest.fixture(scope="session")
def readiness(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What makes a server answer /readyz that does not by itself."""
    with ServerProcess(tmp_path_factory.mktemp("readiness")) as server:
        connection = http.client.HTTPConnection(server.host, server.port)
        connection.request("GET", "/readyz")
        answers = connection.getresponse().status == 200
        connection.close()
    return {} if answers else {"plugins": [{"use": str(Path(__file__).parent / "ready.py")}]}


@pytest.fixture(scope="module", params=PROXIES, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> type[Proxy]:
    """Which proxy."""
    chosen: type[Proxy] = request.param
    return chosen


@pytest.fixture(scope="module")
def site(
    kind: type[Proxy], certificate: Certificate, readiness: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A server behind a proxy, for tests that stop neither."""
    changes = {"uploads": {"max_size": MAX_SIZE}, **readiness}
    with ExitStack() as stack:
        yield starting(stack, kind, certificate, tmp_path_factory.mktemp(kind.name), changes)


@pytest.fixture
def start(kind: type[Proxy], certificate: Certificate, readiness: Mapping[str, Any], tmp_path: Path) -> Iterator[Start]:
    """Starts a proxy and servers of its own for this test; `start(servers=2)` makes them share a directory as the page says."""
    with ExitStack() as stack:

        def make(changes: Mapping[str, Any] | None = None, *, servers: int = 1) -> Site:
            return starting(stack, kind, certificate, tmp_path, {**readiness, **(changes or {})}, servers=servers)

        yield make


def starting(
    stack: ExitStack,
    kind: type[Proxy],
    certificate: Certificate,
    directory: Path,
    changes: Mapping[str, Any],
    *,
    servers: int = 1,
) -> Site:
    """Start servers and a proxy before them; both end with the stack, and no server may have logged a traceback."""
    config = tusd_config(kind.page, "tusd.yaml" if servers == 1 else "two servers", changes)
    if servers > 1:
        config["storage"]["directory"] = str(directory / "uploads")
        config["locking"]["directory"] = str(directory / "locks")
    running = [ServerProcess(directory / f"server{number}", config) for number in range(servers)]
    proxy = kind(directory / kind.name, certificate, [f"127.0.0.1:{server.port}" for server in running])
    for server in running:
        stack.callback(no_traceback, server)
        stack.enter_context(server)
    stack.enter_context(proxy)
    return Site(proxy, running)


def no_traceback(server: ServerProcess) -> None:
    """Fail for a server whose log has a traceback."""
    assert TRACEBACK not in server.log, server.log
