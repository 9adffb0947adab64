"""What a start, and every reload, begins with: a configuration with its plugins and certificates, checked as far as can be known."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..config import Config, StartErrors
from ..errors import StartError
from ..plugin import Scope
from ..registry import Registry, configure
from ..web.app import Listener
from .listening import Place, Sockets, places
from .tls import BadCertificate, Certificate


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a generation of workers is made of, with nothing open yet."""

    config: Config
    registry: Registry
    certificates: Mapping[Place, Certificate]

    def listeners(self, sockets: Sockets) -> tuple[Listener, ...]:
        """What to listen on, of sockets that have been bound for this configuration."""
        return tuple(
            Listener(sock, one.context if (one := self.certificates.get(place)) else None, place.admin)
            for place in places(self.config)
            for sock in sockets.of(place, self.config)
        )


def load(path: Path | None) -> Plan:
    """Read a configuration file and what it names. Raises `StartErrors` with all that is wrong."""
    config, registry = configure(path)
    if config.server.processes > 1 and not hasattr(os, "fork"):
        raise StartError(f"server.workers: several workers need os.fork, which {sys.platform} lacks; write 1")
    return Plan(config, registry, certificates(config))


def certificates(config: Config) -> dict[Place, Certificate]:
    """The certificates that listeners name. Raises `StartErrors`."""
    found, errors = {}, []
    for place in places(config):
        if place.listen.tls is not None:
            try:
                found[place] = Certificate(place.listen.tls)
            except BadCertificate as error:
                errors.append(place.error(config, str(error)))
    if errors:
        raise StartErrors(errors)
    return found


def check_succession(old: Plan, new: Plan) -> None:
    """Whether two generations may work side by side until the old one has ended. Raises `StartErrors` where they may not."""
    error = new.config.places.error
    errors: list[StartError] = []
    for plan in (old, new):
        for loaded in plan.registry.loaded:
            if getattr(loaded.plugin, "scope", None) is Scope.PROCESS and not errors:
                what = f"`{loaded.use}` serves one generation of workers, and a reload has two for a while; restart instead"
                errors.append(error((loaded.seam,), what))
    if _locking(old) != _locking(new):
        what = "has changed: two generations with different locks could write to one upload; restart instead"
        errors.append(error(("locking",), what))
    if old.config.server.run_directory.absolute() != new.config.server.run_directory.absolute():
        errors.append(
            error(("server", "run_directory"), "has changed, and workers of both generations share it; restart instead")
        )
    if errors:
        raise StartErrors(errors)


def left_for_a_restart(old: Plan, new: Plan) -> list[str]:
    """The options that one process cannot change while it serves."""
    options = (
        ("server.workers", new.config.server.processes > 1),
        ("server.loop", old.config.server.loop != new.config.server.loop),
    )
    return [name for name, changed in options if changed]


def dup(listeners: tuple[Listener, ...]) -> tuple[Listener, ...]:
    """The same with copies of the sockets, for whoever closes them."""
    return tuple(replace(listener, sock=listener.sock.dup()) for listener in listeners)


def _locking(plan: Plan) -> list[tuple[str, object]]:
    return [(loaded.use, loaded.options) for loaded in plan.registry.loaded if loaded.seam == "locking"]
