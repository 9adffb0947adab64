"""LockingSuite passes a right locker, and fails each wrong one by the test that is about its fault.

The lockers are an installed distribution as far as Python can tell, so the suites run in a pytest of their own.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.testing.inner_pytest import outcomes_of

RACK = Path(__file__).parent / "rack"

FAULTS = {
    "LetsAllIn": ["test_one_holder_at_a_time", "test_any_name_will_do", "test_everybody_gets_a_turn"],
    "MixesNamesUp": ["test_any_name_will_do"],
    "IgnoresCase": ["test_any_name_will_do"],
    "TellsNobody": ["test_on_the_holders_own_loop", "test_by_those_who_waited_before", "test_again_by_those_who_come_later"],
    "ForgetsThoseWhoWaitAlready": ["test_by_those_who_waited_before"],
    "TellsFromAnotherThread": ["test_on_the_holders_own_loop"],
    "LeavesCancelledWaitersInTheQueue": ["test_while_waiting", "test_all_waiters_at_once"],
    "KeepsTheLockOnErrors": ["test_an_exception_inside_lets_go", "test_while_waiting", "test_when_the_lock_is_let_go"],
    "IsSlow": ["test_hand_over_is_quick"],
    "CallsEveryLeaseGood": ["test_it_is_lost_when_the_lock_is_let_go"],
    "RepeatsTokens": ["test_tokens_grow"],
    "OpensFilesForEver": ["test_many_names_leave_nothing"],
    "ClaimsAScopeThatItHasNot": ["test_one_holder_at_a_time", "test_any_name_will_do", "test_a_killed_holder_frees_the_lock"],
    "StaysLockedAfterAKill": ["test_a_killed_holder_frees_the_lock"],
}
"""Locker -> tests that must fail on it."""

PAIRS = [(locker, test) for locker, tests in FAULTS.items() for test in tests]


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[str, str], str]:
    """(locker, test) -> what went wrong; nothing for those that passed."""
    return outcomes_of(RACK, " or ".join(["TestRack", *(f"({locker} and {test})" for locker, test in PAIRS)]))


def test_a_right_locker_passes(outcomes: dict[tuple[str, str], str]) -> None:
    wrong = {test: text for (locker, test), text in outcomes.items() if locker == "Rack" and text}
    assert not wrong, "\n".join(wrong.values())
    assert sum(locker == "Rack" for locker, _ in outcomes) > 20


@pytest.mark.parametrize(("locker", "test"), PAIRS)
def test_a_wrong_locker_fails(locker: str, test: str, outcomes: dict[tuple[str, str], str]) -> None:
    assert outcomes[locker, test].startswith("failure:"), f"{locker} passes {test}"
    assert "AssertionError" in outcomes[locker, test] or "TimeoutError" in outcomes[locker, test], outcomes[locker, test]
