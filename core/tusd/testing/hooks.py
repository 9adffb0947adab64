"""The conformance suite of plugins for `hooks:`."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar, get_args

from multidict import CIMultiDict

from ..errors import HookError
from ..hook_wire import answer_from_json, event_as_json
from ..hooks import (
    EVENTS,
    NO_REQUEST,
    Access,
    Dispatcher,
    HookEvent,
    HookResponse,
    PostExpire,
    PostFail,
    PostFinish,
    PreAccess,
    PreCreate,
    PreFinish,
    Reason,
    Subscriber,
)
from ..model import Final, Metadata, Partial, State, UploadId, UploadInfo
from ..protocol.messages import Head
from .door import Door
from .faults import cancelled_at

__all__ = ["HooksSuite", "Receiver"]

PATIENCE = 20.0
"""Seconds after which a dispatch that has not ended is never going to."""
LONGEST_MESSAGE = 2000
"""Characters of a failure's text; it is one line of a log."""

TOKEN = "Bearer 5ecret-0f-the-c1ient"
UPLOAD = UploadInfo(
    id=UploadId("24e533e02ec3bc40c387f1a0e460e216"),
    length=12,
    offset=5,
    metadata=Metadata({"filename": b"a.txt"}, "filename YS50eHQ="),
    created=datetime(2026, 1, 31, 12, tzinfo=UTC),
    storage={"Type": "filestore", "Path": "/data/24e5"},
)
HEAD = Head(
    "PATCH",
    "/files/24e533e02ec3bc40c387f1a0e460e216",
    CIMultiDict({"Host": "up.example", "Authorization": TOKEN, "x-request-id": "r1"}),
    "10.0.0.9",
    peer_port=51544,
    client="10.0.0.9",
)
UPLOADS: Mapping[str, UploadInfo] = {
    "of deferred length": replace(UPLOAD, length=None),
    "empty and complete": replace(UPLOAD, length=0, offset=0, state=State.COMPLETE),
    "larger than a double tells": replace(UPLOAD, length=2**62 + 1, offset=2**53 + 1),
    "partial": replace(UPLOAD, concat=Partial()),
    "final": replace(UPLOAD, concat=Final((UploadId("a+1"), UploadId("b"), UploadId("a+1")))),
    "without metadata and place": replace(UPLOAD, metadata=Metadata(), storage={}),
    "with metadata of all kinds": replace(
        UPLOAD,
        metadata=Metadata(
            {"empty": b"", "text": "Grüße, 日本 😀\n\t\"'\\$(x)%s".encode(), "bytes": bytes(range(256)), "a-B_c.1": b"1"}
        ),
    ),
    "with an id of its own": replace(UPLOAD, id=UploadId("team a/b+c~(1)!'")),
    "of which something is noted": replace(UPLOAD, notes={"owner": "Zoë"}),
    "with a place that is not ASCII": replace(UPLOAD, storage={"Type": "filestore", "Path": "/data/ü b/\udcff"}),
}
REQUESTS: Mapping[str, Head] = {
    "none": NO_REQUEST,
    "with a query": replace(HEAD, query="a=1&b=%20+"),
    "with a target that is not ASCII": replace(HEAD, path="/files/ü\udcff", query="\udcff"),
    "over a unix socket": replace(HEAD, peer=None, peer_port=None, client=None),
    "from IPv6": replace(HEAD, peer="2001:db8::7", client="2001:db8::7"),
    "through a proxy": replace(HEAD, peer="10.0.0.2", client="203.0.113.7"),
    "with a header of several values": replace(HEAD, headers=CIMultiDict([("X-A", "1"), ("X-B", ""), ("x-a", "2, 3")])),
    "with a header that is not ASCII": replace(HEAD, headers=CIMultiDict({"X-A": "café \udcff"})),
    "with a long header": replace(HEAD, headers=CIMultiDict({"Cookie": "c=" + "x" * 6000})),
}
ANSWERS: Mapping[str, dict[str, Any]] = {
    "a status": {"HTTPResponse": {"StatusCode": 299}},
    "headers": {"HTTPResponse": {"Header": {"X-One": "1", "X-Two": 'a, b; c="d"'}}},
    "a body": {"HTTPResponse": {"Body": 'Grüße, 日本 😀\r\n\t"quoted" \\ % $(x)'}},
    "a longer body": {"HTTPResponse": {"Body": "0123456789" * 200}},
    "RejectUpload": {"RejectUpload": True},
    "RejectTermination": {"RejectTermination": True},
    "RejectAccess": {"RejectAccess": True},
    "StopUpload": {"StopUpload": True},
    "an id": {"ChangeFileInfo": {"ID": "team a/b+c"}},
    "metadata": {"ChangeFileInfo": {"MetaData": {"name": "Grüße 😀", "empty": ""}}},
    "no metadata": {"ChangeFileInfo": {"MetaData": {}}},
    "a place": {"ChangeFileInfo": {"Storage": {"Path": "ü/b c"}}},
    "the most bytes": {"ChangeFileInfo": {"MaxSize": 2**53 + 1}},
    "no bytes": {"ChangeFileInfo": {"MaxSize": 0}},
    "an end": {"ChangeFileInfo": {"ExpiresAt": "2030-12-31T12:00:00+02:00"}},
    "a lifetime": {"ChangeFileInfo": {"ExpireAfter": 90.5}},
    "a lifetime once finished": {"ChangeFileInfo": {"ExpireFinishedAfter": 3600}},
    "notes": {"ChangeFileInfo": {"Notes": {"owner": "Zoë"}}},
    "all at once": {
        "HTTPResponse": {"StatusCode": 403, "Header": {"X-One": "1"}, "Body": "no"},
        "RejectUpload": True,
        "StopUpload": True,
        "ChangeFileInfo": {
            "ID": "a",
            "MetaData": {"name": "b"},
            "Storage": {"Path": "c"},
            "MaxSize": 9,
            "ExpiresAt": "2030-12-31T12:00:00Z",
            "ExpireAfter": 60,
            "ExpireFinishedAfter": 120,
            "Notes": {"owner": "d"},
        },
    },
}


