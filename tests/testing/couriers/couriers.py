"""Dispatchers, one right and the others each with one fault, that `HooksSuite` is tried on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, ClassVar

from tusd import plugin
from tusd.plugin import HookError, HookEvent, HookResponse
from tusd.testing.hooks import Receiver


class Refused(Exception):
    """The desk does not take it."""


class Desk(Receiver):
    """Where the couriers go."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.reply: bytes | None = b""
        self.echoes = False
        self.hangs = False
        self.busy = 0

    async def take(self, text: bytes) -> bytes:
        self.told.append(json.loads(text))
        self.busy += 1
        try:
            await asyncio.sleep(60 if self.hangs else 0.001)
        finally:
            self.busy -= 1
        if self.reply is None:
            raise Refused("not today")
        if self.echoes:
            return json.dumps({"HTTPResponse": {"Body": json.loads(text)["Event"]["Upload"]["ID"]}}).encode()
        return self.reply

    def received(self) -> list[dict[str, Any]]:
        return list(self.told)

    def answer(self, answer: Mapping[str, Any] | None) -> None:
        self.reply = b"" if answer is None else json.dumps(answer).encode()

    def echo(self) -> None:
        self.echoes = True

    def fail(self) -> None:
        self.reply = None

    def babble(self) -> None:
        self.reply = b"<html>"

    def hang(self) -> None:
        self.hangs = True


DESK = Desk()
"""That of the test that runs; the suites put a new one here."""


class Courier(plugin.Dispatcher):
    """Right."""

    def __init__(self, options: _Plugin.Options, desk: Desk) -> None:
        self.events = options.wanted
        self.desk = desk
        self.timeout = options.timeout

    async def dispatch(self, event: HookEvent) -> HookResponse | None:
        try:
            async with asyncio.timeout(self.timeout):
                reply = await self.desk.take(self.written(event))
        except Refused:
            raise HookError("the desk refused") from None
        except TimeoutError:
            raise HookError("the desk took too long") from None
        return self.read(reply)

    def written(self, event: HookEvent) -> bytes:
        return plugin.encode_event(event)

    def read(self, reply: bytes) -> HookResponse | None:
        return plugin.decode_answer(reply) if reply else None


class _Plugin:
    courier: ClassVar[type[Courier]]

    class Options(plugin.HookOptions):
        timeout: plugin.Duration = 10

    def __init__(self, options: Options) -> None:
        self.options = options

    @plugin.hookimpl
    @asynccontextmanager
    async def open_hooks(self) -> AsyncIterator[plugin.Dispatcher]:
        yield self.courier(self.options, DESK)


class Right(_Plugin):
    courier = Courier


# --- events


class LosesEvents(_Plugin):
    class courier(Courier):
        async def dispatch(self, event: HookEvent) -> HookResponse | None:
            return None if isinstance(event, plugin.PostExpire) else await super().dispatch(event)


class DeliversLater(_Plugin):
    class courier(Courier):
        async def dispatch(self, event: HookEvent) -> HookResponse | None:
            if event.answers:
                return await super().dispatch(event)
            self.running = asyncio.create_task(super().dispatch(event))
            return None


class _Rewriting(Courier):
    """Delivers JSON that somebody has changed."""

    def written(self, event: HookEvent) -> bytes:
        told = plugin.event_as_json(event)
        self.rewrite(told)
        return json.dumps(told).encode()

    def rewrite(self, told: dict[str, Any]) -> None:
        raise NotImplementedError


class KeepsTheReason(_Plugin):
    class courier(_Rewriting):
        def rewrite(self, told: dict[str, Any]) -> None:
            told["Event"].pop("Reason", None)


class RoundsSizes(_Plugin):
    class courier(_Rewriting):
        def rewrite(self, told: dict[str, Any]) -> None:
            told["Event"]["Upload"]["Size"] = int(float(told["Event"]["Upload"]["Size"]))


class CallsDeferredLengthsZero(_Plugin):
    class courier(_Rewriting):
        def rewrite(self, told: dict[str, Any]) -> None:
            told["Event"]["Upload"]["SizeIsDeferred"] = False


class RefusesBytes(_Plugin):
    class courier(Courier):
        def written(self, event: HookEvent) -> bytes:
            for value in event.upload.metadata.values():
                value.decode()
            return super().written(event)


class KeepsOneValueOfAHeader(_Plugin):
    class courier(_Rewriting):
        def rewrite(self, told: dict[str, Any]) -> None:
            header = told["Event"]["HTTPRequest"]["Header"]
            told["Event"]["HTTPRequest"]["Header"] = {name: values[:1] for name, values in header.items()}


class NeedsAClient(_Plugin):
    class courier(Courier):
        def written(self, event: HookEvent) -> bytes:
            if event.head.client is None:
                raise HookError("nobody has sent this")
            return super().written(event)


class CutsLongEvents(_Plugin):
    class courier(_Rewriting):
        def rewrite(self, told: dict[str, Any]) -> None:
            metadata = told["Event"]["Upload"]["MetaData"]
            told["Event"]["Upload"]["MetaData"] = {key: value[:65536] for key, value in metadata.items()}


class NamesEveryDeliveryAnew(_Plugin):
    class courier(Courier):
        def written(self, event: HookEvent) -> bytes:
            self.count = getattr(self, "count", 0) + 1
            return super().written(replace(event, delivery_id=f"{self.count:032x}"))


