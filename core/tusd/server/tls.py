"""TLS of a listener: what is allowed, and certificates that are read again when their files change."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from ..listen import ListenTls

logger = logging.getLogger("tusd")

LOOK_EVERY = 2.0
"""Seconds between looks at the files of certificates."""

_TLS12, _TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
# Those of Mozilla's "intermediate" list that have forward secrecy without DHE, as in Go's tusd.
_INTERMEDIATE = ":".join(
    f"ECDHE-{key}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for key in ("ECDSA", "RSA")
)
_MODES: Mapping[str, tuple[ssl.TLSVersion, ssl.TLSVersion, str]] = MappingProxyType(
    {
        "tls13": (_TLS13, _TLS13, ""),
        "tls12": (_TLS12, _TLS13, _INTERMEDIATE),
        "tls12-strong": (_TLS12, _TLS12, "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"),
    }
)
"""Lowest version, highest version, ciphers of 1.2 (those of 1.3 are all good)."""


class BadCertificate(ValueError):
    """A certificate or key cannot be used; says which, why, and the cure."""


class Certificate:
    """Certificate and key of a listener, and the context that serves the newest good pair. Raises `BadCertificate`."""

    def __init__(self, options: ListenTls) -> None:
        self._options = options
        self._seen = self._signature()
        self._loaded = self._seen
        self._current = _load(options)
        self.context = _load(options)
        """For the listener; it stays the same while certificates change."""
        # Called for every handshake: a context whose files turn out to be bad never serves.
        self.context.sni_callback = self._choose

    def refresh(self) -> None:
        """Load the files if they have changed and are quiet since the last look; what is wrong is logged once, and the old pair stays."""
        signature = self._signature()
        if signature == self._loaded or signature != self._seen:  # between two looks both files are written
            self._seen = signature
            return
        self._loaded = signature
        try:
            self._current = _load(self._options)
        except BadCertificate as error:
            logger.error("the changed certificate is not used, the old one stays: %s", error)
        else:
            logger.info("certificate changed", extra={"certificate": self._options.certificate})

    def _choose(self, handshake: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        handshake.context = self._current

    def _signature(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_signature(path) for path in (self._options.certificate, self._options.key))


async def keep_fresh(certificates: Sequence[Certificate]) -> None:
    """Look at the files again and again."""
    while certificates:
        await asyncio.sleep(LOOK_EVERY)
        for certificate in certificates:
            certificate.refresh()


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _load(options: ListenTls) -> ssl.SSLContext:
    _check(options.certificate, "CERTIFICATE-----", "tls.certificate", "certificate")
    _check(options.key, "PRIVATE KEY-----", "tls.key", "private key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version, ciphers = _MODES[options.mode]
    if ciphers:
        context.set_ciphers(ciphers)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(options.certificate, options.key, password=_refuse_to_ask)
    except _Encrypted:
        cure = "decrypt it: openssl pkey -in FILE -out NEW, and protect the new file by its permissions"
        raise BadCertificate(f"tls.key: {options.key} is encrypted; {cure}") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            what = f"{options.key} is not the key of {options.certificate}; name the pair that belongs together"
            raise BadCertificate(f"tls.key: {what}") from None
        why = (error.reason or str(error)).lower().replace("_", " ")
        raise BadCertificate(f"tls: {options.certificate} and {options.key} cannot be used: {why}") from None
    except OSError as error:
        raise BadCertificate(f"tls: {options.certificate} and {options.key} cannot be read: {error.strerror}") from None
    return context


class _Encrypted(Exception):
    """A key wants a passphrase; OpenSSL would ask for it on the terminal."""


def _refuse_to_ask() -> NoReturn:
    raise _Encrypted


def _check(path: Path, mark: str, option: str, what: str) -> None:
    try:
        text = path.read_text("ascii", errors="replace")
    except OSError as error:
        cure = (
            "the user that the server runs as must be able to read it"
            if isinstance(error, PermissionError)
            else "name a PEM file"
        )
        raise BadCertificate(f"{option}: cannot read {path}: {(error.strerror or str(error)).lower()}; {cure}") from None
    if mark not in text:
        raise BadCertificate(f"{option}: {path} holds no {what} in PEM format (-----BEGIN ...{mark}); convert it with openssl")
