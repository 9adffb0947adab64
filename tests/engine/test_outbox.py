"""Events that are kept on disk: what the files hold, when they are written, when they are delivered, and what ends them."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.engine.rig import Answers, FakeSource, Rig

import tusd.engine.deliver
from tusd.engine.announce import Announcer
from tusd.engine.outbox import Kept, Outbox
from tusd.errors import HookError, StartError, StorageUnavailable, TusError, UnexpectedEof, UploadRejected
from tusd.hooks import (
    EVENTS,
    KEPT,
    Fields,
    HookEvent,
    HookResponse,
    Keeping,
    PostCreate,
    PostExpire,
    PostFail,
    PostFinish,
    PostTerminate,
    PreFinish,
    Subscriber,
)
from tusd.model import Final, Metadata, Partial, State, UploadId, UploadInfo, utcnow
from tusd.protocol.messages import Head

UPLOAD = UploadId("upload")
LONG_AGO = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
HEAD = Head(
    "PATCH",
    "/files/\udcff",
    Fields([("Authorization", "Bearer x"), ("X-Request-Id", "7"), ("authorization", "Bearer y")]),
    "192.0.2.7",
    "https",
    "a=b",
    4711,
    "192.0.2.8",
)
INFOS = [
    UploadInfo(id=UPLOAD, length=5, created=LONG_AGO, modified=LONG_AGO),
    UploadInfo(
        id=UploadId("a/b+c ü"),
        length=None,
        offset=1 << 60,
        state=State.FINISHING,
        explicit=True,
        metadata=Metadata({"name": b"\xff\x00", "empty": b""}, "name /wA=,empty"),
        concat=Partial(),
        created=LONG_AGO,
        modified=LONG_AGO + timedelta(seconds=1),
        expires=LONG_AGO + timedelta(days=1),
        max_length=7,
        notes={"owner": "ü"},
        storage={"Type": "filestore", "Path": "/x"},
    ),
    UploadInfo(id=UPLOAD, length=0, concat=Final((UploadId("a"), UploadId("b"))), created=LONG_AGO, modified=LONG_AGO),
]


def event(kind: type[HookEvent], info: UploadInfo = INFOS[0], head: Head = HEAD) -> HookEvent:
    facts = {PostFail: {"code": "ERR_X", "message": "x"}, PostExpire: {"reason": "evicted"}}.get(kind, {})
    return kind(upload=info, head=head, **facts)


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    found = Outbox(tmp_path / "outbox", frozenset({"authorization", "x-request-id"}))
    found.open()
    return found


def names(outbox: Outbox) -> list[str]:
    found: list[str] = []
    for folder in os.listdir(outbox.folder):
        with suppress(FileNotFoundError, NotADirectoryError):  # it goes with its last event
            found += os.listdir(outbox.folder / folder)
    return sorted(found)


class TestFiles:
    @pytest.mark.parametrize("info", INFOS)
    @pytest.mark.parametrize("kind", [one for one in EVENTS if one in KEPT])
    def test_an_event_comes_back_as_it_was(self, outbox: Outbox, kind: type[HookEvent], info: UploadInfo) -> None:
        sent = event(kind, info)
        outbox.put(sent)
        (kept,) = outbox.all()
        got = kept.event
        assert got is not None and type(got) is kind
        assert (got.upload, got.delivery_id) == (info, sent.delivery_id)
        assert list(got.head.headers.items()) == list(HEAD.headers.items())
        assert got.head.headers.get("AUTHORIZATION") == "Bearer x"
        assert [getattr(got.head, name) for name in ("method", "path", "query", "peer", "peer_port", "scheme", "client")] == [
            getattr(HEAD, name) for name in ("method", "path", "query", "peer", "peer_port", "scheme", "client")
        ]
        assert [getattr(got, name, None) for name in ("code", "message", "reason")] == [
            getattr(sent, name, None) for name in ("code", "message", "reason")
        ]

    def test_it_holds_forwarded_headers_only_and_is_for_nobody_else(self, tmp_path: Path) -> None:
        outbox = Outbox(tmp_path / "a" / "outbox", frozenset({"x-request-id"}))
        name = outbox.open()
        assert (outbox.open(), len(name)) == (name, 32)
        path = outbox.put(event(PostCreate))
        assert "Bearer" not in path.read_text()
        (kept,) = outbox.all()
        assert kept.event is not None and list(kept.event.head.headers.items()) == [("X-Request-Id", "7")]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == stat.S_IMODE(outbox.folder.stat().st_mode) == 0o700

    def test_their_numbers_are_their_order(self, outbox: Outbox) -> None:
        for kind in (PostCreate, PostFail, PostFail, PostFinish, PostTerminate):
            outbox.put(event(kind))
        assert [name[:6] for name in names(outbox)] == [f"{n:06d}" for n in range(1, 6)]
        for kept in list(outbox.all())[:2]:
            outbox.drop(kept)
        outbox.put(event(PostFail))
        assert names(outbox)[-1] == "000006-post-fail.json"

    @pytest.mark.parametrize("kind", [PostFinish, PostTerminate, PostExpire])
    def test_the_same_event_is_kept_once(self, outbox: Outbox, kind: type[HookEvent]) -> None:
        assert outbox.put(event(kind)) == outbox.put(event(kind))
        assert len(names(outbox)) == 1

    def test_many_at_once_each_get_a_number_while_others_are_delivered(self, outbox: Outbox) -> None:
        put, taken, done = 8 * 10, set(), threading.Event()

        def keep() -> None:
            for _ in range(10):
                outbox.put(event(PostFail))

        def deliver() -> None:
            while not done.is_set() or names(outbox):
                for kept in outbox.all():
                    assert kept.event is not None
                    taken.add(kept.event.delivery_id)
                    outbox.drop(kept)

        threads = [threading.Thread(target=keep) for _ in range(8)]
        deliverer = threading.Thread(target=deliver)
        for thread in [*threads, deliverer]:
            thread.start()
        for thread in threads:
            thread.join()
        done.set()
        deliverer.join()
        assert len(taken) == put

    def test_a_removal_that_failed_is_forgotten_when_more_happens_to_the_upload(self, outbox: Outbox) -> None:
        outbox.put(event(PostTerminate))
        outbox.put(event(PostFinish))
        outbox.put(event(PostExpire))
        assert names(outbox) == ["000001-post-finish.json", "000002-post-expire.json"]

    def test_but_not_that_of_an_earlier_upload_with_its_id_nor_for_a_failure(self, outbox: Outbox) -> None:
        outbox.put(event(PostTerminate))
        outbox.put(event(PostFail))
        outbox.put(event(PostFinish, UploadInfo(id=UPLOAD, length=5, created=utcnow())))
        assert names(outbox) == ["000001-post-terminate.json", "000002-post-fail.json", "000003-post-finish.json"]

    def test_failing_parking_retrying_dropping(self, outbox: Outbox) -> None:
        outbox.put(event(PostFail))

        def only() -> Kept:
            (kept,) = outbox.all()
            return kept

        outbox.failed(only(), "no answer", 60)
        assert (only().tries, only().error, only().parked) == (1, "no answer", False)
        assert 55 < only().due - time.time() < 61
        outbox.park(only(), "410")
        assert (only().tries, only().error, only().parked, names(outbox)) == (2, "410", True, ["000001-post-fail.parked"])
        assert (outbox.census().waiting, outbox.census().parked, outbox.census().due) == (0, 1, {})
        outbox.retry(only())
        assert (only().tries, only().parked, names(outbox)) == (0, False, ["000001-post-fail.json"])
        assert only().due <= time.time()
        before = only()
        outbox.drop(before)
        assert list(outbox.all()) == [] and os.listdir(outbox.folder) == ["name"]
        outbox.failed(before, "too late", 1)
        outbox.park(before, "too late")
        outbox.retry(before)
        outbox.later(before, 1)
        assert list(outbox.all()) == [], "what was dropped does not come back"

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 2}', '{"format": 1, "kept": "x"}', "\udcff"])
    def test_a_damaged_file_is_shown_as_such_and_can_be_parked(self, outbox: Outbox, text: str) -> None:
        path = outbox.put(event(PostFail))
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        (kept,) = outbox.all()
        assert kept.event is None and kept.error.startswith("the file is damaged: ")
        outbox.park(kept, kept.error)
        assert names(outbox) == ["000001-post-fail.parked"]

    def test_what_a_crash_left_half_written_is_nobodys_and_goes(self, outbox: Outbox) -> None:
        path = outbox.put(event(PostFail))
        half = path.with_name(f".{path.name}.0123456789abcdef")
        half.write_text("{")
        assert len(list(outbox.all())) == 1
        path.unlink()
        outbox.census()
        assert half.exists(), "it may be being written"
        os.utime(half, (0, 0))
        outbox.census()
        assert not path.parent.exists()

    def test_every_event_is_kept_that_can_be_missed(self) -> None:
        assert {one.name for one in EVENTS if one not in KEPT and one.name.startswith("post-")} == {"post-receive"}


def keeping(tmp_path: Path, patience: float = 3600) -> Keeping:
    return Keeping(tmp_path / "outbox", frozenset(), patience)


def kept_rig(
    tmp_path: Path, answers: Answers | None = None, events: set[type[HookEvent]] | None = None, patience: float = 3600
) -> Rig:
    """One dispatcher whose events are kept; nobody delivers yet."""
    rig = Rig(hooks=[answers or (lambda event: None)], events=events or {*KEPT}, keeping=keeping(tmp_path, patience))
    Outbox(tmp_path / "outbox").open()
    return rig


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tusd.engine.deliver, "_LOOK", 0.005)
    monkeypatch.setattr(tusd.engine.deliver, "_PAUSE", 0.02)
    monkeypatch.setattr(tusd.engine.deliver, "_SOON", 0.05)
    monkeypatch.setattr(tusd.engine.outbox, "_UNSURE", 0.1)


@asynccontextmanager
async def started(rig: Rig) -> AsyncIterator[None]:
    await rig.engine.start()
    try:
        yield
    finally:
        await asyncio.wait_for(rig.engine.close(), 5)


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - it looks at files and lists
            await asyncio.sleep(0.005)


def waiting(rig: Rig) -> list[str]:
    """What is kept, as the files' names say."""
    assert rig.keeping is not None
    return [name[7:] for name in names(Outbox(rig.keeping.folder))]


