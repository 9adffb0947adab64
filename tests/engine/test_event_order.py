"""Which events an upload has, in which order, and where the store stands at each: one table for each thing that a client can do.

A line is an event as a dispatcher sees it, `offset/length state`, and behind the bar what the store holds at that moment; of an event
that is told, at the moment from which it may be told. `answer` is what the client gets.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from tests.engine.rig import FakeSource, Rig

from tusd.engine.announce import Announcer
from tusd.engine.sweep import Sweeper
from tusd.errors import HookError, StorageFull, TusError, UnexpectedEof
from tusd.hooks import (
    EVENTS,
    Changes,
    Dispatcher,
    HookEvent,
    HookResponse,
    PostExpire,
    PostFail,
    PostReceive,
    PreAccess,
    PreCreate,
    PreFinish,
    PreTerminate,
)
from tusd.model import Final, Metadata, Partial, State, UploadId, UploadInfo, utcnow
from tusd.protocol.messages import Append, BodyPlan, Checksum, Create, Inspect, Read, Request, Terminate
from tusd.protocol.rules import Policy

A, B, UPLOAD = UploadId("a"), UploadId("b"), UploadId("upload")
NO = HookResponse(reject=True)
TOLD = [kind for kind in EVENTS if kind.name.startswith("post-")]
Answers = dict[type[HookEvent], HookResponse | BaseException]


def place(info: UploadInfo | None) -> str:
    """Where an upload stands."""
    return "nothing" if info is None else f"{info.offset}/{'?' if info.length is None else info.length} {info.state}"


class Recorder(Dispatcher):
    """Wants all, and answers by class; an error is raised."""

    def __init__(self, story: Story, events: Iterable[type[HookEvent]]) -> None:
        self.events = frozenset(events)
        self.told: list[HookEvent] = []
        self._story = story

    async def dispatch(self, event: HookEvent) -> HookResponse | None:
        if event.name.startswith("post-"):
            self.told.append(event)
        elif self is self._story.recorders[0]:
            self._story.write(event)
        answer = self._story.answers.get(type(event))
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Story:
    """What a client does with a rig, and all that happens then, line by line."""

    def __init__(self, policy: Policy | None = None, events: Iterable[type[HookEvent]] = EVENTS) -> None:
        self.rig = Rig(policy or Policy(progress_interval=3600))
        self.lines: list[str] = []
        self.answers: Answers = {}
        self.seen: list[HookEvent] = []
        self.recorders = [Recorder(self, events), Recorder(self, events)]
        context = self.rig.engine._context
        context.announcer = Announcer(self.recorders, self.rig.metrics)
        self._tell = context.announcer.tell
        context.announcer.tell = self.tell  # type: ignore[method-assign]

    def tell(self, event: HookEvent, *args: Any, **kwargs: Any) -> list[asyncio.Task[None]]:
        """An event may be told from now on."""
        self.write(event)
        return self._tell(event, *args, **kwargs)

    def write(self, event: HookEvent) -> None:
        self.seen.append(event)
        fact = ""
        match event:
            case PreAccess(access=access):
                fact = access
            case PostFail(code=code):
                fact = code
            case PostExpire(reason=reason):
                fact = reason
            case _:
                pass
        whose = event.upload.id if event.upload.id in (A, B) else ""
        kept = self.rig.kept._kept.get(event.upload.id)
        words = [event.name, fact, whose, place(event.upload), "|", place(kept.info if kept else None)]
        self.lines.append(" ".join(word for word in words if word))

    async def ask(self, request: Request, source: FakeSource | None = None) -> UploadInfo | None:
        """One request; returns the upload as the answer tells it."""
        try:
            outcome = await self.rig.run(request, source)
        except TusError as error:
            self.lines.append(f"answer {error.code}")
            return error.info
        info: UploadInfo | None = getattr(outcome, "info", None)
        self.lines.append(f"answer {place(info)}")
        return info

    async def create(self, length: int | None, *pieces: bytes, **given: Any) -> UploadId:
        """POST; the id of the new upload."""
        body = BodyPlan(sum(map(len, pieces))) if pieces else None
        info = await self.ask(
            Create(length=length, metadata=Metadata(), body=body, **given), FakeSource(*pieces) if pieces else None
        )
        return info.id if info is not None else UPLOAD

    async def append(self, upload: UploadId, offset: int, *pieces: bytes, source: FakeSource | None = None, **given: Any) -> None:
        """PATCH."""
        size = given.pop("size", sum(map(len, pieces)))
        body = BodyPlan(size, given.pop("checksum", None))
        await self.ask(Append(upload_id=upload, offset=offset, body=body, **given), source or FakeSource(*pieces))

    async def put(self, content: bytes, length: int | None = None, name: str = UPLOAD, **given: Any) -> UploadId:
        """An upload that is there already, as this engine would have created it; of it nothing is told."""
        upload = await self.rig.put(name, content, length=length, **given)
        kept = self.rig.kept._kept[upload]
        if kept.info.state is State.RECEIVING:
            kept.info = replace(kept.info, explicit=True)
        return upload

    async def sweep(self, *, remove_parts: bool = False) -> None:
        """One round of the sweeper."""
        await Sweeper(self.rig.engine._context, 0, remove_parts).round()

    async def end(self) -> None:
        """Until all is told."""
        await self.rig.background()


Act = Callable[[Story], Awaitable[object]]


@dataclass(frozen=True)
class Case:
    """A thing that a client does, and what comes of it."""

    name: str
    act: Act
    table: str
    policy: Policy | None = None
    events: Iterable[type[HookEvent]] = EVENTS


CASES: list[Case] = []


def case(table: str, policy: Policy | None = None, events: Iterable[type[HookEvent]] = EVENTS) -> Callable[[Act], Act]:
    """The decorated function is a case with this table."""

    def add(act: Act) -> Act:
        CASES.append(Case(act.__name__, act, table, policy, events))
        return act

    return add


# --- creation


@case("""
    pre-create      0/5 receiving | nothing
    post-create     0/5 receiving | 0/5 receiving
    answer          0/5 receiving
