"""aiohttp on one side, the engine on the other; nothing but translation."""
