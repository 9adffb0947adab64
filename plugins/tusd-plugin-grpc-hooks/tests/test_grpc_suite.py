"""gRPC hooks against the suite of all hooks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, ClassVar

import grpc
import pytest

from grpc_services import OURS, Context, answer, service
from tusd.testing.hooks import HooksSuite, Receiver
from tusd_plugin_grpc_hooks import GrpcHooks


class Handler(Receiver):
    """Writes each event down, and then does as it is told."""

    def __init__(self) -> None:
        self.hanging = 0
        self._told: list[dict[str, Any]] = []
        self._act: Callable[[Any], bytes | None] = lambda request: b""
        """Request -> answer; None: it hangs."""
        self._status: grpc.StatusCode | None = None

    async def __call__(self, data: bytes, context: Context) -> bytes:
        request = OURS.Request.FromString(data)
        self._told.append(as_json(request))
        if self._status is not None:
            await context.abort(self._status, "out of order")
        if (answer := self._act(request)) is not None:
            return answer
        self.hanging += 1
        try:
            await asyncio.sleep(60)
        finally:
            self.hanging -= 1
        return b""

    def received(self) -> list[dict[str, Any]]:
        return list(self._told)

    def _do(self, act: Callable[[Any], bytes | None], status: grpc.StatusCode | None = None) -> None:
        self._act, self._status = act, status

    def answer(self, answer: Mapping[str, Any] | None) -> None:
        self._do(lambda request: b"" if answer is None else as_message(answer))

    def echo(self) -> None:
        self._do(lambda request: answer(httpResponse={"body": request.event.upload.id}))

    def fail(self) -> None:
        self._do(lambda request: b"", grpc.StatusCode.INTERNAL)

    def babble(self) -> None:
        self._do(lambda request: b"<html>It works!</html>")

    def hang(self) -> None:
        self._do(lambda request: None)


def as_json(request: Any) -> dict[str, Any]:
    """A `HookRequest` in the shape of `plugin.event_as_json`."""
    upload, head = request.event.upload, request.event.httpRequest
    headers = {name: [value] for name, value in head.header.items()}
    for further in head.furtherHeader:
        headers[further.name].append(further.value)
    told: dict[str, Any] = {
        "Upload": {
            "ID": upload.id,
            "Size": upload.size,
            "SizeIsDeferred": upload.sizeIsDeferred,
            "Offset": upload.offset,
            "MetaData": dict(upload.metaData),
            "IsPartial": upload.isPartial,
            "IsFinal": upload.isFinal,
            "PartialUploads": list(upload.partialUploads) or None,
            "Storage": dict(upload.storage) or None,
        },
        "HTTPRequest": {"Method": head.method, "URI": head.uri, "RemoteAddr": head.remoteAddr, "Header": headers},
    }
    if request.event.notes:
        told["Notes"] = dict(request.event.notes)
    if request.event.HasField("error"):
        told["Error"] = {"Code": request.event.error.code, "Message": request.event.error.message}
    for name, value in (("Access", request.event.access), ("Reason", request.event.reason)):
        if value:
            told[name] = value
    return {"Type": request.type, "DeliveryID": request.deliveryId, "Event": told}


def as_message(answer: Mapping[str, Any]) -> bytes:
    """What a service says that means the same as an answer in JSON."""
    message = OURS.Response()

    def fill(message: Any, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            (field,) = (field.name for field in message.DESCRIPTOR.fields if field.name.lower() == name.lower())
            if name in ("HTTPResponse", "ChangeFileInfo"):
                getattr(message, field).SetInParent()
                fill(getattr(message, field), value)
            elif isinstance(value, dict):
                getattr(message, field).update(value)
                if name == "MetaData" and not value:
                    message.clearMetaData = True
            else:
                setattr(message, field, value)

    fill(message, answer)
    data: bytes = message.SerializeToString()
    return data


class TestGrpcHooks(HooksSuite):
    plugin = GrpcHooks
    impatient: ClassVar[Mapping[str, object]] = {"timeout": "300ms", "attempts": 1}

    @pytest.fixture
    async def receiver(self) -> AsyncIterator[Receiver]:
        self.handler = Handler()
        async with service(self.handler) as self.endpoint:
            yield self.handler

    @pytest.fixture
    def options(self, receiver: Receiver) -> Mapping[str, object]:
        return {"endpoint": self.endpoint, "backoff": "10ms"}

    async def left_behind(self) -> Sequence[object]:
        """A cancelled call ends a moment later."""
        deadline = time.monotonic() + 3
        while self.handler.hanging and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return ["a call"] * self.handler.hanging
