"""docs/howto/gcs.md against the code: options, metrics, examples."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from tests.configs import load_config

from tusd.registry import Registry
from tusd_plugin_gcs import GcsStorage
from tusd_plugin_gcs.headers import METADATA_LIMIT

PAGE = (Path(__file__).parents[3] / "docs" / "howto" / "gcs.md").read_text()


def section(title: str) -> str:
    """What stands under a heading."""
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_every_option_has_its_row() -> None:
    shown = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", section("Options"), re.MULTILINE)
    fields = GcsStorage.Options.model_fields
    assert [name for name, _, _ in shown] == list(fields)
    for name, default, meaning in shown:
        assert meaning == fields[name].description, name
        if default == "none":
            assert fields[name].is_required()
        elif default == "not set":
            assert fields[name].default is None
        else:
            given = GcsStorage.Options.model_validate({"bucket": "bkt", name: yaml.safe_load(default.strip("`"))})
            assert getattr(given, name) == fields[name].default, name


def test_the_examples_are_valid(tmp_path: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        (tmp_path / "tusd.yaml").write_text(example)
        (loaded,) = (one for one in Registry(load_config(tmp_path / "tusd.yaml")).loaded if one.seam == "storage")
        assert isinstance(loaded.options, GcsStorage.Options)
    (rule,) = re.findall(r'```json title="lifecycle.json"\n(.*?)```', PAGE, re.DOTALL)
    assert json.loads(rule)["rule"][0]["action"] == {"type": "Delete"}


def test_figures_of_the_page() -> None:
    assert f"{METADATA_LIMIT // 1024} KiB together" in PAGE
