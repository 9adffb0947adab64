"""Certificates for tests, made with openssl."""

from __future__ import annotations

import socket
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.needs import need


@dataclass(frozen=True)
class Pair:
    """A self-signed certificate for 127.0.0.1 and its key."""

    certificate: Path
    key: Path

    @property
    def yaml(self) -> str:
        """As a listener's `tls`."""
        return f"{{certificate: {self.certificate}, key: {self.key}}}"

    def client(self) -> ssl.SSLContext:
        """What a client needs that trusts this certificate and no other."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def move_to(self, other: Pair) -> None:
        """Take the place of another pair, as renewing tools do."""
        self.certificate.replace(other.certificate)
        self.key.replace(other.key)


def make_pair(directory: Path, name: str) -> Pair:
    """A new pair in two files."""
    pair = Pair(directory / f"{name}.crt", directory / f"{name}.key")
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
        *("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", str(pair.key), "-out", str(pair.certificate)),
    )
    return pair


def openssl(*arguments: str) -> None:
    """Run openssl."""
    command = need("openssl", how="install openssl")
    subprocess.run([command, *arguments], check=True, capture_output=True, timeout=30)


def served(address: tuple[str, int], context: ssl.SSLContext | None = None) -> bytes:
    """The certificate that is served there; with a context, verified by it."""
    if context is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(address, timeout=10) as plain:
        with context.wrap_socket(plain, server_hostname=address[0]) as connection:
            found = connection.getpeercert(binary_form=True)
            assert found is not None
            return found