class Receiver(ABC):
    """The other end of the dispatcher under test: says what has arrived there, and does as it is told. At first it has nothing to say.

    It may live in the test's event loop, in a thread, or in another process."""

    @abstractmethod
    def received(self) -> list[dict[str, Any]]:
        """Every event that has arrived, in that order, in the shape of `plugin.event_as_json`."""

    @abstractmethod
    def answer(self, answer: Mapping[str, Any] | None) -> None:
        """From now on it answers every event so: in the shape that `plugin.answer_from_json` reads. None: it has nothing to say."""

    @abstractmethod
    def echo(self) -> None:
        """From now on it answers every event with the upload's id as `HTTPResponse.Body`."""

    @abstractmethod
    def fail(self) -> None:
        """From now on it fails, in whatever way is usual for it."""

    @abstractmethod
    def babble(self) -> None:
        """From now on it answers what cannot be read as an answer."""

    @abstractmethod
    def hang(self) -> None:
        """From now on it takes events and never answers."""


class HooksBase:
    """What a plugin author states, and may override, in a subclass of `HooksSuite`."""

    seam: ClassVar = "hooks"
    plugin: ClassVar[type[Any]]
    """The plugin class; it must be installed, with its entry point."""
    impatient: ClassVar[Mapping[str, object]] = {"timeout": "300ms"}
    """Options that let the dispatcher give up soon on a receiver that hangs."""
    prompt: ClassVar[float] = 3.0
    """Seconds in which a dispatch must have ended once it was cancelled, or once the dispatcher was to give up."""
    secrets: ClassVar[Sequence[str]] = ()
    """What stands in the options and must not stand in an error."""
    failures: ClassVar[tuple[type[Exception], ...]] = (HookError,)
    """What a dispatch that fails may raise. Code that is called in this process may raise what it likes: the log gets the traceback."""
    crowd: ClassVar[int] = 40
    """How many events are dispatched at once."""

    def carried(self, event: dict[str, Any]) -> dict[str, Any]:
        """What of an event reaches the receiver. Override it for a transport that has no place for all."""
        return event

    def carried_answer(self, answer: dict[str, Any]) -> dict[str, Any]:
        """What of an answer reaches the dispatcher. Override it for a transport that has no place for all."""
        return answer

    async def left_behind(self) -> Sequence[object]:
        """What dispatches have left: processes, connections that are in use. Nothing may be left of those that have ended.
        Override it where that can be looked into."""
        return []

    @asynccontextmanager
    async def dispatching(self, door: Door[Dispatcher], **options: object) -> AsyncIterator[Dispatcher]:
        """The dispatcher, which wants all events."""
        every = [kind.name for kind in EVENTS]
        async with (
            asyncio.timeout(PATIENCE),
            replace(door, options={"events": every, **door.options, **options}).open() as opened,
        ):
            yield opened

    async def arrives(self, dispatcher: Dispatcher, receiver: Receiver, event: HookEvent, what: str) -> None:
        """Dispatch an event, and compare what the receiver then has with it."""
        before = len(receiver.received())
        await dispatcher.dispatch(event)
        assert receiver.received()[before:] == [self.carried(event_as_json(event))], what

    async def fails(self, dispatcher: Dispatcher, event: HookEvent) -> None:
        """Dispatch an event, which must fail, with a `HookError` that tells nothing secret."""
        try:
            answer = await dispatcher.dispatch(event)
        except Exception as error:
            assert isinstance(error, self.failures), f"{event.name}: {type(error).__name__} instead of a HookError"
            if isinstance(error, HookError):
                told = [secret for secret in (TOKEN, event.upload.id, *self.secrets) if secret in str(error)]
                assert not told, f"{event.name}: the error tells {told}: {error}"
                assert len(str(error)) <= LONGEST_MESSAGE
        else:
            raise AssertionError(f"{event.name}: the answer {answer} instead of a HookError")


