"""Configurations for tests that load no plugin."""

from __future__ import annotations

import re
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tusd import registry
from tusd.config import Config, StartErrors, read_config
from tusd.plugin import Options
from tusd.registry import finding
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


def install_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only the plugins of the distribution tusd be found; the tests' environment has more."""
    found = metadata.entry_points

    def entry_points(group: str) -> list[EntryPoint]:
        return [one for one in found(group=group) if finding.distribution(one) == "tusd"]

    monkeypatch.setattr(finding, "entry_points", entry_points)


def as_installed_alone(text: str) -> str:
    """What is said, with the names of other distributions' plugins left out of `installed: ...`, which the tests' environment has, too."""
    others = {one.name for one in registry.installed() if one.distribution != "tusd"}

    def alone(match: re.Match[str]) -> str:
        return "installed: " + (", ".join(name for name in match[1].split(", ") if name not in others) or "none")

    return re.sub(r"installed: ([\w, -]+\w)", alone, text)
