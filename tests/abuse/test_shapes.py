"""Each shape of the table: a clear refusal or a closed connection, an upload that can be worked on at once, and nothing left behind."""

from __future__ import annotations

import time

import pytest
from tests.proc import descriptors, memory
from tests.web.raw import Connection, post, request
from tests.web.serving import path_of

from tusd.testing.server import ServerProcess

from .attack import attack_with_all
from .hostile import TABLE
from .shape import SECRET

MIB = 1 << 20
ENTRIES = [(f"{group}: {name}", shape) for group, shapes in TABLE.items() for name, shape in shapes.items()]


@pytest.mark.parametrize("group", TABLE)
def test_shapes(server: ServerProcess, group: str) -> None:
    files = {path.name for path in server.directory.iterdir()}
    wrong = attack_with_all(server, TABLE[group].items())
    assert not wrong, "\n".join(wrong)
    assert (server.directory / "secret").read_bytes() == SECRET
    assert {path.name for path in server.directory.iterdir()} == files, "a file came to be where none belongs"


def test_one_part_a_thousand_times(server: ServerProcess) -> None:
    """A final upload may name a part again and again; what it is made of is told in a header."""
    with Connection((server.host, server.port), timeout=5) as connection:
        part = path_of(connection.ask(post({"Upload-Concat": "partial", "Upload-Length": 3}, b"abc")))
        made = connection.ask(post({"Upload-Concat": "final;" + " ".join([part] * 1000)}))
        assert made.status == 201, made
        head = connection.ask(request("HEAD", path_of(made)))
        assert (head.status, head["Upload-Offset"], head["Upload-Concat"].count(part)) == (200, "3000", 1000)
        assert connection.ask(request("GET", path_of(made))).body == b"abc" * 1000


def test_nothing_grows(server: ServerProcess) -> None:
    """Memory and descriptors, after many shapes have come and the heap has taken its form, and after all of them."""
    bombs = list(TABLE["bombs"].items())
    attack_with_all(server, bombs * 5 + ENTRIES[::4])
    files, size = settled(server)
    assert attack_with_all(server, ENTRIES + bombs * 5) == []
    more_files, more_size = settled(server)
    assert more_files <= files, "files or connections stay open"
    assert more_size - size < 8 * MIB, f"memory grew from {size / MIB:.1f} to {more_size / MIB:.1f} MiB"


def settled(server: ServerProcess) -> tuple[int, int]:
    """Open descriptors and resident memory, once the last connections have ended, some after two seconds."""
    deadline = time.monotonic() + 2.5
    files = descriptors(server)
    while time.monotonic() < deadline:
        files = min(files, descriptors(server))
        time.sleep(0.05)
    return files, memory(server)
