"""The files that a page shows, and what a test changes in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

HOWTO = Path(__file__).parents[2] / "docs" / "howto"


def file_of(page: str, title: str) -> str:
    """The file that the page shows under this title."""
    (found,) = re.findall(rf'```\w+ title="{re.escape(title)}"\n(.*?)```', (HOWTO / page).read_text(), re.DOTALL)
    return str(found)


def replaced(text: str, changes: Mapping[str, str]) -> str:
    """The text with its placeholders replaced; each of them has to be there."""
    for placeholder, value in changes.items():
        assert placeholder in text, f"{placeholder} is not in:\n{text}"
        text = text.replace(placeholder, value)
    return text


def tusd_config(page: str, title: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The server's configuration of this page, with `changes` of some options. Where the server listens and keeps uploads is left
    to the test kit."""
    config: dict[str, Any] = yaml.safe_load(file_of(page, title))
    del config["server"]["listen"], config["storage"]["directory"]
    for section, options in changes.items():
        config[section] = {**config.get(section, {}), **options} if isinstance(options, dict) else options
    return config
