"""What clients and the server can rely on through each proxy."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from tests.e2e.files import MIB, downloaded_sha256, random_file, sha256
from tests.e2e.test_tus_js import Client
from tests.needs import need
from tests.server.running import until
from tests.web.raw import chunked, patch, post, request

from tusd.config import UploadsSection
from tusd.protocol.ietf import INTEROP, NEWEST

from .conftest import MAX_SIZE, Start
from .proxy import Nginx, Proxy, Site


def curl(*arguments: str) -> str:
    """What curl prints."""
    command = [need("curl", how="Debian: apt-get install curl"), "-sS", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


# --- bodies


def test_bytes_are_kept_while_the_client_still_sends(site: Site) -> None:
    path, data = site.create(10 * MIB), os.urandom(2 * MIB)
    with site.proxy.connect() as connection:
        connection.send(patch(path, 0, data, announce=10 * MIB))
        until(lambda: site.file(path).stat().st_size == len(data), 5)
        assert connection.silent()
    assert site.file(path).read_bytes() == data


def test_what_had_arrived_of_a_client_that_vanished_is_kept(site: Site) -> None:
    """What nginx held at that moment is lost; the client learns where to go on."""
    path, data = site.create(10 * MIB), os.urandom(MIB)
    with site.proxy.connect() as connection:
        connection.send(patch(path, 0, data, announce=10 * MIB))
        until(lambda: site.file(path).stat().st_size > 0, 5)
        arrived = site.file(path).stat().st_size
    offset = site.offset(path)
    assert arrived <= offset <= len(data)
    with site.proxy.connect() as connection:
        assert connection.ask(patch(path, offset, data[offset:])).status == 204
    assert site.file(path).read_bytes() == data


def test_a_chunked_body_arrives_while_it_is_sent(site: Site) -> None:
    path, data = site.create(3 * MIB), os.urandom(3 * MIB)
    body = chunked(data, 100_000)
    with site.proxy.connect() as connection:
        connection.send(patch(path, 0, headers={"Transfer-Encoding": "chunked"}) + body[:MIB])
        until(lambda: site.file(path).stat().st_size >= 900_000, 5)
        connection.send(body[MIB:])
        assert connection.answer().status == 204
    assert site.file(path).read_bytes() == data


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_a_large_body_over_each_version_of_http(site: Site, tmp_path: Path, version: str) -> None:
    file = random_file(tmp_path / "file", 101 * MIB)
    http = f"--http{version}"
    created = curl(http, "-i", "-X", "POST", site.url, "-H", "Tus-Resumable: 1.0.0", "-H", f"Upload-Length: {101 * MIB}")
    assert created.startswith(f"HTTP/{version} 201")
    (location,) = re.findall(r"(?im)^location: (\S+)", created)
    headers = ["Tus-Resumable: 1.0.0", "Upload-Offset: 0", "Content-Type: application/offset+octet-stream"]
    options = [option for header in headers for option in ("-H", header)]
    assert (
        curl(http, "-X", "PATCH", location, *options, "-T", str(file), "-w", "%{http_version} %{http_code}") == f"{version} 204"
    )
    assert sha256(site.file(location)) == sha256(file)
    assert downloaded_sha256(location) == sha256(file)


def test_a_client_may_ask_before_it_sends(site: Site) -> None:
    path = site.create(5)
    with site.proxy.connect() as connection:
        connection.send(patch(path, 0, headers={"Expect": "100-continue", "Content-Length": 5}))
        assert connection.answer().status == 100
        connection.send(b"hello")
        answer = connection.answer()
        while answer.status == 100:  # proxies may pass on the server's as well as send their own
            answer = connection.answer()
    assert (answer.status, answer["Upload-Offset"]) == (204, "5")


@pytest.mark.parametrize("sent", [100_000, 20 * MIB], ids=["waits", "goes on sending"])
def test_a_refusal_comes_before_the_body_was_sent(site: Site, sent: int) -> None:
    with site.proxy.connect() as connection:
        connection.send(post({"Upload-Length": MAX_SIZE + 1}, announce=MAX_SIZE + 1))
        connection.send_as_far_as_it_goes(bytes(sent))
        answer = connection.answer()
    assert (answer.status, answer.code) == (413, "ERR_MAX_SIZE_EXCEEDED")


def test_the_server_answers_clients_that_stall(start: Start) -> None:
    """503 is retried; a proxy's own 408 would end the upload."""
    site = start({"server": {"read_timeout": "500ms"}})
    path = site.create(MIB)
    with site.proxy.connect() as connection:
        connection.send(patch(path, 0, b"hello", announce=MIB))
        answer = connection.answer()
    assert answer.status == 503, answer
    assert site.offset(path) == 5


# --- headers


