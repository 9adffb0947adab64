"""A service that does nothing but answer: what is tested is how services are kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.services.keeper import Children, answers
from tests.services.servers import S3Server

SERVE = """
import http.server, os, pathlib, sys
if os.environ.get("TUSD_TEST_SAMPLE_FAILS"):
    sys.exit(print("told to fail") or 3)
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
port = pathlib.Path(sys.argv[1], "port")
port.with_suffix(".partial").write_text(str(server.server_port))
port.with_suffix(".partial").rename(port)
server.serve_forever()
"""


def start(files: Path, children: Children) -> S3Server:
    """Start it."""
    children.spawn(sys.executable, "-u", "-c", SERVE, str(files))
    children.until((files / "port").exists)
    endpoint = f"http://127.0.0.1:{(files / 'port').read_text()}"
    children.until(lambda: answers(endpoint))
    return S3Server(endpoint, str(os.getpid()), "secret", "here")
