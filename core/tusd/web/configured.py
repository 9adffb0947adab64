"""Engine and limits as the configuration wants them, for a server of our own and for an application inside another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from ..config import Config, ServerSection
from ..engine import Engine
from ..hooks import Dispatcher
from ..model import UploadId
from ..registry import Backends
from .health import Check
from .limits import Limits


def engine_of(
    config: Config, backends: Backends, dispatchers: Sequence[Dispatcher] = (), *, reserved_ids: frozenset[UploadId] = frozenset()
) -> Engine:
    """An engine that works with these backends; more `dispatchers` are asked after those of the configuration."""
    return Engine(
        store=backends.store,
        locker=backends.locker,
        limiters=backends.limiters,
        dispatchers=(*backends.dispatchers, *dispatchers),
        metrics=backends.metrics,
        policy=replace(config.policy(), reserved_ids=reserved_ids),
    )


def checks_of(config: Config, backends: Backends) -> Mapping[str, Check]:
    """What `/readyz` asks: what a backend is called -> a call that raises when it cannot be used."""
    return {config.storage.label: backends.store.check, config.locking.label: backends.locker.check}


def limits_of(server: ServerSection) -> Limits:
    """What clients may take of one process."""
    found: dict[str, Any] = {field.name: getattr(server, field.name) for field in fields(Limits)}
    return Limits(**{**found, "max_connections": server.connections_each})
