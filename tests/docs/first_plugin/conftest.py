"""The tutorial's test runs in a pytest of its own, with the plugin installed: see `tests/docs/test_first_plugin.py`."""

collect_ignore = ["test_sqlite_locking.py"]
