"""HTTP/1.1 messages as they come over a connection: heads are parsed, and every byte is kept to be passed on as it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Literal

PIECE = 256 << 10
"""Bytes that are read at a time, and the longest head."""


class Malformed(Exception):
    """This is not HTTP/1.1."""


@dataclass(frozen=True, slots=True)
class Head:
    """The first lines of a request or an answer."""

    raw: bytes
    """All of it, with the empty line."""
    first: tuple[str, str, str]
    """Method, target and version; or version, status and reason."""
    headers: Mapping[str, str]
    """By lower-case names; several of one name are joined with a comma."""

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.first[1])

    @property
    def last(self) -> bool:
        """Whether the connection ends with this message."""
        options = self.headers.get("connection", "").lower()
        return "close" in options or ("HTTP/1.0" in self.first and "keep-alive" not in options)


Length = int | Literal["chunked", "until close"]
"""How much body follows a head."""


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next head; None if the connection ends before it. Raises Malformed, IncompleteReadError in the middle of one."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise
    lines = raw[:-4].decode("latin-1").split("\r\n")
    first = (*lines[0].split(" ", 2), "")[:3]
    if len(first) != 3 or not any(word.startswith("HTTP/1.") for word in first):
        raise Malformed(f"not the first line of a message: {lines[0][:200]!r}")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        name = name.lower()
        headers[name] = f"{headers[name]}, {value.strip()}" if name in headers else value.strip()
    return Head(raw, (first[0], first[1], first[2]), headers)


def length_of_request(head: Head) -> Length:
    """Of a request's body."""
    if "chunked" in head.headers.get("transfer-encoding", "").lower():
        return "chunked"
    return int(head.headers.get("content-length", "0"))


def length_of_answer(head: Head, method: str) -> Length:
    """Of the body of an answer to a request with this method."""
    if method == "HEAD" or head.status in (204, 304) or head.status < 200:
        return 0
    if "chunked" in head.headers.get("transfer-encoding", "").lower():
        return "chunked"
    return int(head.headers["content-length"]) if "content-length" in head.headers else "until close"


async def read_body(reader: asyncio.StreamReader, length: Length) -> AsyncIterator[bytes]:
    """The body piece by piece, with the lines between chunks. Raises IncompleteReadError if the connection ends before it."""
    if length == "until close":
        while piece := await reader.read(PIECE):
            yield piece
        return
    if length != "chunked":
        async for piece in _exactly(reader, length):
            yield piece
        return
    while True:
        line = await reader.readuntil(b"\r\n")
        yield line
        size = int(line.split(b";")[0], 16)
        if not size:
            break
        async for piece in _exactly(reader, size + 2):
            yield piece
    while line != b"\r\n":  # the fields behind the last chunk
        line = await reader.readuntil(b"\r\n")
        yield line


async def _exactly(reader: asyncio.StreamReader, size: int) -> AsyncIterator[bytes]:
    while size:
        piece = await reader.read(min(size, PIECE))
        if not piece:
            raise asyncio.IncompleteReadError(b"", size)
        size -= len(piece)
        yield piece


def content(raw: bytes, length: Length) -> bytes:
    """What a whole body holds, without the lines between chunks."""
    if length != "chunked":
        return raw
    found, rest = b"", raw
    while True:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line.split(b";")[0], 16)
        if not size:
            return found
        found, rest = found + rest[:size], rest[size + 2 :]


def with_body(head: Head, body: bytes) -> bytes:
    """The same answer with another body."""
    gone = (b"content-length:", b"transfer-encoding:")
    lines = [line for line in head.raw[:-4].split(b"\r\n") if not line.lower().startswith(gone)]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])
