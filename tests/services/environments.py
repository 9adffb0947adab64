"""Servers in Python environments of their own, because their requirements disagree with ours. `make test` makes these."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from tests.services.keeper import Children, answers

BACKLOG = 512


def installed(service: str) -> bool:
    """Whether the Makefile has made the environment to its end."""
    return (_environment(service) / "installed").exists()


def serve_in_environment(service: str, files: Path, children: Children) -> str:
    """Run the service's `serve.py FILES SOCKET` and wait until it answers; returns its endpoint.

    The socket is bound here, so nobody takes the port between choosing and listening.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listening:
        listening.setblocking(False)  # as event loops need it
        endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
        children.spawn(
            str(_environment(service) / "bin" / "python"),
            *("-W", "ignore", str(Path(__file__).parent / service / "serve.py"), str(files), str(listening.fileno())),
            inherit=[listening],
        )
    children.until(lambda: answers(endpoint))
    return endpoint


def _environment(service: str) -> Path:
    return Path(sys.prefix) / "services" / service
