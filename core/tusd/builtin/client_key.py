"""Whose request is this? The name under which a limiter counts a client."""

from __future__ import annotations

import socket
from typing import Literal, Self

from pydantic import model_validator

from tusd import plugin


class ClientKey(plugin.Options):
    """What tells clients apart."""

    by: Literal["address", "header", "metadata", "note"] = "address"
    """The client's address; a header of the request; a key of the upload's metadata; or a note that a pre-create hook has left."""
    name: str = ""
    """The header, the key or the note."""

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        if (self.by == "address") == bool(self.name):
            raise ValueError("name: only a header, a metadata key or a note has one" if self.name else f"name: which {self.by}?")
        return self

    @property
    def needs_upload(self) -> bool:
        """Whether nobody can tell before the upload is known."""
        return self.by in ("metadata", "note")

    def of(self, head: plugin.Head, info: plugin.UploadInfo | None = None) -> str:
        """The client's name. Who lacks the header, key or note goes by the address: one name for all of them would let each of them use
        up what the others have."""
        match self.by:
            case "header":
                found = head.headers.get(self.name)
            case "metadata":
                value = None if info is None else info.metadata.get(self.name)
                found = None if value is None else value.decode("utf-8", "surrogateescape")
            case "note":
                found = None if info is None else info.notes.get(self.name)
            case "address":
                found = None
        return f"{self.by} {found}" if found else _network(head.client)


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
