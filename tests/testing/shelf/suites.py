"""The suite on every store of the shelf; `test_storage_suite.py` runs this file and looks at what failed."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from contextlib import AbstractContextManager

import pytest
import shelf  # type: ignore[import-not-found]  # a distribution of the pytest that runs this file

from tusd.plugin import Atomic, Concatenable, Listable, Terminable
from tusd.testing.faults import Calls, failing_call
from tusd.testing.storage import StorageSuite


class TestShelf(StorageSuite):
    plugin = shelf.Shelf

    @pytest.fixture
    def options(self) -> Mapping[str, object]:
        return {}

    def failing(self, nth: int) -> AbstractContextManager[Calls]:
        return failing_call(nth, [(shelf, "backend")], lambda: OSError(errno.EIO, "broken"))


class TestTakesAway(TestShelf):
    plugin = shelf.TakesAway
    takes_away = frozenset({Terminable, Concatenable, Atomic, Listable})


class TestFailingNothing(TestShelf):
    def failing(self, nth: int) -> AbstractContextManager[Calls]:
        return failing_call(nth, [], lambda: OSError(errno.EIO, "broken"))


BROKEN = [cls for cls in vars(shelf).values() if isinstance(cls, type) and issubclass(cls, shelf.Shelf)]
for broken in BROKEN:
    if broken not in (shelf.Shelf, shelf.TakesAway):
        globals()[f"Test{broken.__name__}"] = type(f"Test{broken.__name__}", (TestShelf,), {"plugin": broken})