def events_of(kind: type[HookEvent], upload: UploadInfo = UPLOAD, head: Head = HEAD) -> Iterator[HookEvent]:
    """One event of a class, or several that differ in what only that class tells."""
    if kind is PreAccess:
        yield from (PreAccess(upload=upload, head=head, access=access) for access in get_args(Access))
    elif kind is PostExpire:
        yield from (PostExpire(upload=upload, head=head, reason=reason) for reason in get_args(Reason))
    elif kind is PostFail:
        yield PostFail(upload=upload, head=head, code="ERR_READ_TIMEOUT", message="too slow: „ü“\n")
    else:
        yield kind(upload=upload, head=head)


def one_of_each() -> list[HookEvent]:
    """An event of every class."""
    return [next(events_of(kind)) for kind in EVENTS]


def meant(answer: HookResponse | None) -> HookResponse:
    """Nothing to say is as good as an answer that says nothing."""
    return HookResponse() if answer is None else answer


class EventTests(HooksBase):
    """What happens to an upload arrives, all of it, before `dispatch` returns."""

    async def test_every_event_arrives(self, tusd_door: Door[Dispatcher], receiver: Receiver) -> None:
        async with self.dispatching(tusd_door) as dispatcher:
            for kind in EVENTS:
                for event in events_of(kind):
                    await self.arrives(dispatcher, receiver, event, repr(event))

    async def test_unusual_uploads_arrive(self, tusd_door: Door[Dispatcher], receiver: Receiver) -> None:
        async with self.dispatching(tusd_door) as dispatcher:
            for what, upload in UPLOADS.items():
                for kind in (PreCreate, PostFinish):
                    await self.arrives(dispatcher, receiver, kind(upload=upload, head=HEAD), f"an upload {what}")

    async def test_unusual_requests_arrive(self, tusd_door: Door[Dispatcher], receiver: Receiver) -> None:
        async with self.dispatching(tusd_door) as dispatcher:
            for what, head in REQUESTS.items():
                await self.arrives(dispatcher, receiver, PostFinish(upload=UPLOAD, head=head), f"a request {what}")

    async def test_a_large_event_arrives(self, tusd_door: Door[Dispatcher], receiver: Receiver) -> None:
        """More than a pipe or a socket's buffer holds."""
        large = replace(UPLOAD, metadata=Metadata({"large": b"0123456789" * 30_000}))
        async with self.dispatching(tusd_door) as dispatcher:
            await self.arrives(dispatcher, receiver, PreCreate(upload=large, head=HEAD), "a large event")

    async def test_an_event_that_is_told_again_is_the_same(self, tusd_door: Door[Dispatcher], receiver: Receiver) -> None:
        async with self.dispatching(tusd_door) as dispatcher:
            for event in one_of_each():
                for _ in range(2):
                    await self.arrives(dispatcher, receiver, event, f"{event.name} again")

    async def test_two_workers(self, tusd_door: Door[Dispatcher], receiver: Receiver) -> None:
        async with self.dispatching(tusd_door) as one, tusd_door.open(1) as other:
            for dispatcher in (one, other):
                await self.arrives(dispatcher, receiver, PostFinish(upload=UPLOAD, head=HEAD), "an event of one of two workers")

    async def test_it_wants_the_events_that_it_is_told_to_want(self, tusd_door: Door[Dispatcher], receiver: Receiver) -> None:
        for kinds in (EVENTS[::2], EVENTS[1::2]):
            names = [kind.name for kind in kinds]
            async with self.dispatching(tusd_door, events=names) as dispatcher:
                assert Subscriber(dispatcher, "", names).events == set(kinds)


