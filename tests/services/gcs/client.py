"""google-cloud-storage, which has no types: the tests' one door to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.auth.credentials import AnonymousCredentials
from google.cloud import storage


def gcs_client(endpoint: str, key_file: Path | None = None) -> Any:
    """Google's client of a server: anonymous, or with the key of a service account."""
    options = {"api_endpoint": endpoint}
    if key_file is not None:
        return storage.Client.from_service_account_json(str(key_file), client_options=options)
    nobody = AnonymousCredentials()  # type: ignore[no-untyped-call]
    return storage.Client(project="test", credentials=nobody, client_options=options)
