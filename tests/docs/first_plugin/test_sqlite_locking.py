from pathlib import Path

import pytest
from tusd_plugin_sqlite import SqliteLocking  # type: ignore[import-not-found]

from tusd.testing.locking import LockingSuite


class TestSqliteLocking(LockingSuite):
    plugin = SqliteLocking
    takeover = 4.0  # seconds: more than the lease below
    crowd = 100  # every waiter asks the database by itself

    @pytest.fixture
    def options(self, tmp_path: Path) -> dict[str, object]:
        return {"directory": str(tmp_path), "lease": "2s"}
