"""A server of Cloud Storage for all tests of this plugin."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.services.gcs.fixtures import gcs_bucket, gcs_server
from tests.services.gcs.process import GcsServer

from gcs_rig import Place

__all__ = ["gcs_bucket", "gcs_server"]


@pytest.fixture(autouse=True)
def _no_google(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own account."""
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GCS_SERVICE_ACCOUNT_FILE", "STORAGE_EMULATOR_HOST", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # nor of the machine that this may be


@pytest.fixture
def options(gcs_server: GcsServer, gcs_bucket: str) -> dict[str, object]:
    """The `storage:` block for an empty bucket."""
    return {"bucket": gcs_bucket, "endpoint": gcs_server.endpoint, "part_size": "256KiB", "give_up_after": 0}


@pytest.fixture
def place(gcs_server: GcsServer, gcs_bucket: str, options: dict[str, object], tmp_path: Path) -> Place:
    """An empty bucket, and how to open a store in it."""
    return Place(gcs_server, gcs_bucket, options, tmp_path)
