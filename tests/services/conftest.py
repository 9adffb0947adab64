"""Servers that the tests of the servers themselves run against."""

from tests.services.gcs.fixtures import gcs_bucket, gcs_server

__all__ = ["gcs_bucket", "gcs_server"]
