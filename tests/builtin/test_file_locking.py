"""The file locker: the suite, and what it promises beyond it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tusd.builtin.file_locking import FileLocking
from tusd.locking import Locker
from tusd.testing.door import Door
from tusd.testing.locking import LockingSuite


class TestFileLocking(LockingSuite):
    plugin = FileLocking

    @pytest.fixture
    def options(self, tmp_path: Path) -> Mapping[str, object]:
        return {"directory": str(tmp_path / "locks")}

    async def left_behind(self, door: Door[Locker]) -> Sequence[object]:
        return [name for name in os.listdir(str(door.options["directory"])) if not name.endswith(".fifo")]
