"""The memory locker: the suite, and what it promises beyond it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tusd.builtin.memory_locking import MemoryLocking
from tusd.testing.locking import LockingSuite


class TestMemoryLocking(LockingSuite):
    plugin = MemoryLocking

    @pytest.fixture
    def options(self) -> Mapping[str, object]:
        return {}
