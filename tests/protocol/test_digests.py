"""What is remembered of an upload's digest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.heads import info

from tusd.model import State
from tusd.protocol import digests
from tusd.protocol.messages import Algorithm, Checksum

ALGORITHMS: list[Algorithm] = ["sha512", "sha256"]


@given(st.sampled_from(ALGORITHMS), st.binary(min_size=1, max_size=64))
def test_a_promise_reads_as_it_was_written(algorithm: Algorithm, raw: bytes) -> None:
    note = digests.promise(Checksum(algorithm, raw))
    assert digests.noted(info(notes={digests.KEY: note})) == (algorithm, raw)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_wish_has_no_digest_yet(algorithm: Algorithm) -> None:
    assert digests.noted(info(notes={digests.KEY: digests.wish(algorithm)})) == (algorithm, None)


@pytest.mark.parametrize("note", [None, "", "sha256", "md5:", ":", "sha256 :"])
def test_nobody_asked(note: str | None) -> None:
    assert digests.noted(info(notes={} if note is None else {digests.KEY: note})) is None


@pytest.mark.parametrize("state", list(State))
def test_a_digest_is_told_of_complete_uploads_only(state: State) -> None:
    promised = Checksum("sha256", b"x" * 32)
    upload = info(state=state, explicit=True, notes={digests.KEY: digests.promise(promised)})
    assert digests.known(upload) == (promised if state is State.COMPLETE else None)


def test_a_wish_that_was_not_fulfilled_is_not_told() -> None:
    assert digests.known(info(state=State.COMPLETE, explicit=True, notes={digests.KEY: digests.wish("sha256")})) is None


def test_the_best_algorithm_comes_first() -> None:
    assert list(digests.NAMES.values()) == ALGORITHMS
