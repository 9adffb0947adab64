"""The fake of Google Cloud Storage agrees with Google's documentation and with Google's own testbench."""

from __future__ import annotations

import requests

from tests.services.gcs.process import GcsServer


def test_what_was_stored_is_there_after_a_kill(gcs_server: GcsServer, gcs_bucket: str) -> None:
    upload = f"{gcs_server.endpoint}/upload/storage/v1/b/{gcs_bucket}/o?uploadType=media&name=a%2Fb"
    stored = requests.post(upload, data=b"hello", headers={"Content-Type": "text/x-greeting"}, timeout=10).json()
    gcs_server.kill()
    gcs_server.start()
    found = requests.get(f"{gcs_server.endpoint}/storage/v1/b/{gcs_bucket}/o/a%2Fb", timeout=10).json()
    assert found == stored and found["contentType"] == "text/x-greeting"
    assert requests.get(found["mediaLink"], timeout=10).content == b"hello"
