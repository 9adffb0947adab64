"""The suite on every limiter of the gate; `test_limiting_suite.py` runs this file and looks at what failed."""

from __future__ import annotations

from collections.abc import Mapping

import gate  # type: ignore[import-not-found]  # a distribution of the pytest that runs this file
import pytest

from tusd.testing import limiting

limiting.PATIENCE = 5.0

KNOBS = {gate._Counter: {"at_once": 3}, gate._Clock: {"in_a_row": 5}, gate._Brake: {"pace": 1_000_000}, gate._Room: {"room": 100}}


class Base(limiting.LimitingSuite):
    takeover = 0.5

    @pytest.fixture
    def options(self) -> Mapping[str, object]:
        return {}


for name, value in vars(gate).items():
    if hasattr(value, "limiter") and not name.startswith("_"):
        knobs = next((found for kind, found in KNOBS.items() if issubclass(value.limiter, kind)), {})
        globals()[f"Test{name}"] = type(f"Test{name}", (Base,), {"plugin": value, **knobs})
