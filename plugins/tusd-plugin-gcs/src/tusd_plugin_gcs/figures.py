"""The metrics of this plugin."""

from __future__ import annotations

from tusd import plugin
from tusd.plugin import Metric

_MILLISECONDS = (1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000)

REQUEST_DURATION = Metric(
    "tusd_gcs_request_duration_ms",
    "histogram",
    "Time of requests to Cloud Storage, tries and pauses together, by operation",
    ("operation",),
    _MILLISECONDS,
)
REQUEST_ERRORS = Metric(
    "tusd_gcs_request_errors_total",
    "counter",
    "Requests to Cloud Storage that failed in the end, by operation and status",
    ("operation", "code"),
)
RETRIES = Metric(
    "tusd_gcs_retries_total", "counter", "Requests to Cloud Storage that were tried again, by operation", ("operation",)
)
BUFFER = Metric("tusd_gcs_buffer_bytes", "gauge", "Bytes of bodies that are held in memory")
BUFFER_LIMIT = Metric(
    "tusd_gcs_buffer_limit_bytes", "gauge", "The most bytes of bodies that are held in memory, of all workers together"
)
BUFFER_WAITING = Metric(
    "tusd_gcs_buffer_waiting", "gauge", "Bodies that are not read at the moment because there is no memory for them"
)
SPILL_DURATION = Metric(
    "tusd_gcs_disk_write_duration_ms",
    "histogram",
    "Time of writing one piece of a body to the folder of `spill`",
    (),
    _MILLISECONDS,
)

ALL = (REQUEST_DURATION, REQUEST_ERRORS, RETRIES, BUFFER, BUFFER_LIMIT, BUFFER_WAITING, SPILL_DURATION)


def new_memory(limit: int, metrics: plugin.Metrics) -> plugin.Memory:
    """The budget of a worker, which tells how it is used."""
    metrics.declare(*ALL)
    metrics.set(BUFFER_LIMIT, limit)

    def told(used: int) -> None:
        metrics.set(BUFFER, used)
        metrics.set(BUFFER_WAITING, memory.waiting)

    memory = plugin.Memory(limit, told)
    return memory
