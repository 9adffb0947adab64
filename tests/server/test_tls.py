"""TLS: what is spoken, what is wrong with a certificate, changed files, and uploads through it, byte by byte."""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
import time
from pathlib import Path

import pytest
from tests.server.certificates import Pair, make_pair, openssl, served
from tests.server.running import Server, serving, tusd, until

from tusd.listen import ListenTls
from tusd.server.tls import BadCertificate, Certificate

MIB = 1024 * 1024


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return make_pair(tmp_path, "server")


def listen(pair: Pair, mode: str = "tls12", more: str = "") -> str:
    tls = f"{{certificate: {pair.certificate}, key: {pair.key}, mode: {mode}}}"
    return f"server: {{listen: {{address: '127.0.0.1:0', tls: {tls}}}, {more}}}\n"


def address(server: Server) -> tuple[str, int]:
    host, _, port = server.url.split("/")[2].partition(":")
    return host, int(port)


def connect(server: Server, pair: Pair) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection(*address(server), timeout=30, context=pair.client())


def ask(server: Server, pair: Pair, method: str, path: str, body: bytes = b"", **headers: object) -> http.client.HTTPResponse:
    """One request on a connection of its own; its answer, read to the end."""
    connection = connect(server, pair)
    named = {name.replace("_", "-"): str(value) for name, value in headers.items()}
    connection.request(method, path, body or None, {"Tus-Resumable": "1.0.0", **named})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


PATCH = {"Content_Type": "application/offset+octet-stream"}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("size", [100_000, 48 * MIB + 12_345])
def test_an_upload_and_its_resumption(tmp_path: Path, pair: Pair, loop: str, size: int) -> None:
    """Through the path of small bodies and through the direct one, which lends the TLS transport to another protocol."""
    body, half = os.urandom(size), size // 2
    with serving(tmp_path, listen(pair, more=f"loop: {loop}")) as server:
        assert re.fullmatch(r"https://127\.0\.0\.1:\d+/files/", server.url)
        created = ask(server, pair, "POST", "/files/", Upload_Length=size)
        assert created.status == 201
        location = created.headers["Location"]
        assert location.startswith(server.url)
        path, stored = "/files/" + location.rpartition("/")[2], tmp_path / "data" / location.rpartition("/")[2]

        torn = connect(server, pair)  # a client that vanishes in the middle
        torn.putrequest("PATCH", path)
        head = {"Tus-Resumable": "1.0.0", "Upload-Offset": 0, "Content-Type": PATCH["Content_Type"], "Content-Length": size}
        for name, value in head.items():
            torn.putheader(name, str(value))
        torn.endheaders()
        torn.send(body[:half])
        until(lambda: stored.stat().st_size == half)
        torn.close()

        resumed = int(ask(server, pair, "HEAD", path).headers["Upload-Offset"])
        assert resumed == half
        assert ask(server, pair, "PATCH", path, body[half:], Upload_Offset=half, **PATCH).status == 204
        assert stored.read_bytes() == body

        connection = connect(server, pair)  # and the transport is handed back: the connection goes on
        for offset in (0, half):
            second = body[offset : offset + half]
            connection.request("POST", "/files/", None, {"Tus-Resumable": "1.0.0", "Upload-Length": str(half)})
            answer = connection.getresponse()
            answer.read()
            other = "/files/" + answer.headers["Location"].rpartition("/")[2]
            headers = {"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Content-Type": PATCH["Content_Type"]}
            connection.request("PATCH", other, second, headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 204
            assert (tmp_path / "data" / other.rpartition("/")[2]).read_bytes() == second
        connection.close()
        assert server.stop() == 0
        assert "Traceback" not in server.log


def test_a_stop_interrupts_an_upload_over_tls_and_keeps_its_bytes(tmp_path: Path, pair: Pair) -> None:
    with serving(tmp_path, listen(pair)) as server:
        created = ask(server, pair, "POST", "/files/", Upload_Length=2 * MIB)
        name = created.headers["Location"].rpartition("/")[2]
        connection = connect(server, pair)
        connection.putrequest("PATCH", f"/files/{name}")
        for header, value in (("Tus-Resumable", "1.0.0"), ("Upload-Offset", "0"), ("Content-Length", str(2 * MIB))):
            connection.putheader(header, value)
        connection.putheader("Content-Type", PATCH["Content_Type"])
        connection.endheaders()
        connection.send(os.urandom(MIB))
        until(lambda: (tmp_path / "data" / name).stat().st_size == MIB)
        server.process.terminate()
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Upload-Offset"]) == (503, str(MIB))
        assert server.process.wait(15) == 0


@pytest.mark.parametrize(
    ("mode", "versions"),
    [("tls12", {"TLSv1.2", "TLSv1.3"}), ("tls13", {"TLSv1.3"}), ("tls12-strong", {"TLSv1.2"})],
)
def test_modes(tmp_path: Path, pair: Pair, mode: str, versions: set[str]) -> None:
    with serving(tmp_path, listen(pair, mode)) as server:
        found = {spoken(server, pair, version) for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)}
        assert {version for version, _ in found if version} == versions
        if mode == "tls12-strong":
            assert {cipher for _, cipher in found if cipher} == {"ECDHE-ECDSA-AES256-GCM-SHA384"}
        assert spoken(server, pair, ssl.TLSVersion.TLSv1_2, "AES128-SHA:ECDHE-ECDSA-AES128-SHA") == ("", "")


