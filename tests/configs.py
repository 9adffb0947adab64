"""Configurations for tests that load no plugin."""

from __future__ import annotations

from pathlib import Path

from tusd.config import Config, StartErrors, read_config
from tusd.plugin import Options
from tusd.registry.checking import check_class, options_class
from tusd.registry.finding import find


def load_config(path: Path | None) -> Config:
    """Read a configuration file; None: the defaults. Raises `StartErrors`."""
    config, errors = read_config(path)
    if errors:
        raise StartErrors(errors)
    return config


def options_model(seam: str, name: str) -> type[Options]:
    """The model of an installed plugin's options, also where some have to be given."""
    return options_class(seam, check_class(seam, find(seam, name, Path())))
