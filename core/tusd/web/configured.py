"""Engine and limits as the configuration wants them, for a server of our own and for an application inside another one."""

from __future__ import annotations

from collections.abc import Sequence

from ..config import Config, ServerSection
from ..engine import Engine
from ..hooks import Dispatcher
from ..registry import Backends
from .limits import Limits


def engine_of(config: Config, backends: Backends, dispatchers: Sequence[Dispatcher] = ()) -> Engine:
    """An engine that works with these backends; more `dispatchers` are asked after those of the configuration."""
    return Engine(
        store=backends.store,
        locker=backends.locker,
        limiters=backends.limiters,
        dispatchers=(*backends.dispatchers, *dispatchers),
        metrics=backends.metrics,
        policy=config.policy(),
    )


def limits_of(server: ServerSection) -> Limits:
    """What clients may take of one process."""
    return Limits(
        read_timeout=server.read_timeout,
        min_transfer_rate=server.min_transfer_rate,
        write_timeout=server.write_timeout,
        header_timeout=server.header_timeout,
        keepalive_timeout=server.keepalive_timeout,
        max_connections=server.connections_each,
        max_header_size=server.max_header_size,
        max_headers=server.max_headers,
        max_head_size=server.max_head_size,
    )
