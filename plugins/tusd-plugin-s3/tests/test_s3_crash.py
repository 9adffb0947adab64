"""No crash, failure or delay loses an acknowledged byte: every call to the bucket fails, is the last one of its process, or comes too late.

An upload's life is a list of steps. It is broken at each call that it makes, in every way; then somebody else goes on, and in the end every byte is compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import pytest

from memory_bucket import LEAST, RULES, UNIFORM, Dead, How, MemoryBucket, Server, new_store
from tusd import plugin
from tusd.plugin import State, UploadId, UploadInfo
from tusd.testing.bodies import FakeBody, FakeLease, pattern
from tusd_plugin_s3.profiles import Profile
from tusd_plugin_s3.store import S3Store
from tusd_plugin_s3.upload import S3Upload

ID = UploadId("u")
SIZE = 52
DATA = pattern(3, SIZE)
OTHER = pattern(4, SIZE)
"""What somebody else sends in the place of the same bytes."""


@dataclass
class Life:
    """What happens to one upload in one process, and what its clients were told."""

    store: S3Store
    data: bytes = DATA
    lease: FakeLease = field(default_factory=FakeLease)
    told: int = 0
    """Bytes that were acknowledged."""
    possible: tuple[int, ...] | None = None
    """The offsets that a body which counts as a whole may leave."""
    created: bool = False
    upload: Any = None

    async def create(self, length: int | None = SIZE, **fields: Any) -> None:
        self.upload = await self.store.create(UploadInfo(**{"id": ID, "length": length, **fields}), self.lease)
        self.created = True

    async def open(self) -> None:
        self.upload = None
        self.upload = await self.store.open(ID, self.lease)

    async def append(self, size: int, **how: Any) -> None:
        """The next `size` bytes, by a new request."""
        await self.open()
        start = self.upload.info.offset
        body = FakeBody(self.data[start : start + size], self.lease, piece=7, **how)
        if body.whole:
            self.possible = (start, start + size) if how.get("intact", True) else (start,)
        else:
            self.possible = None
        try:
            await self.upload.append(body)
        finally:
            self.told = max(self.told, body.safe or 0)
        self.told = max(self.told, self.upload.info.offset)

    async def save(self, **fields: Any) -> None:
        await self.open()
        await self.upload.save(replace(self.upload.info, **fields))

    async def finish(self) -> None:
        await self.open()
        await self.upload.finish()

    async def terminate(self) -> None:
        await self.open()
        await self.upload.terminate()


Steps = Callable[[Life], Awaitable[None]]


async def in_large_bodies(life: Life) -> None:
    await life.create()
    await life.append(33)
    await life.append(19)
    await life.finish()


async def in_small_bodies(life: Life) -> None:
    await life.create()
    for size in (2, 1, 4, 20, 3, 22):
        await life.append(size)
    await life.finish()


async def at_once(life: Life) -> None:
    await life.create()
    await life.append(SIZE)
    await life.finish()


async def of_whole_bodies(life: Life) -> None:
    await life.create()
    await life.append(3, whole=True)
    await life.append(32, whole=True, intact=False)
    await life.append(32, whole=True)
    await life.append(17, whole=True)
    await life.finish()


async def of_deferred_length(life: Life) -> None:
    await life.create(None)
    await life.append(31)
    await life.append(21)
    await life.save(length=SIZE)
    await life.finish()


async def of_deferred_length_and_small(life: Life) -> None:
    life.data = DATA[:4]
    await life.create(None)
    await life.append(4)
    await life.save(length=4)
    await life.finish()


async def of_explicit_state(life: Life) -> None:
    await life.create(None, state=State.OPEN, explicit=True)
    await life.append(31)
    await life.append(21)
    await life.save(length=SIZE, state=State.FINISHING, explicit=True)
    await life.finish()
    await life.save(state=State.COMPLETE, explicit=True)


async def of_one_small_body(life: Life) -> None:
    life.data = DATA[:7]
    await life.create(7)
    await life.append(3)
    await life.append(4)
    await life.finish()


async def of_zero_bytes(life: Life) -> None:
    life.data = b""
    await life.create(0)
    await life.finish()


LIVES: list[Steps] = [
    in_large_bodies,
    in_small_bodies,
    at_once,
    of_whole_bodies,
    of_deferred_length,
    of_deferred_length_and_small,
    of_explicit_state,
    of_one_small_body,
    of_zero_bytes,
]
named = pytest.mark.parametrize("steps", LIVES, ids=lambda steps: steps.__name__)
by_parts = pytest.mark.parametrize("rules", [RULES, UNIFORM], ids=["any parts", "equal parts"])


async def run_broken(life: Life, steps: Steps) -> bool:
    """Whether it came to its end all the same."""
    try:
        await steps(life)
    except (plugin.TusError, Dead):
        return False
    finally:
        with suppress(Dead):
            await life.store.close()
    return True


async def go_on(
    server: Server,
    data: bytes,
    told: int,
    *,
    rules: Profile,
    stale: bool = False,
    possible: tuple[int, ...] | None = None,
) -> None:
    """Somebody else finds the upload, with all that was acknowledged, sends the rest and finishes it."""
    bucket = MemoryBucket(server)
    bucket.stale = stale
    store = new_store(bucket, rules)
    seen = await store.info(ID)
    if data and seen.state is State.COMPLETE:
        assert server.objects["u"].data == data, "it is told to be complete, and its object is not there"
    upload = await store.open(ID, FakeLease(2))
    assert isinstance(upload, S3Upload)
    offset = upload.info.offset
    assert told <= offset, f"{told} bytes were acknowledged, and {offset} are left"
    assert seen.offset <= offset
    assert possible is None or offset in possible, f"{offset} is in the middle of a body that counts as a whole"
    if rest := data[offset:]:
        assert await upload.append(FakeBody(rest, piece=4)) == len(rest)
    if upload.info.length is None:
        await upload.save(replace(upload.info, length=len(data)))
    await upload.finish()
    await store.close()
    await assert_finished(server, data)


async def assert_finished(server: Server, data: bytes) -> None:
    """The object is there, and nothing else of the upload but its `.info` and what a crash may leave."""
    bucket = MemoryBucket(server)
    store = new_store(bucket)
    info = await store.info(ID)
    assert (info.offset, info.length) == (len(data), len(data))
    assert b"".join([piece async for piece in store.read(info, 0, info.offset)]) == data
    assert server.objects[info.storage["Key"]].data == data
    assert not server.overwritten, "a part that somebody counted was written again"
    calls = len(bucket.calls)
    await store.open(ID, FakeLease(3))
    assert [call[0] for call in bucket.calls[calls:]] == ["get_info_object"], "nothing is left to repair"
    upload = await store.open(ID, FakeLease(3))
    assert isinstance(upload, S3Upload)
    await upload.terminate()
    left = [multipart for multipart in server.multiparts.values() if multipart.parts]
    assert not left, "parts are left for ever"
    assert not server.objects, "objects are left for ever"


class TestFailures:
    """Each call fails once: with its effect, and without."""

    @named
    @by_parts
    async def test_of_each_call(self, steps: Steps, rules: Profile) -> None:
        for how in ("before", "after"):
            await every_call(how, steps, rules, afterwards)

    @named
    async def test_of_each_call_where_conditions_do_not_work(self, steps: Steps) -> None:
        for how in ("before", "after"):
            await every_call(how, steps, RULES, afterwards, conditional=False)

    @named
    async def test_of_each_call_and_the_same_holder_tries_again(self, steps: Steps) -> None:
        async def same_holder(life: Life, bucket: MemoryBucket, rules: Profile) -> None:
            upload = life.upload
            if upload is None:
                return
            notes = {"tried": "again"}
            try:
                await upload.save(replace(upload.info, notes=notes))
                assert upload.info.offset >= life.told or upload.info.offset == len(life.data) - 1
                rest = life.data[upload.info.offset :]
                await upload.append(FakeBody(rest, piece=4))
                assert upload.info.notes == notes
            except plugin.UploadNotFound:
                assert not life.created
                return
            life.possible = None
            await afterwards(life, bucket, rules)

        for how in ("before", "after"):
            await every_call(how, steps, RULES, same_holder)


class TestDeaths:
    """The process dies at each call: before its effect, and after it."""

    @named
    @by_parts
    async def test_at_each_call(self, steps: Steps, rules: Profile) -> None:
        for how in ("dies before", "dies after"):
            await every_call(how, steps, rules, afterwards)

    @named
    async def test_at_each_call_and_listings_are_stale(self, steps: Steps) -> None:
        async def blind(life: Life, bucket: MemoryBucket, rules: Profile) -> None:
            await afterwards(life, bucket, rules, stale=True)

        for how in ("dies before", "dies after"):
            await every_call(how, steps, RULES, blind)

    @named
    async def test_at_each_call_again_and_again(self, steps: Steps) -> None:
        """Those who go on die, too: at each of their calls."""

        async def dying(life: Life, bucket: MemoryBucket, rules: Profile) -> None:
            if not life.created:
                return
            life.possible = None
            for nth in range(1, 100):
                again = MemoryBucket(bucket.server)
                again.nth, again.how = nth, "dies after" if nth % 2 else "dies before"
                try:
                    await go_on_until_death(again, life)
                except Dead:
                    continue
                break
            await afterwards(life, bucket, rules)

        await every_call("dies after", steps, RULES, dying)


class TestTermination:
    """It breaks anywhere, is repeated, and leaves nothing."""

    @pytest.mark.parametrize("bodies", [(), (3,), (23,), (SIZE,)], ids=["new", "a tail", "parts and a tail", "complete"])
    async def test_of_each_call(self, bodies: tuple[int, ...]) -> None:
        for how in get_args(How)[:4]:
            nth, struck = 0, True
            while struck:
                nth += 1
                struck = await self.broken(bodies, how, nth)
            assert nth > 2

    async def broken(self, bodies: tuple[int, ...], how: How, nth: int) -> bool:
        bucket = MemoryBucket(Server(least=LEAST))
        life = Life(new_store(bucket))
        await life.create()
        for size in bodies:
            await life.append(size)
        bucket.nth, bucket.how = len(bucket.calls) + nth, how
        await run_broken(life, Life.terminate)
        again = new_store(MemoryBucket(bucket.server))
        with suppress(plugin.UploadNotFound):
            assert (await again.info(ID)).offset == life.told, "until it is gone it is what it was"
            upload: Any = await again.open(ID, FakeLease(2))
            await upload.terminate()
        with pytest.raises(plugin.UploadNotFound):
            await again.info(ID)
        assert not bucket.server.objects and not bucket.server.multiparts, f"{how} {nth}: {bucket.calls}"
        return bucket.struck


async def go_on_until_death(bucket: MemoryBucket, life: Life) -> None:
    store = new_store(bucket)
    upload: Any = await store.open(ID, FakeLease(2))
    assert upload.info.offset >= life.told
    start = upload.info.offset
    if rest := life.data[start : start + 11]:
        await upload.append(FakeBody(rest, piece=4))
    life.told = max(life.told, upload.info.offset)


Check = Callable[[Life, MemoryBucket, Profile], Awaitable[None]]


async def every_call(how: How, steps: Steps, rules: Profile, check: Check, *, conditional: bool = True) -> None:
    """Break the life at each of its calls, with a new server each time."""
    for nth in range(1, 200):
        server = Server(least=LEAST)
        bucket = MemoryBucket(server, conditional=conditional)
        bucket.nth, bucket.how = nth, how
        life = Life(new_store(bucket, rules))
        ended = await run_broken(life, steps)
        if not bucket.struck:
            assert ended
            assert nth > 2, "nothing was broken"
            return
        try:
            await check(life, bucket, rules)
        except BaseException as error:
            error.add_note(f"({how} call {nth}: {bucket.calls[nth - 1]}; all: {bucket.calls})")
            raise
    raise AssertionError("it never ends")


async def afterwards(life: Life, bucket: MemoryBucket, rules: Profile, *, stale: bool = False) -> None:
    """What is left is found by somebody else, and finished."""
    if not life.created:
        with suppress(plugin.UploadNotFound):  # it may be there, and nobody knows of it
            assert (await new_store(MemoryBucket(bucket.server)).info(ID)).offset == 0
        return
    await go_on(bucket.server, life.data, life.told, rules=rules, stale=stale, possible=life.possible)


# --- too late


@dataclass
class Late:
    """What a holder is paused in."""

    before: tuple[int, ...]
    """Bodies that had come before."""
    work: Callable[[S3Upload, FakeLease], Awaitable[object]]
    length: int | None = SIZE


def late_append(size: int, **how: Any) -> Callable[[S3Upload, FakeLease], Awaitable[object]]:
    def work(upload: S3Upload, lease: FakeLease) -> Awaitable[object]:
        start = upload.info.offset
        return upload.append(FakeBody(DATA[start : start + size], lease, piece=7, **how))

    return work


def late_save(**fields: Any) -> Callable[[S3Upload, FakeLease], Awaitable[object]]:
    return lambda upload, lease: upload.save(replace(upload.info, **fields))


LATE = {
    "first bytes": Late((), late_append(2)),
    "first parts": Late((), late_append(33)),
    "all at once": Late((), late_append(SIZE)),
    "more of a tail": Late((3,), late_append(1)),
    "parts behind a tail": Late((3,), late_append(33)),
    "more parts": Late((20,), late_append(33)),
    "the rest": Late((22,), late_append(30)),
    "the last byte": Late((20, 31), late_append(1)),
    "a whole body": Late((22,), late_append(33, whole=True)),
    "a whole body that is broken": Late((22,), late_append(33, whole=True, intact=False)),
    "a small upload": Late((), late_append(7), 7),
    "the rest of a small upload": Late((3,), late_append(4), 7),
    "notes": Late((22,), late_save(notes={"late": "yes"})),
    "the length": Late((22,), late_save(length=22), None),
    "the length of a tail": Late((3,), late_save(length=3), None),
}


lates = pytest.mark.parametrize("late", LATE.values(), ids=LATE.keys())
HELD: tuple[How, ...] = ("held before", "held after")


class TestLate:
    """A holder is paused in a call, whose effect comes when its lock is somebody else's, who has acknowledged bytes."""

    @lates
    @pytest.mark.parametrize(("following", "rules"), [(2, RULES), (12, RULES), (SIZE, RULES), (12, UNIFORM)])
    async def test_replaces_nothing(self, late: Late, following: int, rules: Profile) -> None:
        for how in HELD:
            await every_call_late(how, late, following, rules)

    @lates
    @pytest.mark.parametrize("following", [2, SIZE])
    async def test_replaces_nothing_though_listings_are_stale(self, late: Late, following: int) -> None:
        for how in HELD:
            await every_call_late(how, late, following, RULES, stale=True)

    @lates
    async def test_parts_and_tails_replace_nothing_without_conditions(self, late: Late) -> None:
        for how in HELD:
            await every_call_late(how, late, 12, RULES, conditional=False)