""")
async def create_empty(story: Story) -> None:
    await story.create(5)


@case("""
    pre-create      0/? receiving | nothing
    post-create     0/? receiving | 0/? receiving
    answer          0/? receiving
""")
async def create_with_deferred_length(story: Story) -> None:
    await story.create(None)


@case("""
    pre-create      0/5 receiving | nothing
    post-create     0/5 receiving | 0/5 receiving
    post-receive    3/5 receiving | 3/5 receiving
    answer          3/5 receiving
""")
async def create_with_a_part_of_the_body(story: Story) -> None:
    await story.create(5, b"012")


@case("""
    pre-create      0/5 receiving | nothing
    post-create     0/5 receiving | 0/5 receiving
    post-receive    5/5 receiving | 5/5 receiving
    pre-finish      5/5 finishing | 5/5 finishing
    post-finish     5/5 complete  | 5/5 complete
    answer          5/5 complete
""")
async def create_with_the_whole_body(story: Story) -> None:
    await story.create(5, b"012", b"34")


@case("""
    pre-create      0/0 receiving | nothing
    post-create     0/0 receiving | 0/0 receiving
    pre-finish      0/0 finishing | 0/0 finishing
    post-finish     0/0 complete  | 0/0 complete
    answer          0/0 complete
""")
async def create_of_length_0(story: Story) -> None:
    await story.create(0)


@case("""
    pre-create      0/5 receiving | nothing
    post-create     0/5 receiving | 0/5 receiving
    post-receive    5/5 receiving | 5/5 receiving
    pre-finish      5/5 finishing | 5/5 finishing
    post-finish     5/5 complete  | 5/5 complete
    answer          5/5 complete
""")
async def create_partial(story: Story) -> None:
    await story.create(5, b"01234", concat=Partial())


@case("""
    pre-create      0/5 receiving | nothing
    answer          ERR_UPLOAD_REJECTED
""")
async def create_refused(story: Story) -> None:
    story.answers[PreCreate] = NO
    await story.create(5, b"01234")


@case("""
    pre-create      0/5 receiving | nothing
    answer          ERR_HOOK_FAILED
""")
async def create_whose_hook_fails(story: Story) -> None:
    story.answers[PreCreate] = HookError()
    await story.create(5, b"01234")


@case("""
    pre-create      0/5 receiving | nothing
    answer          ERR_STORAGE_FULL
""")
async def create_that_the_store_refuses(story: Story) -> None:
    story.rig.fail("create", StorageFull)
    await story.create(5, b"01234")


@case("""
    pre-create      0/5 receiving | nothing
    post-create     0/5 receiving | 0/5 receiving
    answer          0/5 receiving
    pre-create      0/5 receiving | nothing
    post-create     0/5 receiving | 0/5 receiving
    answer          0/5 receiving