@pytest.mark.parametrize(
    "lies",
    [
        {},
        {"X-Forwarded-Host": "evil.test", "X-Forwarded-Proto": "http"},
        {"Forwarded": "host=evil.test;proto=http"},
        {"forwarded": "for=1.2.3.4, host=evil.test", "x-forwarded-host": "evil.test, evil.test"},
    ],
)
def test_the_location_is_where_the_client_is(site: Site, lies: dict[str, str]) -> None:
    for host in ("up.example.com", f"up.example.com:{site.proxy.port}"):
        with site.proxy.connect() as connection:
            answer = connection.ask(request("POST", "/files/", {"Host": host, "Upload-Length": 1, **lies}))
        assert answer["Location"].startswith(f"https://{host}/files/")


def test_the_location_is_where_the_client_is_over_http2(site: Site) -> None:
    lies = ["X-Forwarded-Host: evil.test", "X-Forwarded-Proto: http", "Forwarded: host=evil.test;proto=http"]
    options = [option for header in ["Tus-Resumable: 1.0.0", "Upload-Length: 1", *lies] for option in ("-H", header)]
    said = curl("--http2", "-i", "-X", "POST", site.url, *options)
    assert re.search(rf"(?m)^location: {site.url}[0-9a-f]{{32}}\r?$", said), said


def test_as_much_metadata_as_the_server_takes(site: Site) -> None:
    metadata = "some " + "AAAA" * ((UploadsSection().max_metadata_size - 5) // 4)
    with site.proxy.connect() as connection:
        created = connection.ask(request("POST", "/files/", {"Upload-Length": 1, "Upload-Metadata": metadata}))
        assert created.status == 201, created
        path = "/" + created["Location"].split("/", 3)[3]
        assert connection.ask(request("HEAD", path))["Upload-Metadata"] == metadata


def test_answers_of_the_server_pass_as_they_are(site: Site) -> None:
    path = site.create(10)
    with site.proxy.connect() as connection:
        conflict = connection.ask(patch(path, 7, b"abc"))
        assert (conflict.status, conflict.code, conflict["Upload-Offset"]) == (409, "ERR_MISMATCHED_OFFSET", "0")
        assert connection.ask(request("HEAD", "/files/0123456789abcdef")).status == 404
        assert connection.ask(request("POST", path, {"X-HTTP-Method-Override": "DELETE"})).status == 204
        assert connection.ask(request("DELETE", path)).status == 404
        options = connection.ask(request("OPTIONS", "/files/"))
        assert options["Tus-Version"] == "1.0.0"


@pytest.mark.parametrize("method", ["OPTIONS", "POST", "HEAD"])
def test_cors_is_the_servers(site: Site, method: str) -> None:
    headers = {"Origin": "https://app.test", "Access-Control-Request-Method": "POST", "Upload-Length": 1}
    with site.proxy.connect() as connection:
        answer = connection.ask(request(method, "/files/" if method != "HEAD" else site.create(1), headers))
    assert answer["Access-Control-Allow-Origin"] == "https://app.test"


@pytest.mark.parametrize("sent", [0, 5], ids=["later", "at once"])
def test_clients_of_the_draft_get_every_answer(site: Site, kind: type[Proxy], sent: int) -> None:
    """nginx cannot pass on informational responses, so there must be none."""
    creation = request("POST", "/files/", {INTEROP: NEWEST.number, "Upload-Complete": "?1"}, b"hello", tus=False)
    head, body = creation[:-5], creation[-5:]
    with site.proxy.connect() as connection:
        for _ in range(2):
            connection.send(head + body[:sent])
            statuses = [] if kind is Nginx else [connection.answer().status]
            connection.send(body[sent:])
            while not statuses or statuses[-1] < 200:
                statuses.append(connection.answer().status)
            assert statuses == ([201] if kind is Nginx else [104, 201])


# --- downloads


def test_downloads_have_ranges(site: Site) -> None:
    path, data = site.create(MIB), os.urandom(MIB)
    with site.proxy.connect() as connection:
        assert connection.ask(patch(path, 0, data)).status == 204
        part = connection.ask(request("GET", path, {"Range": "bytes=1000-2999"}))
        assert (part.status, part["Content-Range"], part.body) == (206, f"bytes 1000-2999/{MIB}", data[1000:3000])
        assert connection.ask(request("GET", path, {"Range": f"bytes={MIB}-"})).status == 416


# --- a client that others wrote


@pytest.mark.parametrize(
    "options", [{}, {"parallelUploads": 3}, {"uploadDataDuringCreation": True}], ids=["one", "parallel", "with the creation"]
)
def test_tus_js_client(site: Site, tmp_path: Path, options: dict[str, object]) -> None:
    file = random_file(tmp_path / "file", 10 * MIB + 7)
    last = Client(site, file, options).wait()
    assert last["event"] == "success", last
    assert last["url"].startswith(site.url)
    assert downloaded_sha256(last["url"]) == sha256(file)
