"""Uploads in a bucket of Google Cloud Storage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tusd import plugin

from .options import GcsOptions


class GcsStorage:
    """Keep uploads in a bucket of Google Cloud Storage."""

    api_version = 1
    scope = plugin.Scope.CLUSTER

    Options = GcsOptions

    def __init__(self, options: GcsOptions) -> None:
        self.options = options

    @plugin.hookimpl
    @asynccontextmanager
    async def open_storage(self, worker: plugin.Worker) -> AsyncIterator[plugin.DataStore]:
        """Connect, and prove that the bucket can be used. Raises `StorageUnavailable`, which says what is wrong and the cure."""
        from .bucket import Bucket  # not before the fork, and not for `tusd --version`: Google's library takes 0.4 s
        from .connecting import connected
        from .figures import new_memory
        from .store import GcsStore

        async with connected(self.options, worker) as cloud:
            bucket = Bucket(cloud, self.options, worker)
            memory = new_memory(self.options.buffer, worker.metrics)
            store = GcsStore(bucket, self.options, memory, worker.logger, worker.metrics)
            try:
                yield store
            finally:
                await store.close()
