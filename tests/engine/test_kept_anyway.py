"""What an outbox promises, wherever a request is cancelled and whichever call fails: each event that is true comes, no other does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tests.engine.rig import Rig
from tests.engine.test_cancelled import CONTENT, REQUESTS

import tusd.engine.deliver
import tusd.engine.outbox
from tusd.engine.complete import all_sent
from tusd.engine.outbox import Outbox
from tusd.engine.sweep import Sweeper
from tusd.errors import TusError
from tusd.hooks import HookEvent, HookResponse, Keeping, PostFinish, PostTerminate, PreFinish
from tusd.model import Partial, State, UploadId
from tusd.testing.faults import cancelled_at

KINDS = ["create with all of it", "append the last", "declare with the last", "head that finishes", "concatenate", "terminate"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tusd.engine.deliver, "_LOOK", 0.001)
    monkeypatch.setattr(tusd.engine.deliver, "_PAUSE", 0.01)
    monkeypatch.setattr(tusd.engine.deliver, "_SOON", 0.01)
    monkeypatch.setattr(tusd.engine.outbox, "_UNSURE", 0.02)


def rig_in(folder: Path, answers: Callable[[HookEvent], HookResponse | None]) -> Rig:
    keeping = Keeping(folder, frozenset(), 3600)
    return Rig(hooks=[answers], events={PreFinish, PostFinish, PostTerminate}, keeping=keeping)


async def complete_ones(rig: Rig) -> set[UploadId]:
    return {info.id for info in await rig.uploads() if info.state is State.COMPLETE and not isinstance(info.concat, Partial)}


async def check(rig: Rig, before: set[UploadId], complete: set[UploadId]) -> None:
    """Let another process finish what is left, deliver all, and compare what was told with what is there, and what was `complete`."""
    assert rig.keeping is not None
    again = rig.restarted()
    context = again.engine._context
    await Sweeper(context, 0, remove_parts=False).round()
    await asyncio.gather(*context.filling.values(), return_exceptions=True)
    await again.engine.start()
    async with asyncio.timeout(5):
        while [kept for kept in Outbox(rig.keeping.folder).all() if not await pending(again, kept.event)]:  # noqa: ASYNC110 - it looks at files
            await asyncio.sleep(0.005)
    await asyncio.wait_for(again.engine.close(), 5)
    told: dict[UploadId, list[HookEvent]] = {}
    for one in (rig, again):
        for event in one.dispatchers[0].seen:
            if isinstance(event, PostFinish | PostTerminate):
                told.setdefault(event.upload.id, []).append(event)
    there = {info.id: info for info in await again.uploads()}
    assert not any(map(all_sent, there.values())), "what has all its bytes is finished, or refused and gone"
    complete = complete | await complete_ones(again)
    for upload_id in before | there.keys() | told.keys():
        if upload_id not in there or not isinstance(there[upload_id].concat, Partial):
            names = [event.name for event in told.get(upload_id, [])]
            assert names == ["post-finish"] * (upload_id in complete) + ["post-terminate"] * (upload_id not in there)


async def pending(rig: Rig, event: HookEvent | None) -> bool:
    """Whether what is kept has not happened, and may never."""
    assert event is not None
    with suppress(TusError):
        info = await rig.kept.info(event.upload.id)
        return isinstance(event, PostTerminate) or info.state is not State.COMPLETE
    return False


async def resume(rig: Rig) -> None:
    for info in await rig.uploads():
        if not isinstance(info.concat, Partial) and info.state is State.RECEIVING and info.concat is None:
            await rig.append(info.id, info.offset, CONTENT[info.offset :], length=10 if info.length is None else None)


async def remove(rig: Rig) -> None:
    for info in await rig.uploads():
        if not isinstance(info.concat, Partial):
            await rig.terminate(info.id)


async def leave(rig: Rig) -> None:
    """The client never comes back."""


@pytest.mark.parametrize("then", [resume, remove, leave])
@pytest.mark.parametrize("verdict", [None, HookResponse(reject=True)], ids=["agreed", "refused later"])
@pytest.mark.parametrize("kind", KINDS)
async def test_cancelled_anywhere(
    kind: str, verdict: HookResponse | None, then: Callable[[Rig], Awaitable[None]], tmp_path: Path
) -> None:
    prepare, request = REQUESTS[kind]
    nth, struck = 0, True
    while struck:
        nth += 1
        asked = 0

        def answers(event: HookEvent) -> HookResponse | None:
            nonlocal asked
            asked += 1
            return verdict if asked > 1 else None

        rig = rig_in(tmp_path / str(nth), answers)
        Outbox(tmp_path / str(nth)).open()
        await prepare(rig)
        before = {info.id for info in await rig.uploads() if not isinstance(info.concat, Partial)}
        complete: set[UploadId] = set()
        rig.script.pause = True

        async def work(rig: Rig = rig) -> None:
            await request(rig)

        try:
            struck = await cancelled_at(nth, work())
        except TusError:
            struck = True
        rig.script.pause = False
        await rig.background()
        complete |= await complete_ones(rig)
        with suppress(TusError):
            await then(rig)
        complete |= await complete_ones(rig)
        await rig.background()
        await check(rig, before, complete)
    assert nth > 3
