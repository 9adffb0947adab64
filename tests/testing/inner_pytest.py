"""A pytest of its own, for which the plugins of a folder beside this file are an installed distribution."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

SHELF = Path(__file__).parent / "shelf"


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in `folder`, with the stores of `shelf/`, and pytest-asyncio in its strict mode: the kit's tests are marked by the kit."""
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


def outcomes_of(folder: Path, select: str) -> dict[tuple[str, str], str]:
    """Run `suites.py` of a folder that is a distribution, too: (class without `Test`, test) -> what went wrong; nothing for those that
    passed. `select` is an expression for pytest's `-k`."""
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
            "-k",
            select,
            "suites.py",
        ]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found = {}
        for case in ElementTree.parse(report).iter("testcase"):
            failure = next((child for child in case if child.tag in ("failure", "error")), None)
            name = case.get("classname", "").rpartition(".Test")[2]
            found[name, case.get("name", "")] = "" if failure is None else f"{failure.tag}: {failure.text}"
    return found
