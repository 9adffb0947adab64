"""aiohttp gives its handlers no trailers, which is why checksum-trailer is not offered. The day this fails, it can be."""

from __future__ import annotations

import asyncio

from aiohttp import web

REQUEST = (
    b"PATCH /files/x HTTP/1.1\r\nHost: tus.test\r\nTransfer-Encoding: chunked\r\nTrailer: Upload-Checksum\r\n\r\n"
    b"5\r\nhello\r\n0\r\nUpload-Checksum: sha1 qvTGHdzF6KLavt4PO0gs2a6pQ00=\r\n\r\n"
)


async def test_aiohttp_throws_trailers_away() -> None:
    found: list[str] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        body = await request.read()
        assert body == b"hello"
        public = [name for name in (*dir(request), *dir(request.content)) if not name.startswith("_")]
        found.extend(name for name in public if "trailer" in name.lower())
        found.extend(name for name in request.headers if name.lower() == "upload-checksum")
        return web.Response(text="read")

    server = await asyncio.get_running_loop().create_server(web.Server(handler), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        writer.write(REQUEST)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        await writer.wait_closed()
    assert found == []
