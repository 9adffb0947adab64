"""The tree of errors: its docstring, its codes, and what an instance carries."""

from __future__ import annotations

import re
from typing import TypeVar

import pytest

from tusd import errors
from tusd.errors import (
    ConfigError,
    HookError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    QuotaExceeded,
    ReadTimeout,
    RequestError,
    StartError,
    TryLater,
    TusError,
    UploadLocked,
    UploadRejected,
)
from tusd.hooks import HookResponse
from tusd.model import UploadId, UploadInfo

GO_CODES = """ERR_UNSUPPORTED_VERSION ERR_MAX_SIZE_EXCEEDED ERR_INVALID_CONTENT_TYPE ERR_INVALID_UPLOAD_LENGTH ERR_INVALID_OFFSET
ERR_UPLOAD_NOT_FOUND ERR_UPLOAD_LOCKED ERR_MISMATCHED_OFFSET ERR_UPLOAD_SIZE_EXCEEDED ERR_NOT_IMPLEMENTED ERR_UPLOAD_NOT_FINISHED
ERR_INVALID_CONCAT ERR_CONCATENATION_UNSUPPORTED ERR_MODIFY_FINAL ERR_AMBIGUOUS_UPLOAD_LENGTH ERR_INVALID_UPLOAD_LENGTH_DEFER
ERR_UPLOAD_REJECTED ERR_UPLOAD_TERMINATION_REJECTED ERR_UPLOAD_INTERRUPTED ERR_SERVER_SHUTDOWN
ERR_ORIGIN_NOT_ALLOWED ERR_UNEXPECTED_EOF ERR_READ_TIMEOUT ERR_INTERNAL_SERVER_ERROR ERR_INCOMPLETE_UPLOAD""".split()
"""Codes that clients of Go's tusd know. Left out: ERR_LOCK_TIMEOUT (here ERR_UPLOAD_LOCKED),
ERR_CONNECTION_RESET (nobody can read it), ERR_UPLOAD_STOPPED (no hook runs during an upload)."""


E = TypeVar("E", bound=Exception)


def children(kind: type[E]) -> list[type[E]]:
    return [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]


SECTIONS: list[type[TusError]] = children(TusError)
LEAVES: list[type[TusError]] = [kind for section in SECTIONS for kind in children(section)]


def tree() -> dict[str, set[str]]:
    """The docstring's tree: name -> the names below it."""
    found: dict[str, set[str]] = {}
    root = section = ""
    for line in str(errors.__doc__).splitlines():
        if match := re.match(r"    (\w+)  ", line):
            root = match[1]
            found[root] = set()
        elif match := re.match(r"    [|`]-- (\w+)  ", line):
            section = match[1]
            found[root].add(section)
            found[section] = set()
        elif match := re.match(r"    [| ]   [|`]-- (.+)", line):
            found[section] |= set(match[1].split())
    return found


def test_the_docstring_is_the_tree() -> None:
    kinds: list[type[Exception]] = [TusError, StartError, *SECTIONS, *children(StartError)]
    assert tree() == {kind.__name__: {child.__name__ for child in children(kind)} for kind in kinds}


def test_every_failure_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in LEAVES]
    assert len(codes) == len(set(codes))
    assert InternalError.code not in codes
    assert all(re.fullmatch(r"ERR_[A-Z_]+", code) for code in codes)


def test_codes_of_go_are_kept() -> None:
    assert set(GO_CODES) <= {InternalError.code, *(kind.code for kind in LEAVES)}


@pytest.mark.parametrize("kind", [InternalError, *LEAVES])
def test_every_failure_can_be_answered(kind: type[TusError]) -> None:
    assert 400 <= kind.status <= 599
    assert kind.message.isprintable()
    assert "|" not in kind.message  # it stands in a table of the documentation
    assert kind.__doc__


@pytest.mark.parametrize("kind", [InternalError, *LEAVES])
def test_what_is_temporary(kind: type[TusError]) -> None:
    assert kind.temporary is (issubclass(kind, TryLater) or kind is ReadTimeout)
    assert not kind.temporary or kind.status in (423, 429, 503)


@pytest.mark.parametrize("kind", [kind for kind in LEAVES if kind is not MethodNotAllowed])
def test_messages(kind: type[TusError]) -> None:
    assert str(kind()) == kind.message
    assert str(kind("another")) == "another"


def test_facts() -> None:
    info = UploadInfo(id=UploadId("a"), length=1)
    hook = HookResponse(status=422)
    blank, full = UploadLocked(), UploadRejected("no", info=info, retry_after=3, hook=hook)
    assert (blank.info, blank.retry_after, blank.hook) == (None, None, None)
    assert (full.info, full.retry_after, full.hook) == (info, 3, hook)
    assert MethodNotAllowed("GET, HEAD").allow == "GET, HEAD"
    quota = QuotaExceeded("no", short_by=5, info=info, retry_after=60)
    assert (str(quota), quota.short_by, quota.info, quota.retry_after) == ("no", 5, info, 60)
    assert (QuotaExceeded().short_by, QuotaExceeded().evict) == (0, None)


def test_what_happened_inside_is_not_told() -> None:
    assert str(InternalError()) == InternalError.message
    assert "log" in InternalError.message
    assert HookError.status == 500
    assert issubclass(InvalidRequest, RequestError)


@pytest.mark.parametrize(
    ("path", "text"),
    [("storage.directory", "config.yaml:7:3 storage.directory: not a path"), ("", "config.yaml:7:3 not a path")],
)
def test_config_error(path: str, text: str) -> None:
    error = ConfigError("config.yaml:7:3", path, "not a path")
    assert str(error) == text
    assert (error.where, error.path, error.what) == ("config.yaml:7:3", path, "not a path")