""")
async def create_twice(story: Story) -> None:
    """A client that has not heard the answer: another upload, whose events have other ids."""
    await story.create(5)
    await story.create(5)


@case("""
    pre-create               0/5 receiving | nothing
    answer                   ERR_UPLOAD_EXISTS
    pre-access      inspect  3/5 receiving | 3/5 receiving
    answer                   3/5 receiving
""")
async def create_with_an_id_that_is_taken(story: Story) -> None:
    """It is neither created nor touched."""
    await story.put(b"012", 5)
    story.answers[PreCreate] = HookResponse(change=Changes(id=UPLOAD))
    await story.create(5, b"01234")
    await story.ask(Inspect(UPLOAD))


# --- append


@case("""
    pre-access      append  3/5 receiving | 3/5 receiving
    post-receive            5/5 receiving | 5/5 receiving
    pre-finish              5/5 finishing | 5/5 finishing
    post-finish             5/5 complete  | 5/5 complete
    answer                  5/5 complete
""")
async def append_the_rest(story: Story) -> None:
    await story.append(await story.put(b"012", 5), 3, b"34")


@case("""
    pre-create              0/5 receiving | nothing
    post-create             0/5 receiving | 0/5 receiving
    answer                  0/5 receiving
    pre-access      append  0/5 receiving | 0/5 receiving
    post-receive            2/5 receiving | 2/5 receiving
    answer                  2/5 receiving
    pre-access      append  2/5 receiving | 2/5 receiving
    post-receive            3/5 receiving | 3/5 receiving
    answer                  3/5 receiving
    pre-access      append  3/5 receiving | 3/5 receiving
    post-receive            5/5 receiving | 5/5 receiving
    pre-finish              5/5 finishing | 5/5 finishing
    post-finish             5/5 complete  | 5/5 complete
    answer                  5/5 complete
""")
async def append_in_several_requests(story: Story) -> None:
    upload = await story.create(5)
    await story.append(upload, 0, b"01")
    await story.append(upload, 2, b"2")
    await story.append(upload, 3, b"34")


@case("""
    pre-access      append  3/? receiving | 3/? receiving
    post-receive            5/5 receiving | 5/5 receiving
    pre-finish              5/5 finishing | 5/5 finishing
    post-finish             5/5 complete  | 5/5 complete
    answer                  5/5 complete
""")
async def append_and_declare_the_length(story: Story) -> None:
    await story.append(await story.put(b"012", deferred=True), 3, b"34", length=5)


@case(
    """
    pre-access      append  0/5 receiving | 0/5 receiving
    post-receive            2/5 receiving | 2/5 receiving
    post-receive            5/5 receiving | 5/5 receiving
    pre-finish              5/5 finishing | 5/5 finishing
    post-finish             5/5 complete  | 5/5 complete
    answer                  5/5 complete
""",
    Policy(progress_interval=0.01),
)
async def append_slowly(story: Story) -> None:
    source = FakeSource(b"01", hangs=True)
    running = asyncio.create_task(story.append(await story.put(b"", 5), 0, source=source, size=5))
    async with asyncio.timeout(5):
        while not any("post-receive 2/5" in line for line in story.lines):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    source.send(b"234")
    await running


@case("""
    pre-access      append              0/5 receiving | 0/5 receiving
    post-receive                        2/5 receiving | 2/5 receiving
    post-fail       ERR_UNEXPECTED_EOF  2/5 receiving | 2/5 receiving
    answer                              ERR_UNEXPECTED_EOF
    pre-access      append              2/5 receiving | 2/5 receiving
    post-receive                        5/5 receiving | 5/5 receiving
    pre-finish                          5/5 finishing | 5/5 finishing
    post-finish                         5/5 complete  | 5/5 complete
    answer                              5/5 complete
""")
async def append_that_breaks_off(story: Story) -> None:
    upload = await story.put(b"", 5)
    await story.append(upload, 0, source=FakeSource(b"01", failure=UnexpectedEof()), size=5)
    await story.append(upload, 2, b"234")


@case("""
    pre-access      append              2/5 receiving | 2/5 receiving
    post-fail       ERR_UNEXPECTED_EOF  2/5 receiving | 2/5 receiving
    answer                              ERR_UNEXPECTED_EOF
