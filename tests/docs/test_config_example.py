"""config.example.yaml against the models: every option, each with its default."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from tests.configs import load_config

from tusd import registry
from tusd.config import SEAMS, SECTIONS, SINGLE_SEAMS, Config
from tusd.registry import PluginListing, Registry
from tusd.registry.checking import check_class, options_class
from tusd.registry.finding import find

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
BUILT_IN = [one for one in registry.installed() if one.distribution == "tusd"]


def raw() -> dict[str, object]:
    found = yaml.safe_load(EXAMPLE.read_text())
    assert isinstance(found, dict)
    return found


def missing(model: type[BaseModel], data: object, path: str) -> list[str]:
    """The options of a model that the data lacks."""
    assert isinstance(data, dict), path
    found = [f"{path}.{name}" for name in model.model_fields if name not in data]
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel) and name in data:
            found += missing(field.annotation, data[name], f"{path}.{name}")
    return found


def section_text(seam: str) -> str:
    """What the file says of a seam, comments included: from one blank line before its heading to the next section."""
    blocks = re.split(r"\n\n", EXAMPLE.read_text())
    found = [block for block in blocks if re.search(rf"^#? ?{seam}:", block, re.MULTILINE)]
    return "\n".join(found)


def test_it_is_the_defaults() -> None:
    example, defaults = load_config(EXAMPLE), Config()
    for name in SECTIONS:
        assert getattr(example, name) == getattr(defaults, name), name
    for seam in SEAMS:
        assert [entry.use for entry in example.entries(seam)] == [entry.use for entry in defaults.entries(seam)], seam


def test_it_has_every_option_of_the_core() -> None:
    data = raw()
    assert set(data) == {*SECTIONS, *SEAMS}
    assert [path for name, model in SECTIONS.items() for path in missing(model, data[name], name)] == []


def test_it_has_every_option_of_the_plugins_that_it_uses_with_their_defaults() -> None:
    config = load_config(EXAMPLE)
    for loaded in Registry(config).loaded:
        (entry,) = config.entries(loaded.seam)
        assert sorted(entry.options) == sorted(type(loaded.options).model_fields), loaded.label
        assert loaded.options == type(loaded.options)(), loaded.label


@pytest.mark.parametrize("built_in", BUILT_IN, ids=lambda one: f"{one.seam}:{one.name}")
def test_it_mentions_every_built_in_with_all_its_options(built_in: PluginListing) -> None:
    text = section_text(built_in.seam)
    assert re.search(rf"\buse: {built_in.name}\b", text)
    options = options_class(built_in.seam, check_class(built_in.seam, find(built_in.seam, built_in.name, Path())))
    assert [name for name in options.model_fields if f"{name}:" not in text] == []


@pytest.mark.parametrize("seam", [seam for seam in SEAMS if seam not in SINGLE_SEAMS])
def test_it_says_none_is_built_in_only_while_that_is_so(seam: str) -> None:
    assert ("None is built in" in section_text(seam)) == (seam != "plugins" and seam not in {one.seam for one in BUILT_IN})


def test_what_is_commented_out_can_be_used(tmp_path: Path) -> None:
    """Each commented alternative, in place of what is active, starts."""
    alternatives = re.findall(r"^# (storage|locking):\n((?:#   .*\n)+)", EXAMPLE.read_text(), re.MULTILINE)
    assert alternatives
    for seam, body in alternatives:
        data = raw()
        data[seam] = yaml.safe_load(body.replace("#   ", ""))
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(data))
        assert Registry(load_config(tmp_path / "config.yaml")).loaded


def test_every_option_has_a_comment() -> None:
    """Directly above it, or above the options that share one."""
    lines = EXAMPLE.read_text().splitlines()
    bare = []
    for number, line in enumerate(lines):
        if match := re.match(r" +(\w+):", line):
            above = number - 1
            while re.match(r" +\w+:", lines[above]) and len(lines[above]) - len(lines[above].lstrip()) >= 2:
                above -= 1
            if not lines[above].lstrip().startswith("#") and not re.match(r"\w+:", lines[above]):
                bare.append(match[1])
    assert bare == []
