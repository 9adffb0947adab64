"""docs/reference/errors.md against the classes of tusd.errors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from tests.protocol.heads import ID, head, info

from tusd import config, errors
from tusd.config import ServerSection, UploadsSection
from tusd.errors import InternalError, StartError, TusError
from tusd.protocol.ietf import INTEROP, Ietf
from tusd.protocol.rules import Policy
from tusd.protocol.urls import Origins

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


def test_problem_types_of_the_draft() -> None:
    section = PAGE.read_text().split("## In the IETF draft\n")[1].split("\n## ")[0]
    dialect, asked = Ietf(Policy(), Origins()), head("PATCH", f"/files/{ID}", {INTEROP: "8"}, tus=False)

    def told(error: TusError) -> dict[str, object]:
        found = dialect.refuse(asked, error)
        return {**json.loads(found.body), "status": found.status}

    example = json.loads(section.split("```json\n")[1].split("```")[0])
    assert example == told(errors.MismatchedOffset(info=info(offset=12500000), provided=25000000))
    typed: dict[str, str] = {}
    for line in re.findall(r"^- (.*)$", section, re.MULTILINE):
        names, _, kind = line.partition(": ")
        typed |= dict.fromkeys(re.findall(r"`([A-Z]\w+)`", names), kind.split("`")[1])
    for kind in [kind for above in ours(TusError) for kind in ours(above)]:
        if kind is not errors.MethodNotAllowed:
            found = told(kind(info=info()))
            assert str(found["type"]).rpartition("#")[2] == typed.get(kind.__name__, "about:blank"), kind
            refused = (
                400 if kind.__name__ in re.findall(r"`(\w+)`", section) and kind is not errors.MismatchedOffset else kind.status
            )
            assert found["status"] == (503 if kind.temporary else refused), kind


def test_options_that_are_named_exist() -> None:
    named = re.findall(r"`(server|uploads)\.(\w+)", PAGE.read_text())
    assert named
    for section, option in named:
        model = ServerSection if section == "server" else UploadsSection
        assert option in model.model_fields, option
