"""Upload URL <-> upload id, and where clients see the server when proxies stand between."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from urllib.parse import quote, unquote_to_bytes, urlsplit

from ..errors import InvalidConcat, InvalidId, InvalidRequest, UploadNotFound
from ..model import UploadId
from .messages import Head

_ID = re.compile(r"[A-Za-z0-9\-._~!$'()*+,;=:@/]{1,900}", re.ASCII)
_SEGMENT_SIZE = 240
"""A file name has at most 255 bytes, and stores add suffixes."""
_RESERVED = (".info", ".part", ".lock", ".tmp")
"""Suffixes of what stores keep beside an upload."""
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", re.ASCII)
_FORWARDED = re.compile(r'(?:[^",;]+|"(?:[^"\\]|\\.)*"?)+', re.DOTALL)
"""What stands between commas and semicolons outside of quotes. Nothing in it can fail to match what follows, so it never goes back and
the time it takes grows with the text only."""


def checked_id(text: str) -> UploadId:
    """The upload id `text`, if it can be one; every id from outside passes here before any backend sees it.

    Letters, digits and -._~!$'()*+,;=:@ in segments divided by single slashes; no segment begins with a dot or a tilde, or
    ends as the files beside an upload do (in any case: some file systems do not tell .INFO from .info). Raises `InvalidId`.
    """
    if not _ID.fullmatch(text):
        raise InvalidId("an upload id has 1 to 900 letters, digits and -._~!$'()*+,;=:@/")
    for segment in text.split("/"):
        if not segment or segment[0] in ".~" or segment.lower().endswith(_RESERVED) or len(segment) > _SEGMENT_SIZE:
            raise InvalidId(
                f"a segment of an upload id has 1 to {_SEGMENT_SIZE} characters, does not begin with . or ~ and does not end in "
                + ", ".join(_RESERVED)
            )
    return UploadId(text)


@dataclass(frozen=True)
class Origins:
    """Where the server is, seen from its clients."""

    base_path: str = "/files/"
    public_url: str | None = None
    """The base of every upload URL, whatever the request says."""
    behind_proxy: bool = False
    trusted_proxies: tuple[str, ...] = ()
    """Networks whose forwarded headers count; a unix socket's peer is always trusted."""
    allowed_hosts: frozenset[str] = field(default_factory=frozenset)
    """Hosts, lower case, that may stand in a Location; empty: any."""

    @cached_property
    def _networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        return tuple(ip_network(text) for text in self.trusted_proxies)

    @cached_property
    def _bases(self) -> tuple[str, ...]:
        public = urlsplit(self.public_url).path.rstrip("/") + "/" if self.public_url else self.base_path
        return (self.base_path, public)

    def trusts(self, peer: str | None) -> bool:
        """Whether the forwarded headers of this peer count."""
        if not self.behind_proxy:
            return False
        if peer is None:
            return True
        address = ip_address(peer.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped.version == network.version and mapped in network for network in self._networks)

    def client(self, head: Head) -> str | None:
        """The address of the client. Behind trusted proxies it is the last one that they forward for and that is none of theirs:
        what stands before it the client may have made up. None when nobody knows, as for a unix socket."""
        if not self.behind_proxy or not self.trusts(head.peer):
            return head.peer
        found = head.peer
        for text in reversed(_forwarded_for(head)):
            address = _address(text)
            if address is None:
                break
            found = address
            if not self.trusts(address):
                break
        return found

    def holds(self, path: str) -> bool:
        """Whether a request for this path is about uploads."""
        return path.startswith(self.base_path) or path == self.base_path[:-1]

    def upload_id(self, path: str) -> UploadId | None:
        """The id in a request's path; None for the base path itself. Raises `UploadNotFound` for what cannot be one."""
        return _id_in(path[len(self.base_path) :])

    def part_id(self, url: str) -> UploadId:
        """The id in an upload URL of `Upload-Concat`, absolute, or relative to the creation URL. The host does not matter: behind
        proxies a server has several. Raises `InvalidConcat` for a URL that is not below this server's base path,
        `UploadNotFound` for one below it that cannot be an upload."""
        try:
            # urlsplit would normalize a host of other characters first, for seconds when they are combining ones
            scheme, host, path, _, _ = urlsplit(url if url.isascii() else "")
        except ValueError:
            scheme = host = path = ""
        if not (scheme or host or path.startswith("/")):
            path = self.base_path + path.removeprefix("./")
        for base in self._bases:
            if path.startswith(base) and (found := _id_in(path[len(base) :])):
                return found
        raise InvalidConcat("a URL in the Upload-Concat header is not an upload of this server")

    def base_url(self, head: Head) -> str:
        """The base of upload URLs for this request's client, ending in a slash.

        From `public_url`, or the forwarded headers of a trusted proxy, or the Host header; a path alone when there is none (HTTP/1.0).
        Raises `InvalidRequest` for a host that is not a host, or not among `allowed_hosts`.
        """
        if self.public_url:
            return self.public_url.rstrip("/") + "/"
        scheme, host = head.scheme, head.headers.get("Host")
        if self.behind_proxy and self.trusts(head.peer):
            scheme, host = _forwarded(head, scheme, host)
        if host is None:
            return self.base_path
        match = _HOST.fullmatch(host)
        if not match:
            raise InvalidRequest("the Host header is not valid")
        if self.allowed_hosts and host.lower() not in self.allowed_hosts and match[1].lower() not in self.allowed_hosts:
            raise InvalidRequest("this server is not reached under the host that the request names")
        if match[2] == (":443" if scheme == "https" else ":80"):
            host = match[1]
        return f"{scheme}://{host}{self.base_path}"

    def upload_url(self, head: Head, upload_id: UploadId) -> str:
        """The URL of an upload, for the client that sent this request."""
        name = upload_id if upload_id.isascii() and upload_id.isalnum() else quote(upload_id, safe="-._~!$'()*+,;=:@/")
        return self.base_url(head) + name


