"""A small Google Cloud Storage server for the tests: the part of the JSON API that google-cloud-storage and our plugin use."""

from tests.services.gcs.process import GcsServer

__all__ = ["GcsServer"]
