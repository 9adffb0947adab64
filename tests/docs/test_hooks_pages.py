"""docs/howto/hooks.md and docs/reference/hooks.md against the code, and the hooks of the first in a server."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from tests.engine.test_event_order import CASES

from tusd import errors, hook_wire
from tusd.engine import announce
from tusd.engine.figures import HOOK_ANSWERS_IGNORED, HOOK_ERRORS
from tusd.hook_wire import answer_from_json, event_as_json
from tusd.hooks import DEFAULT_EVENTS, EVENTS, NO_REQUEST, Access, HookResponse, PostFinish, Reason
from tusd.model import Final, Metadata, UploadId, UploadInfo
from tusd.protocol import headers
from tusd.protocol.messages import Head
from tusd.protocol.rules import Policy
from tusd.protocol.tus1 import Tus1
from tusd.protocol.urls import Origins
from tusd.registry import installed
from tusd.testing.hooks import HEAD, UPLOAD, events_of
from tusd.testing.server import ServerProcess

DOCS = Path(__file__).parents[2] / "docs"
HOWTO = (DOCS / "howto" / "hooks.md").read_text()
REFERENCE = (DOCS / "reference" / "hooks.md").read_text()


def tables(page: str) -> list[list[list[str]]]:
    """All tables of a page: rows of cells, without their headings."""
    found = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    return [[[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines()[2:]] for text in found]


def ticked(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def titled(name: str) -> str:
    (found,) = re.findall(rf'```\w+ title="{re.escape(name)}"\n(.*?)```', HOWTO, re.DOTALL)
    return str(found)


KINDS, HAPPENS, CAUSED, FAILING = tables(HOWTO)
FIELDS, ANSWERS, COUNTS = tables(REFERENCE)


# --- howto


def test_every_kind_that_is_built_in_is_there() -> None:
    built_in = {one.name for one in installed() if one.seam == "hooks" and one.distribution == "tusd"}
    assert built_in <= {ticked(row[0])[0] for row in KINDS}
    assert all(f"({ticked(row[0])[0]}-hooks.md)" in row[3] for row in KINDS)


def test_the_events_of_the_howto() -> None:
    assert [row[0] for row in HAPPENS] == [f"`{kind.name}`" for kind in EVENTS]
    for (_, asked, _, may), kind in zip(HAPPENS, EVENTS, strict=True):
        assert asked == ("asked" if kind.name.startswith("pre-") else "told")
        assert ("refuse it" in may) == ("reject" in kind.answers)
        assert ("stop the upload" in may) == ("stop" in kind.answers)
        assert ("change its id" in may) == ("change" in kind.answers)
        assert ("change the response" in may) == ("status" in kind.answers)
        assert ("add headers" in may) == ("headers" in kind.answers and "status" not in kind.answers)


def test_the_events_that_one_gets_without_asking() -> None:
    (text,) = re.findall(r"others get (.*?)\.\n", HOWTO, re.DOTALL)
    assert {kind.name for kind in DEFAULT_EVENTS} == set(ticked(text))


CAUSES = {
    "creates an upload": "create_empty",
    "creates one and sends all of it": "create_with_the_whole_body",
    "sends the rest": "append_the_rest",
    "breaks off in the middle": "append_that_breaks_off",
    "is stopped by post-receive": "append_that_a_hook_stops",
    "is refused by pre-finish": "finish_refused",
    "concatenates two uploads": "concatenate_complete_parts",
    "asks for the offset": "inspect",
    "removes the upload": "terminate",
}
"""What a client does -> the case of the engine's tests, up to its first answer."""


def test_what_causes_what_is_as_the_engine_does_it() -> None:
    assert [row[0] for row in CAUSED] == list(CAUSES)
    cases = {case.name: case.table for case in CASES}
    for what, events in CAUSED:
        words = [line.split()[0] for line in cases[CAUSES[what]].splitlines() if line.strip()]
        assert ticked(events) == words[: words.index("answer")], what


def test_what_fails_and_is_refused_is_answered_so() -> None:
    asked = [kind.name for kind in EVENTS if kind.name.startswith("pre-")]
    assert [ticked(row[0]) for row in FAILING] == [*([name] for name in asked), []]
    assert all(row[1].startswith(str(errors.HookError.status)) for row in FAILING[:-1])
    assert f"then {errors.FinishPending.status} from HEAD" in HOWTO
    refused = Tus1(Policy(), Origins()).refuse(Head("HEAD", "/files/a", HEAD.headers), errors.HookError())
    assert f"500, from HEAD {refused.status}" in HOWTO
    assert f"answered with {errors.UploadRejected.status}, by pre-access with {errors.AccessRejected.status}," in HOWTO
    assert errors.UploadRejected.status == errors.TerminationRejected.status == errors.UploadStopped.status
    assert f"{announce._MOST_WAITING} events may wait" in HOWTO
    assert f"`{HOOK_ERRORS.name}`" in HOWTO
    assert f"`{HOOK_ANSWERS_IGNORED.name}`" in REFERENCE
    assert f"is refused with {errors.UploadExists.status}" in REFERENCE


