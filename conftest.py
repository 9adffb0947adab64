"""Fixtures that tests of the server and of every plugin share."""

pytest_plugins = ["tests.services.fixtures", "tests.services.gcs.fixtures"]
