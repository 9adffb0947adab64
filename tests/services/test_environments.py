"""A server that is not installed skips its tests, or fails them where all must run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.needs import need, need_environment
from tests.services import swift
from tests.services.keeper import CannotStart, Children


@pytest.mark.parametrize(
    ("everything", "outcome"), [("0", pytest.skip.Exception), ("1", pytest.fail.Exception)], ids=["skips", "fails"]
)
def test_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, everything: str, outcome: type[BaseException]) -> None:
    monkeypatch.setenv("TUSD_TEST_REQUIRE_ALL", everything)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    environment = tmp_path / "services" / "localstack"
    environment.mkdir(parents=True)  # begun, but not made to its end
    with pytest.raises(outcome, match="needs the Python environment of localstack: make test"):
        need_environment("localstack")
    (environment / "installed").touch()
    need_environment("localstack")
    with pytest.raises(outcome, match="needs no-such-command: get it"):
        need("no-such-command", how="get it")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, which has no user attributes")
def test_swift_says_where_it_cannot_keep_files(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="/proc is where files cannot have user attributes: name another place by --basetemp"):
        swift.start(Path("/proc"), Children(tmp_path / "log"))
