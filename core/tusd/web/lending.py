"""Lending a connection's transport to whoever writes a large body, and taking it back at any byte.

Our own connections do it in the cheapest way. Those of an application that tusd is a part of are aiohttp's, and do it with what
everybody may use.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from aiohttp import StreamReader, web

HOLD_FROM = 256 * 1024
"""A body that has so much still to come waits in the kernel until somebody wants it: every byte that passes through aiohttp's parser
and stream is copied twice more."""
_ZEROS = bytes(256 * 1024)
"""At most aiohttp's low-water mark, so that feeding it never pauses the transport."""
_AT_ONCE = 64
"""So many of these pieces are shown to a parser before others may go on."""


class Lender(Protocol):
    """A connection that lends its transport."""

    def lend(self, protocol: asyncio.BaseProtocol) -> None:
        """Let `protocol` have what comes, from the next byte on. Raises `ConnectionResetError` when the client is gone."""
        ...

    def went_by(self, body: StreamReader, count: int) -> int:
        """So many bytes of the body went to the borrower just now. Returns how many of them the stream has not been told of."""
        ...

    def take_back(self, body: StreamReader, *, ended: bool) -> None:
        """End the loan; with `ended` behind the body's last byte."""
        ...

    async def catch_up(self, body: StreamReader, count: int) -> None:
        """After a loan that ended before the body: let the stream know of the `count` bytes that went by in it."""
        ...

    def release(self) -> None:
        """Somebody waits for the next byte of a body."""
        ...

    def borrowed(self) -> asyncio.Protocol:
        """Who has the transport otherwise, and has to know what becomes of it."""
        ...


def lender_of(request: web.BaseRequest) -> Lender:
    """Who lends the transport of a request."""
    protocol = request.protocol
    return cast(Lender, protocol) if hasattr(protocol, "lend") else _Foreign(protocol)


def show_zeros(protocol: asyncio.Protocol, body: StreamReader, count: int) -> None:
    """Show aiohttp's parser zeros instead of bytes of the body that went by, and drop them."""
    while count and body.exception() is None:
        part = min(count, len(_ZEROS))
        protocol.data_received(_ZEROS[:part])  # a whole slice of bytes is no copy
        body.read_nowait(-1)
        count -= part


async def show_many_zeros(protocol: asyncio.Protocol, body: StreamReader, count: int) -> None:
    """As `show_zeros`, for any number: others go on meanwhile."""
    while count and body.exception() is None:
        part = min(count, _AT_ONCE * len(_ZEROS))
        show_zeros(protocol, body, part)
        count -= part
        await asyncio.sleep(0)


class _Foreign:
    """A connection of aiohttp's: its parser is shown zeros for all that went by, as it goes by."""

    def __init__(self, protocol: web.RequestHandler) -> None:
        self._protocol = protocol

    def lend(self, protocol: asyncio.BaseProtocol) -> None:
        transport = self._protocol.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        transport.pause_reading()  # so that no byte comes between the two
        transport.set_protocol(protocol)
        transport.resume_reading()

    def went_by(self, body: StreamReader, count: int) -> int:
        show_zeros(self._protocol, body, count)
        return 0

    def take_back(self, body: StreamReader, *, ended: bool) -> None:
        if self._protocol.transport is not None:
            self._protocol.transport.set_protocol(self._protocol)

    async def catch_up(self, body: StreamReader, count: int) -> None:
        """It has been shown all."""

    def release(self) -> None:
        """Nothing is held."""

    def borrowed(self) -> asyncio.Protocol:
        return self._protocol