class WantsWhatItWants(_Plugin):
    class courier(Courier):
        def __init__(self, options: _Plugin.Options, desk: Desk) -> None:
            super().__init__(options, desk)
            self.events = plugin.DEFAULT_EVENTS


class OneWorkerOnly(_Plugin):
    opened = 0

    @plugin.hookimpl
    @asynccontextmanager
    async def open_hooks(self) -> AsyncIterator[plugin.Dispatcher]:
        assert not OneWorkerOnly.opened, "the address is in use"
        OneWorkerOnly.opened += 1
        try:
            yield Courier(self.options, DESK)
        finally:
            OneWorkerOnly.opened -= 1


# --- answers


class TakesNothingToSayForAFailure(_Plugin):
    class courier(Courier):
        def read(self, reply: bytes) -> HookResponse | None:
            return plugin.decode_answer(reply)


class _Changing(Courier):
    """Loses something of an answer."""

    def read(self, reply: bytes) -> HookResponse | None:
        answer = super().read(reply)
        return None if answer is None else self.change(answer)

    def change(self, answer: HookResponse) -> HookResponse:
        raise NotImplementedError


class LosesNotes(_Plugin):
    class courier(_Changing):
        def change(self, answer: HookResponse) -> HookResponse:
            return answer if answer.change is None else replace(answer, change=replace(answer.change, notes=None))


class LosesBodies(_Plugin):
    class courier(_Changing):
        def change(self, answer: HookResponse) -> HookResponse:
            return replace(answer, body=None)


class TakesNoMetadataForNoChange(_Plugin):
    class courier(_Changing):
        def change(self, answer: HookResponse) -> HookResponse:
            if answer.change is None or answer.change.metadata:
                return answer
            return replace(answer, change=replace(answer.change, metadata=None))


class KnowsOneWayToRefuse(_Plugin):
    class courier(Courier):
        def read(self, reply: bytes) -> HookResponse | None:
            answer = super().read(reply)
            return None if answer is None else replace(answer, reject=b'"RejectUpload": true' in reply)


class ListensOnlyWhenItAsks(_Plugin):
    class courier(Courier):
        async def dispatch(self, event: HookEvent) -> HookResponse | None:
            answer = await super().dispatch(event)
            return answer if event.name.startswith("pre-") else None


class MixesAnswersUp(_Plugin):
    class courier(Courier):
        async def dispatch(self, event: HookEvent) -> HookResponse | None:
            self.event = event
            await asyncio.sleep(0)
            return await super().dispatch(self.event)


# --- failures


class LetsErrorsThrough(_Plugin):
    class courier(Courier):
        async def dispatch(self, event: HookEvent) -> HookResponse | None:
            return self.read(await self.desk.take(self.written(event)))


class TakesFailuresForConsent(_Plugin):
    class courier(Courier):
        async def dispatch(self, event: HookEvent) -> HookResponse | None:
            try:
                return await super().dispatch(event)
            except HookError:
                return None


class TellsEverything(_Plugin):
    class courier(Courier):
        async def dispatch(self, event: HookEvent) -> HookResponse | None:
            try:
                return await super().dispatch(event)
            except HookError as error:
                raise HookError(f"{error}: {self.written(event)!r}") from None


class TakesNonsenseForConsent(_Plugin):
    class courier(Courier):
        def read(self, reply: bytes) -> HookResponse | None:
            return super().read(reply) if reply.startswith(b"{") else None


class GivesUpForEver(_Plugin):
    class courier(Courier):
        broken = False

        async def dispatch(self, event: HookEvent) -> HookResponse | None:
            if self.broken:
                raise HookError("not again")
            try:
                return await super().dispatch(event)
            except HookError:
                self.broken = True
                raise


class WaitsForEver(_Plugin):
    class courier(Courier):
        def __init__(self, options: _Plugin.Options, desk: Desk) -> None:
            super().__init__(options, desk)
            self.timeout = 3600


class LeavesTheDeskBusy(_Plugin):
    class courier(Courier):
        async def dispatch(self, event: HookEvent) -> HookResponse | None:
            self.task = asyncio.create_task(self.desk.take(self.written(event)))
            try:
                async with asyncio.timeout(self.timeout):
                    return self.read(await asyncio.shield(self.task))
            except Refused:
                raise HookError("the desk refused") from None
            except TimeoutError:
                raise HookError("the desk took too long") from None


# --- cancellations


class SwallowsCancellations(_Plugin):
    class courier(Courier):
        async def dispatch(self, event: HookEvent) -> HookResponse | None:
            try:
                return await super().dispatch(event)
            except asyncio.CancelledError:
                return None


class CallsCancellationsFailures(_Plugin):
    class courier(Courier):
        async def dispatch(self, event: HookEvent) -> HookResponse | None:
            try:
                return await super().dispatch(event)
            except asyncio.CancelledError:
                raise HookError("cancelled") from None


class TakesItsTimeToEnd(_Plugin):
    class courier(Courier):
        async def dispatch(self, event: HookEvent) -> HookResponse | None:
            try:
                return await super().dispatch(event)
            except asyncio.CancelledError:
                await asyncio.sleep(1.5)
                raise


class StaysBusyWhenCancelled(_Plugin):
    class courier(Courier):
        def __init__(self, options: _Plugin.Options, desk: Desk) -> None:
            super().__init__(options, desk)
            self.lock = asyncio.Lock()

        async def dispatch(self, event: HookEvent) -> HookResponse | None:
            await self.lock.acquire()
            try:
                answer = await super().dispatch(event)
            except HookError:
                self.lock.release()
                raise
            self.lock.release()
            return answer
