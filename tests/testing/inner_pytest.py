"""A pytest of its own, for which the stores of `shelf/` are an installed distribution."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SHELF = Path(__file__).parent / "shelf"


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in `folder`, with pytest-asyncio in its strict mode: the kit's tests are marked by the kit."""
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n")
    paths = [str(SHELF), *(entry for entry in sys.path if entry)]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(folder / "pytest.ini"), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
