"""No byte that was called safe is lost, whatever request fails, before or after its effect, and wherever the process dies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from unittest import mock

import pytest

from gcs_rig import KIB, Hold, Mode, Place, assert_bytes, breaking, content, new_info, settled
from tusd.plugin import Final, LeaseLost, Partial, State, StorageUnavailable, TusError, UploadExists, UploadId, UploadNotFound
from tusd.testing.bodies import FakeBody, FakeLease, pattern
from tusd_plugin_gcs import sealing
from tusd_plugin_gcs.bucket import Bucket, Stat
from tusd_plugin_gcs.cloud import Cloud, Failure
from tusd_plugin_gcs.store import GcsStore
from tusd_plugin_gcs.upload import GcsUpload

DATA = pattern(21, 700 * KIB)
"""Three pieces."""
MODES: tuple[Mode, ...] = ("before", "after", "dead", "dead after")
MOST = 200


@dataclass
class Client:
    """Sends an upload, and remembers what it was told is safe."""

    store: GcsStore
    upload_id: UploadId
    safe: int = 0

    async def opened(self) -> GcsUpload:
        upload = await self.store.open(self.upload_id, FakeLease(2))
        assert isinstance(upload, GcsUpload)
        self.told(upload)
        return upload

    def told(self, upload: GcsUpload) -> None:
        assert upload.info.offset >= self.safe, "the offset went back"
        self.safe = upload.info.offset

    async def send(self, upload: GcsUpload, stop: int, *, whole: bool = False) -> None:
        body = FakeBody(DATA[upload.info.offset : stop], whole=whole)
        try:
            await upload.append(body)
        finally:
            self.safe = max(self.safe, body.safe or 0)
        self.told(upload)


Scenario = Callable[[Client], Awaitable[None]]


async def in_requests(client: Client) -> None:
    """Several requests, one of them with a body of several pieces."""
    await client.store.create(new_info(len(DATA), id=client.upload_id), None)
    for stop in (10, len(DATA) - 10, len(DATA)):
        await client.send(await client.opened(), stop)
    await (await client.opened()).finish()


async def at_once(client: Client) -> None:
    """All of it with the creation."""
    upload = await client.store.create(new_info(len(DATA), id=client.upload_id), FakeLease())
    assert isinstance(upload, GcsUpload)
    await client.send(upload, len(DATA))
    await upload.finish()


async def verified(client: Client) -> None:
    """Bodies with checksums."""
    await client.store.create(new_info(len(DATA), id=client.upload_id), None)
    await client.send(await client.opened(), 10, whole=True)
    await client.send(await client.opened(), len(DATA), whole=True)


async def deferred(client: Client) -> None:
    """The length is said at the end."""
    await client.store.create(new_info(None, id=client.upload_id), None)
    await client.send(await client.opened(), 300 * KIB)
    await client.send(await client.opened(), len(DATA))
    upload = await client.opened()
    await upload.save(replace(upload.info, length=len(DATA)))
    await upload.finish()


async def asked(client: Client) -> None:
    """Somebody has to agree before it is complete."""
    await client.store.create(new_info(len(DATA), id=client.upload_id, explicit=True), None)
    await client.send(await client.opened(), len(DATA))
    upload = await client.opened()
    await upload.save(replace(upload.info, state=State.FINISHING, explicit=True))
    await upload.finish()
    await upload.save(replace(upload.info, state=State.COMPLETE, explicit=True))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scenario", [in_requests, at_once, verified, deferred, asked])
async def test_whatever_request_fails(place: Place, scenario: Scenario, mode: Mode) -> None:
    async with place.store() as store:
        for nth in range(1, MOST):
            client = Client(store, UploadId(f"upload_{nth}"))
            failed = False
            with breaking(nth, mode) as broken:
                try:
                    await scenario(client)
                except TusError as error:
                    failed = True
                    assert isinstance(error, StorageUnavailable), (
                        f"{error!r} tells something else than that the bucket does not answer"
                    )
                await settled(store)
            try:
                if scenario is verified and client.safe:
                    found = (await store.open(client.upload_id, FakeLease(2))).info.offset
                    assert found in (10, len(DATA)), "a part of a body counts that counts as a whole"
                await _go_on(client)
                await _leaves_nothing(place, client)
            except Exception as error:
                error.add_note(f"(with request {nth} failing)")
                raise
            if not broken.struck:
                assert not failed
                assert nth > 4, "there are so few requests?"
                return
    raise AssertionError("it never ends")


async def _go_on(client: Client) -> None:
    """The client comes back and sends the rest."""
    try:
        upload = await client.opened()
    except UploadNotFound:
        assert not client.safe, "the whole upload is lost"
        await client.store.create(new_info(len(DATA), id=client.upload_id), None)
        upload = await client.opened()
    if upload.info.length is None:
        await upload.save(replace(upload.info, length=len(DATA)))
    if upload.info.offset < len(DATA):
        await client.send(upload, len(DATA))
    await upload.finish()
    if upload.info.explicit:
        await upload.save(replace(upload.info, state=State.COMPLETE))
    info = await client.store.info(client.upload_id)
    assert (info.offset, info.state) == (len(DATA), State.COMPLETE)
    assert_bytes(await content(client.store, info), DATA)


async def _leaves_nothing(place: Place, client: Client) -> None:
    """Once it is terminated the bucket has nothing of it."""
    assert_bytes(place.data(client.upload_id), DATA)
    await settled(client.store)
    await (await client.opened()).terminate()
    assert place.names(client.upload_id) == []


async def test_of_a_body_of_several_pieces_that_is_not_what_its_checksum_says_nothing_is_left(place: Place) -> None:
    async with place.store() as store:
        client = Client(store, UploadId("upload"))
        await store.create(new_info(len(DATA), id=client.upload_id), None)
        await client.send(await client.opened(), 10)
        before = place.names()
        for broken in (FakeBody(DATA[10:], whole=True, intact=False), FakeBody(DATA[10:], whole=True, stop_at=600 * KIB)):
            upload = await client.opened()
            assert await upload.append(broken) == 0
            await settled(store)
            assert (await client.opened()).info.offset == upload.info.offset == 10
            assert place.names() == before
        await _go_on(client)


@pytest.mark.parametrize("mode", MODES)
async def test_whatever_request_of_a_termination_fails(place: Place, mode: Mode) -> None:
    async with place.store() as store:
        for nth in range(1, MOST):
            upload_id = UploadId(f"upload{nth}")
            client = Client(store, upload_id)
            await store.create(new_info(len(DATA), id=upload_id), None)
            await client.send(await client.opened(), 600 * KIB)
            with breaking(nth, mode) as broken:
                try:
                    await (await client.opened()).terminate()
                except TusError as error:
                    assert isinstance(error, StorageUnavailable)
            try:
                upload = await store.open(upload_id, FakeLease(3))
            except UploadNotFound:
                pass
            else:
                assert isinstance(upload, GcsUpload)
                await upload.terminate()
            assert place.names(upload_id) == []
            if not broken.struck:
                return
    raise AssertionError("it never ends")


async def test_an_upload_whose_termination_broke_off_is_sent_again_from_where_it_has_bytes(place: Place) -> None:
    async with place.store() as store:
        client = Client(store, UploadId("upload"))
        await store.create(new_info(len(DATA), id=client.upload_id), None)
        await client.send(await client.opened(), 10)
        await client.send(await client.opened(), 600 * KIB)
        chunks = [name for name in place.names() if not name.endswith(".info")]
        place.delete(sorted(chunks)[1])
        with pytest.raises(StorageUnavailable):
            await client.send(await client.opened(), len(DATA))
        client.safe = 0
        upload = await client.opened()
        assert upload.info.offset == 10
        await _go_on(client)


@pytest.mark.parametrize("mode", MODES)
async def test_whatever_request_of_a_concatenation_fails(place: Place, mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "COMPOSE_LIMIT", 3)  # so that four make a tree
    async with place.store() as store:
        parts = []
        for n in range(4):
            part = await store.create(new_info(3, id=UploadId(f"part{n}"), concat=Partial()), FakeLease())
            await part.append(FakeBody(b"%03d" % n))
            parts.append(part.info)
        whole = b"".join(b"%03d" % n for n in range(4))
        for nth in range(1, MOST):
            final = new_info(len(whole), id=UploadId(f"final{nth}"), concat=Final(tuple(one.id for one in parts)), explicit=True)
            await store.create(final, None)
            with breaking(nth, mode) as broken:
                try:
                    upload = await store.open(final.id, FakeLease())
                    assert isinstance(upload, GcsUpload)
                    await upload.concatenate(parts)
                except TusError as error:
                    assert isinstance(error, StorageUnavailable)
                await settled(store)
            upload = await store.open(final.id, FakeLease(2))
            assert isinstance(upload, GcsUpload)
            await upload.concatenate(parts)
            await upload.finish()
            await settled(store)
            assert_bytes(await content(store, upload.info), whole)
            await upload.terminate()
            assert place.names(final.id) == []
            if not broken.struck:
                assert nth > 9
                return
    raise AssertionError("it never ends")


async def test_answers_that_are_lost_are_recognised_when_the_request_is_tried_again(place: Place) -> None:
    """Every single answer is lost once: nothing is done twice, and nobody hears of it."""
    real = Cloud._send
    seen: set[tuple[object, ...]] = set()

    def lost(cloud: Cloud, method: str, path: str, query: object, body: object, *args: object, **kwargs: object) -> object:
        reply = real(cloud, method, path, query, body, *args, **kwargs)  # type: ignore[arg-type]
        if method != "GET" and (key := (method, path, str(query), id(body))) not in seen:
            seen.add(key)
            raise Failure(None, "the answer was lost", passing=True)
        return reply

    async with place.store(give_up_after=30) as store:
        client = Client(store, UploadId("upload"))
        with mock.patch.object(Cloud, "_send", lost):
            await in_requests(client)
        assert len(seen) > 8
        await _leaves_nothing(place, client)


async def test_a_request_that_is_cancelled_keeps_the_pieces_that_have_arrived(place: Place) -> None:
    async with place.store() as store:
        client = Client(store, UploadId("upload"))
        await store.create(new_info(len(DATA), id=client.upload_id), None)
        upload = await client.opened()
        body = FakeBody(DATA, hang_at=600 * KIB)
        work = asyncio.create_task(upload.append(body))
        await body.hung(work)
        work.cancel()
        await asyncio.wait([work])
        assert work.cancelled()
        assert upload.info.offset == (await store.info(client.upload_id)).offset == 512 * KIB
        client.told(upload)
        await _go_on(client)


async def test_pieces_before_one_that_fails_are_kept(place: Place) -> None:
    async with place.store(concurrency=1) as store:
        client = Client(store, UploadId("upload"))
        await store.create(new_info(len(DATA), id=client.upload_id), None)
        upload = await client.opened()
        with breaking(3, "before"), pytest.raises(StorageUnavailable):
            await upload.append(FakeBody(DATA))
        assert upload.info.offset == (await store.info(client.upload_id)).offset == 512 * KIB
        client.told(upload)
        await _go_on(client)


# --- holders that are not dead


@pytest.mark.parametrize("after", [False, True], ids=["not sent", "arrived"])
async def test_a_late_piece_replaces_nothing(place: Place, after: bool) -> None:
    """A holder is paused with a piece on its way, loses its lock, and goes on when others have written."""
    hold = Hold()
    async with place.store() as store, place.store() as elsewhere:
        created = await store.create(new_info(100, id=UploadId("upload")), None)
        lease = FakeLease()
        paused = await store.open(created.info.id, lease)
        with hold.at(lambda method, name: method == "POST" and "tusd-begin" in name, after=after):
            work = asyncio.create_task(paused.append(FakeBody(b"?" * 50)))
            await asyncio.to_thread(hold.held.wait, 30)
            lease.lose()
            # with the request not sent the next holder uses the same number; with the piece there it finds it and goes on behind it
            following = await elsewhere.open(created.info.id, FakeLease(2))
            known = following.info.offset
            assert known == (50 if after else 0)
            await following.append(FakeBody(b"right" * 10))
            hold.go_on.set()
            with pytest.raises(LeaseLost):
                await work
        right = b"?" * known + b"right" * 10
        again = await store.open(created.info.id, FakeLease(3))
        assert again.info.offset == len(right)
        rest = bytes(100 - len(right))
        await again.append(FakeBody(rest))
        assert_bytes(await content(store, await store.info(created.info.id)), right + rest)


async def test_a_late_info_replaces_nothing(place: Place) -> None:
    hold = Hold()
    async with place.store() as store, place.store() as elsewhere:
        created = await store.create(new_info(100, id=UploadId("upload")), None)
        lease = FakeLease()
        paused = await store.open(created.info.id, lease)
        with hold.at(lambda method, name: method == "POST" and "upload.info" in name):
            work = asyncio.create_task(paused.append(FakeBody(b"a" * 40)))
            await asyncio.to_thread(hold.held.wait, 30)
            following = await elsewhere.open(created.info.id, FakeLease(2))
            assert following.info.offset == 40, "the piece has arrived, so it counts"
            await following.append(FakeBody(b"b" * 40))
            lease.lose()
            hold.go_on.set()
            with pytest.raises(LeaseLost):
                await work
        info = await store.info(created.info.id)
        assert info.offset == 80
        assert_bytes(await content(store, info), b"a" * 40 + b"b" * 40)


async def test_two_holders_at_once_lose_no_byte_that_either_was_told_of(place: Place) -> None:
    """With a locker that does not lock: one of two replacements of `.info` fails."""
    async with place.store() as store, place.store() as elsewhere:
        for n in range(10):
            created = await store.create(new_info(40, id=UploadId(f"upload{n}")), None)
            both = [await one.open(created.info.id, FakeLease(2)) for one in (store, elsewhere)]
            bodies = [b"a" * 10, b"b" * 20]
            results = await asyncio.gather(
                *(upload.append(FakeBody(body)) for upload, body in zip(both, bodies, strict=True)), return_exceptions=True
            )
            won = [n for n, result in enumerate(results) if not isinstance(result, BaseException)]
            assert len(won) == 1, results
            assert isinstance(results[1 - won[0]], StorageUnavailable)
            again = await store.open(created.info.id, FakeLease(3))
            assert again.info.offset == len(bodies[won[0]])
            await again.append(FakeBody(bytes(40 - again.info.offset)))
            assert_bytes(await content(store, again.info), bodies[won[0]].ljust(40, b"\0"))


async def test_a_holder_of_an_upload_that_was_removed_and_made_again_touches_nothing(place: Place) -> None:
    async with place.store() as store:
        old = await store.create(new_info(10, id=UploadId("upload")), FakeLease())
        late = await store.open(old.info.id, FakeLease())
        assert isinstance(old, GcsUpload) and isinstance(late, GcsUpload)
        await old.append(FakeBody(b"12345"))
        await old.terminate()
        new = await store.create(new_info(10, id=UploadId("upload")), FakeLease())
        await new.append(FakeBody(b"abcde"))
        with pytest.raises(StorageUnavailable):
            await late.append(FakeBody(b"67890"))
        with pytest.raises((StorageUnavailable, UploadNotFound)):
            await late.save(replace(late.info, notes={"too": "late"}))
        await late.terminate()
        again = await store.open(new.info.id, FakeLease())
        await again.append(FakeBody(b"fghij"))
        assert_bytes(await content(store, again.info), b"abcdefghij")


async def test_nothing_depends_on_listings(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be as stale as can be: empty."""

    async def empty(*_: object, **__: object) -> object:
        for nothing in list[Stat]():
            yield nothing

    async with place.store() as store:
        monkeypatch.setattr(Bucket, "listed", empty)
        for number, scenario in enumerate((in_requests, verified, deferred, asked)):
            client = Client(store, UploadId(f"upload{number}"))
            await scenario(client)
            await _go_on(client)
            await settled(store)
            await (await client.opened()).terminate()
            assert place.names(client.upload_id) == []


async def test_an_object_of_somebody_else_is_not_replaced(place: Place) -> None:
    place.put("upload", b"not an upload")
    async with place.store() as store:
        upload = await store.create(new_info(5, id=UploadId("upload")), FakeLease())
        with pytest.raises(StorageUnavailable):
            await upload.append(FakeBody(b"12345"))
        assert place.data("upload") == b"not an upload"
        place.delete("upload")
        again = await store.open(upload.info.id, FakeLease())
        await again.append(FakeBody(b"12345"[again.info.offset :]))
        assert (await store.info(upload.info.id)).state is State.COMPLETE
        assert place.data("upload") == b"12345"


async def test_what_an_earlier_upload_of_the_same_id_has_left_is_replaced(place: Place) -> None:
    async with place.store() as store:
        old = await store.create(new_info(5, id=UploadId("upload")), FakeLease())
        await old.append(FakeBody(b"12345"))
        place.delete("upload.info")
        new = await store.create(new_info(5, id=UploadId("upload")), FakeLease())
        await new.append(FakeBody(b"abcde"))
        assert place.data("upload") == b"abcde"
        with pytest.raises(UploadExists):
            await store.create(new_info(5, id=UploadId("upload")), FakeLease())
