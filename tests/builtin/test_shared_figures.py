"""Figures that several processes keep in one folder."""

from __future__ import annotations

import logging
import math
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import pytest

from tusd.builtin import shared_figures
from tusd.builtin.shared_figures import LABEL_SETS, SIZE, SharedFigures
from tusd.plugin import Metric
from tusd.testing.faults import failing_call

LOGGER = logging.getLogger("test")
COUNTER = Metric("c", "counter", "A counter", ("label",))
GAUGE = Metric("g", "gauge", "A gauge")
HISTOGRAM = Metric("h", "histogram", "A histogram", (), (1.0, 2.0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "figures"


@contextmanager
def opened(folder: Path) -> Iterator[SharedFigures]:
    figures = SharedFigures(folder, LOGGER)
    try:
        yield figures
    finally:
        figures.close()


def no_cpu(pid: int) -> float:
    return 0.0


def totals(figures: SharedFigures) -> dict[str, list[float]]:
    """Name, and labels if there are any -> cells."""
    return {" ".join([one.name, *one.values]): cells for one, cells in figures.collect(no_cpu).sums.items()}


def fill(figures: SharedFigures, amount: int) -> None:
    figures.add(COUNTER, amount, ("a",))
    figures.set(GAUGE, amount)
    figures.observe(HISTOGRAM, amount)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".figures")]


def test_everybody_sees_the_sum(folder: Path) -> None:
    with opened(folder) as one, opened(folder) as two, opened(folder) as three:
        for figures, amount in ((one, 1), (two, 2), (three, 3)):
            fill(figures, amount)
        two.add(COUNTER, 1, ("b",))
        for figures in (one, two, three):
            assert totals(figures) == {"c a": [6], "c b": [1], "g": [6], "h": [1, 1, 1, 6]}


def test_what_has_ended_is_counted_on_but_for_its_gauges(folder: Path) -> None:
    with opened(folder) as one:
        fill(one, 1)
        for amount in (2, 3):
            with opened(folder) as other:
                fill(other, amount)
                assert totals(one)["g"] == [1 + amount]
        for _ in range(3):
            assert totals(one) == {"c a": [6], "g": [1], "h": [1, 1, 1, 6]}
        assert names(folder) == [one.name]


def test_the_first_of_all_begins_at_0(folder: Path) -> None:
    for _ in range(2):
        with opened(folder) as one, opened(folder) as other:
            assert totals(one) == {}
            fill(other, 1)
            other.close()
            assert totals(one)["c a"] == [1]
            fill(one, 1)


ELSEWHERE = """
import logging, sys
from pathlib import Path
from tusd.builtin.shared_figures import SharedFigures
from tusd.plugin import Metric
COUNTER = Metric("c", "counter", "A counter", ("label",))
"""


