"""The ledger: sums that hold whatever happens, over processes that hammer it, die and come back."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tusd.builtin.ledger import Ledger, is_busy


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "uploads.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with closing(Ledger(path)) as opened:
        yield opened


def rows(path: Path) -> dict[str, tuple[str, int]]:
    """What is written, as anybody else sees it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN")
        found = {one: (key, size) for one, key, size in db.execute("SELECT id, key, bytes FROM uploads")}
        sums = dict(db.execute("SELECT key, bytes FROM sums").fetchall())
    by_key: dict[str, int] = {}
    for key, size in found.values():
        by_key[key] = by_key.get(key, 0) + size
    assert {key: size for key, size in sums.items() if size} == {key: size for key, size in by_key.items() if size}
    return found


def test_what_fits_is_held_and_what_does_not_changes_nothing(ledger: Ledger, path: Path) -> None:
    assert ledger.hold("a", "", 60, 100) == 0
    assert ledger.hold("b", "", 41, 100) == 1
    assert rows(path) == {"a": ("", 60)}
    assert ledger.hold("b", "", 40, 100) == 0
    assert ledger.hold("a", "", 70, 100) == 10
    assert ledger.used() == 100
    assert ledger.hold("a", "", 0, 100) == 0
    assert rows(path) == {"b": ("", 40)}


def test_the_same_again_changes_nothing(ledger: Ledger, path: Path) -> None:
    for _ in range(3):
        assert ledger.hold("a", "", 60, 100) == 0
        assert ledger.hold("b", "", 0, 100) == 0
    assert rows(path) == {"a": ("", 60)}


def test_nobody_is_refused_what_they_hold_already(ledger: Ledger) -> None:
    ledger.hold("a", "", 60, 100)
    assert ledger.hold("a", "", 60, 10) == 0
    assert ledger.hold("a", "", 50, 10) == 0
    assert ledger.hold("a", "", 51, 10) == 41
    assert ledger.hold("a", "", 51, None) == 0


def test_each_key_has_a_limit_of_its_own(ledger: Ledger, path: Path) -> None:
    assert ledger.hold("a", "x", 100, 100) == 0
    assert ledger.hold("b", "y", 70, 70) == 0
    assert ledger.hold("c", "y", 1, 70) == 1
    assert ledger.used() == 170
    assert ledger.hold("a", "y", 1, 70) == 1, "it holds nothing under this key yet"
    ledger.hold("b", "y", 60, 70)
    assert ledger.hold("a", "y", 10, 70) == 0
    assert rows(path) == {"a": ("y", 10), "b": ("y", 60)}


def test_it_outlives_its_processes(path: Path) -> None:
    with closing(Ledger(path)) as first:
        first.hold("a", "", 60, 100)
    with closing(Ledger(path)) as second, closing(Ledger(path)) as third:
        assert second.hold("b", "", 50, 100) == 10
        assert third.hold("b", "", 40, 100) == 0
        assert second.hold("c", "", 1, 100) == 1


def test_ids_are_for_nobody_else(ledger: Ledger, path: Path) -> None:
    ledger.hold("a", "", 1, 100)
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in path.parent.iterdir()}
    assert set(modes.values()) == {"0o600"}, modes
    assert len(modes) == 5


def test_one_of_all_speaks_until_it_is_closed(path: Path) -> None:
    with closing(Ledger(path)) as second:
        with closing(Ledger(path)) as first:
            assert [first.speaks(), second.speaks(), first.speaks()] == [True, False, True]
        assert second.speaks()


# --- counting what is there


def count(ledger: Ledger, number: int, *found: tuple[str, int]) -> None:
    ledger.found(number, [(name, "", size) for name, size in found])
    ledger.end(number)
    after: str | None = ""
    while after is not None:
        after = ledger.forget(number, after, 2)