class AnswerTests(HooksBase):
    """What the receiver says comes back as it was meant. Which of it counts for which event is the core's to say."""

    async def test_nothing_to_say(self, tusd_door: Door[Dispatcher], receiver: Receiver) -> None:
        async with self.dispatching(tusd_door) as dispatcher:
            for event in one_of_each():
                assert meant(await dispatcher.dispatch(event)) == HookResponse(), event.name
            receiver.answer({})
            assert meant(await dispatcher.dispatch(one_of_each()[0])) == HookResponse()

    async def test_every_field_of_an_answer(self, tusd_door: Door[Dispatcher], receiver: Receiver) -> None:
        async with self.dispatching(tusd_door) as dispatcher:
            for what, answer in ANSWERS.items():
                carried = self.carried_answer(answer)
                receiver.answer(carried)
                found = await dispatcher.dispatch(PreCreate(upload=UPLOAD, head=HEAD))
                assert meant(found) == answer_from_json(carried), f"the answer {what}"

    async def test_every_event_that_honours_answers_is_answered(self, tusd_door: Door[Dispatcher], receiver: Receiver) -> None:
        answer = {"HTTPResponse": {"StatusCode": 409, "Body": "enough"}, "RejectUpload": True, "StopUpload": True}
        receiver.answer(answer)
        async with self.dispatching(tusd_door) as dispatcher:
            for event in one_of_each():
                found = await dispatcher.dispatch(event)
                assert found == answer_from_json(answer) or not event.answers, event.name

    async def test_answers_at_once_are_not_mixed_up(self, tusd_door: Door[Dispatcher], receiver: Receiver) -> None:
        receiver.echo()
        async with self.dispatching(tusd_door) as dispatcher:

            async def dispatched(upload_id: str) -> str | None:
                upload = replace(UPLOAD, id=UploadId(upload_id))
                return meant(await dispatcher.dispatch(PreFinish(upload=upload, head=HEAD))).body

            ids = [f"upload{n}" for n in range(self.crowd)]
            assert await asyncio.gather(*map(dispatched, ids)) == ids
            assert await self.left_behind() == []
        assert sorted(event["Event"]["Upload"]["ID"] for event in receiver.received()) == sorted(ids)


