"""A request that is cancelled at any of its waits lets go of all it holds, and leaves an upload that can be resumed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.engine.rig import FakeSource, Rig

from tusd.errors import StorageFull, TusError, UploadNotFound
from tusd.model import Final, Partial, State, UploadId, UploadInfo
from tusd.protocol.messages import BodyPlan, Create
from tusd.testing.faults import cancelled_at

UPLOAD = UploadId("upload")
CONTENT = b"0123456789"


async def deferred(rig: Rig) -> None:
    await rig.put(UPLOAD, b"01234", deferred=True, state=State.RECEIVING if rig.hooks else None)


async def known(rig: Rig) -> None:
    await rig.put(UPLOAD, b"01234", length=10, state=State.RECEIVING if rig.hooks else None)


async def finishing(rig: Rig) -> None:
    await rig.put(UPLOAD, CONTENT, state=State.FINISHING)


async def nothing(rig: Rig) -> None:
    """No upload is there."""


async def parts(rig: Rig) -> None:
    await rig.put("a", b"01234", concat=Partial())
    await rig.put("b", b"56789", concat=Partial())


REQUESTS: dict[str, tuple[Callable[[Rig], Awaitable[None]], Callable[[Rig], Awaitable[object]]]] = {
    "create": (nothing, lambda rig: rig.create(10)),
    "create with a body": (nothing, lambda rig: rig.create(10, b"01", b"234")),
    "create with all of it": (nothing, lambda rig: rig.create(10, b"01234", b"56789")),
    "create deferred with a body": (nothing, lambda rig: rig.create(None, b"01", b"234")),
    "append": (known, lambda rig: rig.append(UPLOAD, 5, b"5", b"67")),
    "append the last": (known, lambda rig: rig.append(UPLOAD, 5, b"5", b"6789")),
    "append deferred": (deferred, lambda rig: rig.append(UPLOAD, 5, b"5", b"67")),
    "declare": (deferred, lambda rig: rig.append(UPLOAD, 5, length=10)),
    "declare with the last": (deferred, lambda rig: rig.append(UPLOAD, 5, b"56789", length=10)),
    "head": (known, lambda rig: rig.head(UPLOAD)),
    "head that finishes": (finishing, lambda rig: rig.head(UPLOAD)),
    "terminate": (known, lambda rig: rig.terminate(UPLOAD)),
    "concatenate": (parts, lambda rig: rig.create(None, concat=Final((UploadId("a"), UploadId("b"))))),
}


def holding(rig: Rig, info: UploadInfo) -> None:
    for limiter in rig.limiters:
        limiter.held[info.id] = info.offset if info.length is None else info.length


async def settled(rig: Rig) -> None:
    """What holds after every request, however it ended."""
    await rig.background()
    assert rig.locks.queues == {}
    there = {info.id: info for info in await rig.uploads() if not isinstance(info.concat, Partial)}
    for info in there.values():
        content = await rig.content(info.id)
        assert content == CONTENT[: len(content)]
        room = info.offset if info.length is None else info.length
        for limiter in rig.limiters:
            assert limiter.held.get(info.id, 0) == room, "more or less is reserved than the upload may hold"
    for limiter in rig.limiters:
        assert set(limiter.held) <= set(there), "room is reserved for an upload that is not there"


async def resumed(rig: Rig) -> None:
    """A client comes back, asks where its upload stands, sends the rest, and has what it sent."""
    again = rig.restarted()
    for before in await rig.uploads():
        if isinstance(before.concat, Partial):
            continue
        info = await again.head(before.id)
        assert info.offset == before.offset
        if not isinstance(info.concat, Final) and info.state is State.RECEIVING:
            rest = CONTENT[info.offset :]
            info = (await again.append(info.id, info.offset, rest, length=10)).info
        await again.background()
        assert (await again.kept.info(before.id)).state is State.COMPLETE
        assert await again.read(before.id) == CONTENT


@pytest.mark.parametrize("hooks", [(), (lambda event: None,)], ids=["no hooks", "hooks"])
@pytest.mark.parametrize("kind", REQUESTS)
async def test_cancelled_anywhere(kind: str, hooks: tuple[Callable[[object], None], ...]) -> None:
    prepare, request = REQUESTS[kind]
    nth = 0
    struck = True
    while struck:
        nth += 1
        rig = Rig(limits="AB", hooks=hooks)
        await prepare(rig)
        for info in await rig.uploads():
            if not isinstance(info.concat, Partial):
                holding(rig, info)
        rig.script.pause = True

        async def work(rig: Rig = rig) -> None:
            await request(rig)

        struck = await cancelled_at(nth, work())
        rig.script.pause = False
        await settled(rig)
        await resumed(rig)
    assert nth > 5


@pytest.mark.parametrize("kind", ["append", "append the last", "create with a body"])
async def test_a_cancelled_waiter_does_not_hold_up_those_behind_it(kind: str) -> None:
    rig = Rig()
    await known(rig)
    source = FakeSource(hangs=True)
    holder = asyncio.create_task(rig.append(UPLOAD, 5, source=source, size=5))
    await source.hanging.wait()
    async with rig.locks.lock("another", lambda: None):
        waiters = [asyncio.create_task(rig.head(UPLOAD)) for _ in range(3)]
        waiters[1].cancel()
        with pytest.raises(TusError):
            await holder
        assert (await waiters[0]).offset == (await waiters[2]).offset == 5
        with pytest.raises(asyncio.CancelledError):
            await waiters[1]
    assert rig.locks.queues == {}


@pytest.mark.parametrize(
    "call", ["create", "lock", "open", "append", "appended", "finish", "save", "pre-finish", "A.reserve", "B.reserve", "B.spend"]
)
@pytest.mark.parametrize("kind", ["create with all of it", "create deferred with a body", "append the last", "declare"])
@pytest.mark.parametrize("error", [StorageFull, OSError])
async def test_a_call_that_fails_once(kind: str, call: str, error: type[Exception]) -> None:
    prepare, request = REQUESTS[kind]
    rig = Rig(limits="AB", hooks=[lambda event: None])
    await prepare(rig)
    for info in await rig.uploads():
        holding(rig, info)

    async def failing() -> None:
        rig.heal(call)
        raise error()

    rig.script.faults[call] = failing
    failed = False
    try:
        await request(rig)
    except (TusError, OSError):
        failed = True
    assert failed is not (call in rig.script.faults)
    rig.script.faults.clear()
    await settled(rig)
    await resumed(rig)


async def test_an_upload_that_vanishes_in_mid_request_is_not_found() -> None:
    rig = Rig()
    source = FakeSource(b"01", hangs=True)
    creation = asyncio.create_task(rig.run(Create(length=5, body=BodyPlan(5)), source))
    await source.hanging.wait()
    (info,) = await rig.uploads()
    await rig.terminate(info.id)
    with pytest.raises(TusError):
        await creation
    with pytest.raises(UploadNotFound):
        await rig.head(info.id)
