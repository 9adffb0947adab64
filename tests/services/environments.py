"""Python environments of servers whose requirements disagree with ours. `make test` makes them beside our own packages."""

from __future__ import annotations

import sys
from pathlib import Path


def python_of(service: str) -> Path:
    """The interpreter of a service's environment: there once `installed(service)`."""
    return Path(sys.prefix) / "services" / service / "bin" / "python"


def installed(service: str) -> bool:
    """Whether the Makefile has made the environment to its end."""
    return (Path(sys.prefix) / "services" / service / "installed").exists()
