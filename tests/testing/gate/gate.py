"""Limiters, some right and the others each with one fault, that `LimitingSuite` is tried on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from tusd import plugin


class _Plugin:
    scope = plugin.Scope.PROCESS
    limiter: ClassVar[type[plugin.Limiter]]

    @plugin.hookimpl
    @asynccontextmanager
    async def open_limiting(self) -> AsyncIterator[plugin.Limiter]:
        yield self.limiter()


# --- none at all


class _Open(plugin.Limiter):
    def admit(self, head: plugin.Head, request: plugin.Request) -> contextlib.AbstractAsyncContextManager[plugin.Allowance]:
        return contextlib.nullcontext(plugin.FreeAllowance())


class Open(_Plugin):
    """Right: limits nothing."""

    limiter = _Open


class SwallowsErrors(_Plugin):
    class limiter(_Open):
        @asynccontextmanager
        async def admit(self, head: plugin.Head, request: plugin.Request) -> AsyncIterator[plugin.Allowance]:
            with contextlib.suppress(Exception):
                yield plugin.FreeAllowance()


class RefusesOptions(_Plugin):
    class limiter(_Open):
        def admit(self, head: plugin.Head, request: plugin.Request) -> contextlib.AbstractAsyncContextManager[plugin.Allowance]:
            if isinstance(request, plugin.Discover):
                raise plugin.TooManyRequests(retry_after=1)
            return super().admit(head, request)


class PacesSecretly(_Plugin):
    class limiter(_Open):
        def admit(self, head: plugin.Head, request: plugin.Request) -> contextlib.AbstractAsyncContextManager[plugin.Allowance]:
            return contextlib.nullcontext(_Pace(_Brake(), "client"))


class ReservesSecretly(_Plugin):
    class limiter(_Open):
        async def reserve(self, info: plugin.UploadInfo, total: int) -> None:
            if total > 1 << 40:
                raise plugin.QuotaExceeded(short_by=total)


class CountsSecretly(_Plugin):
    class limiter(_Open):
        running = 0

        @asynccontextmanager
        async def admit(self, head: plugin.Head, request: plugin.Request) -> AsyncIterator[plugin.Allowance]:
            if self.running == 50:
                raise plugin.TooManyRequests(retry_after=1)
            self.running += 1
            try:
                yield plugin.FreeAllowance()
            finally:
                self.running -= 1


# --- at_once = 3


class _Counter(plugin.Limiter):
    def __init__(self) -> None:
        self.running = Counter[str | None]()

    @asynccontextmanager
    async def admit(self, head: plugin.Head, request: plugin.Request) -> AsyncIterator[plugin.Allowance]:
        client = self.key(head)
        if self.running[client] >= 3:
            self.refuse(client)
        self.running[client] += 1
        try:
            await self.rest(client)
            yield plugin.FreeAllowance()
        except BaseException:
            self.fail(client)
            raise
        self.end(client)

    def key(self, head: plugin.Head) -> str | None:
        return head.client

    def refuse(self, client: str | None) -> None:
        raise plugin.TooManyRequests(retry_after=1)

    async def rest(self, client: str | None) -> None:
        await asyncio.sleep(0)

    def end(self, client: str | None) -> None:
        self.running[client] -= 1

    fail = end


class CountsRight(_Plugin):
    limiter = _Counter


class LetsOneMoreIn(_Plugin):
    class limiter(_Counter):
        def refuse(self, client: str | None) -> None:
            if self.running[client] > 3:
                super().refuse(client)


class CountsAllClientsTogether(_Plugin):
    class limiter(_Counter):
        def key(self, head: plugin.Head) -> str | None:
            return None


class NamesNoTime(_Plugin):
    class limiter(_Counter):
        def refuse(self, client: str | None) -> None:
            raise plugin.TooManyRequests()


class CountsRefusals(_Plugin):
    class limiter(_Counter):
        def refuse(self, client: str | None) -> None:
            self.running[client] += 1
            super().refuse(client)


class KeepsFailedRequests(_Plugin):
    class limiter(_Counter):
        def fail(self, client: str | None) -> None:
            pass


class KeepsCancelledRequests(_Plugin):
    class limiter(_Counter):
        async def rest(self, client: str | None) -> None:
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self.running[client] += 1
                raise


class SwallowsCancellations(_Plugin):
    class limiter(_Counter):
        async def rest(self, client: str | None) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)


class NeverGivesBack(_Plugin):
    class limiter(_Counter):
        def end(self, client: str | None) -> None:
            pass


class CountsItsOwnProcessOnly(_Plugin):
    scope = plugin.Scope.HOST
    limiter = _Counter


# --- in_a_row = 5


class _Clock(plugin.Limiter):
    interval = 0.2

    def __init__(self) -> None:
        self.full = defaultdict[str | None, float](float)

    @asynccontextmanager
    async def admit(self, head: plugin.Head, request: plugin.Request) -> AsyncIterator[plugin.Allowance]:
        client = self.key(head)
        now = time.monotonic()
        full = max(self.full[client], now) + self.interval
        if full - 5 * self.interval > now:
            self.refuse(client, full - 5 * self.interval - now)
        self.full[client] = full
        yield plugin.FreeAllowance()

    def key(self, head: plugin.Head) -> str | None:
        return head.client

    def refuse(self, client: str | None, pause: float) -> None:
        raise plugin.TooManyRequests(retry_after=pause)


class CountsTimeRight(_Plugin):
    limiter = _Clock


class CountsTriesToo(_Plugin):
    class limiter(_Clock):
        def refuse(self, client: str | None, pause: float) -> None:
            self.full[client] += self.interval
            super().refuse(client, pause)


class NamesTooLittleTime(_Plugin):
    class limiter(_Clock):
        def refuse(self, client: str | None, pause: float) -> None:
            super().refuse(client, pause / 4)


class MixesClientsUp(_Plugin):
    class limiter(_Clock):
        def key(self, head: plugin.Head) -> str | None:
            return None


class NeverRefuses(_Plugin):
    class limiter(_Clock):
        def refuse(self, client: str | None, pause: float) -> None:
            pass


class KnowsItsOwnProcessOnly(_Plugin):
    scope = plugin.Scope.HOST
    limiter = _Clock


# --- pace = 1 MB


class _Pace(plugin.FreeAllowance):
    def __init__(self, limiter: _Brake, client: str | None) -> None:
        self.limiter = limiter
        self.client = client

    async def spend(self, n: int) -> None:
        full = self.limiter.full
        full[self.client] = max(full[self.client], time.monotonic()) + n / 1e6
        try:
            await self.limiter.sleep(full[self.client] - time.monotonic() - 0.1)
        except asyncio.CancelledError:
            self.limiter.give_back(self.client, n)
            raise


class _Brake(plugin.Limiter):
    paces = True

    def __init__(self) -> None:
        self.full = defaultdict[str | None, float](float)

    def admit(self, head: plugin.Head, request: plugin.Request) -> contextlib.AbstractAsyncContextManager[plugin.Allowance]:
        return contextlib.nullcontext(_Pace(self, self.key(head)))

    def key(self, head: plugin.Head) -> str | None:
        return head.client

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0, seconds))

    def give_back(self, client: str | None, n: int) -> None:
        self.full[client] -= n / 1e6


class PacesRight(_Plugin):
    limiter = _Brake


class SaysItDoesNotPace(_Plugin):
    class limiter(_Brake):
        paces = False


class NeverWaits(_Plugin):
    class limiter(_Brake):
        async def sleep(self, seconds: float) -> None:
            pass


class WaitsTooLong(_Plugin):
    class limiter(_Brake):
        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(max(0, seconds) + 0.2)


class PacesEachBodyAlone(_Plugin):
    class limiter(_Brake):
        number = 0

        def key(self, head: plugin.Head) -> str | None:
            self.number += 1
            return str(self.number)


class PacesAllClientsTogether(_Plugin):
    class limiter(_Brake):
        def key(self, head: plugin.Head) -> str | None:
            return None


class WaitsThoughCancelled(_Plugin):
    class limiter(_Brake):
        async def sleep(self, seconds: float) -> None:
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(min(left, 0.02))


class KeepsWhatWasCancelled(_Plugin):
    class limiter(_Brake):
        def give_back(self, client: str | None, n: int) -> None:
            pass


# --- room = 100


class _Room(_Open):
    def __init__(self) -> None:
        self.held = dict[plugin.UploadId, int]()

    async def reserve(self, info: plugin.UploadInfo, total: int) -> None:
        missing = sum(self.held.values()) - self.held.get(info.id, 0) + total - 100
        if missing > 0 and total:
            self.refuse(info, total, missing)
        await self.rest()
        self.keep(info, total)

    async def recount(self, uploads: AsyncIterator[plugin.UploadInfo]) -> None:
        self.held = {info.id: info.offset if info.length is None else info.length async for info in uploads}

    def refuse(self, info: plugin.UploadInfo, total: int, missing: int) -> None:
        raise plugin.QuotaExceeded(short_by=missing)

    async def rest(self) -> None:
        await asyncio.sleep(0)

    def keep(self, info: plugin.UploadInfo, total: int) -> None:
        self.held[info.id] = total


class ReservesRight(_Plugin):
    limiter = _Room


class AddsUp(_Plugin):
    class limiter(_Room):
        def keep(self, info: plugin.UploadInfo, total: int) -> None:
            self.held[info.id] = self.held.get(info.id, 0) + total


class ReservesWhatItRefuses(_Plugin):
    class limiter(_Room):
        def refuse(self, info: plugin.UploadInfo, total: int, missing: int) -> None:
            self.keep(info, total)
            super().refuse(info, total, missing)


class SaysNothingIsMissing(_Plugin):
    class limiter(_Room):
        def refuse(self, info: plugin.UploadInfo, total: int, missing: int) -> None:
            raise plugin.QuotaExceeded()


class NeverForgets(_Plugin):
    class limiter(_Room):
        def keep(self, info: plugin.UploadInfo, total: int) -> None:
            self.held[info.id] = max(total, self.held.get(info.id, 0))


class SwallowsItsCancellation(_Plugin):
    class limiter(_Room):
        async def rest(self) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)


class KeepsRoomOfCancelledReservations(_Plugin):
    class limiter(_Room):
        lost = 0

        async def reserve(self, info: plugin.UploadInfo, total: int) -> None:
            await super().reserve(info, total + self.lost)

        async def rest(self) -> None:
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self.lost += 10
                raise


class NeverRecounts(_Plugin):
    class limiter(_Room):
        async def recount(self, uploads: AsyncIterator[plugin.UploadInfo]) -> None:
            pass


class CountsOffsetsOnly(_Plugin):
    class limiter(_Room):
        async def recount(self, uploads: AsyncIterator[plugin.UploadInfo]) -> None:
            self.held = {info.id: info.offset async for info in uploads}


class ReservesInItsOwnProcessOnly(_Plugin):
    scope = plugin.Scope.HOST
    limiter = _Room
