"""What needs a Unix system says so at the start, with what to write instead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WITHOUT_FCNTL = "import sys; sys.modules['fcntl'] = None; from tusd.server.cli import main; main()"


def test_a_start_without_fcntl_names_place_and_cure(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("storage: {use: file}\nlocking: {use: file}\n")
    command = [sys.executable, "-c", WITHOUT_FCNTL, "check", "-c", "config.yaml"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    storage, locking = result.stderr.splitlines()
    assert "storage.use" in storage and "file storage needs a Unix system" in storage and "{use: memory}" in storage
    assert "locking.use" in locking and "file locking needs a Unix system" in locking and "{use: memory}" in locking