""")
async def append_that_breaks_off_before_its_first_byte(story: Story) -> None:
    await story.append(await story.put(b"01", 5), 2, source=FakeSource(failure=UnexpectedEof()), size=3)


@case("""
    pre-access      append              2/5 receiving | 2/5 receiving
    post-receive                        5/5 receiving | 5/5 receiving
    pre-finish                          5/5 finishing | 5/5 finishing
    post-finish                         5/5 complete  | 5/5 complete
    post-fail       ERR_UNEXPECTED_EOF  5/5 complete  | 5/5 complete
    answer                              ERR_UNEXPECTED_EOF
""")
async def append_that_breaks_off_behind_the_last_byte(story: Story) -> None:
    """All bytes are there: the upload is finished, though the request ended badly."""
    await story.append(await story.put(b"01", 5), 2, source=FakeSource(b"234", failure=UnexpectedEof()), size=None)


@case("""
    pre-access      append                  0/5 receiving | 0/5 receiving
    pre-access      append                  2/5 receiving | 2/5 receiving
    post-receive                            2/5 receiving | 2/5 receiving
    post-fail       ERR_UPLOAD_INTERRUPTED  2/5 receiving | 2/5 receiving
    answer                                  ERR_UPLOAD_INTERRUPTED
    post-receive                            5/5 receiving | 5/5 receiving
    pre-finish                              5/5 finishing | 5/5 finishing
    post-finish                             5/5 complete  | 5/5 complete
    answer                                  5/5 complete
""")
async def append_that_is_interrupted_by_another(story: Story) -> None:
    upload = await story.put(b"", 5)
    source = FakeSource(b"01", hangs=True)
    running = asyncio.create_task(story.append(upload, 0, source=source, size=5))
    await source.hanging.wait()
    await story.append(upload, 2, b"234")
    await running


@case("""
    pre-access      append                 2/5 receiving | 2/5 receiving
    post-fail       ERR_CHECKSUM_MISMATCH  2/5 receiving | 2/5 receiving
    answer                                 ERR_CHECKSUM_MISMATCH
""")
async def append_with_a_wrong_checksum(story: Story) -> None:
    await story.append(await story.put(b"01", 5), 2, b"234", checksum=Checksum("sha1", hashlib.sha1(b"other").digest()))


@case("""
    pre-access      append            2/5 receiving | 2/5 receiving
    post-fail       ERR_STORAGE_FULL  2/5 receiving | 2/5 receiving
    answer                            ERR_STORAGE_FULL
""")
async def append_that_the_store_refuses(story: Story) -> None:
    upload = await story.put(b"01", 5)
    story.rig.fail("append", StorageFull)
    await story.append(upload, 2, b"234")


@case("""
    pre-access      append  3/5 receiving | 3/5 receiving
    answer                  ERR_MISMATCHED_OFFSET
""")
async def append_at_a_wrong_offset(story: Story) -> None:
    await story.append(await story.put(b"012", 5), 2, b"234")


@case("""
    pre-access      append  3/5 receiving | 3/5 receiving
    answer                  ERR_ACCESS_REJECTED
""")
async def append_that_is_not_allowed(story: Story) -> None:
    upload = await story.put(b"012", 5)
    story.answers[PreAccess] = NO
    await story.append(upload, 3, b"34")


@case("""
    answer          ERR_UPLOAD_NOT_FOUND
""")
async def append_to_nothing(story: Story) -> None:
    await story.append(UPLOAD, 0, b"01234")


@case("""
    pre-access      append  3/5 receiving | 3/5 receiving
    post-receive            5/5 receiving | 5/5 receiving
    pre-finish              5/5 finishing | 5/5 finishing
    post-finish             5/5 complete  | 5/5 complete
    answer                  5/5 complete
    pre-access      append  5/5 complete  | 5/5 complete
    answer                  ERR_MISMATCHED_OFFSET
    pre-access      append  5/5 complete  | 5/5 complete
    answer                  5/5 complete
""")
async def append_twice(story: Story) -> None:
    """The same request again, of a client that has not heard the answer: nothing happens twice."""
    upload = await story.put(b"012", 5)
    await story.append(upload, 3, b"34")
    await story.append(upload, 3, b"34")
    await story.append(upload, 5)


@case(
    """
    pre-access      append              0/5 receiving | 0/5 receiving
    post-receive                        2/5 receiving | 2/5 receiving
    post-terminate                      2/5 receiving | nothing
    post-fail       ERR_UPLOAD_STOPPED  2/5 receiving | nothing
    answer                              ERR_UPLOAD_STOPPED