async def every_call_late(
    how: How, late: Late, following: int, rules: Profile, *, conditional: bool = True, stale: bool = False
) -> None:
    for nth in range(1, 100):
        server = Server(least=LEAST)
        bucket = MemoryBucket(server, conditional=conditional)
        try:
            if not await held(bucket, nth, how, late, following, rules, stale=stale):
                assert nth > 1
                return
        except BaseException as error:
            error.add_note(f"({how} call {nth}: {bucket.calls[-1:]}; all: {bucket.calls})")
            raise
    raise AssertionError("it never ends")


async def held(bucket: MemoryBucket, nth: int, how: How, late: Late, following: int, rules: Profile, *, stale: bool) -> bool:
    """Pause the holder in its `nth` call. False: it made fewer."""
    store, lease = new_store(bucket, rules), FakeLease()
    upload: Any = await store.create(UploadInfo(id=ID, length=late.length), lease)
    for size in late.before:
        start = upload.info.offset
        await upload.append(FakeBody(DATA[start : start + size]))
    await store.close()
    total = SIZE if late.length is None else late.length
    told = upload.info.offset
    bucket.calls.clear()
    bucket.nth, bucket.how = nth, how
    paused = asyncio.ensure_future(late.work(upload, lease))
    held = asyncio.create_task(bucket.held.wait())
    await asyncio.wait([paused, held], return_when=asyncio.FIRST_COMPLETED)
    held.cancel()
    if not bucket.struck:
        return False
    lease.lose()
    if not bucket.conditional and bucket.calls[nth - 1] in (("put_info_object", "u.info"), ("put_object", "u")):
        bucket.release.set()
        await asyncio.wait([paused])
        return True  # of these it is not promised
    elsewhere = new_store(other := MemoryBucket(bucket.server, conditional=bucket.conditional), rules)
    other.stale = stale
    next_holder: Any = await elsewhere.open(ID, FakeLease(2))
    start = next_holder.info.offset
    assert told <= start
    data = DATA[:start] + OTHER[start:total]
    if next_holder.info.state is not State.COMPLETE:
        await next_holder.append(FakeBody(data[start : start + following], piece=4))
        assert next_holder.info.offset == min(total, start + following)
    told = next_holder.info.offset
    complete = next_holder.info.state is State.COMPLETE
    bucket.release.set()
    await asyncio.wait([paused])
    await elsewhere.close()
    await store.close()
    if complete:
        await assert_finished(bucket.server, data[:told])
    else:
        await go_on(bucket.server, data, told, rules=rules, stale=stale)
    return True
