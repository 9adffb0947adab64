"""The metrics of the HTTP side, beside those of `engine.figures`. Requests are those for uploads: pages and routes of plugins do not count."""

from __future__ import annotations

from ..model import Metric

_MOMENTS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600)

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OTHER = "other"
"""The label of every method that is not one of `METHODS`: clients must not invent labels."""
NO_ANSWER = "none"
"""The status of a request whose client got no answer."""

CONNECTIONS_OPEN = Metric("tusd_connections_open", "gauge", "Connections that are open, idle ones and those of operators too")
REQUESTS_ACTIVE = Metric("tusd_requests_active", "gauge", "Requests that are being answered now")
REQUEST_DURATION = Metric(
    "tusd_request_duration_seconds",
    "histogram",
    "Time from the first byte of a request to the end of its answer, by method and class of the status",
    ("method", "status"),
    _MOMENTS,
)
BYTES_SENT = Metric("tusd_bytes_sent_total", "counter", "Bytes of downloads that were sent")

ALL = tuple(one for one in list(vars().values()) if isinstance(one, Metric))
