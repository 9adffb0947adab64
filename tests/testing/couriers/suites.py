"""The suite on every courier; `test_hooks_suite.py` runs this file and looks at what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import couriers  # type: ignore[import-not-found]  # a distribution of the pytest that runs this file
import pytest

from tusd.testing import hooks

hooks.PATIENCE = 3.0


class Base(hooks.HooksSuite):
    prompt = 1.0
    impatient: ClassVar[Mapping[str, object]] = {"timeout": "50ms"}

    @pytest.fixture
    def receiver(self) -> Any:
        couriers.DESK = self.desk = couriers.Desk()
        return self.desk

    @pytest.fixture
    def options(self) -> Mapping[str, object]:
        return {}

    async def left_behind(self) -> Sequence[object]:
        return ["busy"] * self.desk.busy


for name, value in vars(couriers).items():
    if isinstance(value, type) and hasattr(value, "open_hooks") and not name.startswith("_"):
        globals()[f"Test{name}"] = type(f"Test{name}", (Base,), {"plugin": value})
