"""Configurations for tests that look at no plugin."""

from __future__ import annotations

from pathlib import Path

from tusd.config import Config, StartErrors, read_config


def load_config(path: Path | None) -> Config:
    """Read a configuration file; None: the defaults. Raises `StartErrors`."""
    config, errors = read_config(path)
    if errors:
        raise StartErrors(errors)
    return config
