"""LocalStack's S3: quick and complete. It keeps objects in unlinked files, and checks no signatures."""

from __future__ import annotations

from pathlib import Path

from tests.services.environments import serve_in_environment
from tests.services.keeper import Children
from tests.services.servers import S3Server


def start(files: Path, children: Children) -> S3Server:
    """Start it; all of its files are below `files`."""
    endpoint = serve_in_environment("localstack", files, children)
    return S3Server(endpoint, access_key="test", secret_key="test", region="us-east-1")