""",
    Policy(progress_interval=0.01),
)
async def append_that_a_hook_stops(story: Story) -> None:
    story.answers[PostReceive] = HookResponse(stop=True)
    await story.append(await story.put(b"", 5), 0, source=FakeSource(b"01", hangs=True), size=5)


@case("""
    pre-access      append  0/5 receiving | 0/5 receiving
    post-receive            5/5 receiving | 5/5 receiving
    pre-finish              5/5 finishing | 5/5 finishing
    post-finish             5/5 complete  | 5/5 complete
    answer                  5/5 complete
""")
async def append_that_a_hook_stops_too_late(story: Story) -> None:
    story.answers[PostReceive] = HookResponse(stop=True)
    await story.append(await story.put(b"", 5), 0, b"01234")


@case("""
    pre-access      append  0/5 receiving | 0/5 receiving
    post-receive            2/5 receiving | 2/5 receiving
""")
async def append_that_the_server_cancels(story: Story) -> None:
    upload = await story.put(b"", 5)
    source = FakeSource(b"01", hangs=True)
    running = asyncio.create_task(story.append(upload, 0, source=source, size=5))
    await source.hanging.wait()
    running.cancel()
    await asyncio.wait([running])


# --- pre-finish


@case("""
    pre-access      append               3/5 receiving | 3/5 receiving
    post-receive                         5/5 receiving | 5/5 receiving
    pre-finish                           5/5 finishing | 5/5 finishing
    post-terminate                       5/5 finishing | nothing
    post-fail       ERR_UPLOAD_REJECTED  5/5 finishing | nothing
    answer                               ERR_UPLOAD_REJECTED
    answer                               ERR_UPLOAD_NOT_FOUND
""")
async def finish_refused(story: Story) -> None:
    story.answers[PreFinish] = NO
    upload = await story.put(b"012", 5)
    await story.append(upload, 3, b"34")
    await story.ask(Inspect(upload))


@case("""
    pre-access      append           3/5 receiving | 3/5 receiving
    post-receive                     5/5 receiving | 5/5 receiving
    pre-finish                       5/5 finishing | 5/5 finishing
    post-fail       ERR_HOOK_FAILED  5/5 finishing | 5/5 finishing
    answer                           ERR_HOOK_FAILED
    pre-access      inspect          5/5 finishing | 5/5 finishing
    pre-finish                       5/5 finishing | 5/5 finishing
    answer                           ERR_FINISH_PENDING
    pre-access      append           5/5 finishing | 5/5 finishing
    pre-finish                       5/5 finishing | 5/5 finishing
    answer                           ERR_FINISH_PENDING
    pre-access      append           5/5 finishing | 5/5 finishing
    pre-finish                       5/5 finishing | 5/5 finishing
    post-finish                      5/5 complete  | 5/5 complete
    answer                           5/5 complete
    pre-access      inspect          5/5 complete  | 5/5 complete
    answer                           5/5 complete
""")
async def finish_that_fails_and_is_tried_again(story: Story) -> None:
    story.answers[PreFinish] = HookError()
    upload = await story.put(b"012", 5)
    await story.append(upload, 3, b"34")
    await story.ask(Inspect(upload))
    await story.append(upload, 5)
    del story.answers[PreFinish]
    await story.append(upload, 5)
    await story.ask(Inspect(upload))


@case("""
    pre-access      append           3/5 receiving | 3/5 receiving
    post-receive                     5/5 receiving | 5/5 receiving
    pre-finish                       5/5 finishing | 5/5 finishing
    post-fail       ERR_HOOK_FAILED  5/5 finishing | 5/5 finishing
    answer                           ERR_HOOK_FAILED
    pre-access      inspect          5/5 finishing | 5/5 finishing
    pre-finish                       5/5 finishing | 5/5 finishing
    post-terminate                   5/5 finishing | nothing
    answer                           ERR_UPLOAD_REJECTED
""")
async def finish_that_is_tried_again_and_refused(story: Story) -> None:
    story.answers[PreFinish] = HookError()
    upload = await story.put(b"012", 5)
    await story.append(upload, 3, b"34")
    story.answers[PreFinish] = NO
    await story.ask(Inspect(upload))


@case("""
    pre-create                       0/5 receiving | nothing
    post-create                      0/5 receiving | 0/5 receiving
    post-receive                     5/5 receiving | 5/5 receiving
    pre-finish                       5/5 finishing | 5/5 finishing
    post-fail       ERR_HOOK_FAILED  5/5 finishing | 5/5 finishing
    answer                           ERR_HOOK_FAILED
    pre-finish                       5/5 finishing | 5/5 finishing
    post-finish                      5/5 complete  | 5/5 complete
