"""What each proxy does with a server that is slow, not ready, or elsewhere."""

from __future__ import annotations

import re
import socket
import tempfile
import time
from pathlib import Path

from tests.server.running import serving, until
from tests.web.raw import request

from .backend import backend
from .proxy import Certificate, Haproxy, Nginx, Proxy

READY = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"


def test_a_download_is_not_read_ahead(kind: type[Proxy], certificate: Certificate, tmp_path: Path) -> None:
    """Of one that its client does not read, only what the buffers on the way hold leaves the server."""
    sent = 0

    def endless(connection: socket.socket, head: bytes) -> None:
        nonlocal sent
        if b"/readyz" in head:
            return connection.sendall(READY)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            sent += connection.send(bytes(100_000))

    with backend(endless) as address, kind(tmp_path, certificate, [address]) as proxy, proxy.connect() as client:
        client.send(request("GET", "/files/x"))
        until(lambda: sent > 100_000)
        before = -1
        while sent != before:  # until it has stopped
            before = sent
            time.sleep(0.3)
            assert sent < 50_000_000


def test_haproxy_leaves_out_a_server_that_is_not_ready(certificate: Certificate, tmp_path: Path) -> None:
    ready = {b"a": False, b"b": True}

    def serve(name: bytes, connection: socket.socket, head: bytes) -> None:
        if b"/readyz" in head:
            connection.sendall(READY if ready[name] else READY.replace(b"200 OK", b"503 Service Unavailable"))
        else:
            connection.sendall(OK + b"s" + name)

    def answering(proxy: Proxy) -> set[bytes]:
        found = set()
        for _ in range(4):
            with proxy.connect() as client:
                found.add(client.ask(request("GET", "/files/x")).body)
        return found

    with backend(lambda *a: serve(b"a", *a)) as a, backend(lambda *b: serve(b"b", *b)) as b:
        with Haproxy(tmp_path, certificate, [a, b], **{"inter 2s": "inter 50ms"}) as proxy:
            until(lambda: answering(proxy) == {b"sb"})
            ready[b"a"] = True
            until(lambda: answering(proxy) == {b"sa", b"sb"})
            ready[b"a"] = ready[b"b"] = False
            until(lambda: answering(proxy) != {b"sa", b"sb"})
            with proxy.connect() as client:
                until(lambda: client.ask(request("HEAD", "/files/x")).status == 423)


def test_nginx_through_a_unix_socket(certificate: Certificate, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as short:  # a socket's path has at most 108 characters
        path = f"unix:{short}/tusd.sock"
        config = f"server: {{listen: '{path}', behind_proxy: true, trusted_proxies: []}}\nstorage: {{use: memory}}\n"
        with serving(tmp_path, config), Nginx(tmp_path / "nginx", certificate, [path]) as proxy, proxy.connect() as client:
            created = client.ask(request("POST", "/files/", {"Host": "up.example.com", "Upload-Length": 5}))
            assert re.fullmatch(r"https://up\.example\.com/files/[0-9a-f]{32}", created["Location"]), created
