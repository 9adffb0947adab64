"""Uploads outlive the proxy and the server."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from tests.e2e.files import MIB, downloaded_sha256, random_file, sha256
from tests.e2e.test_tus_js import Client
from tests.server.running import until
from tests.web.raw import patch, request

from .conftest import Start
from .proxy import Haproxy, Proxy, Site


def interrupted(site: Site, client: Client, outage: float, *, server: bool) -> tuple[dict[str, object], set[str]]:
    """Kill the server, or the proxy, in the middle of an upload and start it again `outage` seconds later; the client's last
    event, and all upload URLs that it has had."""
    last, urls, killed = {}, set(), False
    for last in client.events():
        if last["event"] == "url":
            urls.add(last["url"])
        if last["event"] == "progress" and not killed and last["sent"] > 10 * MIB:
            killed = True
            part = site.server if server else site.proxy
            part.kill()
            time.sleep(outage)
            part.start()
    assert killed
    return last, urls


@pytest.mark.parametrize("part", ["server", "proxy"])
def test_tus_js_client_goes_on_where_it_was(start: Start, tmp_path: Path, part: str) -> None:
    """Also while its HEAD finds no server."""
    site, file = start(), random_file(tmp_path / "file", 48 * MIB)
    client = Client(site, file, {"chunkSize": 64 * MIB, "retryDelays": [0, 100, 300, *[1000] * 20]})
    last, urls = interrupted(site, client, 1, server=part == "server")
    assert last["event"] == "success", last
    assert urls == {last["url"]}, "the client started over"
    assert downloaded_sha256(str(last["url"])) == sha256(file)


@pytest.mark.parametrize("part", ["server", "proxy"])
def test_an_upload_goes_on_at_its_offset(start: Start, part: str) -> None:
    site = start()
    data = os.urandom(3 * MIB)
    path = site.create(len(data))
    with site.proxy.connect() as connection:
        connection.send(patch(path, 0, data[:MIB], announce=len(data)))
        until(lambda: site.file(path).stat().st_size == MIB)
        restarted = site.server if part == "server" else site.proxy
        restarted.kill()
        restarted.start()
    assert site.offset(path) == MIB
    with site.proxy.connect() as connection:
        assert connection.ask(patch(path, MIB, data[MIB:])).status == 204
    assert site.file(path).read_bytes() == data


def test_a_head_never_finds_the_upload_gone(start: Start, kind: type[Proxy]) -> None:
    """nginx asks to come back; HAProxy waits for the server."""
    site = start()
    path = site.create(5)
    site.server.kill()
    with site.proxy.connect() as connection:
        if kind is Haproxy:
            waker = threading.Timer(0.5, site.server.start)
            waker.start()
            try:
                assert connection.ask(request("HEAD", path)).status == 200
            finally:
                waker.join()
        else:
            answer = connection.ask(request("HEAD", path))
            assert (answer.status, answer["Retry-After"]) == (423, "1")
            assert connection.ask(patch(path, 0, b"hello")).status == 503
            site.server.start()
            assert connection.ask(request("HEAD", path)).status == 200


def test_one_of_two_servers_is_enough(start: Start) -> None:
    site = start(servers=2)
    data = os.urandom(20 * 1000)
    path = site.create(len(data))
    for at in range(0, len(data), 1000):
        if at == 5000:
            site.servers[0].kill()
        if at == 10000:
            site.servers[0].start()
        if at == 15000:
            site.servers[1].kill()
        with site.proxy.connect() as connection:
            assert connection.ask(request("HEAD", path))["Upload-Offset"] == str(at)
            assert connection.ask(patch(path, at, data[at : at + 1000])).status == 204
    assert site.file(path).read_bytes() == data


def test_two_servers_hand_over_an_upload(start: Start) -> None:
    """The other server is asked while the first still waits for bytes of a client whose connection has died."""
    site = start(servers=2)
    path = site.create(MIB)
    with site.proxy.connect() as dead:
        dead.send(patch(path, 0, b"hello", announce=MIB))
        until(lambda: site.file(path).stat().st_size == 5)
        assert {site.offset(path), site.offset(path)} == {5}
        assert dead.answer().status == 423
