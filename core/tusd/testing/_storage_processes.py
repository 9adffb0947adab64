"""Other processes: what a store keeps, a process killed at any moment, two workers at once.

A store whose `scope` is `PROCESS` promises none of this; for it the opposite is proved: no other process sees its uploads.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import timedelta

from ..errors import UploadExists, UploadNotFound
from ..model import Metadata, Partial, State, UploadId, UploadInfo, utcnow
from ..storage import Atomic, Concatenable, DataStore
from ._storage_always import NOT_TEXT
from ._storage_base import (
    StorageBase,
    assert_bytes,
    assert_resumable,
    concatenate,
    exists,
    full_upload,
    needs,
    new_id,
    new_info,
    new_upload,
    reopen,
)
from ._storage_capabilities import new_final, new_parts
from .bodies import FakeBody, FakeLease, pattern
from .door import Door
from .elsewhere import Elsewhere, run_elsewhere

KILLS = 10
SEED = 13


class PersistenceTests(StorageBase):
    """What another process finds."""

    async def test_a_fresh_process_finds_the_same(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open() as store:
            uploads = [
                await full_upload(store, b"12345", concat=Partial()),
                await new_upload(store, None, metadata=NOT_TEXT, max_length=7, notes={"a": "b"}),
                await new_upload(store, 10, state=State.FINISHING, explicit=True, expires=utcnow() + timedelta(days=1)),
                await new_upload(store, 10, metadata=Metadata({"name": b"x"}, header="name eA==")),
            ]
            await uploads[-1].append(FakeBody(b"abc"))
            for upload in uploads:
                await upload.save(replace(upload.info, notes={**upload.info.notes, "saved": "yes"}))
            ids = [upload.info.id for upload in uploads]
            here = [await store.info(upload_id) for upload_id in ids]
        expected = here if self.shared() else [None] * len(here)
        assert await run_elsewhere(tusd_door, infos_of, ids) == expected

    async def test_a_fresh_process_goes_on(self, tusd_door: Door[DataStore]) -> None:
        if not self.shared():
            return
        data = pattern(SEED, 1000)
        async with tusd_door.open() as store:
            upload = await new_upload(store, len(data))
            await upload.append(FakeBody(data[:300]))
        await run_elsewhere(tusd_door, append_pattern, upload.info.id, len(data), 700)
        async with tusd_door.open() as store:
            await assert_resumable(self, store, upload.info.id, data, at_least=700, at_most=700)


class KilledTests(StorageBase):
    """A process that is killed (SIGKILL) holds nothing back and breaks nothing."""

    async def test_killed_in_mid_append_again_and_again(self, tusd_door: Door[DataStore]) -> None:
        if not self.shared():
            return
        data = pattern(SEED, KILLS * 2 * self.large)
        chance = random.Random(SEED)
        safe = 0
        async with tusd_door.open() as store:
            upload_id = (await new_upload(store, len(data))).info.id
            for _ in range(KILLS):
                async with Elsewhere(tusd_door, append_pattern, upload_id, len(data), len(data), 0.0002) as other:
                    await other.said("begun")
                    await asyncio.sleep(chance.uniform(0, 0.1))
                    lines = await other.kill()
                safe = max([safe, *(int(line.split()[1]) for line in lines if line.startswith("safe "))])
                seen = (await store.info(upload_id)).offset
                found = (await reopen(store, upload_id)).info.offset
                assert safe <= found, f"{safe} bytes were called safe; after the kill {found} are there"
                assert seen <= found, f"info() said {seen} after the kill, but only {found} bytes are there"
            await assert_resumable(self, store, upload_id, data, at_least=safe)

    @needs(Atomic)
    async def test_killed_within_a_whole_body(self, tusd_door: Door[DataStore]) -> None:
        if not self.shared():
            return
        data = pattern(SEED, 100)
        async with tusd_door.open() as store:
            for hang_at in (0, 30, 60, None):
                upload = await new_upload(store, len(data))
                await upload.append(FakeBody(data[:40]))
                async with Elsewhere(tusd_door, hang_in_whole_body, upload.info.id, data[40:], hang_at) as other:
                    await other.said("hanging")
                    assert (await store.info(upload.info.id)).offset == 40, "info() counts a body that may break yet"
                    await other.kill()
                assert (await store.info(upload.info.id)).offset == 40
                await assert_resumable(self, store, upload.info.id, data, at_least=40, at_most=40)

    @needs(Concatenable)
    async def test_killed_in_mid_concatenation(self, tusd_door: Door[DataStore]) -> None:
        if not self.shared():
            return
        contents = [pattern(n, self.large) for n in range(4)]
        chance = random.Random(SEED)
        async with tusd_door.open() as store:
            parts = await new_parts(store, contents)
            ids = [part.id for part in parts]
            for _ in range(5):
                final = await new_final(store, parts)
                async with Elsewhere(tusd_door, concatenate_parts, final.info.id, ids) as other:
                    await other.said("begun")
                    await asyncio.sleep(chance.uniform(0, 0.02))
                    await other.kill()
                again = await reopen(store, final.info.id)
                await concatenate(again, parts)
                await again.finish()
                assert_bytes(await self.content(store, await store.info(final.info.id)), b"".join(contents))


class WorkerTests(StorageBase):
    """Two workers of one server, each with its own opened store."""

    async def test_what_one_worker_appends_the_other_sees(self, tusd_door: Door[DataStore]) -> None:
        data = pattern(SEED, 100)
        async with tusd_door.open(0) as one, tusd_door.open(1) as other:
            if not self.shared():
                return
            upload_id = (await new_upload(one, len(data))).info.id
            for n, store in enumerate((one, other) * 5):
                upload = await reopen(store, upload_id, token=2 + n)
                assert upload.info.offset == n * 10
                await upload.append(FakeBody(data[n * 10 : n * 10 + 10]))
                for seen_by in (one, other):
                    assert await exists(seen_by, upload_id), "one worker does not see what the other has created"
                    assert (await seen_by.info(upload_id)).offset == n * 10 + 10
            await upload.finish()
            for store in (one, other):
                assert_bytes(await self.content(store, await store.info(upload_id)), data)

    async def test_create_is_exclusive_among_workers(self, tusd_door: Door[DataStore]) -> None:
        async with tusd_door.open(0) as one, tusd_door.open(1) as other:
            if not self.shared():
                return
            for _ in range(10):
                same = new_id("same")
                tries = [(store, new_info(id=same, notes={"try": str(n)})) for n, store in enumerate((one, other) * 3)]
                results = await asyncio.gather(*(s.create(info, FakeLease()) for s, info in tries), return_exceptions=True)
                assert sorted(type(r).__name__ for r in results if isinstance(r, BaseException)) == [UploadExists.__name__] * 5
                won = next(info for (_, info), r in zip(tries, results, strict=True) if not isinstance(r, BaseException))
                assert (await one.info(same)).notes == (await other.info(same)).notes == won.notes


class ProcessTests(PersistenceTests, KilledTests, WorkerTests):
    """All that takes more than one process."""


# --- what the other process does


async def infos_of(store: DataStore, ids: list[UploadId]) -> list[UploadInfo | None]:
    """What is known of each upload; None for those that are not found."""
    found: list[UploadInfo | None] = []
    for upload_id in ids:
        try:
            info = await store.info(upload_id)
            found.append(replace(info, notes=dict(info.notes), storage=dict(info.storage)))  # so that it can be pickled
        except UploadNotFound:
            found.append(None)
    return found


async def append_pattern(store: DataStore, upload_id: UploadId, size: int, stop: int, pause: float = 0) -> None:
    """Append the pattern from the upload's offset up to `stop`, saying "begun" and what is safe."""
    upload = await reopen(store, upload_id)
    print("begun", flush=True)
    await upload.append(_TellingBody(pattern(SEED, size)[upload.info.offset : stop], piece=4096, pause=pause))
    print("safe", upload.info.offset, flush=True)


async def hang_in_whole_body(store: DataStore, upload_id: UploadId, data: bytes, hang_at: int | None) -> None:
    """Append a whole body that hangs; None: when the store asks whether it is intact."""
    upload = await reopen(store, upload_id)
    await upload.append(_HangingBody(data, piece=10, whole=True, hang_at=hang_at))


async def concatenate_parts(store: DataStore, upload_id: UploadId, ids: list[UploadId]) -> None:
    """Fill a final upload, saying "begun"."""
    upload = await reopen(store, upload_id)
    parts = [await store.info(part) for part in ids]
    print("begun", flush=True)
    await concatenate(upload, parts)


class _TellingBody(FakeBody):
    """Prints what the store calls safe."""

    def saved(self, offset: int) -> None:
        super().saved(offset)
        print("safe", offset, flush=True)


class _HangingBody(FakeBody):
    """Prints "hanging" when it hangs, in `intact` at the latest."""

    async def _event(self) -> None:
        if self.handed == self._hang_at:
            print("hanging", flush=True)
        await super()._event()

    async def intact(self) -> bool:
        await super().intact()
        print("hanging", flush=True)
        return bool(await asyncio.get_running_loop().create_future())
