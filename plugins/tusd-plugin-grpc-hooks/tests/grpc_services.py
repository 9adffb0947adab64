"""What the tests of gRPC hooks share: the messages, compiled anew from `.proto` files, and services that speak them."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_tools import protoc
from multidict import CIMultiDict

import tusd_plugin_grpc_hooks
from tusd.model import Metadata, UploadId, UploadInfo
from tusd.plugin import Head, HookEvent, PreCreate

PACKAGE = Path(tusd_plugin_grpc_hooks.__file__).parent
GO_PROTO = Path(__file__).parent / "go_hook.proto"

HEAD = Head(
    "POST", "/files/", CIMultiDict({"x-request-id": "r1", "Host": "up.example"}), "10.0.0.9", peer_port=51544, client="10.0.0.9"
)
INFO = UploadInfo(id=UploadId("abc"), length=12, offset=5, metadata=Metadata({"name": "Grüße\n\"'".encode()}))


def compiled(proto: Path) -> FileDescriptorSet:
    """What protoc makes of a file."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        assert protoc.main(["protoc", f"--proto_path={proto.parent}", f"--descriptor_set_out={out}", proto.name]) == 0
        return FileDescriptorSet.FromString(out.read_bytes())


class Messages:
    """The classes of one `.proto` file."""

    def __init__(self, proto: Path) -> None:
        self.pool = DescriptorPool()
        for file in compiled(proto).file:
            self.pool.AddSerializedFile(file.SerializeToString())
        self.Request: Any = GetMessageClass(self.pool.FindMessageTypeByName("proto.HookRequest"))
        self.Response: Any = GetMessageClass(self.pool.FindMessageTypeByName("proto.HookResponse"))


OURS = Messages(PACKAGE / "hook.proto")
GO = Messages(GO_PROTO)


def event(kind: type[HookEvent] = PreCreate, head: Head = HEAD, info: UploadInfo = INFO) -> HookEvent:
    return kind(upload=info, head=head)


def answer(**fields: object) -> bytes:
    """A `HookResponse` on the wire."""
    data: bytes = OURS.Response(**fields).SerializeToString()
    return data


Context = grpc.aio.ServicerContext[bytes, bytes]
Handler = Callable[[bytes, Context], Awaitable[bytes]]


@asynccontextmanager
async def service(
    handler: Handler,
    address: str = "127.0.0.1:0",
    credentials: grpc.ServerCredentials | None = None,
    compression: grpc.Compression | None = None,
) -> AsyncIterator[str]:
    """A service on this event loop, of raw bytes; yields its endpoint."""

    async def invoke(request: bytes, context: Context) -> bytes:
        return await handler(request, context)  # gRPC asks whether it is a coroutine function, which no other callable is

    server = grpc.aio.server(compression=compression)
    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(invoke)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("proto.HookHandler", {"InvokeHook": method}),))
    port = server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
    await server.start()
    try:
        yield address if address.startswith("unix:") else f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