def _id_in(rest: str) -> UploadId | None:
    rest = rest.removesuffix("/")
    if not rest:
        return None
    try:
        return checked_id(unquote_to_bytes(rest).decode("ascii") if "%" in rest else rest)
    except (InvalidId, UnicodeError):
        raise UploadNotFound() from None


def _forwarded(head: Head, scheme: str, host: str | None) -> tuple[str, str | None]:
    """`Forwarded` (RFC 7239) wins over X-Forwarded-*; of several values the first, which is the client's side, counts."""
    proto = (head.headers.get("X-Forwarded-Proto") or "").partition(",")[0].strip().lower()
    name = (head.headers.get("X-Forwarded-Host") or "").partition(",")[0].strip()
    found: dict[str, str] = {}
    for pair in _FORWARDED.findall(head.headers.get("Forwarded") or ""):
        key, _, value = pair.partition("=")
        found.setdefault(key.strip().lower(), _unquoted(value.strip()))
    name, proto = found.get("host") or name, (found.get("proto") or proto).lower()
    return (proto if proto in ("http", "https") else scheme), (name or host)


def _forwarded_for(head: Head) -> list[str]:
    """The addresses that proxies forward for, the client's side first; `Forwarded` wins over X-Forwarded-For."""
    pairs = (pair.partition("=") for pair in _FORWARDED.findall(",".join(head.headers.getall("Forwarded", []))))
    found = [_unquoted(value.strip()) for key, _, value in pairs if key.strip().lower() == "for"]
    return found or ",".join(head.headers.getall("X-Forwarded-For", [])).split(",")


def _address(text: str) -> str | None:
    """The IP address in a forwarded value such as `192.0.2.1:4711` or `[2001:db8::1]:80`; None for other text."""
    text = text.strip()
    if match := re.fullmatch(r"\[([^\]]*)\](:\d+)?|([\d.]+):\d+", text, re.ASCII):
        text = match[1] or match[3]
    try:
        return str(ip_address(text))
    except ValueError:
        return None


def _unquoted(value: str) -> str:
    """A parameter's value without its quotes; empty for one that has another quote, such as one that never ends."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        return value[1:-1]
    return "" if '"' in value else value
