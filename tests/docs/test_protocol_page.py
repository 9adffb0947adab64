"""docs/reference/protocol.md against the code: methods, extensions, headers, statuses, and the versions of the IETF's draft."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from tests.protocol.heads import ID, head, info

from tusd import config, errors, protocol
from tusd.errors import InternalError, MethodNotAllowed, TusError
from tusd.model import Extension, State
from tusd.protocol.cors import METHODS
from tusd.protocol.digests import NAMES
from tusd.protocol.headers import ALGORITHMS
from tusd.protocol.ietf import INTEROP, PARTIAL_UPLOAD, VERSIONS, Ietf, Version
from tusd.protocol.messages import (
    Appended,
    Created,
    Discovered,
    HeaderList,
    Inspect,
    Inspected,
    Outcome,
    Progress,
    Terminated,
)
from tusd.protocol.rules import Policy
from tusd.protocol.tus1 import Tus1
from tusd.protocol.urls import Origins
from tusd.web import handler, reply

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "protocol.md"
DRAFT = ("ietf.py", "fields.py", "digests.py")
ALL_SOURCES = sorted(Path(protocol.__path__[0]).glob("*.py"))
SOURCES = [path for path in ALL_SOURCES if path.name not in DRAFT]
DRAFT_SOURCES = [path for path in ALL_SOURCES if path.name in DRAFT]
FIELDS = {INTEROP, *(version.completeness for version in VERSIONS.values())}
"""Headers whose names are values in the code of the draft."""
WEB = [Path(str(module.__file__)) for module in (handler, reply)]
HEADER = re.compile(r"[A-Z][A-Za-z]*(-[A-Z][A-Za-z]*)*")


def table(heading: str) -> list[list[str]]:
    """The cells of the table under a heading."""
    section = re.split(rf"\n##+ {heading}\n", PAGE.read_text())[1].split("\n##")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def first_cells(heading: str) -> list[str]:
    return [row[0].strip("`") for row in table(heading)]


def nodes(paths: list[Path]) -> Iterator[ast.AST]:
    for path in paths:
        yield from ast.walk(ast.parse(path.read_text()))


def constant(node: ast.expr) -> str:
    """The text of a node that is a header's name; empty for others."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) and HEADER.fullmatch(node.value) else ""


def read_by_the_code(paths: list[Path]) -> set[str]:
    """Names in `get("X")`, `getall("X", [])`, `single(headers, "X")`, `fields.integer(headers, "X")` and the like, `"X" in headers`."""
    found = set()
    for node in nodes(paths):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("get", "getall", "single", "boolean", "integer", "digest", "wanted"):
                found |= {constant(argument) for argument in node.args}
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In):
            found.add(constant(node.left))
    return found - {""}


def sent_by_the_code(paths: list[Path]) -> set[str]:
    """Names in `("X", value)`."""
    found = set()
    for node in nodes(paths):
        if isinstance(node, ast.Tuple) and len(node.elts) == 2 and constant(node.elts[0]):
            found.add(constant(node.elts[0]))
    return found - set(METHODS)


def allowed(path: str) -> list[str]:
    """What the `Allow` header says of a path."""
    with pytest.raises(MethodNotAllowed) as caught:
        Tus1(Policy(), Origins()).read(head("PUT", path))
    return caught.value.allow.split(", ")


def test_methods() -> None:
    assert sorted({*first_cells("Methods"), *first_cells("Methods of the draft")}) == sorted(METHODS)
    for path in ("/files/", "/files/<id>"):
        here = [method.strip("`") for method, where, *_ in table("Methods") if where in ("any", f"`{path}`")]
        assert sorted(here) == sorted(allowed(path.replace("<id>", "a")))
    assert config.ServerSection().base_path == "/files/"


def test_extensions() -> None:
    assert first_cells("Extensions") == [extension.value for extension in Extension]
    gone = [e for e in Extension if not Policy(extensions=frozenset(Extension) - {Extension.CREATION}).has(e)]
    assert len(gone) == 5
    assert "four of the others go with it" in PAGE.read_text()


def test_checksum_algorithms() -> None:
    line = next(line for line in PAGE.read_text().splitlines() if line.startswith("Checksum algorithms:"))
    assert tuple(re.findall(r"`(\w+)`", line.partition(". ")[0])) == ALGORITHMS


def test_request_headers() -> None:
    found = first_cells("Request headers")
    assert len(found) == len(set(found))
    assert set(found) == read_by_the_code(SOURCES)


