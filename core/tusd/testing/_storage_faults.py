"""Faults within one process: bodies that end anywhere, cancellations at every suspension, failures of every call to the backend."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

from ..errors import LeaseLost, TusError, UploadExists, UploadNotFound
from ..model import UploadId
from ..storage import Atomic, Concatenable, DataStore, Terminable, Upload
from ._storage_base import (
    StorageBase,
    assert_bytes,
    assert_resumable,
    concatenate,
    exists,
    needs,
    new_info,
    new_upload,
    remembered,
    reopen,
    terminate,
)
from ._storage_capabilities import new_final, new_parts
from .bodies import FakeBody, FakeLease, pattern
from .door import Door
from .faults import cancelled_at

BEFORE = 10
DATA = pattern(11, 50)
MOST_STEPS = 400
"""A store that still suspends or calls its backend after so many steps of one small operation is stuck in a loop."""

Fault = Callable[[int, Coroutine[Any, Any, object]], Awaitable[bool]]
"""Does the work with the N-th fault; False when the work ended before there was an N-th."""
Prepare = Callable[[DataStore], Awaitable[tuple[Coroutine[Any, Any, object], Callable[[], Awaitable[None]]]]]
"""Makes a fresh upload; gives the work to be broken, and the check that comes afterwards."""


class BodyTests(StorageBase):
    """Bodies that end early, and leases that are lost."""

    async def test_a_body_that_ends_at_any_byte_is_resumed(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            for k in range(len(DATA) + 1):
                upload = await new_upload(store, len(DATA))
                assert await upload.append(FakeBody(DATA, piece=7, stop_at=k)) == k
                assert upload.info.offset == k
                await assert_resumable(self, store, upload.info.id, DATA, at_least=k, at_most=k)

    async def test_a_large_body_that_ends_early_is_resumed(self, tusd_door: Door[DataStore]) -> None:
        data = pattern(12, self.large)
        async with tusd_door.open() as store:
            for k in (1, 65536, 100_000, self.large - 1):
                upload = await new_upload(store, len(data))
                assert await upload.append(FakeBody(data, stop_at=k)) == k
                await assert_resumable(self, store, upload.info.id, data, at_least=k, at_most=k)

    async def test_nothing_is_written_after_the_lease_is_lost(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            for k in range(0, len(DATA) + 1, 5):
                upload = await new_upload(store, len(DATA))
                await assert_lease_lost(upload.append(FakeBody(DATA, piece=7, lose_at=k)))
                await assert_resumable(self, store, upload.info.id, DATA, at_most=k)

    async def test_a_holder_that_wakes_up_too_late_harms_nothing(self, tusd_door: Door[DataStore]) -> None:
        """It is paused in the middle of its body, loses the lock, and the next holder has gone on when it wakes up."""
        async with tusd_door.open() as store:
            for k in (0, 7, 21):
                upload = await new_upload(store, len(DATA))
                lease = FakeLease()
                late = _LateBody(b"?" * len(DATA), lease, k)
                late.data = DATA[:k] + late.data[k:]
                paused = asyncio.create_task(upload.append(late))
                await late.hung(paused)
                lease.lose()
                following = await reopen(store, upload.info.id)
                start = following.info.offset
                assert start <= k
                await following.append(FakeBody(DATA[start:30]))
                late.go_on.set()
                await assert_lease_lost(paused)
                await assert_resumable(self, store, upload.info.id, DATA, at_least=30, at_most=30)


class LostLeaseTests(StorageBase):
    """A holder that has lost its lease changes nothing any more: stores check it immediately before each write."""

    async def test_nothing_is_saved_once_the_lease_is_lost(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            upload, lease = await self._open_with_lease(store)
            before = await store.info(upload.info.id)
            lease.lose()
            await assert_lease_lost(upload.save(replace(upload.info, notes={"too": "late"}, length=1000)))
            assert await store.info(upload.info.id) == before

    async def test_nothing_is_created_once_the_lease_is_lost(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            info, lease = new_info(), FakeLease()
            lease.lose()
            await assert_lease_lost(store.create(info, lease))
            assert not await exists(store, info.id)

    @needs(Terminable)
    async def test_nothing_is_terminated_once_the_lease_is_lost(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            upload, lease = await self._open_with_lease(store)
            lease.lose()
            await assert_lease_lost(terminate(upload))
            await assert_resumable(self, store, upload.info.id, DATA, at_least=BEFORE, at_most=BEFORE)

    @needs(Concatenable)
    async def test_nothing_is_concatenated_once_the_lease_is_lost(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            parts = await new_parts(store, [DATA[:20], DATA[20:]])
            lease = FakeLease(2)
            upload = await store.open((await new_final(store, parts)).info.id, lease)
            lease.lose()
            await assert_lease_lost(concatenate(upload, parts))
            assert (await store.info(upload.info.id)).offset == 0

    async def _open_with_lease(self, store: DataStore) -> tuple[Upload, FakeLease]:
        upload = await new_upload(store, len(DATA))
        await upload.append(FakeBody(DATA[:BEFORE]))
        lease = FakeLease(2)
        return await store.open(upload.info.id, lease), lease


class BrokenTests(StorageBase):
    """Every operation, broken at every step, twice over: by a cancellation, and by a failure of the backend."""

    async def test_create_cancelled_anywhere(self, tusd_door: Door[DataStore]) -> None:
        await self._cancelled_everywhere(tusd_door, self._create)

    async def test_append_cancelled_anywhere(self, tusd_door: Door[DataStore]) -> None:
        await self._cancelled_everywhere(tusd_door, self._append)

    async def test_save_cancelled_anywhere(self, tusd_door: Door[DataStore]) -> None:
        await self._cancelled_everywhere(tusd_door, self._save)

    async def test_finish_cancelled_anywhere(self, tusd_door: Door[DataStore]) -> None:
        await self._cancelled_everywhere(tusd_door, self._finish)

    async def test_open_cancelled_anywhere(self, tusd_door: Door[DataStore]) -> None:
        await self._cancelled_everywhere(tusd_door, self._open)

    @needs(Atomic)
    async def test_append_of_a_whole_body_cancelled_anywhere(self, tusd_door: Door[DataStore]) -> None:
        await self._cancelled_everywhere(tusd_door, self._append_whole)

    @needs(Terminable)
    async def test_terminate_cancelled_anywhere(self, tusd_door: Door[DataStore]) -> None:
        await self._cancelled_everywhere(tusd_door, self._terminate)

    @needs(Concatenable)
    async def test_concatenate_cancelled_anywhere(self, tusd_door: Door[DataStore]) -> None:
        await self._cancelled_everywhere(tusd_door, self._concatenate)

    async def test_create_with_any_call_failing(self, tusd_door: Door[DataStore]) -> None:
        await self._failing_everywhere(tusd_door, self._create, changes=True)

    async def test_append_with_any_call_failing(self, tusd_door: Door[DataStore]) -> None:
        await self._failing_everywhere(tusd_door, self._append, changes=True)

    async def test_save_with_any_call_failing(self, tusd_door: Door[DataStore]) -> None:
        await self._failing_everywhere(tusd_door, self._save, changes=True)

    async def test_finish_with_any_call_failing(self, tusd_door: Door[DataStore]) -> None:
        await self._failing_everywhere(tusd_door, self._finish)

    async def test_open_with_any_call_failing(self, tusd_door: Door[DataStore]) -> None:
        await self._failing_everywhere(tusd_door, self._open)

    async def test_info_with_any_call_failing(self, tusd_door: Door[DataStore]) -> None:
        await self._failing_everywhere(tusd_door, self._info)

    @needs(Atomic)
    async def test_append_of_a_whole_body_with_any_call_failing(self, tusd_door: Door[DataStore]) -> None:
        await self._failing_everywhere(tusd_door, self._append_whole, changes=True)

    @needs(Terminable)
    async def test_terminate_with_any_call_failing(self, tusd_door: Door[DataStore]) -> None:
        await self._failing_everywhere(tusd_door, self._terminate, changes=True)

    @needs(Concatenable)
    async def test_concatenate_with_any_call_failing(self, tusd_door: Door[DataStore]) -> None:
        await self._failing_everywhere(tusd_door, self._concatenate, changes=True)

    # --- the faults

    async def _cancelled_everywhere(self, door: Door[DataStore], prepare: Prepare) -> None:
        async def at_once(nth: int, work: Coroutine[Any, Any, object]) -> bool:
            return await cancelled_at(nth, work)

        async def while_a_thread_works(nth: int, work: Coroutine[Any, Any, object]) -> bool:
            return await cancelled_at(nth, work, late=0.0005)

        await self._everywhere(door, prepare, at_once)
        await self._everywhere(door, prepare, while_a_thread_works)

    async def _failing_everywhere(self, door: Door[DataStore], prepare: Prepare, *, changes: bool = False) -> None:
        if self.failing(1) is None:
            return

        async def fails(nth: int, work: Coroutine[Any, Any, object]) -> bool:
            context = self.failing(nth)
            assert context is not None
            with context as calls:
                try:
                    await work
                except (TusError, OSError) as error:
                    lie = isinstance(error, UploadNotFound | UploadExists | LeaseLost)
                    assert not lie, f"a failing backend must not be reported as {type(error).__name__}"
                    assert calls.failed, f"{error!r} without a failing call"
            return calls.failed

        struck = await self._everywhere(door, prepare, fails)
        assert struck or not changes, "`failing` made no call fail; does it name the functions that the store calls?"

    async def _everywhere(self, door: Door[DataStore], prepare: Prepare, fault: Fault) -> int:
        """Break the work at every step; returns how many there were."""
        async with door.open() as store:
            for nth in range(1, MOST_STEPS):
                work, check = await prepare(store)
                try:
                    struck = await fault(nth, work)
                    await check()
                except Exception as error:
                    error.add_note(f"(with fault number {nth})")
                    raise
                if not struck:
                    return nth - 1
        raise AssertionError(f"still going on after {MOST_STEPS} steps")

    # --- what is broken: each makes an upload, and says how it must be afterwards

    async def _create(self, store: DataStore) -> tuple[Coroutine[Any, Any, object], Callable[[], Awaitable[None]]]:
        info = new_info(len(DATA), notes={"a": "note"})

        async def there_or_not() -> None:
            if await exists(store, info.id):
                assert remembered(await store.info(info.id)) == remembered(info)
            else:
                await store.create(info, FakeLease(2))
            await assert_resumable(self, store, info.id, DATA, at_most=0)

        return store.create(info, FakeLease()), there_or_not

    async def _append(self, store: DataStore) -> tuple[Coroutine[Any, Any, object], Callable[[], Awaitable[None]]]:
        return await self._appending(store, whole=False)

    async def _append_whole(self, store: DataStore) -> tuple[Coroutine[Any, Any, object], Callable[[], Awaitable[None]]]:
        return await self._appending(store, whole=True)

    async def _appending(
        self, store: DataStore, *, whole: bool
    ) -> tuple[Coroutine[Any, Any, object], Callable[[], Awaitable[None]]]:
        upload = await self._begun(store)
        body = FakeBody(DATA[BEFORE:], piece=15, whole=whole)

        async def nothing_lost() -> None:
            said = upload.info.offset
            most = BEFORE + body.handed
            found = await assert_resumable(self, store, upload.info.id, DATA, at_least=body.safe or BEFORE, at_most=most)
            assert said <= found, f"upload.info.offset was {said} after the fault, but only {found} bytes are there"
            assert not whole or found in (BEFORE, len(DATA)), f"{found - BEFORE} bytes of a whole body were kept"

        return upload.append(body), nothing_lost

    async def _save(self, store: DataStore) -> tuple[Coroutine[Any, Any, object], Callable[[], Awaitable[None]]]:
        upload = await self._begun(store)
        old, new = upload.info, replace(upload.info, notes={"new": "note"}, max_length=1000)

        async def old_or_new() -> None:
            found = remembered(await store.info(old.id))
            assert found in (remembered(old), remembered(new)), "save() replaces all or nothing"
            await assert_resumable(self, store, old.id, DATA, at_least=BEFORE, at_most=BEFORE)

        return upload.save(new), old_or_new

    async def _finish(self, store: DataStore) -> tuple[Coroutine[Any, Any, object], Callable[[], Awaitable[None]]]:
        upload = await self._begun(store)
        await upload.append(FakeBody(DATA[BEFORE:]))
        return upload.finish(), self._all_there(store, upload.info.id, len(DATA))

    async def _open(self, store: DataStore) -> tuple[Coroutine[Any, Any, object], Callable[[], Awaitable[None]]]:
        upload = await self._begun(store)
        return reopen(store, upload.info.id), self._all_there(store, upload.info.id, BEFORE)

    async def _info(self, store: DataStore) -> tuple[Coroutine[Any, Any, object], Callable[[], Awaitable[None]]]:
        upload = await self._begun(store)
        return store.info(upload.info.id), self._all_there(store, upload.info.id, BEFORE)

    async def _terminate(self, store: DataStore) -> tuple[Coroutine[Any, Any, object], Callable[[], Awaitable[None]]]:
        upload = await self._begun(store)

        async def gone_or_goes() -> None:
            if await exists(store, upload.info.id):
                await terminate(await reopen(store, upload.info.id))
            assert not await exists(store, upload.info.id)
            try:
                again = await new_upload(store, len(DATA), id=upload.info.id)
            except UploadExists:
                return  # what a broken termination leaves may keep the id taken, and nothing else
            assert again.info.offset == 0
            await assert_resumable(self, store, upload.info.id, DATA, at_most=0)

        return terminate(upload), gone_or_goes

    async def _concatenate(self, store: DataStore) -> tuple[Coroutine[Any, Any, object], Callable[[], Awaitable[None]]]:
        parts = await new_parts(store, [DATA[:20], b"", DATA[20:]])
        final = await new_final(store, parts)

        async def done_or_repeated() -> None:
            again = await reopen(store, final.info.id)
            await concatenate(again, parts)
            await again.finish()
            assert again.info.offset == len(DATA)
            assert_bytes(await self.content(store, await store.info(final.info.id)), DATA)
            for part, content in zip(parts, (DATA[:20], b"", DATA[20:]), strict=True):
                assert_bytes(await self.content(store, await store.info(part.id)), content)

        return concatenate(final, parts), done_or_repeated

    async def _begun(self, store: DataStore) -> Upload:
        upload = await new_upload(store, len(DATA))
        await upload.append(FakeBody(DATA[:BEFORE]))
        return upload

    def _all_there(self, store: DataStore, upload_id: UploadId, size: int) -> Callable[[], Awaitable[None]]:
        async def check() -> None:
            await assert_resumable(self, store, upload_id, DATA, at_least=size, at_most=size)

        return check


class FaultTests(BodyTests, LostLeaseTests, BrokenTests):
    """All faults within one process."""


class _LateBody(FakeBody):
    """Pauses at `pause_at` until it may go on, and then finds its lease lost."""

    def __init__(self, data: bytes, lease: FakeLease, pause_at: int) -> None:
        super().__init__(data, lease, piece=7)
        self.pause_at = pause_at
        self.go_on = asyncio.Event()

    async def _event(self) -> None:
        if self.handed >= self.pause_at:
            self.hanging.set()
            await self.go_on.wait()
        await super()._event()


async def assert_lease_lost(work: Awaitable[object]) -> None:
    """It raises the `LeaseLost` of its body."""
    try:
        await work
    except LeaseLost:
        return
    raise AssertionError("the lease was lost, and LeaseLost was not raised")
