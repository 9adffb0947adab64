"""Random files, and what the server has of them."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path

MIB = 1 << 20


def random_file(path: Path, size: int) -> Path:
    """A file of `size` random bytes."""
    with path.open("wb") as file:
        while size > 0:
            size -= file.write(os.urandom(min(size, MIB)))
    return path


def sha256(path: Path) -> str:
    """Of a local file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def downloaded_sha256(url: str) -> str:
    """Of what the server serves at an upload URL."""
    found = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=60) as response:
        while piece := response.read(MIB):
            found.update(piece)
    return found.hexdigest()


def head(url: str) -> tuple[int, dict[str, str]]:
    """Status and headers (lower case) of a HEAD."""
    request = urllib.request.Request(url, method="HEAD", headers={"Tus-Resumable": "1.0.0"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, {name.lower(): value for name, value in response.headers.items()}
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {name.lower(): value for name, value in error.headers.items()}


def offset(url: str) -> int:
    """Where an upload stands."""
    status, headers = head(url)
    assert status == 200, status
    return int(headers["upload-offset"])
