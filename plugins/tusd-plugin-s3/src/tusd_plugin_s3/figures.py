"""The plugin's metrics: under the names of Go tusd where it has such figures, and those that only we have."""

from __future__ import annotations

from tusd import plugin

OPERATIONS = (
    "get_info_object",
    "put_info_object",
    "create_multipart_upload",
    "complete_multipart_upload",
    "upload_part",
    "list_parts",
    "head_part_object",
    "get_part_object",
    "put_part_object",
    "delete_part_object",
)
"""The operations of Go tusd, whose `part` objects are what we call tails. Ours come beside them."""
_MILLISECONDS = (1.0, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000)

REQUEST_DURATION = plugin.Metric(
    "tusd_s3_request_duration_ms",
    "histogram",
    "Time of requests to the S3 server, their retries in it, by operation",
    ("operation",),
    _MILLISECONDS,
    tuple((name,) for name in OPERATIONS),
)
DISK_WRITE_DURATION = plugin.Metric(
    "tusd_s3_disk_write_duration_ms", "histogram", "Time of writing a part to disk, with `spill`", (), _MILLISECONDS
)
SEMAPHORE_DEMAND = plugin.Metric("tusd_s3_upload_semaphore_demand", "gauge", "Parts that are being sent or wait for it")
SEMAPHORE_LIMIT = plugin.Metric("tusd_s3_upload_semaphore_limit", "gauge", "Parts that can be sent at once")
REQUEST_ERRORS = plugin.Metric(
    "tusd_s3_request_errors_total",
    "counter",
    "Requests to the S3 server that failed for good, by operation and the server's code",
    ("operation", "code"),
)
RETRIES = plugin.Metric("tusd_s3_retries_total", "counter", "Requests to the S3 server that were sent again")
BUFFER = plugin.Metric("tusd_s3_buffer_bytes", "gauge", "Bytes of uploads that are held in memory")
BUFFER_LIMIT = plugin.Metric("tusd_s3_buffer_limit_bytes", "gauge", "Bytes of uploads that may be held in memory")
BUFFER_WAITING = plugin.Metric(
    "tusd_s3_buffer_waiting", "gauge", "Bodies of uploads that are not read at the moment because there is no memory for them"
)

ALL = tuple(one for one in list(vars().values()) if isinstance(one, plugin.Metric))


def new_memory(metrics: plugin.Metrics, limit: int) -> plugin.Memory:
    """The memory of a worker, which tells how it is used."""
    metrics.set(BUFFER_LIMIT, limit)

    def told(used: int) -> None:
        metrics.set(BUFFER, used)
        metrics.set(BUFFER_WAITING, memory.waiting)

    memory = plugin.Memory(limit, told)
    return memory
