"""HooksSuite passes a right dispatcher, and fails each wrong one by the tests that are about its fault.

The dispatchers are an installed distribution as far as Python can tell, so the suites run in a pytest of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tusd.testing.hooks import HooksSuite

COURIERS = Path(__file__).parent / "couriers"

FAULTS = {
    "LosesEvents": ["test_every_event_arrives"],
    "DeliversLater": ["test_every_event_arrives"],
    "KeepsTheReason": ["test_every_event_arrives"],
    "RoundsSizes": ["test_unusual_uploads_arrive"],
    "CallsDeferredLengthsZero": ["test_unusual_uploads_arrive"],
    "RefusesBytes": ["test_unusual_uploads_arrive"],
    "KeepsOneValueOfAHeader": ["test_unusual_requests_arrive"],
    "NeedsAClient": ["test_unusual_requests_arrive"],
    "CutsLongEvents": ["test_a_large_event_arrives"],
    "NamesEveryDeliveryAnew": ["test_an_event_that_is_told_again_is_the_same"],
    "WantsWhatItWants": ["test_it_wants_the_events_that_it_is_told_to_want"],
    "OneWorkerOnly": ["test_two_workers"],
    "TakesNothingToSayForAFailure": ["test_nothing_to_say"],
    "LosesNotes": ["test_every_field_of_an_answer"],
    "LosesBodies": ["test_every_field_of_an_answer", "test_every_event_that_honours_answers_is_answered"],
    "TakesNoMetadataForNoChange": ["test_every_field_of_an_answer"],
    "KnowsOneWayToRefuse": ["test_every_field_of_an_answer"],
    "ListensOnlyWhenItAsks": ["test_every_event_that_honours_answers_is_answered"],
    "MixesAnswersUp": ["test_answers_at_once_are_not_mixed_up"],
    "LetsErrorsThrough": [
        "test_a_failure_is_a_hook_error",
        "test_it_goes_on_after_failures",
        "test_a_receiver_that_hangs_is_given_up",
    ],
    "TakesFailuresForConsent": [
        "test_a_failure_is_a_hook_error",
        "test_what_is_no_answer_is_a_hook_error",
        "test_it_goes_on_after_failures",
        "test_a_receiver_that_hangs_is_given_up",
        "test_before_the_receiver_hangs",
    ],
    "TellsEverything": ["test_a_failure_is_a_hook_error", "test_what_is_no_answer_is_a_hook_error"],
    "TakesNonsenseForConsent": ["test_what_is_no_answer_is_a_hook_error", "test_it_goes_on_after_failures"],
    "GivesUpForEver": ["test_it_goes_on_after_failures"],
    "WaitsForEver": ["test_a_receiver_that_hangs_is_given_up"],
    "LeavesTheDeskBusy": [
        "test_a_receiver_that_hangs_is_given_up",
        "test_while_the_receiver_hangs",
        "test_before_the_receiver_hangs",
    ],
    "SwallowsCancellations": ["test_while_the_receiver_hangs", "test_before_the_receiver_hangs", "test_at_every_suspension"],
    "CallsCancellationsFailures": ["test_while_the_receiver_hangs", "test_at_every_suspension"],
    "TakesItsTimeToEnd": ["test_while_the_receiver_hangs", "test_at_every_suspension"],
    "StaysBusyWhenCancelled": ["test_at_every_suspension"],
}
"""Dispatcher -> tests that must fail on it."""

PAIRS = [(dispatcher, test) for dispatcher, tests in FAULTS.items() for test in tests]
TESTS = sorted(name for name in dir(HooksSuite) if name.startswith("test_"))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """(dispatcher, test) -> what went wrong; nothing for those that passed."""
    report = tmp_path_factory.mktemp("outcomes") / "report.xml"
    which = " or ".join(["TestRight", *(f"({dispatcher} and {test})" for dispatcher, test in PAIRS)])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "-k", which, "suites.py"]
    environment = {**os.environ, "PYTHONPATH": str(COURIERS)}
    subprocess.run(command, cwd=COURIERS, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        failure = next((child for child in case if child.tag in ("failure", "error")), None)
        name = case.get("classname", "").rpartition(".Test")[2]
        found[name, case.get("name", "")] = "" if failure is None else f"{failure.tag}: {failure.text}"
    return found


def test_a_right_dispatcher_passes(outcomes: dict[tuple[str, str], str]) -> None:
    found = {test: text for (dispatcher, test), text in outcomes.items() if dispatcher == "Right"}
    assert sorted(found) == TESTS
    assert not any(found.values()), "\n".join(found.values())


@pytest.mark.parametrize(("dispatcher", "test"), PAIRS)
def test_a_wrong_dispatcher_fails(dispatcher: str, test: str, outcomes: dict[tuple[str, str], str]) -> None:
    assert outcomes[dispatcher, test].startswith("failure:"), f"{dispatcher} passes {test}"
    expected = ("AssertionError", "TimeoutError", "UnicodeDecodeError", "HookError")
    assert any(name in outcomes[dispatcher, test] for name in expected), outcomes[dispatcher, test]


def test_every_test_fails_on_something() -> None:
    assert sorted({test for tests in FAULTS.values() for test in tests}) == TESTS
