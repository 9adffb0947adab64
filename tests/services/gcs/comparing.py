"""What test_objects.py and test_uploads.py share: they say what Google Cloud Storage does, whoever plays it.

With TUSD_TEST_GCS_ENDPOINT=http://127.0.0.1:9000 they run against that server, which is taken for Google's testbench
(github.com/googleapis/storage-testbench): tests where that goes another way than Google says must then fail.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from typing import Any

import google_crc32c
import pytest
from google.api_core.exceptions import GoogleAPICallError

ENDPOINT = os.environ.get("TUSD_TEST_GCS_ENDPOINT")


def the_testbench(reason: str) -> pytest.MarkDecorator:
    """A test that the testbench fails, and why."""
    return pytest.mark.xfail(condition=ENDPOINT is not None, strict=True, reason=f"the testbench {reason}")


def put(bucket: Any, name: str, data: bytes | str = b"data", **more: Any) -> Any:
    """Upload an object with Google's client, without its retries."""
    blob = bucket.blob(name)
    blob.upload_from_string(data, **{"content_type": "video/mp4", "retry": None} | more)
    return blob


def status(call: Callable[..., object], *arguments: Any, **more: Any) -> int:
    """The status of the error that a call of Google's client ends with."""
    with pytest.raises(GoogleAPICallError) as caught:
        call(*arguments, **{"retry": None} | more)
    assert caught.value.code is not None
    return int(caught.value.code)


def crc32c(data: bytes) -> str:
    """As Google writes it."""
    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()


def md5(data: bytes) -> str:
    """As Google writes it."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
