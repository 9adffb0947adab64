"""Doing requests in threads, and what is told of them: figures, and a line in the log for what fails."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import quote

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from tusd import plugin

from . import figures
from .options import Options
from .quick import Tried
from .reasons import code_of, reason_of, status_of

T = TypeVar("T")
Means = Callable[[ClientError], Exception | None]

SMALL_THREADS = 16
DOWNLOAD_THREADS = 16
BROKEN = (BotoCoreError, ResponseParserError, HTTPError)
"""What the SDK raises besides S3's own errors: no answer, or none that can be understood."""
_REGION = re.compile(r"/\d{8}/([^/]+)/s3/")
"""In the signature of a request."""
_FULL = {"QuotaExceeded", "StorageQuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}


class _Late(Exception):
    """A request has waited so long for a thread that the server must have stopped to answer. Else each would wait for all those before it."""


class Calling:
    """The threads of one worker."""

    def __init__(self, options: Options, metrics: plugin.Metrics, logger: logging.Logger) -> None:
        self.silent = False
        """What fails is neither logged nor counted: whoever asks tells it."""
        self.regions: dict[str, None] = {}
        """The regions that requests were signed for while it was silent: the SDK tries another one when the server says that the first is wrong."""
        self.metrics = metrics
        self.bodies = ThreadPoolExecutor(options.concurrency, "tusd-s3-body")
        self.small = ThreadPoolExecutor(SMALL_THREADS, "tusd-s3")
        self.downloads = ThreadPoolExecutor(DOWNLOAD_THREADS, "tusd-s3-download")
        self._options = options
        self._logger = logger
        self._demand = 0
        self._sent = threading.local()
        metrics.declare(*figures.ALL)
        metrics.set(figures.SEMAPHORE_LIMIT, options.concurrency)

    def close(self) -> None:
        """Wait for the requests that are on their way. Blocks."""
        for pool in (self.bodies, self.small, self.downloads):
            pool.shutdown()

    def count(self, request: Any, **_: Any) -> None:
        """The SDK sends a request; in its thread."""
        self._sent.requests = getattr(self._sent, "requests", 0) + 1
        if self.silent and (match := _REGION.search(str(request.headers.get("Authorization", "")))):
            self.regions[match[1]] = None

    async def call(
        self,
        operation: str,
        key: str,
        work: Callable[[], T],
        pool: ThreadPoolExecutor | None,
        means: Means | None,
        first: Callable[[Tried], Awaitable[T | None]] | None = None,
    ) -> T:
        """Do `work` in a thread of a pool. `means`: what to raise for an error that is an answer. `first`: tried before, without a thread; what
        it returns is the result, unless that is None."""
        took, sent, tried = 0.0, 0, Tried()

        def timed() -> T:
            nonlocal took, sent
            self._sent.requests, began = 0, monotonic()
            if pool is not self.bodies and began - queued > self._options.read_timeout:
                raise _Late
            try:
                return work()
            finally:
                took, sent = took + monotonic() - began, self._sent.requests

        if pool is self.bodies:
            self._wanted(1)
        try:
            if first is not None:
                began = monotonic()
                try:
                    found = await first(tried)
                finally:
                    took = monotonic() - began
                if found is not None:
                    return found
            queued = monotonic()
            return await plugin.in_thread(timed, pool or self.small)
        except _Late as error:
            raise self.odd(operation, key, "it was not sent: those before it wait for answers for too long") from error
        except ClientError as error:
            meant = means(error) if means is not None else None
            if meant is not None:
                raise meant from error
            raise self.failed(operation, key, error) from error
        except BROKEN as error:
            raise self.failed(operation, key, error) from error
        finally:
            if pool is self.bodies:
                self._wanted(-1)
            self.metrics.observe(figures.REQUEST_DURATION, took * 1000, (operation,))
            if (again := sent + tried.times - 1) > 0:
                self.metrics.add(figures.RETRIES, again)

    def failed(self, operation: str, key: str, error: Exception) -> plugin.TusError:
        """Log what went wrong; what to raise."""
        full = code_of(error) in _FULL
        facts: dict[str, object] = {}
        if isinstance(error, ClientError):
            facts["s3_request"] = error.response.get("ResponseMetadata", {}).get("RequestId")
            full = full or status_of(error) == 507
        self._tell(operation, key, code_of(error), reason_of(error), facts)
        return plugin.StorageFull() if full else plugin.StorageUnavailable()

    def odd(self, operation: str, key: str, what: str) -> plugin.TusError:
        """The same for an answer that is none."""
        self._tell(operation, key, "BadAnswer", what, {})
        return plugin.StorageUnavailable()

    def _tell(self, operation: str, key: str, code: str, what: str, facts: dict[str, object]) -> None:
        if not self.silent:
            self.metrics.add(figures.REQUEST_ERRORS, labels=(operation, code))
            for written in filter(None, (key, quote(key), quote(key, safe=""))):  # AWS quotes what one may not do, with the key
                what = what.replace(written, _shortened(key))
            self._logger.error("%s failed: %s", operation, what, extra={**self._named(key), "code": code, **facts})

    def _named(self, key: str) -> dict[str, object]:
        """A key as a fact of a log line. The id of an upload is its secret: as `upload`, the log shortens it."""
        for prefix in (self._options.below_info, self._options.prefix):
            if key.startswith(prefix) and (key.endswith((".info", ".part")) or self._options.key == "{id}"):
                return {"upload": key.removeprefix(prefix)}
        return {"key": _shortened(key)}

    def _wanted(self, change: int) -> None:
        self._demand += change
        self.metrics.set(figures.SEMAPHORE_DEMAND, self._demand)


def _shortened(key: str) -> str:
    return "/".join(part if len(part) <= 8 else part[:8] + "..." for part in key.split("/"))
