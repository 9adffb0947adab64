"""HooksSuite on the gRPC dispatcher."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

import grpc
import pytest

from grpc_services import OURS, Context, service
from tusd.testing.hooks import HooksSuite, Receiver
from tusd_plugin_grpc_hooks import GrpcHooks


class Service(Receiver):
    """Speaks the messages of `hook.proto`."""

    def __init__(self) -> None:
        self._told: list[dict[str, Any]] = []
        self._answer = b""
        self._how = ""

    async def take(self, request: bytes, context: Context) -> bytes:
        """Write the event down, and do as told."""
        told = OURS.Request.FromString(request)
        self._told.append(_as_json(told))
        match self._how:
            case "fail":
                await context.abort(grpc.StatusCode.INTERNAL, "out of order")
            case "hang":
                await asyncio.sleep(60)
            case "echo":
                return bytes(OURS.Response(httpResponse={"body": told.event.upload.id}).SerializeToString())
        return self._answer

    def received(self) -> list[dict[str, Any]]:
        return list(self._told)

    def answer(self, answer: Mapping[str, Any] | None) -> None:
        message = OURS.Response()
        _fill(message, answer or {})
        self._answer = message.SerializeToString()
        self._how = ""

    def echo(self) -> None:
        self._how = "echo"

    def fail(self) -> None:
        self._how = "fail"

    def babble(self) -> None:
        self._how, self._answer = "", b"\xff\xff\xff"

    def hang(self) -> None:
        self._how = "hang"


def _as_json(told: Any) -> dict[str, Any]:
    """A `HookRequest` in the shape of `event_as_json`."""
    upload, request = told.event.upload, told.event.httpRequest
    event: dict[str, Any] = {}
    header = {name: [value] for name, value in request.header.items()}
    for further in request.furtherHeader:
        header[further.name].append(further.value)
    event["Upload"] = {
        "ID": upload.id,
        "Size": upload.size,
        "SizeIsDeferred": upload.sizeIsDeferred,
        "Offset": upload.offset,
        "MetaData": dict(upload.metaData),
        "IsPartial": upload.isPartial,
        "IsFinal": upload.isFinal,
        "PartialUploads": list(upload.partialUploads) or None,
        "Storage": dict(upload.storage) or None,
    }
    event["HTTPRequest"] = {"Method": request.method, "URI": request.uri, "RemoteAddr": request.remoteAddr, "Header": header}
    for name in ("access", "reason"):
        if value := getattr(told.event, name):
            event[name.capitalize()] = value
    if told.event.notes:
        event["Notes"] = dict(told.event.notes)
    if told.event.HasField("error"):
        event["Error"] = {"Code": told.event.error.code, "Message": told.event.error.message}
    return {"Type": told.type, "DeliveryID": told.deliveryId, "Event": event}


def _fill(message: Any, answer: Mapping[str, Any]) -> None:
    """An answer's JSON as a message: the names are the same but for their case."""
    fields = {field.name.lower(): field.name for field in message.DESCRIPTOR.fields}
    for key, value in answer.items():
        name = fields[key.lower()]
        inner = message.DESCRIPTOR.fields_by_name[name].message_type
        if inner is None:
            setattr(message, name, value)
        elif inner.GetOptions().map_entry:
            getattr(message, name).update(value)
            if key == "MetaData" and not value:
                message.clearMetaData = True
        else:
            getattr(message, name).SetInParent()
            _fill(getattr(message, name), value)


class TestGrpcHooks(HooksSuite):
    plugin = GrpcHooks
    impatient: ClassVar[Mapping[str, object]] = {"timeout": "300ms", "attempts": 1}

    @pytest.fixture
    async def receiver(self) -> AsyncIterator[Receiver]:
        one = Service()
        async with service(one.take) as self.endpoint:
            yield one

    @pytest.fixture
    def options(self, receiver: Receiver) -> Mapping[str, object]:
        return {"endpoint": self.endpoint}
