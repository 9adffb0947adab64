"""docs/reference/configuration.md against the models: names, types, defaults and meanings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from tests.configs import install_nothing_else, load_config, options_model

from tusd import registry
from tusd.config import SEAMS, SECTIONS, StartErrors
from tusd.listen import Listen, ListenTls
from tusd.plugin import HookOptions
from tusd.registry.finding import OFFICIAL

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"
BUILT_IN = {
    f"{one.seam}: {one.name}": options_model(one.seam, one.name) for one in registry.installed() if one.distribution == "tusd"
}
LISTENERS: dict[str, type[BaseModel]] = {"Listeners": Listen, "tls": ListenTls}
"""Mappings that stand in values of the core's options."""
COMMON: dict[str, type[BaseModel]] = {"Options of every hook": HookOptions}
"""What all plugins for a seam have, said once."""
REQUIRED = {"address": "a:1", "certificate": "c", "key": "k", "endpoint": "http://a/", "total": 1}
"""A value for each option that has no default."""


def options_of(model: type[BaseModel], prefix: str = "") -> dict[str, tuple[type[BaseModel], str]]:
    """Every option of a model and of the models in it: dotted name -> the model that has it, and its name there."""
    found: dict[str, tuple[type[BaseModel], str]] = {}
    common = HookOptions.model_fields if issubclass(model, HookOptions) and model is not HookOptions else {}
    for name, field in model.model_fields.items():
        if name in common:
            continue
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= options_of(field.annotation, f"{prefix}{name}.")
        else:
            found[prefix + name] = (model, name)
    return found


def tables() -> dict[str, dict[str, tuple[str, str, str]]]:
    """Heading -> option -> the cells for type, default and meaning."""
    found: dict[str, dict[str, tuple[str, str, str]]] = {}
    heading = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ").replace("`", "")
        elif match := re.fullmatch(r"\| `([\w.]+)` \| (.+?) \| (.+?) \| (.+) \|", line):
            found.setdefault(heading, {})[match[1]] = (match[2], match[3], match[4].replace("\\|", "|"))
    return found


def kind(model: type[BaseModel], name: str) -> str:
    """The word for an option's type."""
    field = model.model_fields[name]
    about = f"{field.annotation} {field.metadata}"
    for sign, word in (
        ("ListenTls", "mapping"),
        ("Listen", "listener, or list"),
        ("tuple", "list"),
        ("dict[", "mapping"),
        ("list[", "list"),
        ("_workers", "number or `auto`"),
        ("parse_size", "size"),
        ("parse_duration", "duration"),
    ):
        if sign in about:
            return word
    if "Literal" in about:
        return ", ".join(f"`{value}`" for value in get_args(field.annotation))
    for sign, word in (
        ("bool", "`true`, `false`"),
        ("_parse_mode", "permissions"),
        ("Path", "path"),
        ("str", "text"),
        ("int", "number"),
    ):
        if sign in about:
            return word
    raise AssertionError(f"no word for {about}")


CORE: dict[str, type[BaseModel]] = {**SECTIONS, **LISTENERS, **COMMON}
SECTION_CASES = [(section, option) for section, model in CORE.items() for option in options_of(model)]
PLUGIN_CASES = [(heading, option) for heading, model in BUILT_IN.items() for option in options_of(model)]


def check(heading: str, option: str, model: type[BaseModel]) -> str:
    """Compare one row with the model; return what the page says it means."""
    owner, name = options_of(model)[option]
    words, default, meaning = tables()[heading][option]
    assert words == kind(owner, name)
    if default == "none":
        assert owner.model_fields[name].is_required()
        return meaning
    value: Any = None if default == "not set" else yaml.safe_load(default.strip("`"))
    needed = {other: REQUIRED[other] for other, field in owner.model_fields.items() if field.is_required()}
    validated = getattr(owner.model_validate({**needed, name: value}), name)
    assert validated == owner.model_fields[name].default
    return meaning


@pytest.mark.parametrize(("section", "option"), SECTION_CASES)
def test_options_of_the_core_are_as_the_page_says(section: str, option: str) -> None:
    owner, name = options_of(CORE[section])[option]
    assert check(section, option, CORE[section]) == owner.model_fields[name].description


@pytest.mark.parametrize(("heading", "option"), PLUGIN_CASES)
def test_options_of_the_built_ins_are_as_the_page_says(heading: str, option: str) -> None:
    assert check(heading, option, BUILT_IN[heading])


def test_the_page_has_no_option_that_does_not_exist() -> None:
    models: dict[str, type[BaseModel]] = {**CORE, **BUILT_IN}
    for heading, rows in tables().items():
        assert list(rows) == list(options_of(models[heading])), heading


def test_the_page_has_every_section_and_built_in() -> None:
    headings = {line.lstrip("# ").replace("`", "") for line in PAGE.read_text().splitlines() if line.startswith("#")}
    assert {*SECTIONS, *SEAMS, *BUILT_IN} <= headings


def test_the_page_names_the_official_plugins() -> None:
    text = PAGE.read_text()
    assert [name for name in OFFICIAL.values() if f"`{name}`" not in text] == []


def test_the_errors_on_the_page_are_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of a file with errors, and what is printed for it where nothing else is installed."""
    install_nothing_else(monkeypatch)
    text = PAGE.read_text().partition("## Errors")[2]
    source, said = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)[:2]
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(source)
    with pytest.raises(StartErrors) as caught:
        registry.configure(Path("config.yaml"))
    assert str(caught.value) == said.strip()


def test_the_examples_on_the_page_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET", "b")
    (tmp_path / "secret").write_text("s")
    before = PAGE.read_text().partition("## Errors")[0]
    examples = re.findall(r"```yaml\n(.*?)```", before, re.DOTALL)
    assert len(examples) >= 2
    for example in examples:
        (tmp_path / "config.yaml").write_text(example.replace("/run/secrets/s3", "secret"))
        load_config(tmp_path / "config.yaml")
