"""The conformance suite of stores, against a server of Cloud Storage."""

from __future__ import annotations

from contextlib import AbstractContextManager

from tusd.testing.faults import Calls, failing_call
from tusd.testing.storage import StorageSuite
from tusd_plugin_gcs import GcsStorage
from tusd_plugin_gcs.cloud import Cloud, Failure

CALLS = [(Cloud, "request"), (Cloud, "download"), (Cloud, "delete_all")]
"""All that is asked of the server."""


class TestGcsStorage(StorageSuite):
    """Everything that a store must do."""

    plugin = GcsStorage
    large = 3 * 2**18 + 1

    def failing(self, nth: int) -> AbstractContextManager[Calls]:
        return failing_call(nth, CALLS, lambda: Failure(503, "injected"))
