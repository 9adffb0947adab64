"""The metrics of the core, under the names that tusd's dashboards know."""

from __future__ import annotations

from ..model import Metric

REQUESTS = Metric("tusd_requests_total", "counter", "Requests, by method", ("method",))
ERRORS = Metric("tusd_errors_total", "counter", "Error answers, by status and code", ("status", "code"))
BYTES_RECEIVED = Metric("tusd_bytes_received", "counter", "Bytes of uploads that were stored")
UPLOADS_CREATED = Metric("tusd_uploads_created", "counter", "Uploads created")
UPLOADS_FINISHED = Metric("tusd_uploads_finished", "counter", "Uploads that became complete")
UPLOADS_TERMINATED = Metric("tusd_uploads_terminated", "counter", "Uploads removed on request")
HOOK_INVOCATIONS = Metric("tusd_hook_invocations_total", "counter", "Hook events dispatched", ("hooktype",))
HOOK_ERRORS = Metric("tusd_hook_errors_total", "counter", "Hook events that failed", ("hooktype",))