def spoken(server: Server, pair: Pair, version: ssl.TLSVersion, ciphers: str = "") -> tuple[str, str]:
    """Version and cipher that are agreed on; nothing when the server refuses."""
    context = pair.client()
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    if ciphers:
        context.set_ciphers(ciphers)
    with socket.create_connection(address(server), timeout=10) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
                assert connection.selected_alpn_protocol() == "http/1.1"
                cipher = connection.cipher()
                return str(connection.version()), cipher[0] if cipher else ""
        except ssl.SSLError:
            return "", ""


def test_plain_http_is_not_answered(tmp_path: Path, pair: Pair) -> None:
    with serving(tmp_path, listen(pair)) as server:
        with socket.create_connection(address(server), timeout=10) as plain:
            plain.sendall(b"OPTIONS /files/ HTTP/1.1\r\nHost: here\r\n\r\n")
            assert b"HTTP" not in plain.recv(4096)
        assert ask(server, pair, "OPTIONS", "/files/").status == 200
        assert "ERROR" not in server.log


@pytest.mark.parametrize("workers", [1, 2])
def test_a_renewed_certificate_is_served_without_a_restart(tmp_path: Path, pair: Pair, workers: int) -> None:
    with serving(tmp_path, listen(pair, more=f"workers: {workers}")) as server:
        old = served(address(server))
        kept = connect(server, pair)
        kept.request("OPTIONS", "/files/")
        kept.getresponse().read()
        make_pair(tmp_path, "new").move_to(pair)
        until(lambda: server.log.count("certificate changed") == workers)
        assert {served(address(server), pair.client()) for _ in range(8)}.isdisjoint({old})
        kept.request("OPTIONS", "/files/")  # a connection that was open goes on
        assert kept.getresponse().status == 200
        kept.close()


def test_a_broken_renewal_keeps_the_old_certificate_and_is_said_once(tmp_path: Path, pair: Pair) -> None:
    with serving(tmp_path, listen(pair)) as server:
        old = served(address(server))
        pair.key.write_text("broken")
        until(lambda: "the changed certificate is not used, the old one stays" in server.log)
        time.sleep(5)
        assert server.log.count("the old one stays") == 1
        assert served(address(server)) == old
        make_pair(tmp_path, "new").move_to(pair)
        until(lambda: "certificate changed" in server.log)
        assert served(address(server), pair.client()) != old


def test_looking_is_not_loading(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that have not changed are not read; files that have are read once they are quiet."""
    certificate = Certificate(ListenTls(certificate=pair.certificate, key=pair.key))
    loads: list[object] = []
    monkeypatch.setattr("tusd.server.tls._load", loads.append)
    for _ in range(3):
        certificate.refresh()
    assert not loads
    os.utime(pair.key, ns=(1, 1))
    certificate.refresh()
    os.utime(pair.key, ns=(2, 2))
    certificate.refresh()
    assert not loads
    certificate.refresh()
    certificate.refresh()
    assert len(loads) == 1


def test_what_is_wrong_with_a_certificate(tmp_path: Path, pair: Pair) -> None:
    other, encrypted = make_pair(tmp_path, "other"), tmp_path / "encrypted.key"
    openssl("pkey", "-in", str(pair.key), "-aes256", "-passout", "pass:secret", "-out", str(encrypted))
    (tmp_path / "garbage").write_bytes(os.urandom(100))
    (tmp_path / "torn").write_text("-----BEGIN CERTIFICATE-----\nMIIB\n")
    for certificate, key, expected in (
        (tmp_path / "none", pair.key, "tls.certificate: cannot read .*none: no such file or directory; name a PEM file"),
        (pair.certificate, tmp_path, "tls.key: cannot read .*: is a directory"),
        (pair.certificate, other.key, r"tls.key: .*other\.key is not the key of .*server\.crt; name the pair"),
        (pair.certificate, encrypted, r"tls.key: .*encrypted\.key is encrypted; decrypt it: openssl pkey"),
        (tmp_path / "garbage", pair.key, "tls.certificate: .*garbage holds no certificate in PEM format"),
        (pair.certificate, pair.certificate, r"tls.key: .*server\.crt holds no private key in PEM format"),
        (tmp_path / "torn", pair.key, "tls: .*torn and .*server.key cannot be used"),
    ):
        with pytest.raises(BadCertificate, match=f"^{expected}"):
            Certificate(ListenTls(certificate=certificate, key=key))


@pytest.mark.parametrize("command", [(), ("check",)])
def test_it_is_said_at_the_start_with_its_place(tmp_path: Path, pair: Pair, command: tuple[str, ...]) -> None:
    (tmp_path / "tusd.yaml").write_text(
        f"server:\n  admin_listen:\n  - address: 127.0.0.1:0\n    tls: {{certificate: {pair.certificate}, key: none}}\n"
        f"  listen:\n  - 127.0.0.1:0\n  - address: '[::1]:0'\n    tls: {{certificate: none, key: {pair.key}}}\n"
    )
    result = tusd(*command, "-c", "tusd.yaml", cwd=tmp_path)
    assert result.returncode == 2
    why = "cannot read none: no such file or directory; name a PEM file"
    assert result.stderr.splitlines() == [
        f"tusd.yaml:7:5 server.listen[1]: tls.certificate: {why}",
        f"tusd.yaml:3:5 server.admin_listen[0]: tls.key: {why}",
    ]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_stop_while_a_client_has_not_hung_up(tmp_path: Path, pair: Pair, loop: str) -> None:
    """It has its answer, which was the connection's last, and stays."""
    with serving(tmp_path, listen(pair, more=f"loop: {loop}")) as server:
        with pair.client().wrap_socket(socket.create_connection(address(server), 10), server_hostname="127.0.0.1") as client:
            client.sendall(b"OPTIONS /files/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200 OK")
            time.sleep(0.1)
            assert server.stop() == 0
        assert "Traceback" not in server.log
