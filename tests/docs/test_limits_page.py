"""docs/howto/limits.md: its configurations start."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tusd import registry
from tusd.builtin import concurrency_limiting, rate_limiting
from tusd.engine.figures import LIMITED

PAGE = (Path(__file__).parents[2] / "docs/howto/limits.md").read_text()


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_the_examples_are_valid(example: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(example)
    config, found = registry.configure(tmp_path / "config.yaml")
    assert (
        [one.label for one in found.loaded if one.seam == "limiting"]
        == [entry.label for entry in config.entries("limiting")]
        != []
    )


def test_figures() -> None:
    assert f"{concurrency_limiting._ROWS} clients are counted at once, and {rate_limiting._ROWS} remembered" in PAGE
    assert f"`{LIMITED.name}`" in PAGE