def test_a_count_puts_right_what_nobody_has_told_since(ledger: Ledger, path: Path) -> None:
    for name, size in [("same", 1), ("grown", 2), ("gone", 3), ("empty", 4)]:
        ledger.hold(name, "", size, None)
    count(ledger, ledger.begin(), ("same", 1), ("grown", 20), ("new", 5), ("empty", 0))
    assert rows(path) == {"same": ("", 1), "grown": ("", 20), "new": ("", 5)}


def test_what_is_told_during_a_count_is_newer(ledger: Ledger, path: Path) -> None:
    for name in ("stays", "goes", "grows"):
        ledger.hold(name, "", 10, None)
    number = ledger.begin()
    ledger.hold("created", "", 10, None)
    ledger.hold("goes", "", 0, None)
    ledger.hold("grows", "", 30, None)
    ledger.hold("brief", "", 10, None)
    ledger.hold("brief", "", 0, None)
    count(ledger, number, ("stays", 10), ("goes", 10), ("grows", 10), ("brief", 10))
    assert rows(path) == {"stays": ("", 10), "created": ("", 10), "grows": ("", 30)}
    assert ledger.used() == 50
    ledger.hold("stays", "", 0, None)
    assert set(rows(path)) == {"created", "grows"}, "nothing is kept of it once the count is over"


def test_a_count_that_was_never_ended_is_made_good_by_the_next(ledger: Ledger, path: Path) -> None:
    ledger.hold("goes", "", 10, None)
    lost = ledger.begin()
    ledger.found(lost, [("half", "", 5)])
    ledger.hold("goes", "", 0, None)
    count(ledger, ledger.begin(), ("whole", 7))
    assert rows(path) == {"whole": ("", 7)}


def test_two_counts_at_once_come_out_right(ledger: Ledger, path: Path) -> None:
    for name in ("goes", "goes later"):
        ledger.hold(name, "", 10, None)
    first = ledger.begin()
    ledger.found(first, [("goes", "", 10), ("stays", "", 5)])
    second = ledger.begin()
    ledger.hold("goes", "", 0, None)
    count(ledger, first, ("stays", 5), ("goes later", 10))
    ledger.hold("goes later", "", 0, None)
    count(ledger, second, ("stays", 5), ("goes", 10), ("goes later", 10))
    assert rows(path) == {"stays": ("", 5)}


NAMES = st.sampled_from("abc")
SIZES = st.integers(0, 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.tuples(NAMES, SIZES), st.none()), max_size=12), st.integers(0, 12))
def test_whatever_happens_between_its_pages_the_count_is_right(
    tmp_path_factory: pytest.TempPathFactory, steps: Sequence[tuple[str, int] | None], begins: int
) -> None:
    """A store and a ledger change together; None: the count sees one more upload of the store, in the order of their names."""
    path = tmp_path_factory.mktemp("ledger") / "x"
    store: dict[str, int] = {"a": 1, "b": 2}
    with closing(Ledger(path)) as ledger:
        ledger.hold("stale", "", 9, None)
        listing: list[str] = []
        number = 0
        for at, step in enumerate([*steps, None, None, None]):
            if at == min(begins, len(steps)):
                number = ledger.begin()
                listing = list("abc")
            if step is not None:
                name, size = step
                store[name] = size
                ledger.hold(name, "", size, None)
            elif listing:
                name = listing.pop(0)
                if name in store:
                    ledger.found(number, [(name, "", store[name])])
        for name in listing:
            ledger.found(number, [(name, "", store.get(name, 0))])
        count(ledger, number)
        assert rows(path) == {name: ("", size) for name, size in store.items() if size}


# --- processes

HAMMER = """
import os, random, sys, time
from pathlib import Path
from tusd.builtin.ledger import Ledger, is_busy
import sqlite3

path, seed, seconds, limit = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
dice, ledger, mine, done, refused = random.Random(seed), Ledger(path), {}, 0, 0
end = time.monotonic() + seconds
while time.monotonic() < end:
    name = f"{seed}-{dice.randrange(20)}"
    size = dice.choice([0, 1, 5, 50])
    try:
        missing = ledger.hold(name, "", size, limit)
    except sqlite3.OperationalError as error:
        assert is_busy(error), error
        continue
    done += 1
    refused += missing > 0
    if not missing:
        mine[name] = size
print(done, refused, sum(mine.values()))
"""