""")
async def finish_that_the_sweeper_tries_again(story: Story) -> None:
    story.answers[PreFinish] = HookError()
    await story.create(5, b"01234")
    del story.answers[PreFinish]
    await story.sweep()


@case("""
    pre-access      append            3/5 receiving | 3/5 receiving
    post-receive                      5/5 receiving | 5/5 receiving
    post-fail       ERR_STORAGE_FULL  5/5 finishing | 5/5 finishing
    answer                            ERR_STORAGE_FULL
    pre-access      inspect           5/5 finishing | 5/5 finishing
    pre-finish                        5/5 finishing | 5/5 finishing
    post-finish                       5/5 complete  | 5/5 complete
    answer                            5/5 complete
""")
async def finish_that_the_store_fails(story: Story) -> None:
    story.rig.fail("finish", StorageFull)
    upload = await story.put(b"012", 5)
    await story.append(upload, 3, b"34")
    story.rig.heal("finish")
    await story.ask(Inspect(upload))


# --- concatenation


@case("""
    pre-access      concatenate a  3/3 complete  | 3/3 complete
    pre-access      concatenate b  2/2 complete  | 2/2 complete
    pre-create                     0/5 receiving | nothing
    post-create                    0/5 receiving | 0/5 receiving
    pre-finish                     5/5 finishing | 5/5 finishing
    post-finish                    5/5 complete  | 5/5 complete
    answer                         5/5 complete
""")
async def concatenate_complete_parts(story: Story) -> None:
    for name, content in (("a", b"012"), ("b", b"34")):
        await story.put(content, name=name, concat=Partial(), state=State.COMPLETE)
    await story.create(None, concat=Final((A, B)))


@case("""
    pre-access      concatenate a  3/3 complete  | 3/3 complete
    pre-access      concatenate b  1/2 receiving | 1/2 receiving
    pre-create                     0/5 receiving | nothing
    post-create                    0/5 receiving | 0/5 receiving
    answer                         0/5 receiving
    pre-access      append b       1/2 receiving | 1/2 receiving
    post-receive    b              2/2 receiving | 2/2 receiving
    pre-finish      b              2/2 finishing | 2/2 finishing
    post-finish     b              2/2 complete  | 2/2 complete
    answer                         2/2 complete
    pre-finish                     5/5 finishing | 5/5 finishing
    post-finish                    5/5 complete  | 5/5 complete
""")
async def concatenate_unfinished_parts(story: Story) -> None:
    await story.put(b"012", name="a", concat=Partial(), state=State.COMPLETE)
    await story.put(b"3", 2, name="b", concat=Partial())
    await story.create(None, concat=Final((A, B)))
    await story.append(B, 1, b"4")
    async with asyncio.timeout(5):
        while not any(line.startswith("post-finish 5/5") for line in story.lines):  # noqa: ASYNC110
            await asyncio.sleep(0.002)


@case("""
    pre-access      concatenate a  3/3 complete | 3/3 complete
    answer                         ERR_ACCESS_REJECTED
""")
async def concatenate_a_part_that_is_not_allowed(story: Story) -> None:
    await story.put(b"012", name="a", concat=Partial(), state=State.COMPLETE)
    story.answers[PreAccess] = NO
    await story.create(None, concat=Final((A,)))


@case("""
    pre-access      concatenate a  3/3 complete  | 3/3 complete
    pre-create                     0/3 receiving | nothing
    post-create                    0/3 receiving | 0/3 receiving
    pre-finish                     3/3 finishing | 3/3 finishing
    post-terminate                 3/3 finishing | nothing
    answer                         ERR_UPLOAD_REJECTED
""")
async def concatenation_refused_in_the_end(story: Story) -> None:
    await story.put(b"012", name="a", concat=Partial(), state=State.COMPLETE)
    story.answers[PreFinish] = NO
    await story.create(None, concat=Final((A,)))


# --- inspect, read, terminate


@case("""
    pre-access      inspect  3/5 receiving | 3/5 receiving
    answer                   3/5 receiving
""")
async def inspect(story: Story) -> None:
    await story.ask(Inspect(await story.put(b"012", 5)))


@case("""
    pre-access      read  5/5 complete | 5/5 complete
    answer                5/5 complete
""")
async def read(story: Story) -> None:
    await story.ask(Read(await story.put(b"01234", state=State.COMPLETE)))


@case("""
    pre-access      terminate  3/5 receiving | 3/5 receiving
    pre-terminate              3/5 receiving | 3/5 receiving
    post-terminate             3/5 receiving | nothing
    answer                     nothing
