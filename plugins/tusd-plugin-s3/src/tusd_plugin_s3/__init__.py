"""Uploads in Amazon S3, or in any server that speaks its protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tusd import plugin

from . import options

__all__ = ["S3Storage"]


class S3Storage:
    """Keep uploads in a bucket of Amazon S3, or of a server that speaks its protocol."""

    api_version = 1
    scope = plugin.Scope.CLUSTER
    Options = options.Options

    def __init__(self, options: options.Options) -> None:
        self.options = options

    @plugin.hookimpl
    @asynccontextmanager
    async def open_storage(self, worker: plugin.Worker) -> AsyncIterator[plugin.DataStore]:
        """Connect, and try what uploads will need. Raises `StorageUnavailable`, which says what is wrong, where, and the cure."""
        from . import connecting, figures  # not before the fork, and not for `tusd check`: the SDK takes a while

        async with connecting.connect(self.options, worker) as bucket:
            from . import store

            memory = figures.new_memory(worker.metrics, self.options.buffer)
            opened = store.S3Store(bucket, self.options, self.options.rules, memory, worker)
            try:
                yield opened
            finally:
                await opened.close()
