"""The table that limiters of several processes count in."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tusd.builtin import shared_table
from tusd.builtin.shared_table import HOST, SharedTable

Open = Callable[[], SharedTable]
ROWS, WIDTH = 16, 8


def first(rows: range) -> int:
    return rows[0]


def nothing(rows: range) -> None:
    return None


@pytest.fixture
def table(tmp_path: Path) -> Iterator[SharedTable]:
    with closing(SharedTable(tmp_path, rows=ROWS, width=WIDTH)) as opened:
        yield opened


@pytest.fixture
def other(table: SharedTable, tmp_path: Path) -> Iterator[SharedTable]:
    """The same table, opened as another process would."""
    with closing(SharedTable(tmp_path, rows=ROWS, width=WIDTH)) as opened:
        yield opened


def put(table: SharedTable, row: int, text: bytes) -> None:
    table.values[row * WIDTH : row * WIDTH + len(text)] = text


def at(table: SharedTable, row: int) -> bytes:
    return bytes(table.values[row * WIDTH : (row + 1) * WIDTH])


def test_all_see_the_same_rows(table: SharedTable, other: SharedTable) -> None:
    with table:
        row = table.find_or_take(table.key("a"), first)
        assert row is not None
        put(table, row, b"figures!")
        put(table, HOST, b"of all")
    with other:
        assert other.key("a") == table.key("a")
        assert other.find(other.key("a")) == row
        assert at(other, row) == b"figures!"
        assert at(other, HOST) == b"of all\0\0"
        assert other.find(other.key("b")) is None


def test_a_key_may_have_one_of_eight_rows(table: SharedTable) -> None:
    offered = set[range]()

    def note(rows: range) -> None:
        offered.add(rows)

    for number in range(200):
        assert table.find_or_take(table.key(str(number)), note) is None
    assert sorted((rows.start, rows.stop) for rows in offered) == [(1, 9), (9, 17)], "all rows but that of the host"


def test_a_row_that_goes_to_another_key_is_empty(table: SharedTable) -> None:
    names = iter(str(number) for number in range(100))
    row = table.find_or_take(table.key(next(names)), first)
    assert row is not None
    put(table, row, b"figures!")
    while table.find_or_take(table.key(name := next(names)), first) != row:
        pass
    assert at(table, row) == bytes(WIDTH)
    assert table.find(table.key(name)) == row
    assert table.find(table.key("0")) is None


def test_the_last_rows_can_be_written(table: SharedTable) -> None:
    put(table, ROWS, b"figures!")
    with pytest.raises(ValueError):
        put(table, ROWS + 1, b"figures!")


def test_keys_are_hashed_in_another_way_in_each_table(tmp_path: Path) -> None:
    with (
        closing(SharedTable(tmp_path / "a", rows=ROWS, width=WIDTH)) as a,
        closing(SharedTable(tmp_path / "b", rows=ROWS, width=WIDTH)) as b,
    ):
        assert a.key("x") != b.key("x")
        assert a.key("\udcff") != a.key("\udcfe"), "any text is a name"
        assert b"192.0.2.1" not in (tmp_path / "a" / f"{ROWS}x{WIDTH}.table").read_bytes()


def test_everybody_has_a_seat(table: SharedTable, other: SharedTable, tmp_path: Path) -> None:
    assert (table.seat, other.seat) == (0, 1)
    assert table.seats == other.seats == 2
    with table:
        assert table.vacant() == []
    other.close()
    with table:
        assert table.vacant() == [1]
    with closing(SharedTable(tmp_path, rows=ROWS, width=WIDTH)) as third:
        assert third.seat == 1, "the vacant one"


def test_seats_above_a_vacant_one_still_count(table: SharedTable, other: SharedTable, tmp_path: Path) -> None:
    table.close()
    with closing(SharedTable(tmp_path, rows=ROWS, width=WIDTH)) as third:
        assert (third.seat, third.seats, other.seats) == (0, 2, 2)


def test_too_many_processes(table: SharedTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_table, "SEATS", 1)
    with pytest.raises(OSError, match="run fewer workers"):
        SharedTable(tmp_path, rows=ROWS, width=WIDTH)


SIT = """
import sys
from pathlib import Path
from tusd.builtin.shared_table import SharedTable
table = SharedTable(Path(sys.argv[1]), rows=16, width=8)
with table:
    table.values[0:4] = b"here"
    print(table.seat, flush=True)
    if sys.argv[2] == "locked":
        sys.stdin.read()
sys.stdin.read()
"""


@pytest.mark.parametrize("moment", ["locked", "free"])
def test_a_killed_process_leaves_its_seat_and_the_lock(table: SharedTable, tmp_path: Path, moment: str) -> None:
    command = [sys.executable, "-c", SIT, str(tmp_path), moment]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        if moment == "free":
            with table:
                assert table.vacant() == []
        process.send_signal(signal.SIGKILL)
        process.wait()
    with table:
        assert table.vacant() == [1]
        assert at(table, HOST).startswith(b"here"), "others sit here still"


def test_who_is_alone_begins_anew(tmp_path: Path) -> None:
    """A file of an earlier run, or of the time before a reboot."""
    with closing(SharedTable(tmp_path, rows=ROWS, width=WIDTH)) as early:
        put(early, HOST, b"figures!")
        with early:
            early.find_or_take(early.key("a"), first)
    with closing(SharedTable(tmp_path, rows=ROWS, width=WIDTH)) as late:
        assert bytes(late.values) == bytes(len(late.values))
        assert late.key("a") != early.key("a")
        assert late.seat == 0


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\xff" * 100_000])
def test_a_damaged_file_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / f"{ROWS}x{WIDTH}.table").write_bytes(content)
    with closing(SharedTable(tmp_path, rows=ROWS, width=WIDTH)) as table:
        assert bytes(table.values) == bytes(WIDTH * (ROWS + 1))


def test_a_full_disk_is_said_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not noticed later, by a signal that kills the process."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    files = len(os.listdir("/dev/fd"))
    with pytest.raises(OSError, match="No space"):
        SharedTable(tmp_path, rows=ROWS, width=WIDTH)
    assert len(os.listdir("/dev/fd")) == files


def test_without_flock_it_says_so() -> None:
    code = "import sys; sys.modules['fcntl'] = None; from tusd.server.cli import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", code, "check", "-c", "/dev/stdin"],
        input="storage: {use: memory}\nlocking: {use: memory}\nlimiting: [{use: rate}]",
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert re.search(r"limiting\[0\]\.use: .*need a Unix system .*leave this limiter out", run.stderr)