class TestBeforeItIsTrue:
    async def test_post_finish_is_on_disk_before_the_upload_is_complete(self, tmp_path: Path) -> None:
        rig = kept_rig(tmp_path, events={PostFinish})
        upload = (await rig.create(5)).info.id
        seen: list[tuple[list[str], State]] = []

        async def look() -> None:
            seen.append((waiting(rig), (await rig.kept.info(upload)).state))

        rig.script.faults["save"] = look
        await rig.append(upload, 0, b"01234")
        assert seen[-1] == (["post-finish.json"], State.FINISHING)
        assert all(state is not State.COMPLETE for _, state in seen)
        assert (await rig.kept.info(upload)).state is State.COMPLETE

    async def test_an_outbox_that_is_full_leaves_the_upload_unfinished_and_the_next_try_finishes_it(self, tmp_path: Path) -> None:
        rig = kept_rig(tmp_path, events={PostFinish})
        upload = (await rig.create(5)).info.id
        (tmp_path / "outbox").rename(tmp_path / "away")
        (tmp_path / "outbox").write_text("no folder")
        with pytest.raises(HookError, match="cannot keep post-finish"):
            await rig.append(upload, 0, b"01234")
        assert (await rig.kept.info(upload)).state is State.FINISHING
        (tmp_path / "outbox").unlink()
        (tmp_path / "away").rename(tmp_path / "outbox")
        await rig.append(upload, 5)
        assert (await rig.kept.info(upload)).state is State.COMPLETE
        assert waiting(rig) == ["post-finish.json"]

    async def test_post_create_is_on_disk_before_the_answer(self, tmp_path: Path) -> None:
        rig = kept_rig(tmp_path, events={PostCreate})
        await rig.create(5)
        assert waiting(rig) == ["post-create.json"]

    async def test_of_a_creation_that_cannot_be_kept_nothing_is_left(self, tmp_path: Path) -> None:
        rig = Rig(limits="A", hooks=[lambda event: None], events={PostCreate}, keeping=keeping(tmp_path, 3600))
        (tmp_path / "outbox").write_text("no folder")
        for pieces in ((), (b"01234",)):
            with pytest.raises(HookError, match="cannot keep post-create"):
                await rig.create(10, *pieces)
            assert await rig.uploads() == [] and rig.limiters[0].held == {}
        assert "tusd_uploads_created" not in rig.metrics.sums

    async def test_a_creation_that_one_of_two_outboxes_cannot_keep_is_told_nowhere(self, tmp_path: Path) -> None:
        rig = Rig(hooks=[lambda event: None] * 2, events={PostCreate})
        folders = [tmp_path / "outbox", tmp_path / "broken"]
        subscribers = [
            Subscriber(one, f"hooks[{n}]:fake", None, Keeping(folders[n], frozenset(), 3600))
            for n, one in enumerate(rig.dispatchers)
        ]
        rig.engine._context.announcer = Announcer(subscribers, rig.metrics)
        folders[1].write_text("no folder")
        with pytest.raises(HookError, match="broken cannot keep post-create"):
            await rig.create(10)
        assert await rig.uploads() == [] and names(Outbox(folders[0])) == []

    async def test_a_failure_that_one_hook_s_outbox_cannot_keep_is_told_to_the_others(self, tmp_path: Path) -> None:
        rig = Rig(hooks=[lambda event: None] * 2, events={PostFail})
        (tmp_path / "broken").write_text("no folder")
        keeps = Subscriber(rig.dispatchers[0], "hooks[0]:fake", None, Keeping(tmp_path / "broken", frozenset(), 3600))
        rig.engine._context.announcer = Announcer([keeps, Subscriber(rig.dispatchers[1], "hooks[1]:fake")], rig.metrics)
        upload = (await rig.create(5)).info.id
        with pytest.raises(UnexpectedEof):
            await rig.append(upload, 0, source=FakeSource(b"01", failure=UnexpectedEof()), size=5)
        await rig.background()
        assert [len(one.seen) for one in rig.dispatchers] == [0, 1]

    async def test_post_terminate_is_on_disk_before_the_removal(self, tmp_path: Path) -> None:
        rig = kept_rig(tmp_path, events={PostTerminate})
        upload = (await rig.create(5)).info.id
        rig.fail("terminate", StorageUnavailable)
        with pytest.raises(StorageUnavailable):
            await rig.terminate(upload)
        assert waiting(rig) == ["post-terminate.json"]
        async with started(rig):
            await asyncio.sleep(0.3)
            assert rig.told == [], "the upload is still there"
            rig.heal("terminate")
            await rig.terminate(upload)
            await until(lambda: rig.told == ["post-terminate"])
            await until(lambda: waiting(rig) == [])

    async def test_a_refused_finish_is_taken_back(self, tmp_path: Path) -> None:
        answers = iter([HookResponse(), HookResponse(reject=True)])
        rig = kept_rig(tmp_path, lambda event: next(answers), {PreFinish, PostFinish})
        upload = (await rig.create(5)).info.id
        saves = 0

        async def last_save_fails() -> None:
            nonlocal saves
            saves += 1
            if waiting(rig):
                raise StorageUnavailable

        rig.script.faults["save"] = last_save_fails
        with pytest.raises(TusError):
            await rig.append(upload, 0, b"01234")
        assert saves and waiting(rig) == ["post-finish.json"]
        del rig.script.faults["save"]
        async with started(rig):
            await asyncio.sleep(0.2)
            assert rig.told == [], "it is not complete"
            with pytest.raises(TusError):
                await rig.append(upload, 5)
            assert waiting(rig) == []
            await asyncio.sleep(0.2)
            assert rig.told == []

    async def test_it_is_taken_back_also_by_an_entry_that_only_delivers_what_is_left(self, tmp_path: Path) -> None:
        rig = kept_rig(tmp_path, events={PostFinish})
        upload = (await rig.create(5)).info.id

        async def last_save_fails() -> None:
            if waiting(rig):
                raise StorageUnavailable

        rig.script.faults["save"] = last_save_fails
        with pytest.raises(TusError):
            await rig.append(upload, 0, b"01234")
        assert waiting(rig) == ["post-finish.json"]
        again = rig.restarted()
        again.engine._context.announcer = Announcer([Subscriber(again.dispatchers[0], "x", [], again.keeping)], again.metrics)
        await again.terminate(upload)
        assert waiting(rig) == []


