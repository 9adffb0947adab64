"""Sizes of parts: the numbers last, the memory holds them, and no part is too small or too large."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tusd import plugin
from tusd_plugin_s3.options import Options
from tusd_plugin_s3.profiles import GIB, MIB, PROFILES, TIB, Profile
from tusd_plugin_s3.sizes import Sizes, sizes

AWS = Sizes(5 * MIB, 50 * MIB, 5 * GIB, 10_000, 5 * TIB, 256 * MIB)
ROOMY = Sizes(5 * MIB, 50 * MIB, 5 * GIB, 10_000, 5 * TIB, 5 * GIB)
"""With `spill`."""


def cut_all(rules: Sizes, length: int, *, known: bool = True, floors: bool = False) -> list[int]:
    """The sizes of all parts of a body of this length; the smallest possible ones (memory is short) with `floors`."""
    begin = 0
    found: list[int] = []
    while begin < length:
        floor, target, _ = rules.cut(begin, length if known else None, len(found) + 1)
        found.append(min(floor if floors else target, length - begin))
        begin += found[-1]
    return found


def test_usual_parts_have_the_preferred_size() -> None:
    assert AWS.cut(0, GIB, 1) == (5 * MIB, 50 * MIB, 5 * MIB)
    assert AWS.cut(0, None, 1) == (5 * MIB, 50 * MIB, 5 * MIB)


@pytest.mark.parametrize("length", [1, 5 * MIB, GIB, 500 * GIB, TIB, 5 * TIB])
@pytest.mark.parametrize("floors", [False, True])
def test_a_known_length_fits_the_numbers(length: int, floors: bool) -> None:
    found = cut_all(ROOMY, length, floors=floors)
    assert len(found) <= 10_000
    assert all(5 * MIB <= size <= 5 * GIB for size in found[:-1])


def test_the_largest_upload_of_unknown_length_fits_the_numbers() -> None:
    found = cut_all(ROOMY, 5 * TIB, known=False)
    assert len(found) <= 10_000 and max(found) <= 5 * GIB


def test_memory_bounds_parts_of_unknown_length() -> None:
    assert AWS.cut(0, None, 10_000).target == 256 * MIB


def test_parts_grow_after_numbers_were_lost() -> None:
    length = 400 * GIB
    before, after = AWS.cut(0, length, 1), AWS.cut(0, length, 5001)
    assert before.floor < after.floor == -(-length // 5000)


def test_the_last_number_takes_all_that_is_left() -> None:
    assert AWS.cut(GIB, GIB + 100 * MIB, 10_000) == (100 * MIB, 100 * MIB, 100 * MIB)


def test_no_memory_is_kept_for_bytes_that_cannot_come() -> None:
    assert AWS.cut(0, 1000, 1)[:2] == AWS.cut(GIB, GIB + 1000, 7)[:2] == (1001, 1001)


def test_short_parts_only_while_the_numbers_last() -> None:
    assert AWS.cut(0, 400 * GIB, 1).short == 5 * MIB
    assert AWS.cut(0, 400 * GIB, 9000).short == AWS.cut(0, 400 * GIB, 9000).floor > 400 * MIB
    assert AWS.cut(0, None, 5000).short == 5 * MIB
    assert 5 * MIB < AWS.cut(0, None, 7500).short < AWS.cut(0, None, 10_000).short == 50 * MIB


@given(st.integers(1, 5 * TIB), st.lists(st.integers(1, 3 * GIB), min_size=1, max_size=60))
def test_requests_that_end_anywhere_leave_numbers_for_the_rest(length: int, requests: list[int]) -> None:
    begin, number, tail = 0, 1, 0
    for size in requests:
        body, tail = tail + size, 0
        while body and begin < length:
            floor, target, short = ROOMY.cut(begin, length, number)
            assert min(5 * MIB, length - begin + 1) <= floor <= target
            piece = min(body, target, length - begin)
            if piece < short and begin + piece < length:
                tail = body
                break
            begin, body, number = begin + piece, body - piece, number + 1
    left, numbers = length - begin, 10_000 - number + 1
    assert -(-left // numbers) <= max(50 * MIB, -(-length // 10_000)), (
        "the parts that are left need not be larger than the others"
    )


def test_equal_parts_have_one_size_that_leaves_numbers_over() -> None:
    equal = sizes(options(profile="r2", endpoint="https://r2"), PROFILES["r2"], plugin.Memory(256 * MIB))
    assert equal.uniform(GIB) == equal.uniform(None) == 50 * MIB
    large = equal.uniform(TIB)
    assert large is not None and large * 9_001 > TIB and equal.cut(0, TIB, 1, large) == (large, large, large)
    assert AWS.uniform(GIB) is None


def test_a_crash_costs_a_hundredth_of_the_numbers() -> None:
    assert AWS.claimed == 100
    assert sizes(options(), PROFILES["scaleway"], plugin.Memory(256 * MIB)).claimed == 10
    assert Sizes(5, 10, 100, 7, 1000, 100).claimed == 1


def test_what_cannot_be_stored_is_known_beforehand() -> None:
    assert AWS.check(None) is None
    assert AWS.check(TIB) is None
    assert ROOMY.check(5 * TIB) is None
    assert "5497558138880 bytes at most" in (ROOMY.check(5 * TIB + 1) or "")
    assert "set a larger storage.buffer, or storage.spill" in (AWS.check(3 * TIB) or "")
    assert "the server takes 10 at most" in (Sizes(5, 10, 10, 5, 1000, 1000).check(51) or "")


def options(**more: object) -> Options:
    return Options.model_validate({"bucket": "bucket", "endpoint": "http://x", **more})


def test_sizes_follow_from_the_options() -> None:
    found = sizes(options(), Profile(), plugin.Memory(256 * MIB))
    assert found == AWS
    assert sizes(options(spill="/tmp"), Profile(), plugin.Memory(1)).held == 5 * GIB