@pytest.fixture
def server(tmp_path: Path, tusd_server: Callable[..., ServerProcess]) -> ServerProcess:
    """One with the hooks of the page, and a scanner that looks for the word VIRUS, unless it is out of order."""
    hooks, programs = tmp_path / "hooks", tmp_path / "bin"
    scanner = f'#!/bin/sh\ntest ! -e {tmp_path}/broken || exit 2\nif grep -q VIRUS "$1"; then exit 1; fi\n'
    for path, text in ((hooks / "pre-finish", titled("hooks/pre-finish")), (programs / "clamdscan", scanner)):
        path.parent.mkdir()
        path.write_text(text)
        path.chmod(0o755)
    (tmp_path / "my_hooks.py").write_text(titled("my_hooks.py"))
    (config,) = re.findall(r"```yaml\n(.*?)```", HOWTO, re.DOTALL)
    entries = yaml.safe_load(config.replace("./hooks", str(hooks)))
    environment = {"PYTHONPATH": str(tmp_path), "PATH": f"{programs}:{os.environ['PATH']}"}
    return tusd_server(entries, env=environment)


def ask(server: ServerProcess, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, str, str]:
    """Status, body, and the path of the upload."""
    connection = HTTPConnection(server.host, server.port, timeout=20)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(
            method, path, body, {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream", **named}
        )
        answer = connection.getresponse()
        location = answer.getheader("Location") or ""
        return answer.status, answer.read().decode(), "/files/" + location.rpartition("/")[2]
    finally:
        connection.close()


def test_the_hooks_of_the_page_in_a_server(server: ServerProcess, tmp_path: Path) -> None:
    def send(body: bytes, **headers: str) -> tuple[int, str, str]:
        return ask(server, "POST", "/files/", body, Upload_Length=str(len(body)), **headers)

    assert send(b"hello")[:2] == (422, "a file name is needed\n")
    name = {"Upload_Metadata": "filename YQ=="}
    status, _, path = send(b"hello", **name)
    assert status == 201
    assert ask(server, "GET", path)[:2] == (200, "hello")
    assert send(b"a VIRUS", **name)[:2] == (422, "it has a virus")
    (tmp_path / "broken").touch()
    status, body, path = send(b"hello", **name)
    assert (status, body) == (500, f"ERR_HOOK_FAILED: {errors.HookError.message}\n")
    assert ask(server, "HEAD", path)[0] == 423
    assert ask(server, "GET", path)[0] == 409
    (tmp_path / "broken").unlink()
    assert ask(server, "HEAD", path)[0] == 200
    assert ask(server, "GET", path)[:2] == (200, "hello")
    assert server.stop() == 0
    assert re.search(r"the hook pre-finish failed: \S+/pre-finish ended with status 1 ", server.log)


# --- reference


def leaves(found: Any, path: str = "") -> dict[str, Any]:
    """Dotted path -> value, for all but objects whose keys are anybody's."""
    if not isinstance(found, dict) or path.rpartition(".")[2] in ("MetaData", "Storage", "Header", "Notes"):
        return {path: found}
    return {name: value for key, inner in found.items() for name, value in leaves(inner, f"{path}.{key}".lstrip(".")).items()}


def kind(path: str, values: list[Any]) -> str:
    """The words for a field's type."""
    given = [value for value in values if value is not None]
    word = {str: "text", bool: "true or false", int: "number", list: "list of texts", dict: "texts"}[type(given[0])]
    if word == "texts" and any(isinstance(one, list) for value in given for one in value.values()):
        word = "lists of texts"
    return word + (", or null" if None in values else "")


def test_the_fields_of_events() -> None:
    final = UploadInfo(id=UploadId("a"), length=1, concat=Final((UploadId("b"),)))
    noted = UploadInfo(id=UploadId("c"), length=1, notes={"owner": "anna"})
    events = [event for one in EVENTS for upload in (UPLOAD, final, noted) for event in events_of(one, upload, HEAD)]
    seen: dict[str, list[Any]] = {}
    for event in events:
        for path, value in leaves(event_as_json(event)).items():
            seen.setdefault(path, []).append(value)
    assert {ticked(row[0])[0]: row[1] for row in FIELDS} == {path: kind(path, values) for path, values in seen.items()}
    assert f"as large as 2^{headers.MAX_NUMBER.bit_length()} - 1" in REFERENCE


def test_what_only_some_events_tell() -> None:
    meant = {ticked(row[0])[0]: row[2] for row in FIELDS}
    for path, meaning in meant.items():
        tell = [one.name for one in EVENTS if path in leaves(event_as_json(next(events_of(one, UPLOAD, HEAD))))]
        if meaning.startswith("Only if"):
            assert path == "Event.Notes" and tell == []
        elif meaning.startswith("Only in"):
            assert tell == [ticked(meaning)[0]]
        else:
            assert tell == [one.name for one in EVENTS]
    assert set(ticked(meant["Event.Access"])[1:]) == set(get_args(Access))
    assert set(ticked(meant["Event.Reason"])[1:]) == set(get_args(Reason))
    assert ticked(meant["Event.Error.Code"])[1] == errors.ReadTimeout.code
    once = [one.name for one in EVENTS if one.once]
    assert ticked(meant["DeliveryID"]) == once


def test_the_example_of_an_event() -> None:
    (text,) = re.findall(r"```json\n(.*?)```", REFERENCE, re.DOTALL)
    shown = json.loads(text)
    upload = shown["Event"]["Upload"]
    info = UploadInfo(id=upload["ID"], length=12, offset=12, metadata=Metadata({"filename": b"a.txt"}), storage=upload["Storage"])
    event = event_as_json(PostFinish(upload=info, head=NO_REQUEST, delivery_id=shown["DeliveryID"]))
    assert {**shown, "Event": {"Upload": upload}} == {**event, "Event": {"Upload": event["Event"]["Upload"]}}
    assert list(leaves(shown)) == list(leaves(event))


def answer(path: str, value: Any) -> HookResponse:
    """What an answer of one field means."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return answer_from_json(value)


def test_the_fields_of_answers_are_those_that_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[str] = set()

    class Recording(hook_wire._Object):
        def get(self, key: str, kind: Any) -> Any:
            read.add(f"{self._where}.{key}")
            return super().get(key, kind)

        def texts(self, key: str) -> dict[str, str] | None:
            read.add(f"{self._where}.{key}")
            return super().texts(key)

    monkeypatch.setattr(hook_wire, "_Object", Recording)
    answer_from_json({"HTTPResponse": {}, "ChangeFileInfo": {}})
    assert {f"answer.{ticked(row[0])[0]}" for row in ANSWERS} == read


@pytest.mark.parametrize("row", ANSWERS, ids=lambda row: row[0])
def test_every_example_of_an_answer_means_something(row: list[str]) -> None:
    assert answer(ticked(row[0])[0], json.loads(row[1].strip("`"))) != HookResponse()


def fields(names: list[str]) -> set[str]:
    """The fields of `HookResponse` that these of the JSON come to."""
    found = set[str]()
    for name in names:
        match name:
            case "HTTPResponse":
                found |= {"status", "headers", "body"}
            case "HTTPResponse.Header":
                found.add("headers")
            case "RejectUpload" | "RejectTermination" | "RejectAccess":
                found.add("reject")
            case "StopUpload":
                found.add("stop")
            case "ChangeFileInfo":
                found.add("change")
            case _:
                raise AssertionError(name)
    return found


def test_which_answers_count_for_which_event() -> None:
    assert [ticked(row[0]) for row in COUNTS] == [[one.name] for one in EVENTS]
    for (_, counts, refusal), one in zip(COUNTS, EVENTS, strict=True):
        assert fields(ticked(counts)) == one.answers, one.name
        assert fields(ticked(refusal)) - one.answers == one.refusal - one.answers, one.name


def test_what_is_not_gos_is_said() -> None:
    ours = set(ticked(REFERENCE.partition("Beside it are")[2])) - {"ChangeFileInfo"}
    go = """Type ID Size SizeIsDeferred Offset MetaData IsPartial IsFinal PartialUploads Storage Method URI RemoteAddr Header
        StatusCode Body RejectUpload RejectTermination StopUpload ID MetaData Storage Code Message""".split()
    named = {name for row in (*FIELDS, *ANSWERS) for name in ticked(row[0])[0].split(".")}
    assert named - set(go) - {"Event", "Upload", "HTTPRequest", "HTTPResponse", "ChangeFileInfo"} == ours