def hammer(path: Path, number: int, seconds: float, limit: int) -> list[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HAMMER, str(path)]
    return [
        subprocess.Popen([*command, str(seed), str(seconds), str(limit)], stdout=subprocess.PIPE, text=True)
        for seed in range(number)
    ]


def test_many_processes_at_once_never_have_more_than_the_limit(path: Path) -> None:
    limit = 300
    processes = hammer(path, 6, 1.0, limit)
    most = 0
    with closing(Ledger(path)) as ledger:
        while any(process.poll() is None for process in processes):
            used = ledger.used()
            assert 0 <= used <= limit
            most = max(most, used)
            time.sleep(0.002)
        told = [[int(word) for word in process.communicate()[0].split()] for process in processes]
        assert [process.returncode for process in processes] == [0] * 6
        assert sum(held for _, _, held in told) == ledger.used()
    assert most > limit * 0.9, "it was never nearly full"
    assert all(done > 20 and refused for done, refused, _ in told), told
    assert sum(size for _, size in rows(path).values()) <= limit


def test_killed_processes_leave_nothing_half_done_and_nobody_waiting(path: Path) -> None:
    limit = 300
    Ledger(path).close()
    processes = hammer(path, 3, 60, limit)
    try:
        while len(rows(path)) < 10:
            time.sleep(0.01)
        for process in processes:
            time.sleep(0.1)
            process.kill()
            process.wait()
            assert 0 < sum(size for _, size in rows(path).values()) <= limit
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    with closing(Ledger(path)) as ledger:
        assert sum(size for _, size in rows(path).values()) == ledger.used() > 0
        began = time.monotonic()
        ledger.hold("after", "", 0, limit)
        assert time.monotonic() - began < 0.5


def test_one_that_comes_while_another_writes_is_told_so_at_once(ledger: Ledger, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(sqlite3.OperationalError) as caught:
            ledger.hold("a", "", 1, 100)
        assert time.monotonic() - began < 0.5
        assert is_busy(caught.value)
        other.execute("ROLLBACK")
    assert ledger.hold("a", "", 1, 100) == 0


# --- damage


@pytest.mark.parametrize("damage", [b"not a database at all, but long enough to look like one" * 100, b"", None])
def test_a_damaged_file_is_made_anew(path: Path, damage: bytes | None) -> None:
    with closing(Ledger(path)) as first:
        for number in range(300):
            first.hold(f"{number:032}", "", 60, None)
    if damage is None:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    else:
        path.write_bytes(damage)
    with closing(Ledger(path)) as second:
        assert second.used() == 0
        assert second.hold("b", "", 100, 100) == 0
    with closing(Ledger(path)) as third:
        assert third.used() == 100


def test_a_damaged_file_is_made_anew_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By workers that start together."""
    remove = os.remove

    def slowly(file: str) -> None:
        time.sleep(0.05)
        remove(file)

    monkeypatch.setattr("tusd.builtin.ledger.os.remove", slowly)
    path.parent.mkdir()
    path.write_bytes(b"damaged" * 1000)
    opened: list[Ledger] = []
    threads = [threading.Thread(target=lambda: opened.append(Ledger(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
        time.sleep(0.03)
    for thread in threads:
        thread.join()
    for number, ledger in enumerate(opened):
        assert ledger.hold(str(number), "", 10, 80) == 0
    assert opened[0].hold("more", "", 1, 80) == 1
    for ledger in opened:
        ledger.close()


def test_sums_that_a_power_cut_has_left_wrong_are_put_right(path: Path) -> None:
    with closing(Ledger(path)) as first:
        first.hold("a", "", 60, None)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE sums SET bytes = 7")
    with closing(Ledger(path)) as second:
        assert second.used() == 60


def test_a_file_that_cannot_be_used_is_an_error_that_names_it(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(OSError, match=str(path)):
        Ledger(path)