def elsewhere(folder: Path, code: str) -> subprocess.Popen[str]:
    """Another process."""
    command = [sys.executable, "-c", ELSEWHERE + code, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> str:
    """Kill it; what else it has said."""
    process.kill()
    assert process.stdin is not None and process.stdout is not None
    with process.stdin, process.stdout:
        rest = process.stdout.read()  # not communicate(), which passes by what readline() has read ahead
    process.wait()
    return rest


def test_a_killed_process_has_lost_nothing(folder: Path) -> None:
    code = """
figures = SharedFigures(Path(sys.argv[1]), logging.getLogger())
for _ in range(12345):
    figures.add(COUNTER, 1, ("a",))
figures.set(Metric("g", "gauge", ""), 5)
print("done", flush=True)
sys.stdin.read()
"""
    with opened(folder) as one:
        fill(one, 1)
        process = elsewhere(folder, code)
        try:
            assert read_line(process) == "done"
            assert totals(one)["c a"] == [12346]
            assert totals(one)["g"] == [6]
        finally:
            end(process)
        assert totals(one)["c a"] == [12346]
        assert totals(one)["g"] == [1]


def test_processes_that_come_count_look_and_are_killed(folder: Path) -> None:
    """Many lives, some cut short while they fold what others have left: all that was counted is there, once."""
    code = """
while True:
    figures = SharedFigures(Path(sys.argv[1]), logging.getLogger())
    figures.add(COUNTER, 1, ("a",))
    print("added", flush=True)
    figures.close()
"""
    rolls = random.Random(1)
    with opened(folder) as one:
        said = kills = 0
        for _ in range(3):
            processes = [elsewhere(folder, code) for _ in range(2)]
            try:
                for process in processes:
                    said += sum(read_line(process) == "added" for _ in range(rolls.randint(5, 40)))
            finally:
                said += sum(end(process).count("added") for process in processes)
                kills += len(processes)
        assert said >= 5 * kills
        (total,) = totals(one)["c a"]
        assert said <= total <= said + kills  # whoever is killed may have added without saying so
        assert totals(one)["c a"] == [total]


FOLDING: list[tuple[object, str]] = [(os, name) for name in ("open", "listdir", "pread", "replace", "unlink", "pwrite")]


def test_folding_that_is_broken_off_anywhere_is_done_once(folder: Path) -> None:
    """The steps on disk after a failure are those after a crash."""
    for nth in count(1):
        with ExitStack() as stack:
            one = stack.enter_context(opened(folder))
            for amount in (1, 2, 4):
                with opened(folder) as other:
                    fill(other, amount)
            failed = False
            with failing_call(nth, FOLDING, lambda: OSError("broken off")):
                try:
                    totals(one)
                except OSError:
                    failed = True
            with opened(folder) as other:
                fill(other, 8)
                found = totals(other)
            assert found["c a"] == [15], nth
            assert found["h"] == [1, 1, 2, 15], nth
            assert totals(one)["c a"] == [15], nth
            if not failed and nth > 20:
                return
        shutil.rmtree(folder)


@pytest.fixture
def good(tmp_path: Path) -> bytes:
    """What stands in a file."""
    with opened(tmp_path / "other") as figures:
        fill(figures, 5)
        return (tmp_path / "other" / figures.name).read_bytes()


def test_garbage_is_left_out(folder: Path, good: bytes) -> None:
    rolls = random.Random(2)
    garbage = [b"", b"figures1", rolls.randbytes(100), rolls.randbytes(SIZE), good[:100], good[:-1], b"\xff" * SIZE, bytes(SIZE)]
    garbage.append(good.replace(struct.pack("=d", 5), struct.pack("=d", math.nan)))
    for _ in range(100):
        changed = bytearray(good)
        for _ in range(rolls.randint(1, 4)):
            changed[rolls.randrange(500)] = rolls.randrange(256)
        garbage.append(bytes(changed))
    with opened(folder) as one:
        fill(one, 1)
        (folder / "a folder.figures").mkdir()
        os.mkfifo(folder / "a pipe.figures")
        (folder / "nowhere.figures").symlink_to("nowhere")
        (folder / "other file").write_bytes(b"x")
        for number, content in enumerate(garbage):
            (folder / f"{number}.figures").write_bytes(content)
            figures = one.collect(no_cpu)
            assert figures.pids[0] == os.getpid()
            assert not (folder / f"{number}.figures").exists()
        assert totals(one)["g"] == [1]
        assert 1 <= totals(one)["c a"][0] < math.inf


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"names": [], "cpu": 0, "sums": 5}',
        '{"names": [], "cpu": "x", "sums": []}',
        '{"names": [], "cpu": 0, "sums": [[["c", "counter", "", [], [], []], []]]}',
        "\0" * 100,
    ],
)
def test_sums_that_cannot_be_read_begin_anew(folder: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    with opened(folder) as one:
        fill(one, 1)
        (folder / "ended.json").write_text(text)
        assert totals(one)["c a"] == [1]
        assert "the figures of processes that have ended are lost" in caplog.text
        with opened(folder) as other:
            fill(other, 2)
        assert totals(one)["c a"] == [3]


def test_another_declaration_of_a_name_counts_apart(folder: Path) -> None:
    """After an upgrade a histogram may have other buckets: that of whoever is asked is shown, and nothing is added up that does not fit."""
    new = Metric("h", "histogram", "A histogram", (), (1.0, 2.0, 4.0))
    with opened(folder) as one, opened(folder) as two:
        one.observe(HISTOGRAM, 3)
        two.observe(new, 3)
        assert totals(one)["h"] == [0, 0, 1, 3]
        assert totals(two)["h"] == [0, 0, 1, 0, 3]
        one.close()
        assert totals(two)["h"] == [0, 0, 1, 0, 3]
        with opened(folder) as three:
            three.observe(HISTOGRAM, 3)
            assert totals(three)["h"] == [0, 0, 2, 6]


def test_labels_without_end(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(folder) as one:
        for number in range(LABEL_SETS + 10):
            one.add(COUNTER, 1, (str(number),))
        assert len(totals(one)) == LABEL_SETS
        assert caplog.messages == [f"the metric c has more than {LABEL_SETS} sets of labels; such figures are left out"]
        one.add(COUNTER, 1, ("0",))
        assert totals(one)["c 0"] == [2]


def test_figures_that_come_late_say_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(folder) as one:
        fill(one, 1)
    fill(one, 1)
    one.add(COUNTER, 1, ("b",))
    assert caplog.messages == []


def test_sums_beyond_all_numbers_spoil_no_others(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(folder) as one:
        for _ in range(2):
            one.observe(HISTOGRAM, 1.5e308)
        one.add(GAUGE)
        assert totals(one) == {"g": [1]}


def test_a_full_file(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(folder) as one, opened(folder) as other:
        one.add(GAUGE)
        for number in range(20):
            for labels in range(LABEL_SETS):
                one.add(Metric(f"m{number}", "counter", "x" * 500, ("label",)), 1, (str(labels),))
        assert "finds no room any more" in caplog.messages[0]
        assert len(caplog.messages) < 21
        one.add(GAUGE)
        assert totals(other)["g"] == [2]
        assert totals(other)["m0 0"] == [1]


def test_sums_of_the_ended_do_not_grow_without_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_figures, "_ENDED_SETS", 10)
    with opened(folder) as one:
        for number in range(5):
            with opened(folder) as other:
                for label in range(4):
                    other.add(COUNTER, 1, (f"{number} {label}",))
        assert len(totals(one)) == 10


def test_cpu_is_that_of_the_living_and_the_ended(folder: Path) -> None:
    """Processes with the same id are one: a reload opens a second set of figures in it."""
    seconds = {os.getpid(): 3.0}

    def cpu(figures: SharedFigures) -> float:
        return figures.collect(lambda pid: seconds.get(pid, 0.0)).cpu

    code = 'SharedFigures(Path(sys.argv[1]), logging.getLogger()).declare(Metric("x", "counter", "")); print(1, flush=True); sys.stdin.read()'
    with opened(folder) as one:
        with opened(folder):
            assert cpu(one) == 3
        assert cpu(one) == 3
        process = elsewhere(folder, "figures = " + code.replace(".declare", "; figures.declare"))
        try:
            assert read_line(process) == "1"
            seconds[process.pid] = 4.0
            assert cpu(one) == 7
        finally:
            end(process)
        del seconds[process.pid]
        assert cpu(one) == 7
        seconds[os.getpid()] = 3.5
        assert cpu(one) == 7.5
        seconds.clear()  # the system does not tell: what was known last
        assert cpu(one) == 7.5


def test_a_lock_that_is_not_let_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_figures, "_PATIENCE", 0.05)
    with opened(folder) as one:
        with one._folder.locked(), pytest.raises(OSError, match="does not let go"):
            totals(one)
        assert totals(one) == {}


def test_a_folder_that_is_gone(folder: Path) -> None:
    with opened(folder) as one:
        shutil.rmtree(folder)
        one.add(GAUGE)
        with pytest.raises(FileNotFoundError):
            totals(one)


@pytest.mark.parametrize("call", ["mkdir", "open", "listdir"])
def test_a_folder_that_cannot_be_used(folder: Path, call: str) -> None:
    with failing_call(1, [(os, call)], lambda: PermissionError("no")), pytest.raises(PermissionError):
        SharedFigures(folder, LOGGER)


def test_a_disk_without_room_leaves_no_file(folder: Path) -> None:
    """Not even one that would be taken for a process's."""
    code = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    SharedFigures(Path(sys.argv[1]), logging.getLogger())
except OSError as error:
    print(error, flush=True)
"""
    process = elsewhere(folder, code)
    assert "File too large" in process.communicate(timeout=30)[0]
    assert names(folder) == []


def test_without_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where a server has one process."""
    monkeypatch.setattr(shared_figures, "fcntl", None)
    with opened(folder) as one:
        fill(one, 1)
        assert totals(one) == {"c a": [1], "g": [1], "h": [1, 0, 0, 1]}
        assert one.collect(no_cpu).pids == (os.getpid(),)
    assert not folder.exists()
