"""What `server.listen` and `server.admin_listen` hold: where to listen, and what is spoken there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from .plugin import Mode, Options

UNIX = "unix:"
SYSTEMD = "systemd"


def _address(value: object) -> str:
    text = value if isinstance(value, str) else ""
    pattern = r"unix:.+|systemd(?::[!-9;-~]+)?|(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>\d{1,5})"
    match = re.fullmatch(pattern, text, re.ASCII)
    if not match or text.startswith("unix://"):
        raise ValueError("not an address; write 0.0.0.0:1080, [::]:1080, unix:/run/tusd.sock, or systemd")
    if int(match["port"] or 0) > 65535:
        raise ValueError("a port is at most 65535")
    return text


def _unix_only(value: object, info: ValidationInfo) -> object:
    if value is not None and not str(info.data.get("address", UNIX)).startswith(UNIX):
        raise ValueError("is for unix: sockets only; leave it out")
    return value


class ListenTls(Options):
    """Certificate and key of a listener. Files that change are read again; a restart is not needed."""

    certificate: Path
    """A PEM file: the certificate, then those that it was signed with, without the root."""
    key: Path
    """A PEM file with its private key, not encrypted."""
    mode: Literal["tls13", "tls12", "tls12-strong"] = "tls12"
    """`tls12`: TLS 1.2 and 1.3 with ciphers that keep old recordings secret; `tls13`: 1.3 only; `tls12-strong`: 1.2 only, with AES-256-GCM."""


class Listen(Options):
    """One place to listen at."""

    address: Annotated[str, BeforeValidator(_address)]
    """`host:port`, `[v6 address]:port`, `unix:/path.sock`, `systemd`, or `systemd:NAME`. Port 0 is any free port."""
    tls: ListenTls | None = None
    """Speak HTTPS. Not set: HTTP."""
    mode: Annotated[Mode | None, AfterValidator(_unix_only)] = None
    """Permissions of the socket's file, such as `"0660"`. Not set: as the umask makes them. `unix:` only."""
    owner: Annotated[str | None, AfterValidator(_unix_only)] = None
    """The user, by name or number, who gets the socket's file. `unix:` only."""
    group: Annotated[str | None, AfterValidator(_unix_only)] = None
    """The group that gets it. `unix:` only."""


def _each(value: object) -> object:
    """One listener stands for a list of it, text for its address."""
    if value is None or isinstance(value, tuple):
        return value
    items = value if isinstance(value, list) else [value]
    return [item if isinstance(item, dict) else {"address": item} for item in items]


def _distinct(listens: tuple[Listen, ...]) -> tuple[Listen, ...]:
    if not listens:
        raise ValueError("names no listener; write 0.0.0.0:1080")
    addresses = [listen.address for listen in listens]
    twice = next((address for address in addresses if addresses.count(address) > 1), None)  # port 0, too: it is found by it
    if twice:
        raise ValueError(f"names {twice} twice; keep one of them")
    return listens


def _apart(listens: tuple[Listen, ...] | None, info: ValidationInfo) -> tuple[Listen, ...] | None:
    shared = {one.address for one in listens or ()} & {one.address for one in info.data.get("listen", ())}
    shared = {address for address in shared if not address.endswith(":0")}  # any free port is another one each time
    if shared:
        raise ValueError(f"{min(shared)} is named by server.listen, too; choose another port")
    return listens and _distinct(listens)


_Written = str | Listen | list[str | Listen]

Listens = Annotated[tuple[Listen, ...], BeforeValidator(_each, json_schema_input_type=_Written), AfterValidator(_distinct)]
"""One listener or several, each written as text or as a mapping."""
AdminListens = Annotated[
    tuple[Listen, ...] | None, BeforeValidator(_each, json_schema_input_type=_Written | None), AfterValidator(_apart)
]
"""The same, or none; must come behind the field `listen`."""
