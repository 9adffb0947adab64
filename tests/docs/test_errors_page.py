"""docs/reference/errors.md against the classes of tusd.errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tusd import config, errors
from tusd.config import ServerSection, UploadsSection
from tusd.errors import InternalError, StartError, TusError

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"


class Row(NamedTuple):
    """What a line of a table says, less the last column."""

    section: str
    code: str
    status: int
    temporary: bool
    name: str
    message: str


def page() -> tuple[list[Row], list[str]]:
    """The rows about requests, and the names of the table about the start."""
    found: list[Row] = []
    start: list[str] = []
    section = ""
    for line in PAGE.read_text().splitlines():
        if heading := re.fullmatch(r"## .+: `(\w+)`", line):
            section = heading[1]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 6:
            code, status, temporary, name, message, when = cells
            assert when, line
            assert temporary in ("", "yes"), line
            found.append(Row(section, code.strip("`"), int(status), temporary == "yes", name.strip("`"), message))
        elif line.startswith("| `"):
            start.append(cells[0].strip("`"))
    return found, start


def below(kind: type[Exception]) -> list[type[Exception]]:
    return [found for child in kind.__subclasses__() for found in (child, *below(child))]


def ours(kind: type[TusError]) -> list[type[TusError]]:
    """The classes directly below one; not those of other tests."""
    return [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]


def test_every_error_has_its_row() -> None:
    expected = []
    for section in ours(TusError):
        for kind in ([section] if section is InternalError else []) + ours(section):
            expected.append(Row(section.__name__, kind.code, kind.status, kind.temporary, kind.__name__, kind.message))
    assert page()[0] == expected


def test_no_error_lies_deeper() -> None:
    assert {name for _, _, _, _, name, _ in page()[0]} | {kind.__name__ for kind in ours(TusError)} == {
        kind.__name__ for kind in below(TusError) if kind.__module__ == errors.__name__
    }


def test_every_start_error_has_its_row() -> None:
    modules = (errors.__name__, config.__name__)
    assert set(page()[1]) == {kind.__name__ for kind in below(StartError) if kind.__module__ in modules}


def test_options_that_are_named_exist() -> None:
    named = re.findall(r"`(server|uploads)\.(\w+)", PAGE.read_text())
    assert named
    for section, option in named:
        model = ServerSection if section == "server" else UploadsSection
        assert option in model.model_fields, option
