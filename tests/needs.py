"""What some tests need beyond Python: other people's servers, clients and tools."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

from tests.services.environments import installed


def need(command: str, *, how: str) -> str:
    """The path of `command`; where it is missing the test is skipped and says `how` to get it.

    With TUSD_TEST_REQUIRE_ALL=1 (as in .ci/run) a missing command fails the test instead, so that nothing goes untested unseen.
    """
    found = shutil.which(command) or shutil.which(command, path="/usr/sbin")  # where Debian keeps servers, for root's PATH only
    return found or _missing(f"needs {command}: {how}")


def need_environment(service: str) -> None:
    """The same for a server in a Python environment of its own, which the Makefile makes."""
    if not installed(service):
        _missing(f"needs the Python environment of {service}: make test")


def _missing(message: str) -> NoReturn:
    if os.environ.get("TUSD_TEST_REQUIRE_ALL") == "1":
        pytest.fail(message)
    pytest.skip(message)
