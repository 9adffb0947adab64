"""Final uploads: how they are put together of partial ones, and that this can break anywhere."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_bucket import LEAST, RULES, UNIFORM, Dead, How, MemoryBucket, Server, new_store
from tusd import plugin
from tusd.plugin import Final, Partial, State, UploadId, UploadInfo
from tusd.testing.bodies import FakeBody, FakeLease, pattern
from tusd_plugin_s3.concatenation import Source, plan
from tusd_plugin_s3.profiles import Profile
from tusd_plugin_s3.sizes import Sizes
from tusd_plugin_s3.store import S3Store

SIZES = Sizes(least=5, preferred=10, largest=20, numbers=50, object=1000, held=100)
EQUAL = Sizes(least=5, preferred=10, largest=20, numbers=50, object=1000, held=100, equal=True)
ANY, NO_COPIES = RULES, replace(RULES, copies_parts=False)


def planned(*sizes: int, rules: Sizes = SIZES, copies: bool = True) -> list[list[tuple[str, int, int]]]:
    sources = [Source(str(n), 0, size, size) for n, size in enumerate(sizes)]
    return [[(one.key, one.start, one.stop) for one in part] for part in plan(sources, rules, copies=copies)]


class TestPlan:
    def test_large_ones_are_copied(self) -> None:
        assert planned(7, 20) == [[("0", 0, 7)], [("1", 0, 20)]]

    def test_very_large_ones_are_copied_in_equal_ranges(self) -> None:
        assert planned(41) == [[("0", 0, 13)], [("0", 13, 27)], [("0", 27, 41)]]

    def test_small_ones_are_joined_with_what_follows(self) -> None:
        assert planned(2, 20) == [[("0", 0, 2), ("1", 0, 3)], [("1", 3, 20)]]
        assert planned(2, 1, 20) == [[("0", 0, 2), ("1", 0, 1), ("2", 0, 2)], [("2", 2, 20)]]
        assert planned(2, 6) == [[("0", 0, 2), ("1", 0, 6)]]

    def test_the_last_may_be_small(self) -> None:
        assert planned(7, 2) == [[("0", 0, 7)], [("1", 0, 2)]]

    def test_empty_ones_are_nothing(self) -> None:
        assert planned(0, 7, 0) == [[("1", 0, 7)]]
        assert planned(0, 0) == []

    def test_more_are_joined_when_they_are_too_many(self) -> None:
        found = planned(*[5] * 60)
        assert len(found) <= 50 and sum(len(part) for part in found) >= 60

    def test_without_copies_they_are_cut_like_a_body(self) -> None:
        assert planned(7, 8, copies=False) == [[("0", 0, 7), ("1", 0, 3)], [("1", 3, 8)]]

    @given(st.lists(st.integers(0, 60), max_size=40), st.sampled_from(["any", "equal", "no copies"]))
    def test_every_byte_once_in_parts_that_are_allowed(self, sizes: list[int], kind: str) -> None:
        rules = EQUAL if kind == "equal" else SIZES
        sources = [Source(str(n), 0, size, size) for n, size in enumerate(sizes)]
        found = plan(sources, rules, copies=kind != "no copies")
        flat = [(one.key, n) for part in found for one in part for n in range(one.start, one.stop)]
        assert flat == [(str(n), k) for n, size in enumerate(sizes) for k in range(size)]
        lengths = [sum(one.size for one in part) for part in found]
        assert len(found) <= rules.numbers and all(5 <= size for size in lengths[:-1])
        if kind == "equal":
            assert len(set(lengths[:-1])) <= 1 and lengths[-1:] <= lengths[:1]
        elif kind == "any" and sum(sizes) < 900:
            assert all(size <= 20 for size in lengths)


async def new_parts(store: S3Store, contents: list[bytes]) -> list[UploadInfo]:
    parts = []
    for n, content in enumerate(contents):
        upload = await store.create(UploadInfo(id=UploadId(f"p{n}"), length=len(content), concat=Partial()), FakeLease())
        await upload.append(FakeBody(content))
        await upload.finish()
        parts.append(upload.info)
    await store.close()
    return parts


async def new_final(store: S3Store, parts: list[UploadInfo], lease: FakeLease | None = None) -> Any:
    info = UploadInfo(
        id=UploadId("final"),
        length=sum(part.offset for part in parts),
        concat=Final(tuple(part.id for part in parts)),
        state=State.FINISHING,
        explicit=True,
    )
    return await store.create(info, lease or FakeLease())


async def assert_whole(server: Server, contents: list[bytes]) -> None:
    store = new_store(MemoryBucket(server))
    info = await store.info(UploadId("final"))
    whole = b"".join(contents)
    assert info.offset == len(whole)
    assert b"".join([piece async for piece in store.read(info, 0, info.offset)]) == whole == server.objects["final"].data
    assert not server.multiparts
    for n, content in enumerate(contents):
        assert server.objects[f"p{n}"].data == content


CONTENTS = {
    "large": [pattern(1, 23), pattern(2, 41)],
    "one": [pattern(1, 23)],
    "one small": [pattern(1, 3)],
    "small": [pattern(n, n % 3) for n in range(8)],
    "mixed": [pattern(1, 2), pattern(2, 23), b"", pattern(3, 1), pattern(4, 6), pattern(5, 31), pattern(6, 2)],
    "empty": [b"", b""],
}
contents = pytest.mark.parametrize("contents", CONTENTS.values(), ids=CONTENTS.keys())


class TestConcatenation:
    @contents
    async def test_puts_the_bytes_together(self, contents: list[bytes]) -> None:
        for rules in (ANY, UNIFORM, NO_COPIES):
            bucket = MemoryBucket(Server(least=LEAST))
            store = new_store(bucket, rules)
            parts = await new_parts(store, contents)
            final = await new_final(store, parts)
            await final.concatenate(parts)
            await final.concatenate(parts)
            await final.finish()
            await store.close()
            await assert_whole(bucket.server, contents)

    async def test_large_ones_are_not_downloaded(self) -> None:
        bucket = MemoryBucket(Server(least=LEAST))
        store = new_store(bucket)
        parts = await new_parts(store, CONTENTS["large"])
        final = await new_final(store, parts)
        bucket.calls.clear()
        await final.concatenate(parts)
        assert [call[0] for call in bucket.calls] == [
            "create_multipart_upload",
            "put_info_object",
            *["upload_part_copy"] * 2,
            "complete_multipart_upload",
            "put_info_object",
        ]

    @contents
    async def test_any_call_may_fail_or_be_the_last(self, contents: list[bytes]) -> None:
        hows: list[How] = ["before", "after", "dies before", "dies after"]
        for rules in (ANY, UNIFORM):
            for how in hows:
                nth = 1
                while await self.broken(contents, rules, how, nth):
                    nth += 1
                assert nth > 2

    async def broken(self, contents: list[bytes], rules: Profile, how: How, nth: int) -> bool:
        bucket = MemoryBucket(Server(least=LEAST))
        store = new_store(bucket, rules)
        parts = await new_parts(store, contents)
        final = await new_final(store, parts)
        bucket.calls.clear()
        bucket.nth, bucket.how = nth, how
        with suppress(plugin.TusError, Dead):
            await final.concatenate(parts)
            await final.finish()
        with suppress(Dead):
            await store.close()
        next_store = new_store(MemoryBucket(bucket.server), rules)
        again: Any = await next_store.open(UploadId("final"), FakeLease(2))
        assert again.info.offset in (0, sum(map(len, contents)))
        await again.concatenate(parts)
        await again.finish()
        await next_store.close()
        left = [one for one in bucket.server.multiparts.values() if one.parts]
        assert not left, f"{how} {nth}: {bucket.calls}"
        bucket.server.multiparts.clear()  # one that was begun and never named has no parts
        await assert_whole(bucket.server, contents)
        return bucket.struck

    async def test_a_part_that_is_gone_is_not_found(self) -> None:
        for rules in (ANY, UNIFORM):
            bucket = MemoryBucket(Server(least=LEAST))
            store = new_store(bucket, rules)
            parts = await new_parts(store, CONTENTS["mixed"])
            final = await new_final(store, parts)
            del bucket.server.objects["p5"]
            with pytest.raises(plugin.UploadNotFound):
                await final.concatenate(parts)
            await final.terminate()
            assert "final" not in bucket.server.objects and not bucket.server.multiparts

    async def test_a_holder_that_is_too_late_changes_nothing(self) -> None:
        for how in ("held before", "held after"):
            for nth in range(1, 100):
                if not await self.late(how, nth):
                    assert nth > 2
                    break

    async def late(self, how: How, nth: int) -> bool:
        contents = CONTENTS["mixed"]
        bucket = MemoryBucket(Server(least=LEAST))
        store, lease = new_store(bucket), FakeLease()
        parts = await new_parts(store, contents)
        final = await new_final(store, parts, lease)
        bucket.calls.clear()
        bucket.nth, bucket.how = nth, how
        paused = asyncio.ensure_future(final.concatenate(parts))
        held = asyncio.create_task(bucket.held.wait())
        await asyncio.wait([paused, held], return_when=asyncio.FIRST_COMPLETED)
        held.cancel()
        if bucket.struck:
            lease.lose()
            next_store = new_store(MemoryBucket(bucket.server))
            again: Any = await next_store.open(UploadId("final"), FakeLease(2))
            await again.concatenate(parts)
            bucket.release.set()
            await next_store.close()
        await asyncio.wait([paused])
        await store.close()
        left = [one for one in bucket.server.multiparts.values() if one.parts]
        assert not left
        bucket.server.multiparts.clear()
        await assert_whole(bucket.server, contents)
        return bucket.struck
