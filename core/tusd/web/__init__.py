"""aiohttp on one side, the engine on the other; nothing but translation."""

from .embedded import application, routes

__all__ = ["application", "routes"]
