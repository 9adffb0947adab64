"""LimitingSuite passes right limiters, and fails each wrong one by the test that is about its fault.

The limiters are an installed distribution as far as Python can tell, so the suites run in a pytest of their own.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.testing.inner_pytest import outcomes_of

RIGHT = ["Open", "CountsRight", "CountsTimeRight", "PacesRight", "ReservesRight"]
FAULTS = {
    "SwallowsErrors": ["test_errors_of_a_request_pass"],
    "RefusesOptions": ["test_every_kind_of_request_is_admitted"],
    "PacesSecretly": ["test_paces_says_whether_bytes_wait"],
    "ReservesSecretly": ["test_so_much_room_there_is"],
    "CountsSecretly": ["test_so_many_run_at_once"],
    "LetsOneMoreIn": ["test_so_many_run_at_once"],
    "CountsAllClientsTogether": ["test_so_many_run_at_once"],
    "NamesNoTime": ["test_so_many_run_at_once"],
    "CountsRefusals": ["test_refusals_count_nothing"],
    "KeepsFailedRequests": ["test_requests_that_fail_end_too"],
    "KeepsCancelledRequests": ["test_requests_that_are_cancelled_end_too"],
    "SwallowsCancellations": ["test_requests_that_are_cancelled_end_too"],
    "NeverGivesBack": ["test_so_many_run_at_once", "test_refusals_count_nothing"],
    "CountsItsOwnProcessOnly": ["test_so_many_run_at_once", "test_requests_of_a_killed_process_end_too"],
    "CountsTriesToo": ["test_after_retry_after_one_is_admitted"],
    "NamesTooLittleTime": ["test_after_retry_after_one_is_admitted"],
    "MixesClientsUp": ["test_so_many_come_in_a_row", "test_many_clients_leave_nothing"],
    "NeverRefuses": ["test_so_many_come_in_a_row"],
    "KnowsItsOwnProcessOnly": ["test_all_processes_count_together"],
    "SaysItDoesNotPace": ["test_paces_says_whether_bytes_wait"],
    "NeverWaits": ["test_bytes_take_their_time"],
    "WaitsTooLong": ["test_bytes_take_their_time"],
    "PacesEachBodyAlone": ["test_bodies_of_one_client_share"],
    "PacesAllClientsTogether": ["test_another_client_does_not_wait"],
    "WaitsThoughCancelled": ["test_a_wait_that_is_cancelled_ends_at_once_and_costs_nothing"],
    "KeepsWhatWasCancelled": ["test_a_wait_that_is_cancelled_ends_at_once_and_costs_nothing"],
    "AddsUp": ["test_the_figure_is_absolute"],
    "ReservesWhatItRefuses": ["test_a_refusal_changes_nothing"],
    "SaysNothingIsMissing": ["test_so_much_room_there_is"],
    "NeverForgets": ["test_zero_forgets"],
    "SwallowsItsCancellation": ["test_a_reservation_that_is_cancelled_can_be_taken_back"],
    "KeepsRoomOfCancelledReservations": ["test_a_reservation_that_is_cancelled_can_be_taken_back"],
    "NeverRecounts": ["test_recount_corrects"],
    "CountsOffsetsOnly": ["test_recount_corrects"],
    "ReservesInItsOwnProcessOnly": ["test_so_much_room_there_is"],
}
"""Limiter -> tests that must fail on it."""

PAIRS = [(limiter, test) for limiter, tests in FAULTS.items() for test in tests]


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[str, str], str]:
    """(limiter, test) -> what went wrong; nothing for those that passed."""
    right = [f"Test{limiter}" for limiter in RIGHT]
    return outcomes_of(
        Path(__file__).parent / "gate", " or ".join([*right, *(f"({limiter} and {test})" for limiter, test in PAIRS)])
    )


@pytest.mark.parametrize("limiter", RIGHT)
def test_a_right_limiter_passes(limiter: str, outcomes: dict[tuple[str, str], str]) -> None:
    wrong = {test: text for (name, test), text in outcomes.items() if name == limiter and text}
    assert not wrong, "\n".join(wrong.values())
    assert sum(name == limiter for name, _ in outcomes) > 20


@pytest.mark.parametrize(("limiter", "test"), PAIRS)
def test_a_wrong_limiter_fails(limiter: str, test: str, outcomes: dict[tuple[str, str], str]) -> None:
    found = outcomes[limiter, test]
    assert found.startswith("failure:"), f"{limiter} passes {test}"
    assert any(kind in found for kind in ("AssertionError", "TimeoutError", "TooManyRequests", "QuotaExceeded")), found
