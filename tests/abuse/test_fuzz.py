"""Mutated requests; `fuzz.py` runs for longer by hand."""

from __future__ import annotations

import os

from tusd.testing.server import ServerProcess

from .fuzz import Fuzzer

CASES = 1500


def test_mutated_requests(server: ServerProcess) -> None:
    """Other ones each time; a failure says which."""
    fuzzer = Fuzzer(server, int.from_bytes(os.urandom(4)))
    wrong = fuzzer.run(0, CASES)
    assert not wrong, "\n".join(wrong[:5])
    assert len(fuzzer.statuses) > 5, fuzzer.statuses
