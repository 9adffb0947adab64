"""What a client may take of the server: time, connections and memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one process. Times are in seconds, sizes in bytes; the options of the same names say more."""

    read_timeout: float = 60
    min_transfer_rate: int | None = None
    """Bytes a second, averaged over `read_timeout`; only the time counts that is spent waiting for the client."""
    write_timeout: float = 60
    header_timeout: float = 30
    keepalive_timeout: float = 75
    max_connections: int | None = None
    max_header_size: int = 64 * 1024
    max_headers: int = 128
    max_head_size: int = 256 * 1024