class FailureTests(HooksBase):
    """Whatever goes wrong is a `HookError`, and the next event is carried as ever. Nothing passes for consent."""

    async def test_a_failure_is_a_hook_error(self, tusd_door: Door[Dispatcher], receiver: Receiver) -> None:
        async with self.dispatching(tusd_door) as dispatcher:
            receiver.fail()
            for event in one_of_each():
                await self.fails(dispatcher, event)

    async def test_what_is_no_answer_is_a_hook_error(self, tusd_door: Door[Dispatcher], receiver: Receiver) -> None:
        async with self.dispatching(tusd_door) as dispatcher:
            receiver.babble()
            for event in one_of_each():
                if event.answers:
                    await self.fails(dispatcher, event)
                else:  # it has arrived, and nothing that is said to it would count
                    with suppress(HookError):
                        await dispatcher.dispatch(event)

    async def test_it_goes_on_after_failures(self, tusd_door: Door[Dispatcher], receiver: Receiver) -> None:
        event = PreCreate(upload=UPLOAD, head=HEAD)
        async with self.dispatching(tusd_door) as dispatcher:
            for break_down in (receiver.fail, receiver.babble):
                break_down()
                await self.fails(dispatcher, event)
                receiver.answer({"RejectUpload": True})
                assert await dispatcher.dispatch(event) == HookResponse(reject=True)
            assert await self.left_behind() == []

    async def test_a_receiver_that_hangs_is_given_up(self, tusd_door: Door[Dispatcher], receiver: Receiver) -> None:
        event = PreFinish(upload=UPLOAD, head=HEAD)
        async with self.dispatching(tusd_door, **self.impatient) as dispatcher:
            receiver.hang()
            try:
                async with asyncio.timeout(self.prompt):
                    await self.fails(dispatcher, event)
            except TimeoutError:
                raise AssertionError(f"a receiver that hangs was not given up, with the options {self.impatient}") from None
            assert await self.left_behind() == []


class CancellationTests(HooksBase):
    """A dispatch that is cancelled, at whatever moment, ends soon, and leaves nothing that the next one would meet."""

    async def test_while_the_receiver_hangs(self, tusd_door: Door[Dispatcher], receiver: Receiver) -> None:
        async with self.dispatching(tusd_door) as dispatcher:
            receiver.hang()
            task = asyncio.create_task(dispatcher.dispatch(PreFinish(upload=UPLOAD, head=HEAD)))
            while not receiver.received():
                assert not task.done(), "a receiver that hangs was given up at once"
                await asyncio.sleep(0.005)
            cancelled_after = time.monotonic()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled(), "the cancellation was swallowed"
            assert time.monotonic() - cancelled_after < self.prompt
            assert await self.left_behind() == []

    async def test_before_the_receiver_hangs(self, tusd_door: Door[Dispatcher], receiver: Receiver) -> None:
        event = PreFinish(upload=UPLOAD, head=HEAD)
        async with self.dispatching(tusd_door, **self.impatient) as dispatcher:
            receiver.hang()
            for nth in range(1, 100):
                try:
                    was_cancelled = await cancelled_at(nth, dispatcher.dispatch(event))
                except HookError:
                    break
                assert was_cancelled, "a receiver that hangs passed for one that has nothing to say"
                assert await self.left_behind() == [], f"after suspension {nth} was cancelled"

    async def test_at_every_suspension(self, tusd_door: Door[Dispatcher], receiver: Receiver) -> None:
        event = PreFinish(upload=UPLOAD, head=HEAD)
        receiver.answer({"RejectUpload": True})
        async with self.dispatching(tusd_door) as dispatcher:
            for nth in range(1, 100):
                began = time.monotonic()
                was_cancelled = await cancelled_at(nth, dispatcher.dispatch(event))
                assert time.monotonic() - began < self.prompt
                if not was_cancelled:
                    break
                assert await dispatcher.dispatch(event) == HookResponse(reject=True), f"after suspension {nth} was cancelled"
                assert await self.left_behind() == [], f"after suspension {nth} was cancelled"


class HooksSuite(EventTests, AnswerTests, FailureTests, CancellationTests):
    """Subclass it in a test module, name the plugin, and give its options and the other end:

        class TestShelfHooks(HooksSuite):
            plugin = ShelfHooks

            @pytest.fixture
            def receiver(self):
                return Shelf()                         # a tusd.testing.hooks.Receiver

            @pytest.fixture
            def options(self, receiver):
                return {"address": receiver.address}

    The plugin is opened as the server does it: by its entry point, with its options checked. `impatient`, `prompt`, `secrets`, `failures`,
    `crowd`, `carried`, `carried_answer` and `left_behind` may be overridden.
    """