""")
async def terminate(story: Story) -> None:
    await story.ask(Terminate(await story.put(b"012", 5)))


@case("""
    pre-access      terminate  5/5 complete | 5/5 complete
    pre-terminate              5/5 complete | 5/5 complete
    post-terminate             5/5 complete | nothing
    answer                     nothing
""")
async def terminate_a_complete_upload(story: Story) -> None:
    await story.ask(Terminate(await story.put(b"01234", state=State.COMPLETE)))


@case("""
    pre-access      terminate  3/5 receiving | 3/5 receiving
    pre-terminate              3/5 receiving | 3/5 receiving
    answer                     ERR_UPLOAD_TERMINATION_REJECTED
""")
async def terminate_refused(story: Story) -> None:
    story.answers[PreTerminate] = NO
    await story.ask(Terminate(await story.put(b"012", 5)))


@case("""
    pre-access      terminate  3/5 receiving | 3/5 receiving
    pre-terminate              3/5 receiving | 3/5 receiving
    answer                     ERR_STORAGE_FULL
""")
async def terminate_that_the_store_fails(story: Story) -> None:
    upload = await story.put(b"012", 5)
    story.rig.fail("terminate", StorageFull)
    await story.ask(Terminate(upload))


@case("""
    pre-access      append                  0/5 receiving | 0/5 receiving
    pre-access      terminate               2/5 receiving | 2/5 receiving
    post-receive                            2/5 receiving | 2/5 receiving
    post-fail       ERR_UPLOAD_INTERRUPTED  2/5 receiving | 2/5 receiving
    answer                                  ERR_UPLOAD_INTERRUPTED
    pre-terminate                           2/5 receiving | 2/5 receiving
    post-terminate                          2/5 receiving | nothing
    answer                                  nothing
""")
async def terminate_while_bytes_come(story: Story) -> None:
    upload = await story.put(b"", 5)
    source = FakeSource(b"01", hangs=True)
    running = asyncio.create_task(story.append(upload, 0, source=source, size=5))
    await source.hanging.wait()
    await story.ask(Terminate(upload))
    await running


@case("""
    pre-access      terminate  3/5 receiving | 3/5 receiving
    pre-terminate              3/5 receiving | 3/5 receiving
    post-terminate             3/5 receiving | nothing
    answer                     nothing
    answer                     ERR_UPLOAD_NOT_FOUND
""")
async def terminate_twice(story: Story) -> None:
    upload = await story.put(b"012", 5)
    await story.ask(Terminate(upload))
    await story.ask(Terminate(upload))


# --- the IETF's draft: the client says itself when it has sent all


@case("""
    pre-create      0/5 receiving | nothing
    post-create     0/5 receiving | 0/5 receiving
    post-receive    5/5 receiving | 5/5 receiving
    pre-finish      5/5 finishing | 5/5 finishing
    post-finish     5/5 complete  | 5/5 complete
    answer          5/5 complete
""")
async def send_all_in_one_request(story: Story) -> None:
    await story.create(5, b"01234", completes=True)


@case("""
    pre-create      0/0 receiving | nothing
    post-create     0/0 receiving | 0/0 receiving
    pre-finish      0/0 finishing | 0/0 finishing
    post-finish     0/0 complete  | 0/0 complete
    answer          0/0 complete
""")
async def send_nothing_and_say_that_this_is_all(story: Story) -> None:
    await story.create(0, completes=True)


@case("""
    pre-create              0/? open      | nothing
    post-create             0/? open      | 0/? open
    post-receive            3/? open      | 3/? open
    answer                  3/? open
    pre-access      append  3/? open      | 3/? open
    post-receive            5/5 open      | 5/5 open
    pre-finish              5/5 finishing | 5/5 finishing
    post-finish             5/5 complete  | 5/5 complete
    answer                  5/5 complete
""")
async def send_some_and_then_the_rest(story: Story) -> None:
    upload = await story.create(None, b"012", completes=False)
    await story.append(upload, 3, b"34", completes=True, length=5)


@case("""
    pre-create              0/5 open      | nothing
    post-create             0/5 open      | 0/5 open
    post-receive            5/5 open      | 5/5 open
    answer                  5/5 open
    pre-access      append  5/5 open      | 5/5 open
    pre-finish              5/5 finishing | 5/5 finishing
    post-finish             5/5 complete  | 5/5 complete
    answer                  5/5 complete
