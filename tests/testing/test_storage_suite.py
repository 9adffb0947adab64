"""StorageSuite passes a right store, and fails each wrong one by the test that is about its fault.

The stores are an installed distribution as far as Python can tell, so the suites run in a pytest of their own.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from tests.testing.inner_pytest import SHELF, run_pytest

FAULTS = {
    "LosesBytesOnCancellation": ["test_append_cancelled_anywhere"],
    "DamagesOnCancellation": ["test_append_cancelled_anywhere", "test_info_during_an_append_is_never_ahead"],
    "SwallowsCancellation": ["test_append_cancelled_anywhere"],
    "OverwritesOnCreate": ["test_create_is_exclusive", "test_create_is_exclusive_when_many_try_at_once"],
    "CreatesTwiceInARace": ["test_create_is_exclusive_when_many_try_at_once"],
    "InfoCountsBodiesThatMayBreak": ["test_nothing_of_a_cancelled_whole_body_is_kept"],
    "KeepsBrokenWholeBodies": [
        "test_nothing_of_a_broken_whole_body_is_kept",
        "test_whole_bodies_one_after_the_other",
    ],
    "DeclaresWhatItHasNot": ["test_capabilities_are_those_that_the_classes_inherit"],
    "HasWhatItDoesNotDeclare": [
        "test_capabilities_are_those_that_the_classes_inherit",
        "test_a_terminated_upload_is_gone",
        "test_all_uploads_are_listed",
    ],
    "WritesAfterTheLeaseIsLost": ["test_a_holder_that_wakes_up_too_late_harms_nothing"],
    "NeverChecksItsLease": [
        "test_nothing_is_saved_once_the_lease_is_lost",
        "test_nothing_is_terminated_once_the_lease_is_lost",
        "test_nothing_is_concatenated_once_the_lease_is_lost",
    ],
    "CallsAFailureNotFound": ["test_append_with_any_call_failing"],
    "ForgetsTheMetadataHeader": [
        "test_every_field_is_remembered",
        "test_metadata_comes_back_in_order_and_with_its_header",
    ],
    "ReadsEmptyRangesWrong": ["test_every_range_of_a_small_upload"],
    "ConcatenatesInAnotherOrder": ["test_parts_are_put_together_in_order_and_kept"],
    "ClaimsAScopeThatItHasNot": [
        "test_a_fresh_process_finds_the_same",
        "test_what_one_worker_appends_the_other_sees",
        "test_create_is_exclusive_among_workers",
        "test_killed_within_a_whole_body",
    ],
    "FailingNothing": ["test_create_with_any_call_failing", "test_append_with_any_call_failing"],
}
"""Store -> tests that must fail on it."""

PAIRS = [(store, test) for store, tests in FAULTS.items() for test in tests]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """(class, test) -> what went wrong; nothing for those that passed."""
    folder = tmp_path_factory.mktemp("outcomes")
    report = folder / "report.xml"
    suites = SHELF / "suites.py"
    nodes = [f"{suites}::TestShelf", f"{suites}::TestTakesAway", *(f"{suites}::Test{store}::{test}" for store, test in PAIRS)]
    run = run_pytest(folder, f"--junitxml={report}", *nodes)
    assert run.returncode == 1, run.stdout + run.stderr  # 1: tests ran and some failed
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        failure = next((child for child in case if child.tag in ("failure", "error")), None)
        name = case.get("classname", "").rpartition(".Test")[2]
        found[name, case.get("name", "")] = "" if failure is None else f"{failure.tag}: {failure.text}"
    return found


@pytest.mark.parametrize("store", ["Shelf", "TakesAway"])
def test_a_right_store_passes(store: str, outcomes: dict[tuple[str, str], str]) -> None:
    wrong = {test: text for (name, test), text in outcomes.items() if name == store and text}
    assert not wrong, "\n".join(wrong.values())
    assert sum(name == store for name, _ in outcomes) > 70


@pytest.mark.parametrize(("store", "test"), PAIRS)
def test_a_wrong_store_fails(store: str, test: str, outcomes: dict[tuple[str, str], str]) -> None:
    assert outcomes[store, test].startswith("failure:"), f"{store} passes {test}: {outcomes[store, test]}"
    assert "AssertionError" in outcomes[store, test], outcomes[store, test]
