"""LocalStack: the S3 of the whole suite. It keeps objects in unlinked files and checks no signatures."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.services.environments import python_of
from tests.services.keeper import Children, answers
from tests.services.servers import S3Server


def start(files: Path, children: Children) -> S3Server:
    """Start it; all of its files are below `files`."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        listening.setblocking(False)  # as the server's event loop needs it
        endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
        serve = Path(__file__).with_name("serve.py")
        children.spawn(
            str(python_of("localstack")), "-W", "ignore", str(serve), str(files), str(listening.fileno()), inherit=[listening]
        )
    children.until(lambda: answers(endpoint))
    return S3Server(endpoint, access_key="test", secret_key="test", region="us-east-1")
