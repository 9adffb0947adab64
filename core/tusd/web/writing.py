"""Writing to files without letting a slow disk stop the event loop.

A write usually goes to the page cache, which takes less time than handing it to a thread. But the kernel may make a writer wait:
when too much is dirty, or when the file system is a network. One write that took long is enough to move those that follow to
threads for a while, so that other uploads go on.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ..threads import in_thread

_LONG = 0.05
"""Seconds of one write after which the disk counts as slow."""
_PERIOD = 5.0
"""Seconds for which it does."""
_THREADS = 32


class Writer:
    """Writes the pieces of all bodies of one worker."""

    def __init__(self) -> None:
        self._slow_until = 0.0
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="write")  # it starts a thread when one is needed

    @property
    def slow(self) -> bool:
        """Whether a write may take long."""
        return time.monotonic() < self._slow_until

    def write_now(self, fd: int, piece: memoryview, offset: int) -> int:
        """`os.pwrite` until all is written; returns the offset behind it. A short write: the disk is nearly full, or a signal came."""
        began = time.monotonic()
        try:
            while piece:
                n = os.pwrite(fd, piece, offset)
                offset, piece = offset + n, piece[n:]
            return offset
        finally:
            if (ended := time.monotonic()) - began > _LONG:
                self._slow_until = ended + _PERIOD

    async def write(self, fd: int, piece: memoryview, offset: int) -> int:
        """As `write_now`, in a thread while the disk is slow. Who is cancelled waits for the piece: nothing is written later."""
        if not self.slow:
            return self.write_now(fd, piece, offset)
        return await in_thread(partial(self.write_now, fd, piece, offset), self._threads)

    def close(self) -> None:
        """No more is written."""
        self._threads.shutdown(wait=False)