class TestDelivery:
    async def test_events_come_in_order_with_their_ids_and_leave_the_disk(self, tmp_path: Path) -> None:
        rig = kept_rig(tmp_path)
        async with started(rig):
            upload = (await rig.create(5)).info.id
            await rig.append(upload, 0, b"01234")
            await rig.terminate(upload)
            await until(lambda: len(rig.told) == 3)
            await until(lambda: os.listdir(tmp_path / "outbox") == ["name"])
        assert rig.told == ["post-create", "post-finish", "post-terminate"]
        finished = rig.dispatchers[0].seen[1]
        assert (
            finished.upload.state is State.COMPLETE
            and finished.delivery_id == PostFinish(upload=finished.upload, head=HEAD).delivery_id
        )

    async def test_what_another_process_has_kept_is_delivered_after_its_end(self, tmp_path: Path) -> None:
        rig = kept_rig(tmp_path)
        upload = (await rig.create(5)).info.id
        await rig.append(upload, 0, b"01234")
        again = rig.restarted()
        async with started(again):
            await until(lambda: again.told == ["post-create", "post-finish"])
        assert rig.told == []

    async def test_a_failure_is_tried_again_and_those_behind_it_wait_but_no_other_upload(self, tmp_path: Path) -> None:
        heard: list[tuple[str, str]] = []
        rig = kept_rig(tmp_path)
        bad = (await rig.create(5)).info.id
        failures = 3

        class Flaky(type(rig.dispatchers[0])):  # type: ignore[misc]
            async def dispatch(self, event: HookEvent) -> HookResponse | None:
                nonlocal failures
                heard.append((event.upload.id, event.name))
                if event.upload.id == bad and failures:
                    failures -= 1
                    raise HookError("not now")
                return None

        rig.dispatchers[0].__class__ = Flaky
        async with started(rig):
            await until(lambda: (bad, "post-create") in heard)
            await rig.append(bad, 0, b"01234")
            good = (await rig.create(0)).info.id
            await until(lambda: (good, "post-finish") in heard)
            await until(lambda: waiting(rig) == [])
        assert [name for upload, name in heard if upload == bad] == ["post-create"] * 4 + ["post-finish"]
        assert rig.metrics.sums["tusd_hook_errors_total"] == 3

    async def test_what_fails_for_good_is_parked_and_those_behind_it_go_on(self, tmp_path: Path) -> None:
        rig = kept_rig(tmp_path)
        rig.script.faults["tell"] = self._never
        async with started(rig):
            await rig.create(5)
            await until(lambda: waiting(rig) == ["post-create.parked"])
            rig.heal("tell")
            (upload,) = await rig.uploads()
            await rig.append(upload.id, 0, b"01234")
            await until(lambda: "post-finish" in rig.told)
            await until(lambda: waiting(rig) == ["post-create.parked"])
            (kept,) = Outbox(tmp_path / "outbox").all()
            assert kept.error == "gone"
            Outbox(tmp_path / "outbox").retry(kept)
            await until(lambda: waiting(rig) == [])
        assert rig.told.count("post-create") == 2

    @staticmethod
    async def _never() -> None:
        raise HookError("gone", permanent=True)

    async def test_what_fails_for_too_long_is_parked(self, tmp_path: Path) -> None:
        rig = kept_rig(tmp_path, patience=0.7)
        rig.fail("tell", lambda: HookError("not now"))
        async with started(rig):
            await rig.create(5)
            await until(lambda: waiting(rig) == ["post-create.parked"])
        assert len(rig.told) > 1

    async def test_however_often_it_has_failed_it_is_tried_again_later(self, tmp_path: Path) -> None:
        rig = kept_rig(tmp_path)
        await rig.create(5)
        outbox = Outbox(tmp_path / "outbox")
        (kept,) = outbox.all()
        outbox.failed(replace(kept, tries=5000), "not now", 0)
        rig.fail("tell", lambda: HookError("not now"))
        async with started(rig):
            await until(lambda: rig.told == ["post-create"])
            await asyncio.sleep(0.2)
            assert rig.told == ["post-create"]
        (kept,) = outbox.all()
        assert kept.tries == 5002 and kept.due - time.time() > 200

    async def test_what_is_withdrawn_while_it_is_looked_at_is_not_told(self, tmp_path: Path) -> None:
        answers = iter([HookResponse(), HookResponse(reject=True)])
        rig = kept_rig(tmp_path, lambda event: next(answers), {PreFinish, PostFinish})
        upload = (await rig.create(5)).info.id

        async def last_save_fails() -> None:
            if waiting(rig):
                raise StorageUnavailable

        rig.script.faults["save"] = last_save_fails
        with pytest.raises(TusError):
            await rig.append(upload, 0, b"01234")
        del rig.script.faults["save"]
        again = rig.restarted()
        reached = again.hang("info")
        async with started(again):
            await asyncio.wait_for(reached.wait(), 5)
            await asyncio.sleep(0.2)
            with pytest.raises(UploadRejected):
                await rig.append(upload, 5)
            again.heal("info")
            await asyncio.sleep(0.2)
            assert again.told == [] and waiting(rig) == []

    async def test_the_hook_says_when_to_try_again(self, tmp_path: Path) -> None:
        rig = kept_rig(tmp_path)
        rig.fail("tell", lambda: HookError("not now", retry_after=50))
        async with started(rig):
            await rig.create(5)
            await until(lambda: rig.told == ["post-create"])
            await asyncio.sleep(0.3)
            assert rig.told == ["post-create"]
        (kept,) = Outbox(tmp_path / "outbox").all()
        assert 45 < kept.due - time.time() < 51

    async def test_a_hook_that_hangs_holds_its_own_upload_only_and_is_asked_again_after_a_stop(self, tmp_path: Path) -> None:
        rig = kept_rig(tmp_path)
        reached = rig.hang("tell")
        async with started(rig):
            await rig.create(5)
            await asyncio.wait_for(reached.wait(), 5)
            rig.script.faults.clear()
            await rig.create(7)
            await until(lambda: len(rig.told) == 2)
            await until(lambda: waiting(rig) == ["post-create.json"])
        again = rig.restarted()
        async with started(again):
            await until(lambda: again.told == ["post-create"])

    async def test_one_delivers_at_a_time_and_another_takes_over(self, tmp_path: Path) -> None:
        rig = kept_rig(tmp_path)
        other = rig.restarted()
        other.locks = rig.locks
        other.engine._context.locker = rig.engine._context.locker
        async with started(other):
            async with started(rig):
                await asyncio.sleep(0.05)
                for _ in range(20):
                    await rig.create(5)
                await until(lambda: waiting(rig) == [])
                assert sorted([len(rig.told), len(other.told)]) == [0, 20]
            await rig.create(5)
            await until(lambda: waiting(rig) == [])
        assert (
            len(rig.told) + len(other.told) == 21
            and len({e.delivery_id for d in (rig, other) for e in d.dispatchers[0].seen}) == 21
        )

    async def test_while_the_store_cannot_be_asked_nothing_uncertain_is_told(self, tmp_path: Path) -> None:
        rig = kept_rig(tmp_path, events={PostFinish})
        await rig.create(0)
        rig.fail("info", StorageUnavailable)
        async with started(rig):
            await asyncio.sleep(0.3)
            assert rig.told == []
            rig.heal("info")
            await until(lambda: rig.told == ["post-finish"])

    async def test_what_nobody_expects_is_logged_and_tried_again_now_and_then(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(tusd.engine.deliver, "_PAUSE", 0.2)
        rig = kept_rig(tmp_path, events={PostFinish})
        await rig.create(0)
        rig.clear()
        rig.fail("info", ZeroDivisionError)
        async with started(rig):
            await asyncio.sleep(0.5)
            assert 1 <= rig.log.count("info") <= 4
            assert "an outbox rests" in caplog.text and "ZeroDivisionError" in caplog.text
            rig.heal("info")
            await until(lambda: rig.told == ["post-finish"])

    async def test_a_damaged_file_is_set_aside(self, tmp_path: Path) -> None:
        rig = kept_rig(tmp_path)
        await rig.create(5)
        (path,) = (tmp_path / "outbox").glob("*/*")
        path.write_text(json.dumps({"format": 99}))
        os.utime(path, (0, 0))
        async with started(rig):
            await until(lambda: waiting(rig) == ["post-create.parked"])
        assert rig.told == []

    async def test_it_is_shown_how_many_wait_and_are_parked(self, tmp_path: Path) -> None:
        rig = kept_rig(tmp_path)
        rig.fail("tell", lambda: HookError("not now", retry_after=50))
        async with started(rig):
            await rig.create(5)
            await until(lambda: rig.metrics.sums.get("tusd_hook_outbox_waiting") == 1)
        assert rig.metrics.sums["tusd_hook_outbox_waiting"] == 0, "who delivers no longer says nothing"

    async def test_an_outbox_that_cannot_be_made_is_a_start_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        rig = Rig(hooks=[lambda event: None], keeping=Keeping(tmp_path / "file" / "outbox", frozenset(), 1))
        with pytest.raises(StartError, match=r"^hooks\[0\]:fake: the outbox .*/file/outbox cannot be used: Not a directory"):
            await rig.engine.start()


async def test_best_effort_costs_no_file_and_no_state(tmp_path: Path) -> None:
    rig = Rig(hooks=[lambda event: None], events={*KEPT})
    upload = (await rig.create(5)).info.id
    await rig.append(upload, 0, b"01234")
    assert not (await rig.kept.info(upload)).explicit
    await rig.background()
    assert sorted(rig.told) == ["post-create", "post-finish"] and os.listdir(tmp_path) == []
