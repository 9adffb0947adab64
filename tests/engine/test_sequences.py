"""Any sequence of requests, cut, refused, interrupted, cancelled or failing: no acknowledged byte is ever lost or wrong."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.engine.rig import FakeSource, Rig

from tusd.errors import FinishPending, HookError, StorageFull, TusError, UnexpectedEof, UploadNotFound
from tusd.hooks import HookEvent, HookResponse, PreFinish
from tusd.model import Final, Partial, State, UploadId
from tusd.protocol.messages import Append, BodyPlan, Checksum, Create, Created
from tusd.protocol.rules import Policy
from tusd.testing.bodies import pattern
from tusd.testing.faults import cancelled_at

MAX_SIZE = 60
POLICY = Policy(max_size=MAX_SIZE, lock_timeout=1, concatenation_timeout=1)


@dataclass
class Known:
    """What a client knows of its upload."""

    id: UploadId
    content: bytes
    length: int | None
    acknowledged: int = 0
    complete: bool = False
    partial: bool = False


@dataclass(frozen=True)
class Sent:
    """How a body is sent."""

    size: int
    piece: int
    chunked: bool
    checksum: str
    cut: int | None
    """Bytes after which the client is lost."""


bodies = st.builds(
    Sent,
    size=st.integers(0, 30),
    piece=st.integers(1, 9),
    chunked=st.booleans(),
    checksum=st.sampled_from(["", "", "", "right", "wrong"]),
    cut=st.one_of(st.none(), st.none(), st.integers(0, 30)),
)
mishaps = st.one_of(
    st.none(),
    st.none(),
    st.tuples(st.just("cancel"), st.integers(1, 30)),
    st.tuples(st.sampled_from(["create", "open", "append", "appended", "save", "finish", "lock", "pre-finish"]), st.just(1)),
)


numbers = st.integers(0, 11)


class Sequences(RuleBasedStateMachine):
    """Requests one after another; after each the store is compared with what clients know."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.known: dict[UploadId, Known] = {}
        self.seed = 0
        self.hook_fails = False

    def teardown(self) -> None:
        self.runner.run(self.rig.background())
        self.runner.close()

    @initialize(hooks=st.booleans())
    def begin(self, hooks: bool) -> None:
        self.rig = Rig(POLICY, limits="A", hooks=[self.answer] if hooks else [], events=[PreFinish])

    def answer(self, event: HookEvent) -> HookResponse | None:
        if self.hook_fails:
            raise HookError()
        return None

    # --- what clients do

    def pick(self, which: int, *, partial: bool = False) -> Known:
        """One of the uploads, or something that is not there any more."""
        found = [known for known in self.known.values() if known.partial or not partial]
        return found[which % len(found)] if found else Known(UploadId("gone"), bytes(2 * MAX_SIZE), None)

    @precondition(lambda self: len(self.known) < 4)
    @rule(
        length=st.one_of(st.none(), st.integers(0, 40)),
        sent=st.one_of(st.none(), bodies),
        mishap=mishaps,
        partial=st.booleans(),
        arrived=st.booleans(),
    )
    def create(self, length: int | None, sent: Sent | None, mishap: tuple[str, int] | None, partial: bool, arrived: bool) -> None:
        self.created(length, sent, mishap, Partial() if partial else None, arrived)

    def created(
        self, length: int | None, sent: Sent | None, mishap: tuple[str, int] | None, concat: Partial | None, arrived: bool
    ) -> None:
        self.seed += 1
        content = pattern(self.seed, 2 * MAX_SIZE)
        before = {info.id for info in self.runner.run(self.rig.uploads())}
        plan, source = (None, FakeSource()) if sent is None else self.body(content, 0, sent)
        source.arrived = arrived
        outcome = self.attempt(self.rig.run(Create(length=length, concat=concat, body=plan), source), mishap)
        made = [info for info in self.runner.run(self.rig.uploads()) if info.id not in before]
        if not made:
            assert not isinstance(outcome, Created)
            return
        (info,) = made
        known = self.known[info.id] = Known(info.id, content, info.length, partial=concat is not None)
        if isinstance(outcome, Created):
            self.acknowledge(known, outcome.info.offset)
        elif isinstance(outcome, TusError):
            assert outcome.info is not None, f"{outcome!r} lost the upload"
            self.acknowledge(known, outcome.info.offset)

    @rule(
        which=numbers,
        sent=bodies,
        shift=st.sampled_from([0, 0, 0, 0, 1, -1]),
        declare=st.one_of(st.none(), st.none(), st.integers(0, 50)),
        mishap=mishaps,
    )
    def append(self, which: int, sent: Sent, shift: int, declare: int | None, mishap: tuple[str, int] | None) -> None:
        known = self.pick(which)
        there = self.runner.run(self.truth(known.id))
        offset = 0 if there is None else max(0, there + shift)
        plan, source = self.body(known.content, offset, sent)
        request = Append(upload_id=known.id, offset=offset, body=plan, length=declare)
        outcome = self.attempt(self.rig.run(request, source), mishap)
        if known.id not in self.known:
            assert isinstance(outcome, UploadNotFound | asyncio.CancelledError | StorageFull)
        elif outcome is not None and not isinstance(outcome, asyncio.CancelledError | StorageFull):
            if there is not None and offset != there:
                assert isinstance(outcome, TusError)
            info = outcome.info if isinstance(outcome, TusError) else getattr(outcome, "info", None)
            if info is not None:
                self.acknowledge(known, info.offset)
                if sent.checksum == "wrong" or (sent.checksum and isinstance(outcome, TusError)):
                    assert info.offset == there, "bytes of a body that its checksum does not vouch for were kept"
                if there == offset and not isinstance(outcome, TusError) and not known.complete:
                    assert info.offset == offset + sent.size

    @rule(which=numbers, rest=st.booleans(), pieces=st.integers(1, 3))
    def to_the_end(self, which: int, rest: bool, pieces: int) -> None:
        """What a good client does: it asks, and sends all or most of the rest."""
        known = self.pick(which)
        if known.length is None or isinstance(self.attempt(self.rig.head(known.id), None), TusError):
            return
        size = known.length - self.runner.run(self.there(known))
        if size and not rest:
            size -= 1
        self.append(which, Sent(size, size // pieces + 1, False, "right", None), 0, None, None)

    @rule(which=numbers, sent=bodies)
    def interrupted_by_head(self, which: int, sent: Sent) -> None:
        known = self.pick(which)
        there = self.runner.run(self.truth(known.id))
        if there is None or known.complete:
            return

        async def both() -> None:
            source = FakeSource(known.content[there : there + sent.size] or b"x", hangs=True)
            plan = BodyPlan(None)
            append = asyncio.create_task(self.rig.run(Append(upload_id=known.id, offset=there, body=plan), source))
            hanging = asyncio.create_task(source.hanging.wait())
            await asyncio.wait({append, hanging}, return_when=asyncio.FIRST_COMPLETED)
            hanging.cancel()
            try:
                info = await asyncio.wait_for(self.rig.head(known.id), 5)
                self.acknowledge(known, info.offset)
            except FinishPending:
                pass
            source.stop(UnexpectedEof())  # it has stopped already, unless its bytes were the last: then nobody waits for the lock
            with pytest.raises(TusError):
                await asyncio.wait_for(append, 5)

        if sent.size:
            self.runner.run(both())

    @rule(which=numbers)
    def read(self, which: int) -> None:
        known = self.pick(which)
        outcome = self.attempt(self.rig.read(known.id), None)
        if known.complete:
            assert outcome == known.content[: known.length]
        else:
            assert isinstance(outcome, TusError)

    @rule(which=numbers, mishap=mishaps)
    def terminate(self, which: int, mishap: tuple[str, int] | None) -> None:
        known = self.pick(which)
        self.attempt(self.rig.terminate(known.id), mishap)
        if self.runner.run(self.truth(known.id)) is None:
            self.known.pop(known.id, None)

    @precondition(lambda self: any(known.partial for known in self.known.values()))
    @rule(one=numbers, two=numbers)
    def concatenate(self, one: int, two: int) -> None:
        first, second = self.pick(one, partial=True), self.pick(two, partial=True)
        parts = (first.id, second.id)
        outcome = self.attempt(self.rig.run(Create(length=None, concat=Final(parts))), None)
        made = outcome.info if isinstance(outcome, Created | TusError) else None
        if not isinstance(outcome, Created) or outcome.info.state is not State.COMPLETE:
            if made is not None:  # it waits for its parts or for a hook; what becomes of it is other tests' business
                self.runner.run(self.rig.terminate(made.id))
            return
        assert first.complete and second.complete
        content = first.content[: first.length] + second.content[: second.length]
        known = self.known[outcome.info.id] = Known(outcome.info.id, content, len(content))
        self.acknowledge(known, len(content))

    # --- what happens to the server

    @rule()
    def restart(self) -> None:
        self.runner.run(self.rig.background())
        held = self.rig.limiters[0].held
        self.rig = self.rig.restarted()
        self.rig.limiters[0].held = held

    @rule(fails=st.booleans())
    def hook(self, fails: bool) -> None:
        self.hook_fails = fails

    # --- what always holds

    @invariant()
    def nothing_is_lost(self) -> None:
        self.runner.run(self.check())

    async def check(self) -> None:
        assert self.rig.locks.queues == {}
        infos = {info.id: info for info in await self.rig.uploads()}
        assert set(infos) == set(self.known)
        for known in self.known.values():
            info = infos[known.id]
            known.length = info.length if known.length is None else known.length
            assert info.length == known.length
            assert known.acknowledged <= info.offset <= (MAX_SIZE if info.length is None else info.length)
            assert await self.rig.content(known.id) == known.content[: info.offset]
            if info.state is State.COMPLETE:
                assert info.offset == info.length
                known.complete = True
            assert not known.complete or info.state is State.COMPLETE, "a complete upload never changes again"
            assert self.rig.limiters[0].held.get(known.id, 0) == (info.offset if info.length is None else info.length)
        assert set(self.rig.limiters[0].held) <= set(self.known)

    # --- tools

    def body(self, content: bytes, offset: int, sent: Sent) -> tuple[BodyPlan, FakeSource]:
        data = content[offset : offset + sent.size]
        digest = hashlib.sha1(data if sent.checksum == "right" else data + b"!").digest()
        came = data if sent.cut is None else data[: sent.cut]
        failure = UnexpectedEof() if len(came) < len(data) else None
        pieces = [came[n : n + sent.piece] for n in range(0, len(came), sent.piece)]
        plan = BodyPlan(None if sent.chunked else len(data), Checksum("sha1", digest) if sent.checksum else None)
        return plan, FakeSource(*pieces, failure=failure)

    def attempt(self, work: Coroutine[Any, Any, object], mishap: tuple[str, int] | None) -> object:
        """The outcome, or the error, or None when it was cancelled. A call that was made to fail may do so once."""

        async def run() -> object:
            outcome: list[object] = []

            async def caught() -> None:
                try:
                    outcome.append(await work)
                except TusError as error:
                    outcome.append(error)

            if mishap is None:
                await caught()
            elif mishap[0] == "cancel":
                self.rig.script.pause = True
                cancelled = await cancelled_at(mishap[1], caught())
                self.rig.script.pause = False
                if cancelled:
                    return asyncio.CancelledError()
            else:
                self.rig.fail(mishap[0], StorageFull)
                await caught()
                self.rig.heal(mishap[0])
            return outcome[0]

        return self.runner.run(run())

    async def there(self, known: Known) -> int:
        return (await self.rig.kept.info(known.id)).offset

    async def truth(self, upload_id: UploadId) -> int | None:
        try:
            return (await self.rig.kept.info(upload_id)).offset
        except UploadNotFound:
            return None

    def acknowledge(self, known: Known, offset: int) -> None:
        assert offset >= known.acknowledged, "the offset went back"
        known.acknowledged = offset


Sequences.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestSequences = Sequences.TestCase
