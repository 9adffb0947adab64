"""MetricsSuite passes a right plugin, and fails each wrong one by the test that is about its fault.

The plugins are an installed distribution as far as Python can tell, so the suites run in a pytest of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

METERS = Path(__file__).parent / "meters"

FAULTS = {
    "IgnoresAmounts": ["test_counters_add_up"],
    "KeepsTheLast": ["test_counters_add_up", "test_a_counter_never_falls"],
    "NeverFalls": ["test_gauges_are_set_and_moved"],
    "SetsOnce": ["test_gauges_are_set_and_moved"],
    "DropsLargeValues": ["test_histograms_have_count_and_sum"],
    "Rounds": ["test_histograms_have_count_and_sum"],
    "KnowsMetricsByIdentity": ["test_a_metric_is_known_by_its_name"],
    "SortsLabels": ["test_labels_are_counted_apart"],
    "JoinsLabels": ["test_labels_are_counted_apart"],
    "CutsLabels": ["test_any_value_of_a_label_will_do"],
    "WantsDeclarations": ["test_new_metrics_come_at_any_time"],
    "BeginsAgainWhenDeclared": ["test_declaring_changes_no_figure"],
    "LetsCountersFall": ["test_a_counter_never_falls"],
    "IsSpoiltByNan": ["test_a_counter_never_falls"],
    "ObservesNan": ["test_a_histogram_outlives_what_is_no_number"],
    "Raises": ["test_mistakes_of_others_raise_nothing"],
    "SetsCounters": ["test_mistakes_of_others_raise_nothing"],
    "FillsUp": ["test_labels_without_end_do_no_harm"],
    "IsSlow": ["test_calls_are_quick"],
    "Waits": ["test_calls_are_quick"],
    "RaisesLate": ["test_late_calls_raise_nothing"],
    "SharesOneNumber": ["test_two_workers_do_not_disturb_each_other"],
}
"""Plugin -> tests that must fail on it."""

PAIRS = [(plugin, test) for plugin, tests in FAULTS.items() for test in tests]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """(plugin, test) -> what went wrong; nothing for those that passed."""
    report = tmp_path_factory.mktemp("outcomes") / "report.xml"
    which = " or ".join(["TestRight", *(f"(Test{plugin} and {test})" for plugin, test in PAIRS)])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "-k", which, "suites.py"]
    environment = {**os.environ, "PYTHONPATH": str(METERS)}
    subprocess.run(command, cwd=METERS, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        failure = next((child for child in case if child.tag in ("failure", "error")), None)
        name = case.get("classname", "").rpartition(".Test")[2]
        found[name, case.get("name", "")] = "" if failure is None else f"{failure.tag}: {failure.text}"
    return found


def test_a_right_plugin_passes(outcomes: dict[tuple[str, str], str]) -> None:
    wrong = {test: text for (plugin, test), text in outcomes.items() if plugin == "Right" and text}
    assert not wrong, "\n".join(wrong.values())
    assert {test for plugin, test in outcomes if plugin == "Right"} == {test for tests in FAULTS.values() for test in tests}


@pytest.mark.parametrize(("plugin", "test"), PAIRS)
def test_a_wrong_plugin_fails(plugin: str, test: str, outcomes: dict[tuple[str, str], str]) -> None:
    assert outcomes[plugin, test].startswith("failure:"), f"{plugin} passes {test}"
    assert "Error" in outcomes[plugin, test]
