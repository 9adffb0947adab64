"""The conformance suite of plugins for `storage:`."""

from __future__ import annotations

from ._storage_always import AlwaysTests
from ._storage_capabilities import CapabilityTests
from ._storage_faults import FaultTests
from ._storage_processes import ProcessTests

__all__ = ["StorageSuite"]


class StorageSuite(AlwaysTests, CapabilityTests, FaultTests, ProcessTests):
    """Subclass it in a test module, name the plugin, and give its options:

        class TestShelfStorage(StorageSuite):
            plugin = ShelfStorage

            @pytest.fixture
            def options(self, tmp_path):
                return {"directory": str(tmp_path)}

    The plugin is opened as the server does it: by its entry point, with its options checked. What the store declares as a
    capability is tested, what it does not is proved absent. `failing`, `content`, `takes_away` and `large` may be overridden.
    """
