"""A service runs while somebody needs it, and leaves nothing behind however its users end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.proc import need_proc
from tests.services.keeper import ROOT, CannotStart, answers, running

USER = """
import signal, sys, time
from pathlib import Path
from tests.services.keeper import running
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell in the background ignores
with running("sample", Path(sys.argv[1])) as server:
    print(server.endpoint, flush=True)
    time.sleep(60)
"""
WAIT = 20.0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "services"


@pytest.fixture
def user(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that uses the service, as another worker would; it has said its endpoint."""
    with subprocess.Popen([sys.executable, "-c", USER, str(directory)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def belonging(directory: Path) -> list[int]:
    """Processes that name the directory in their command lines, but for the test's own user."""
    need_proc()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if any(word.startswith(os.fsencode(directory)) for word in words) and USER.encode() not in words:
            found.append(int(path.parent.name))
    return found


def gone(directory: Path) -> None:
    """Wait until nothing of the service is left."""
    deadline = time.monotonic() + WAIT
    while belonging(directory) or (directory / "sample").exists():
        assert time.monotonic() < deadline, f"{belonging(directory)} and {list(directory.iterdir())} are left"
        time.sleep(0.02)


def test_all_who_need_it_share_one_until_the_last_has_left(directory: Path) -> None:
    with ExitStack() as second:
        with running("sample", directory) as server:
            assert answers(server.endpoint)
            assert second.enter_context(running("sample", directory)) == server
        assert answers(server.endpoint) and len(belonging(directory)) == 2
    assert not answers(server.endpoint)
    assert not (directory / "sample").exists()
    gone(directory)


def test_those_who_come_at_once_share_one_too(directory: Path) -> None:
    with ExitStack() as users, ThreadPoolExecutor(4) as threads:
        entered = threads.map(lambda _: users.enter_context(running("sample", directory)), range(4))
        assert len({server.access_key for server in entered}) == 1, "the keeper's process"
        assert len(belonging(directory)) == 2
    gone(directory)


def test_it_is_started_again_for_who_comes_later(directory: Path) -> None:
    for _ in range(3):
        with running("sample", directory) as server:
            assert answers(server.endpoint)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_users_that_are_killed_leave_nothing(directory: Path, user: subprocess.Popen[str], how: signal.Signals) -> None:
    endpoint = said(user)
    with running("sample", directory) as server:
        assert server.endpoint == endpoint
        user.send_signal(how)
        user.wait()
        time.sleep(0.1)
        assert answers(endpoint), "somebody else uses it"
    gone(directory)


def test_the_last_user_is_killed(directory: Path, user: subprocess.Popen[str]) -> None:
    assert answers(said(user))
    user.kill()
    gone(directory)


def test_the_keeper_is_killed(directory: Path) -> None:
    need_proc()
    with running("sample", directory) as server:
        keeper, service = sorted(belonging(directory))
        os.kill(keeper, signal.SIGKILL)
        deadline = time.monotonic() + WAIT
        while service in belonging(directory):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert not answers(server.endpoint)
    with running("sample", directory) as server:
        assert answers(server.endpoint)


def test_a_service_that_does_not_start_says_what_it_printed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUSD_TEST_SAMPLE_FAILS", "1")
    with pytest.raises(CannotStart, match=r"(?s)ended with 3: .*told to fail"), running("sample", directory):
        raise AssertionError("it runs")
    gone(directory)


def test_a_service_that_does_not_exist(directory: Path) -> None:
    with pytest.raises(CannotStart, match=r"No module named .tests\.services\.none"), running("none", directory):
        raise AssertionError("it runs")
