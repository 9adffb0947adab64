"""The manifest: what is written is read again, what is damaged is refused, and which parts of a dead holder count."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tusd.plugin import State, UploadId, UploadInfo
from tusd_plugin_s3.bucket import Part
from tusd_plugin_s3.manifest import Claim, Manifest, Tail, counted, from_json, with_counted

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, UTC)
FULL = Manifest(
    multipart="m",
    parts=(Part(1, 10, "a"), Part(2, 10, "b"), Part(4, 10, "c"), Part(5, 7, "d")),
    next=9,
    tail=Tail("u.37-01234567.part", 37, 3),
    claim=Claim(6, True),
    modified=NOW,
    uniform=10,
    litter=True,
)


def parts(*sizes: int, first: int = 1) -> tuple[Part, ...]:
    return tuple(Part(first + n, size, f"e{first + n}") for n, size in enumerate(sizes))


def written(manifest: Manifest) -> Any:
    return json.loads(json.dumps(manifest.to_json()))


class TestWriting:
    def test_what_is_written_is_read_again(self) -> None:
        for manifest in (Manifest(), FULL, Manifest(object=0), Manifest(object=5, modified=NOW, litter=True)):
            assert from_json(written(manifest)) == manifest

    def test_a_new_one_is_empty(self) -> None:
        assert Manifest().to_json() == {}

    def test_parts_are_written_in_runs(self) -> None:
        assert written(FULL)["parts"] == [[1, 10, ["a", "b"]], [4, 10, ["c"]], [5, 7, ["d"]]]

    @given(st.lists(st.tuples(st.integers(1, 3), st.integers(5, 7)), max_size=30))
    def test_any_parts(self, steps: list[tuple[int, int]]) -> None:
        number, found = 0, []
        for step, size in steps:
            number += step
            found.append(Part(number, size, f"e{number}"))
        manifest = Manifest(multipart="m" if found else None, parts=tuple(found), next=number + 1)
        assert from_json(written(manifest)) == manifest

    def test_ten_thousand_parts_take_less_than_half_a_megabyte(self) -> None:
        etags = tuple(Part(n, 50 << 20, f"{n:032x}") for n in range(1, 10_001))
        assert len(json.dumps(Manifest("m", etags).to_json(), separators=(",", ":"))) < 400_000

    @pytest.mark.parametrize(
        "damaged",
        [
            None,
            [],
            {"multipart": 1},
            {"parts": 5},
            {"parts": [[1, 2]], "multipart": "m"},
            {"parts": [[1, -1, ["a"]]], "multipart": "m"},
            {"parts": [[1, 5, ["a"]]]},
            {"parts": [[2, 5, ["a"]], [2, 6, ["b"]]], "multipart": "m"},
            {"parts": [[1, 5, ["a", "b"]], [2, 6, ["c"]]], "multipart": "m"},
            {"tail": {}},
            {"tail": {"key": "k", "begin": 5, "size": 1}},
            {"claim": {"start": 1}},
            {"claim": {"start": 1, "whole": False}},
            {"object": True},
            {"object": -1},
            {"modified": "yesterday"},
            {"modified": "2026-01-01T00:00:00"},
            {"next": "1"},
        ],
    )
    def test_what_is_damaged_is_refused(self, damaged: object) -> None:
        with pytest.raises(ValueError):
            from_json(damaged)


class TestOffset:
    def test_is_the_sum_of_the_parts_and_the_tail(self) -> None:
        assert (Manifest().offset, FULL.sent, FULL.offset) == (0, 37, 40)

    def test_is_the_object_once_that_is_there(self) -> None:
        finished = FULL.finished(40)
        assert (finished.offset, finished.multipart, finished.parts, finished.tail) == (40, None, (), None)
        assert finished.modified == NOW

    def test_all_bytes_without_an_object_are_not_shown_as_complete(self) -> None:
        info = UploadInfo(id=UploadId("u"), length=40)
        assert (FULL.shown(info).offset, FULL.shown(info).state) == (39, State.RECEIVING)
        assert (FULL.finished(40).shown(info).offset, FULL.finished(40).shown(info).state) == (40, State.COMPLETE)

    def test_an_explicit_state_does_not_depend_on_it(self) -> None:
        info = UploadInfo(id=UploadId("u"), length=40, explicit=True, state=State.FINISHING)
        assert (FULL.shown(info).offset, FULL.shown(info).state) == (40, State.FINISHING)

    def test_without_a_byte_an_upload_was_modified_when_it_was_created(self) -> None:
        info = UploadInfo(id=UploadId("u"), length=40, created=NOW)
        assert Manifest().shown(info).modified == NOW


class TestCounted:
    """A holder is gone, and some of its parts are there."""

    def run(self, listed: Iterable[Part], *, length: int | None = 100, **changes: Any) -> list[int]:
        base = Manifest("m", parts(10, 10), 8, Tail("t", 20, 3), Claim(3, False))
        return [part.number for part in counted(replace(base, **changes), listed, length, 5)]

    def test_those_without_a_gap(self) -> None:
        assert self.run(parts(10, 10, 10, first=3)) == [3, 4, 5]
        assert self.run([Part(3, 10, ""), Part(5, 10, "")]) == [3]
        assert self.run([Part(4, 10, ""), Part(5, 10, "")]) == []
        assert self.run(reversed(parts(10, 10, first=3))) == [3, 4]

    def test_none_outside_the_claim(self) -> None:
        assert self.run(parts(*[10] * 12)) == [3, 4, 5, 6, 7]

    def test_none_of_a_whole_body_or_without_a_claim(self) -> None:
        assert self.run(parts(10, 10, first=3), claim=Claim(3, True)) == []
        assert self.run(parts(10, 10, first=3), claim=None) == []

    def test_a_small_one_only_at_the_end(self) -> None:
        assert self.run(parts(10, 4, 10, first=3)) == [3]
        assert self.run(parts(10, 4, first=3), length=34) == [3, 4]
        assert self.run(parts(10, 4, first=3), length=None) == [3]

    def test_none_beyond_the_length(self) -> None:
        assert self.run(parts(10, 10, first=3), length=35) == [3]

    def test_equal_ones_where_they_must_be(self) -> None:
        assert self.run(parts(10, 11, first=3), uniform=10) == [3]
        assert self.run(parts(10, 8, first=3), uniform=10, length=38) == [3, 4]

    def test_the_first_holds_the_tail(self) -> None:
        base = Manifest("m", parts(10), 8, Tail("t", 10, 3), Claim(2, False))
        after = with_counted(base, parts(10, first=2), NOW)
        assert (after.offset, after.tail, after.modified) == (20, None, NOW)
        assert with_counted(base, (), NOW) is base