""")
async def send_all_and_say_so_later(story: Story) -> None:
    upload = await story.create(5, b"01234", completes=False)
    await story.append(upload, 5, completes=True, length=5)


@case("""
    pre-create                       0/5 receiving | nothing
    post-create                      0/5 receiving | 0/5 receiving
    post-receive                     5/5 receiving | 5/5 receiving
    pre-finish                       5/5 finishing | 5/5 finishing
    post-fail       ERR_HOOK_FAILED  5/5 finishing | 5/5 finishing
    answer                           ERR_HOOK_FAILED
""")
async def send_all_with_a_hook_that_fails(story: Story) -> None:
    story.answers[PreFinish] = HookError()
    await story.create(5, b"01234", completes=True)


# --- hooks that are only told: no state is saved for their sake


@case(
    """
    post-create     0/5 receiving | 0/5 receiving
    post-receive    5/5 complete  | 5/5 complete
    post-finish     5/5 complete  | 5/5 complete
    answer          5/5 complete
""",
    events=TOLD,
)
async def create_and_only_tell(story: Story) -> None:
    await story.create(5, b"01234")


@case(
    """
    post-create     0/5 receiving | 0/5 receiving
    answer          0/5 receiving
    post-receive    2/5 receiving | 2/5 receiving
    answer          2/5 receiving
    post-receive    5/5 complete  | 5/5 complete
    post-finish     5/5 complete  | 5/5 complete
    answer          5/5 complete
    post-terminate  5/5 complete  | nothing
    answer          nothing
""",
    events=TOLD,
)
async def append_and_only_tell(story: Story) -> None:
    upload = await story.create(5)
    await story.append(upload, 0, b"01")
    await story.append(upload, 2, b"234")
    await story.ask(Terminate(upload))


# --- the server itself


def let_age(story: Story, upload: UploadId) -> None:
    kept = story.rig.kept._kept[upload]
    kept.info = replace(kept.info, modified=utcnow() - timedelta(hours=2))


@case(
    """
    post-expire     expired  3/5 receiving | nothing
    answer                   ERR_UPLOAD_NOT_FOUND
""",
    Policy(expire_after=3600),
)
async def expire(story: Story) -> None:
    upload = await story.put(b"012", 5)
    let_age(story, upload)
    await story.sweep()
    await story.ask(Inspect(upload))


@case(
    """
    answer                   ERR_UPLOAD_NOT_FOUND
    post-expire     expired  3/5 receiving | nothing
""",
    Policy(expire_after=3600),
)
async def come_back_to_what_has_expired(story: Story) -> None:
    """It is gone for its client before it is removed."""
    upload = await story.put(b"012", 5)
    let_age(story, upload)
    await story.append(upload, 3, b"34")
    await story.sweep()


@case("""
    post-expire     concatenated a  3/3 complete | nothing
""")
async def parts_go_once_they_are_concatenated(story: Story) -> None:
    await story.put(b"012", name="a", concat=Partial(), state=State.COMPLETE)
    await story.put(b"012", concat=Final((A,)), state=State.COMPLETE)
    await story.sweep(remove_parts=True)


def by_upload(events: Iterable[HookEvent]) -> dict[UploadId, list[HookEvent]]:
    """The events of each upload, in their order; nothing is promised of the order of different uploads."""
    found: dict[UploadId, list[HookEvent]] = {}
    for event in events:
        found.setdefault(event.upload.id, []).append(event)
    return found


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.name)
async def test_the_events_and_their_order(one: Case) -> None:
    story = Story(one.policy, one.events)
    await one.act(story)
    await story.end()
    assert story.lines == [" ".join(line.split()) for line in one.table.splitlines() if line.strip()]
    for recorder in story.recorders:
        assert by_upload(recorder.told) == by_upload(event for event in story.seen if event.name.startswith("post-"))
    repeated = {(event.name, event.upload.id): event.delivery_id for event in story.seen if event.once}
    assert [event.delivery_id for event in story.seen if event.once] == [
        repeated[event.name, event.upload.id] for event in story.seen if event.once
    ], "what happens once is one event, however often it is tried"
    others = [event.delivery_id for event in story.seen if not event.once] + list(repeated.values())
    assert len(set(others)) == len(others)


def test_every_event_stands_in_a_table() -> None:
    words = {word for one in CASES for word in one.table.split()}
    assert {kind.name for kind in EVENTS} <= words
    assert {"inspect", "append", "read", "terminate", "concatenate", "expired", "concatenated"} <= words