def test_response_headers() -> None:
    found = first_cells("Response headers")
    assert len(found) == len(set(found))
    assert set(found) == sent_by_the_code(SOURCES + WEB)


def test_statuses() -> None:
    kinds = [kind for section in TusError.__subclasses__() for kind in (section, *section.__subclasses__())]
    failures = {
        kind.status
        for kind in kinds
        if kind.__module__ == errors.__name__ and (kind is InternalError or not kind.__subclasses__())
    }
    successes = {int(status) for row in table("Methods") for status in row[3].split(", ")}
    written = {
        node.value
        for node in nodes([path for path in ALL_SOURCES if path.name == "tus1.py"])
        if isinstance(node, ast.Constant) and isinstance(node.value, int) and 200 <= node.value < 400
    }
    assert successes == written
    assert [int(status) for status in first_cells("Statuses")] == sorted(failures | successes)


@pytest.mark.parametrize("section", ["server", "uploads", "protocol"])
def test_options_that_are_named_exist(section: str) -> None:
    models: dict[str, type[BaseModel]] = {
        "server": config.ServerSection,
        "uploads": config.UploadsSection,
        "protocol": config.ProtocolSection,
    }
    model = models[section]
    named = re.findall(rf"`{section}\.([a-z_.]+)", PAGE.read_text())
    assert named
    for option in named:
        outer, _, inner = option.partition(".")
        assert outer in model.model_fields, option
        assert not inner or inner in config.CorsSection.model_fields, option


def drafted(number: int) -> Ietf:
    return Ietf(Policy(), Origins(), VERSIONS[number])


def yes(value: bool) -> str:
    return "yes" if value else "no"


def row(version: Version) -> list[str]:
    """What the page has to say of a version, but for the drafts."""
    return [
        str(version.number),
        f"`{version.completeness}`",
        yes(version.progress),
        yes(version.media_type),
        "400" if version.explicit else "completes",
        "400" if version.strict else "ignored",
        f"`{version.lifetime}`",
        str(version.appended),
    ]


def test_versions() -> None:
    assert [[cells[0], *cells[2:]] for cells in table("Versions")] == [row(version) for version in VERSIONS.values()]
    assert [version.inverted for version in VERSIONS.values()] == [
        v.completeness == "Upload-Incomplete" for v in VERSIONS.values()
    ]


def test_methods_of_the_draft() -> None:
    outcomes: dict[str, list[Outcome]] = {
        "OPTIONS": [Discovered((), None)],
        "POST": [Created(info(), True)],
        "PUT": [Created(info(), True)],
        "HEAD": [Inspected(info())],
        "GET": [Inspected(info())],
        "PATCH": [Appended(info(offset=100, state=State.COMPLETE)), Appended(info())],
        "DELETE": [Terminated()],
    }
    written = {
        method: [str(drafted(8).write(head(method, headers={INTEROP: "8"}), outcome).status) for outcome in found]
        for method, found in outcomes.items()
    }
    assert {cells[0].strip("`"): cells[3].split(", ") for cells in table("Methods of the draft")} == written
    for path in ("/files/", "/files/<id>"):
        here = [method.strip("`") for method, where, *_ in table("Methods of the draft") if where in ("any", f"`{path}`")]
        with pytest.raises(MethodNotAllowed) as caught:
            drafted(8).read(head("FOO", path.replace("<id>", ID), tus=False))
        assert sorted(here) == sorted(caught.value.allow.split(", "))
    assert isinstance(drafted(8).read(head("GET", f"/files/{ID}", tus=False)), Inspect)


def test_request_headers_of_the_draft() -> None:
    found = first_cells("Request headers of the draft")
    assert len(found) == len(set(found))
    assert set(found) == read_by_the_code(DRAFT_SOURCES) | FIELDS


def test_response_headers_of_the_draft() -> None:
    found = first_cells("Response headers of the draft")
    assert len(found) == len(set(found))
    assert set(found) | {"Upload-Incomplete"} == sent_by_the_code(DRAFT_SOURCES) | FIELDS


def test_what_else_is_said_of_the_draft() -> None:
    text = PAGE.read_text()
    assert "Digests are " + " and ".join(f"`{name}`" for name in sorted(NAMES)) in text
    assert PARTIAL_UPLOAD in text
    sent: HeaderList = drafted(4).interim(head("PATCH", headers={INTEROP: "4"}), Progress(1))
    assert sent == []
    assert "version 8, for clients of the finished standard" in text
    assert max(VERSIONS) == 8
