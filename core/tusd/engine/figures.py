"""The metrics of the core, under the names that tusd's dashboards know; and those that only we have."""

from __future__ import annotations

from ..hooks import EVENTS
from ..model import Metric

_METHODS = tuple((method,) for method in ("GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS"))
_EVENTS = tuple((event.name,) for event in EVENTS)
_MOMENTS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_WAITS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 20, 60)
_TRANSFERS = (0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600)
_SIZES = tuple(float(1 << power) for power in range(10, 41, 3))

REQUESTS = Metric("tusd_requests_total", "counter", "Requests, by method", ("method",), preset=_METHODS)
ERRORS = Metric("tusd_errors_total", "counter", "Error answers, by status and code", ("status", "code"))
BYTES_RECEIVED = Metric("tusd_bytes_received", "counter", "Bytes of uploads that were stored")
UPLOADS_CREATED = Metric("tusd_uploads_created", "counter", "Uploads created")
UPLOADS_FINISHED = Metric("tusd_uploads_finished", "counter", "Uploads that became complete")
UPLOADS_TERMINATED = Metric(
    "tusd_uploads_terminated", "counter", "Uploads removed by a client or a hook, or because they could never be complete"
)
HOOK_INVOCATIONS = Metric("tusd_hook_invocations_total", "counter", "Hook events dispatched", ("hooktype",), preset=_EVENTS)
HOOK_ERRORS = Metric("tusd_hook_errors_total", "counter", "Hook events that failed", ("hooktype",), preset=_EVENTS)

UPLOADS_RESUMED = Metric(
    "tusd_uploads_resumed_total", "counter", "Times that a client asked where to go on with an unfinished upload"
)
UPLOADS_ABORTED = Metric(
    "tusd_uploads_aborted_total", "counter", "Requests with bytes that ended badly, by error code", ("reason",)
)
UPLOADS_EXPIRED = Metric("tusd_uploads_expired_total", "counter", "Uploads that the server removed, by reason", ("reason",))
UPLOADS_ACTIVE = Metric("tusd_uploads_active", "gauge", "Requests that are sending bytes now")
BYTES_IN_FLIGHT = Metric(
    "tusd_bytes_in_flight", "gauge", "Bytes that the requests that are sending now have announced (Content-Length)"
)
LIMITED = Metric("tusd_limit_rejections_total", "counter", "Requests that a limiter refused, by error code", ("code",))
APPEND_DURATION = Metric(
    "tusd_append_duration_seconds", "histogram", "Time that bytes were received in one request", (), _TRANSFERS
)
APPEND_SIZE = Metric("tusd_append_size_bytes", "histogram", "Bytes that one request brought", (), _SIZES)
LOCK_WAIT = Metric("tusd_lock_wait_seconds", "histogram", "Time that requests waited for an upload's lock", (), _WAITS)
LOCK_HANDOVER = Metric(
    "tusd_lock_handover_seconds", "histogram", "Time from asking a lock's holder to let go until it did", (), _WAITS
)
STORAGE_DURATION = Metric(
    "tusd_storage_operation_duration_seconds", "histogram", "Time of calls to the storage, by operation", ("operation",), _MOMENTS
)
HOOK_DURATION = Metric("tusd_hook_duration_seconds", "histogram", "Time of hook events", ("hooktype",), _WAITS)
OUTBOX_WAITING = Metric("tusd_hook_outbox_waiting", "gauge", "Hook events on disk that are not delivered yet", ("outbox",))
OUTBOX_PARKED = Metric(
    "tusd_hook_outbox_parked", "gauge", "Hook events on disk that nobody tries to deliver any more", ("outbox",)
)
HOOK_ANSWERS_IGNORED = Metric(
    "tusd_hook_answers_ignored_total",
    "counter",
    "Parts of hooks' answers that their event does not honour",
    ("hooktype",),
    preset=_EVENTS,
)

ALL = tuple(one for one in list(vars().values()) if isinstance(one, Metric))
