"""Events and answers as the messages of `hook.proto`.

The fields of the messages have the names that the JSON form of events and answers gives them, in another case. So no list of fields
stands here: what they mean, and what is wrong with an answer, is known to `tusd.plugin`.

`hook.binpb` is the compiled `hook.proto`. The classes are made of it here, not generated: they work with any release of protobuf.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from tusd import plugin
from tusd.plugin import HookError, HookEvent, HookResponse

_POOL = DescriptorPool()  # of our own: whatever else runs in this process may have its own messages of these names
for _file in FileDescriptorSet.FromString(resources.files(__package__).joinpath("hook.binpb").read_bytes()).file:
    _POOL.AddSerializedFile(_file.SerializeToString())
_REQUEST = _POOL.FindMessageTypeByName("proto.HookRequest")
_Request = GetMessageClass(_REQUEST)
_Response = GetMessageClass(_POOL.FindMessageTypeByName("proto.HookResponse"))


def encoded(event: HookEvent) -> bytes:
    """An event as a `HookRequest`."""
    told = plugin.event_as_json(event)
    request = told["Event"]["HTTPRequest"]
    headers: dict[str, list[str]] = request["Header"]
    request["Header"] = {name: values[0] for name, values in headers.items()}
    request["FurtherHeader"] = [{"name": name, "value": value} for name, values in headers.items() for value in values[1:]]
    return _Request(**_fields(_REQUEST, told)).SerializeToString()


def decoded(answer: bytes) -> HookResponse | None:
    """What a `HookResponse` says; None when it says nothing. Raises `HookError` for what is none, or cannot be used."""
    message = _Response()
    try:
        message.ParseFromString(answer)
    except DecodeError:
        raise HookError("the service's answer is not a HookResponse") from None
    values = _values(message)
    changes = values.get("changeFileInfo", {})
    if changes.get("clearMetaData"):
        changes.setdefault("metaData", {})
    return plugin.answer_from_json(values) if values else None


def _fields(kind: Descriptor, told: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a message that JSON has a value for."""
    given = {name.lower(): value for name, value in told.items()}
    found = {}
    for field in kind.fields:
        value = given.get(field.name.lower())
        if value is None:
            continue
        inner = field.message_type
        if isinstance(value, dict) and inner is not None and not inner.GetOptions().map_entry:
            found[field.name] = _fields(inner, value)
        else:
            found[field.name] = _utf8(value)
    return found


def _utf8(value: Any) -> Any:
    """A value whose texts UTF-8 can say: halves of surrogate pairs, which stand for bytes that were not UTF-8, become U+FFFD."""
    match value:
        case str():
            return value if value.isascii() else value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        case dict():
            return {_utf8(key): _utf8(one) for key, one in value.items()}
        case list():
            return [_utf8(one) for one in value]
        case _:
            return value


def _values(message: Message) -> dict[str, Any]:
    """A message as JSON would have it; what is not set is absent."""
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        if isinstance(value, Message):
            found[field.name] = _values(value)
        else:
            found[field.name] = dict(value) if isinstance(value, Mapping) else value
    return found
