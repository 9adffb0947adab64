"""docs/contributing.md against the Makefile and the folders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.services import faults, servers

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "contributing.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def test_every_target_is_named_and_exists() -> None:
    phony = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    targets = set(" ".join(phony).split()) - {"clean"}
    assert set(re.findall(r"^make (\w+)", PAGE, re.MULTILINE)) == targets
    assert set(re.findall(r"`make (?!PYTHON)(\w+)", PAGE)) <= targets
    for variable in re.findall(r"\b(ARGS|PYTHON)=", PAGE):
        assert f"$({variable})" in MAKEFILE or f'"$({variable})"' in MAKEFILE


@pytest.mark.parametrize("path", sorted({p for p in re.findall(r"`((?:\.ci|core|docs|tests)/[\w./]*)`", PAGE)}))
def test_what_is_named_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_every_folder_of_tests_without_a_module_is_explained() -> None:
    """The others mirror core/tusd, as the page says."""
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/*.py")}
    mirrored = {path.name for path in (ROOT / "core" / "tusd").iterdir() if path.is_dir()}
    explained = set(re.findall(r"^\| `tests/(\w+)/`", PAGE, re.MULTILINE))
    assert explained == folders - mirrored


def test_continuous_integration_does_what_the_page_says() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    for said in ("make check", "make test", "TUSD_TEST_REQUIRE_ALL=1", "npm install --prefix tests/clients --no-package-lock"):
        assert said in PAGE and said in script


def test_the_example_of_a_test_with_a_bucket_works_with_what_is_there() -> None:
    fixtures = set(re.findall(r"^def (\w+)\(", (ROOT / "tests" / "services" / "fixtures.py").read_text(), re.MULTILINE))
    named = set(re.findall(r"\b((?:localstack|swift|ceph|s3)_\w+)\b", PAGE))
    assert named and named <= fixtures
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    example: dict[str, object] = {}
    exec(block, example)  # its imports exist
    assert "test_a_late_part" in example
    for called in re.findall(r"\b(?:late|localstack_faults|localstack_bucket)\.(\w+)", block):
        assert any(hasattr(kind, called) for kind in (faults.FaultProxy, faults.Rule, servers.S3Bucket))
