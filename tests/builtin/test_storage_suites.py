"""The built-in stores, through the door that everybody's plugins go through."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tusd.builtin.file_storage import FileStorage
from tusd.builtin.memory_storage import MemoryStorage
from tusd.testing.faults import Calls, failing_call
from tusd.testing.storage import StorageSuite

CALLS = "open read pread write pwrite copy_file_range replace unlink ftruncate fsync stat fstat mkdir rmdir".split()
"""Where the file store reaches the disk; `close` is left out, because a test cannot fail it without leaking."""


def _broken_disk() -> OSError:
    return OSError(errno.EIO, os.strerror(errno.EIO))


class TestFileStorage(StorageSuite):
    plugin = FileStorage

    @pytest.fixture
    def options(self, tmp_path: Path) -> Mapping[str, object]:
        return {"directory": str(tmp_path / "data")}

    def failing(self, nth: int) -> AbstractContextManager[Calls]:
        return failing_call(nth, [(os, name) for name in CALLS if hasattr(os, name)], _broken_disk)


class TestSyncedFileStorage(TestFileStorage):
    """With everything in threads."""

    @pytest.fixture
    def options(self, tmp_path: Path) -> Mapping[str, object]:
        return {"directory": str(tmp_path / "data"), "fsync": "append"}


class TestMemoryStorage(StorageSuite):
    plugin = MemoryStorage

    @pytest.fixture
    def options(self) -> Mapping[str, object]:
        return {}
