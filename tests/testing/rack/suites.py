"""The suite on every locker of the rack; `test_locking_suite.py` runs this file and looks at what failed."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import rack  # type: ignore[import-not-found]  # a distribution of the pytest that runs this file

from tusd.testing import locking

locking.PATIENCE = 3.0


class Base(locking.LockingSuite):
    crowd = 50
    hand_over = 0.3
    takeover = 0.5

    @pytest.fixture
    def options(self) -> Mapping[str, object]:
        return {}


for name, value in vars(rack).items():
    if hasattr(value, "open_locking") and not name.startswith("_"):
        globals()[f"Test{name}"] = type(f"Test{name}", (Base,), {"plugin": value})
