"""The limiting seam: how much clients may do at once, per second, and in all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from .model import UploadInfo
from .protocol.messages import Head, Request


class Allowance(Protocol):
    """What an admitted request may do. All of it is optional for a limiter: see `FreeAllowance`."""

    async def bind(self, info: UploadInfo) -> None:
        """The upload is known now: keys from its metadata can be counted. Raises `TooManyRequests`."""
        ...

    async def spend(self, n: int) -> None:
        """Wait until `n` more bytes of the body may pass."""
        ...


class FreeAllowance:
    """An allowance without limits."""

    async def bind(self, info: UploadInfo) -> None:
        """Nothing to count."""

    async def spend(self, n: int) -> None:
        """Nothing to wait for."""


class Limiter(ABC):
    """Says no, or later. One per worker process and `limiting` entry; asked in the order of the configuration."""

    paces: bool = False
    """Whether its allowances' `spend` ever waits; the body is counted piece by piece only for limiters that do."""

    @abstractmethod
    def admit(self, head: Head, request: Request) -> AbstractAsyncContextManager[Allowance]:
        """Admit a request for the time of the context, which includes sending the answer. Raises `TooManyRequests(retry_after=...)`."""

    def remember(self, head: Head) -> Mapping[str, str]:
        """What is noted of an upload that this request creates (`UploadInfo.notes`), because `reserve` and `recount` need it."""
        return {}

    async def reserve(self, info: UploadInfo, total: int) -> None:
        """From now on this upload may hold `total` bytes in all; 0: it is gone.

        The figure is absolute, so repeating, shrinking and taking back are safe. Raises `QuotaExceeded(short_by=...)` and then
        changes nothing. With `evict` the server removes other uploads, each told here with 0, and then asks again."""
        return None

    async def recount(self, uploads: AsyncIterator[UploadInfo]) -> None:
        """What the store really holds, listed while requests go on: what was reserved or given back since the call began is newer than what is
        listed. At the start and then once a day, in the first worker of each host; one worker at a time."""
        return None
