"""Whose request is this? The name under which a limiter counts a client."""

from __future__ import annotations

import re
import socket
from typing import Annotated

from pydantic import AfterValidator

from tusd import plugin


def _checked(text: str) -> str:
    if not re.fullmatch(r"address|(header|metadata|note) \S+", text):
        raise ValueError("is no way to tell clients apart; write address, header NAME, metadata NAME or note NAME")
    return text


By = Annotated[str, AfterValidator(_checked)]
"""An option: what tells clients apart."""


class ClientKey:
    """Finds a client's name, as an option of type `By` says."""

    def __init__(self, by: str) -> None:
        self._kind, _, self._name = by.partition(" ")
        self.needs_upload = self._kind in ("metadata", "note")
        """Whether nobody can tell before the upload is known."""

    def of(self, head: plugin.Head, info: plugin.UploadInfo | None = None) -> str:
        """The client's name. Who lacks the header, key or note goes by the address: one name for all of them would let each of them use
        up what the others have."""
        found: str | None = None
        if self._kind == "header":
            found = head.headers.get(self._name)
        elif self._kind == "metadata" and info is not None:
            found = info.metadata.get(self._name, b"").decode("utf-8", "surrogateescape")
        elif self._kind == "note" and info is not None:
            found = info.notes.get(self._name)
        return f"{self._kind} {found}" if found else _network(head.client)


def _network(address: str | None) -> str:
    """An IPv4 address, or the /64 that an IPv6 address is in: whoever has one address of it has them all. Nothing for nobody's, such as
    the other end of a unix socket."""
    if address is None or ":" not in address:
        return address or ""
    try:
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except OSError:
        return address
    if packed.startswith(bytes(10) + b"\xff\xff"):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return packed[:8].hex()
