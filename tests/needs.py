"""What some tests need beyond Python: other people's servers, clients and tools."""

from __future__ import annotations

import os
import shutil

import pytest


def need(command: str, *, how: str) -> str:
    """The path of `command`; where it is missing the test is skipped and says `how` to get it.

    With TUSD_TEST_REQUIRE_ALL=1 (as in .ci/run) a missing command fails the test instead, so that nothing goes untested unseen.
    """
    found = shutil.which(command) or shutil.which(command, path="/usr/sbin")  # where Debian keeps servers, for root's PATH only
    if found:
        return found
    message = f"needs {command}: {how}"
    if os.environ.get("TUSD_TEST_REQUIRE_ALL") == "1":
        pytest.fail(message)
    pytest.skip(message)
