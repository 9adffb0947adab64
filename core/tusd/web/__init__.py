"""aiohttp on one side, the engine on the other; nothing but translation."""

from .embedded import application

__all__ = ["application"]
