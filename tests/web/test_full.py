"""A full disk: what fits is kept, the answer is 507 with the true offset, and the connection is in a known state."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

LIMITED = """
    import os, resource, signal, sys
    from pathlib import Path

    from tests.web.raw import chunked, patch, post, request
    from tests.web.serving import Served, path_of

    loop, limit, size, kind = sys.argv[2], *map(int, sys.argv[3:5]), sys.argv[5]
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    body = os.urandom(size)
    with Served(Path(sys.argv[1]), loop=loop) as server:
        path = server.create(2 * size)
        with server.connect() as connection:
            if kind == "chunked":
                stream = patch(path, 0, headers={"Transfer-Encoding": "chunked"}) + chunked(body, 50_000)
            elif kind == "create":
                stream = post({"Upload-Length": 2 * size}, body)
            elif kind == "checksum":
                stream = patch(path, 0, body, {"Upload-Checksum": "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="})
            else:
                stream = patch(path, 0, body)
            connection.send_as_far_as_it_goes(stream + request("HEAD", path))
            answer = connection.answer()
            assert (answer.status, answer.code) == (507, "ERR_STORAGE_FULL"), answer
            if kind == "create":
                path = path_of(answer)
            kept = 0 if kind == "checksum" else limit
            assert int(answer["Upload-Offset"]) == kept, answer
            if answer.closes:
                assert connection.ended()
            else:
                assert connection.answer("HEAD").status == 200
        assert server.offset(path) == kept
        assert server.stored(path) == body[:kept]
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert server.ask(patch(path, kept, body[kept:])).status == 204
        assert server.stored(path) == body
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("limit", "size", "kind"),
    [
        (500_000, 3_000_000, "direct"),
        (2_990_000, 3_000_000, "direct"),  # little is left of the body: the connection may go on
        (100_000, 200_000, "plain"),
        (300_000, 900_000, "chunked"),
        (500_000, 3_000_000, "create"),
        (500_000, 3_000_000, "checksum"),
    ],
)
def test_a_file_that_may_not_grow(tmp_path: Path, loop: str, limit: int, size: int, kind: str) -> None:
    """The kernel's limit on the size of files stands for a full disk: a short write, then an error."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(LIMITED), str(tmp_path), loop, str(limit), str(size), kind]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
