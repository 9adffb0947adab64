"""A plugin: /readyz, for servers that have none of their own."""

from __future__ import annotations

from tusd import plugin


class Ready:
    """Answer GET /readyz with 200."""

    @plugin.hookimpl
    def add_routes(self, routes: plugin.Routes) -> None:
        routes.get("/readyz", self.answer)

    async def answer(self, head: plugin.Head) -> plugin.Response:
        return plugin.Response(200, [("Content-Type", "text/plain")], b"ok\n")
