"""OpenStack Swift's S3 interface: another implementation of S3, on disk, which checks signatures.

Its If-None-Match is not atomic: of several writers at once more than one may win. It knows no If-Match and no tags.
"""

from __future__ import annotations

from pathlib import Path

from tests.services.environments import serve_in_environment
from tests.services.keeper import Children
from tests.services.servers import S3Server


def start(files: Path, children: Children) -> S3Server:
    """Start it; all of its files are below `files`."""
    endpoint = serve_in_environment("swift", files, children)
    return S3Server(endpoint, access_key="test:tester", secret_key="testing", region="us-east-1")
