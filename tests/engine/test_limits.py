"""Reservations and pacing of appends."""

from __future__ import annotations

import pytest
from tests.engine.rig import FakeLimiter, FakeSource, Rig

from tusd.errors import LeaseLost, QuotaExceeded, StorageFull, StorageUnavailable, UnexpectedEof
from tusd.model import State, UploadId

UPLOAD = UploadId("upload")


def reserved(rig: Rig) -> list[str]:
    return [call for call in rig.log if "reserve" in call]


async def test_an_append_of_known_length_reserves_nothing() -> None:
    rig = Rig(limits="A")
    await rig.put(UPLOAD, b"01234", length=10)
    await rig.append(UPLOAD, 5, b"56789")
    assert rig.log == [
        "A.admit",
        "info",
        "A.bind",
        "lock",
        "open",
        "append",
        "A.spend 5",
        "appended 5",
        "finish",
        "unlock",
        "A.leave",
    ]


async def test_a_length_is_reserved_before_it_is_declared() -> None:
    rig = Rig(limits="AB")
    await rig.put(UPLOAD, b"01234", deferred=True)
    await rig.append(UPLOAD, 5, length=10)
    assert rig.log[5:-3] == ["lock", "open", "A.reserve 10", "B.reserve 10", "save length=10 receiving"]


async def test_a_length_that_is_too_much_is_not_declared() -> None:
    rig = Rig(limits="AB")
    await rig.put(UPLOAD, b"01234", deferred=True)
    rig.fail("B.reserve", lambda: QuotaExceeded(short_by=5))
    source = FakeSource(b"56")
    with pytest.raises(QuotaExceeded) as raised:
        await rig.append(UPLOAD, 5, length=10, source=source, size=2)
    assert raised.value.info == await rig.kept.info(UPLOAD)
    assert reserved(rig) == ["A.reserve 10", "B.reserve 10", "A.reserve 5"]
    assert (await rig.kept.info(UPLOAD)).length is None
    assert source.reads == 0
    assert rig.log[-3:] == ["unlock", "B.leave", "A.leave"]


async def test_a_length_whose_saving_fails_is_given_back() -> None:
    rig = Rig(limits="A")
    await rig.put(UPLOAD, b"01234", deferred=True)
    rig.fail("save", StorageUnavailable)
    with pytest.raises(StorageUnavailable):
        await rig.append(UPLOAD, 5, length=10)
    assert reserved(rig) == ["A.reserve 10", "A.reserve 5"]


async def test_an_append_of_deferred_length_reserves_what_is_there_now() -> None:
    rig = Rig(limits="AB")
    await rig.put(UPLOAD, b"01234", deferred=True)
    await rig.append(UPLOAD, 5, b"56")
    assert reserved(rig) == ["A.reserve 7", "B.reserve 7"]
    assert rig.log.index("A.reserve 7") > rig.log.index("appended 2")


async def test_what_a_lost_client_sent_is_reserved_too() -> None:
    rig = Rig(limits="A")
    await rig.put(UPLOAD, b"01234", deferred=True)
    with pytest.raises(UnexpectedEof):
        await rig.append(UPLOAD, 5, source=FakeSource(b"56", failure=UnexpectedEof()), size=5)
    assert rig.limiters[0].held == {UPLOAD: 7}


@pytest.mark.parametrize("error", [StorageFull, LeaseLost, OSError])
async def test_what_a_failing_append_stored_is_reserved_too(error: type[Exception]) -> None:
    rig = Rig(limits="A")
    await rig.put(UPLOAD, b"01234", deferred=True)
    rig.fail("appended", error)
    with pytest.raises(error):
        await rig.append(UPLOAD, 5, b"56")
    assert rig.limiters[0].held == {UPLOAD: 7}


async def test_a_quota_that_the_body_passed_keeps_its_bytes() -> None:
    rig = Rig(limits="A")
    await rig.put(UPLOAD, b"01234", deferred=True)
    rig.fail("A.reserve", lambda: QuotaExceeded(short_by=1))
    with pytest.raises(QuotaExceeded) as raised:
        await rig.append(UPLOAD, 5, b"56")
    assert raised.value.info is not None
    assert raised.value.info.offset == 7
    assert await rig.content(UPLOAD) == b"0123456"


async def test_each_piece_is_spent_before_it_is_stored() -> None:
    rig = Rig(limits="AB")
    await rig.put(UPLOAD, b"01234", length=10)
    await rig.append(UPLOAD, 5, b"56", b"7")
    assert rig.log[7:13] == ["append", "A.spend 2", "B.spend 2", "A.spend 1", "B.spend 1", "appended 3"]


async def test_limiters_that_do_not_pace_see_no_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeLimiter, "paces", False)
    rig = Rig(limits="A")
    await rig.put(UPLOAD, b"01234", length=10)
    await rig.append(UPLOAD, 5, b"56", b"7")
    assert rig.log == ["A.admit", "info", "A.bind", "lock", "open", "append", "appended 3", "unlock", "A.leave"]


async def test_a_creation_that_completes_holds_its_length() -> None:
    rig = Rig(limits="A")
    created = await rig.create(5, b"01234")
    assert created.info.state is State.COMPLETE
    assert rig.limiters[0].held == {created.info.id: 5}


async def test_a_creation_of_deferred_length_holds_what_came() -> None:
    rig = Rig(limits="A")
    created = await rig.create(None, b"01234")
    assert rig.limiters[0].held == {created.info.id: 5}
    await rig.append(created.info.id, 5, b"5", length=6)
    assert rig.limiters[0].held == {created.info.id: 6}
