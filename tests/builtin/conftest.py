from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tusd.builtin.file_storage import FileStorage, FileStore


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    return made


@pytest.fixture
def store(directory: Path) -> FileStore:
    return FileStore(FileStorage.Options(directory=directory), logging.getLogger("test"))
