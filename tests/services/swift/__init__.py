"""OpenStack Swift's S3 interface: another implementation of S3, on disk, which checks signatures.

Its If-None-Match is not atomic: of several writers at once more than one may win. It knows no If-Match and no tags.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.services.environments import serve_in_environment
from tests.services.keeper import CannotStart, Children
from tests.services.servers import S3Server


def start(files: Path, children: Children) -> S3Server:
    """Start it; all of its files are below `files`."""
    if sys.platform == "linux":
        try:
            os.setxattr(files, "user.tusd", b"")
        except OSError as error:
            raise CannotStart(f"{files} is where files cannot have user attributes: name another place by --basetemp") from error
    endpoint = serve_in_environment("swift", files, children)
    return S3Server(endpoint, access_key="test:tester", secret_key="testing", region="us-east-1")
