"""curl as a client of the IETF's draft: it tells of every interim response, and knows nothing of uploads."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.needs import need
from tusd.testing.server import ServerProcess

from .files import MIB, downloaded_sha256, random_file, sha256

Start = Callable[..., ServerProcess]
Headers = dict[str, str]


def curl(url: str, *options: str, **headers: str) -> tuple[int, list[tuple[int, Headers]]]:
    """Its exit status, and status and headers (lower case) of each response."""
    given = {"Upload-Draft-Interop-Version": "8", **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [argument for name, value in given.items() for argument in ("-H", f"{name}: {value}")]
    command = [need("curl", how="apt install curl"), "-sS", "-D", "-", "-o", "/dev/null", *lines, *options, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    answers = []
    for block in done.stdout.split("\n\n")[:-1]:
        first, *fields = block.splitlines()
        pairs = (field.partition(": ") for field in fields)
        answers.append((int(first.split()[1]), {name.lower(): value for name, _, value in pairs}))
    return done.returncode, answers


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_an_optimistic_upload(tusd_server: Start, tmp_path: Path, method: str) -> None:
    server, file = tusd_server(), random_file(tmp_path / "file", 4 * MIB)  # curl appends its name to a URL that ends in a slash
    options = ["-X", method, "-T", str(file), "--limit-rate", "3M"]
    status, answers = curl(server.url.rstrip("/"), *options, Upload_Complete="?1", Content_Disposition='inline; filename="a.bin"')
    assert status == 0
    assert answers[0][0] == 104
    assert {code for code, _ in answers[:-1]} <= {100, 104}
    final, headers = answers[-1]
    assert (final, headers["upload-complete"], headers["location"]) == (201, "?1", answers[0][1]["location"])
    assert any("upload-offset" in fields for code, fields in answers if code == 104), answers
    assert downloaded_sha256(headers["location"]) == sha256(file)


def test_an_optimistic_upload_that_is_cut_and_resumed(tusd_server: Start, tmp_path: Path) -> None:
    server, file = tusd_server(), random_file(tmp_path / "file", 6 * MIB)
    cut = ["-T", str(file), "-X", "POST", "--limit-rate", "1M", "--max-time", "1"]
    status, answers = curl(server.url.rstrip("/"), *cut, Upload_Complete="?1")
    assert status == 28  # its time is over
    url = next(headers["location"] for code, headers in answers if code == 104)
    _, [(code, headers)] = curl(url, "-I")
    offset = int(headers["upload-offset"])
    assert (code, headers["upload-complete"], headers["upload-length"]) == (204, "?0", str(6 * MIB))
    assert 0 < offset < 6 * MIB
    rest = tmp_path / "rest"
    rest.write_bytes(file.read_bytes()[offset:])
    body = ["-X", "PATCH", "-T", str(rest)]
    fields = {"Upload_Offset": str(offset), "Upload_Complete": "?1", "Content_Type": "application/partial-upload"}
    status, answers = curl(url, *body, **fields)
    assert (status, answers[-1][0], answers[-1][1]["upload-complete"]) == (0, 201, "?1")
    assert downloaded_sha256(url) == sha256(file)
