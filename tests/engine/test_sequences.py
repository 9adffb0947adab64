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
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
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


class Sequences(RuleBasedStateMachine):
    """Requests one after another; after each the store is compared with what clients know."""

    uploads: Bundle[Known] = Bundle("uploads")
    partials: Bundle[Known] = Bundle("partials")

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

    @rule(
        target=uploads,
        length=st.one_of(st.none(), st.integers(0, 40)),
        sent=st.one_of(st.none(), bodies),
        mishap=mishaps,
        arrived=st.booleans(),
    )
    def create(self, length: int | None, sent: Sent | None, mishap: tuple[str, int] | None, arrived: bool) -> Any:
        return self.created(length, sent, mishap, None, arrived)

    @rule(target=partials, length=st.one_of(st.none(), st.integers(0, 25)), sent=st.one_of(st.none(), bodies))
    def create_partial(self, length: int | None, sent: Sent | None) -> Any:
        return self.created(length, sent, None, Partial(), False)

    def created(
        self, length: int | None, sent: Sent | None, mishap: tuple[str, int] | None, concat: Partial | None, arrived: bool
    ) -> Any:
        self.seed += 1
        content = pattern(self.seed, 2 * MAX_SIZE)
        before = {info.id for info in self.runner.run(self.rig.uploads())}
        plan, source = (None, FakeSource()) if sent is None else self.body(content, 0, sent)
        source.arrived = arrived
        outcome = self.attempt(self.rig.run(Create(length=length, concat=concat, body=plan), source), mishap)
        made = [info for info in self.runner.run(self.rig.uploads()) if info.id not in before]
        if not made:
            assert not isinstance(outcome, Created)
            return multiple()
        (info,) = made
        known = self.known[info.id] = Known(info.id, content, info.length)
        if isinstance(outcome, Created):
            self.acknowledge(known, outcome.info.offset)
        elif isinstance(outcome, TusError):
            assert outcome.info is not None, f"{outcome!r} lost the upload"
            self.acknowledge(known, outcome.info.offset)
        return known

    @rule(
        known=st.one_of(uploads, partials),
        sent=bodies,
        shift=st.sampled_from([0, 0, 0, 0, 1, -1]),
        declare=st.one_of(st.none(), st.none(), st.integers(0, 50)),
        mishap=mishaps,
    )
    def append(self, known: Known, sent: Sent, shift: int, declare: int | None, mishap: tuple[str, int] | None) -> None:
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
                if there == offset and not isinstance(outcome, TusError) and not known.complete:
                    assert info.offset == offset + sent.size

    @rule(known=st.one_of(uploads, partials), sent=bodies)
    def interrupted_by_head(self, known: Known, sent: Sent) -> None:
        there = self.runner.run(self.truth(known.id))
        if there is None or known.complete:
            return

        async def both() -> None:
            source = FakeSource(known.content[there : there + sent.size] or b"x", hangs=True)
            plan = BodyPlan(None)
            append = asyncio.create_task(self.rig.run(Append(upload_id=known.id, offset=there, body=plan), source))
            await asyncio.wait({append, asyncio.ensure_future(source.hanging.wait())}, return_when=asyncio.FIRST_COMPLETED)
            try:
                info = await asyncio.wait_for(self.rig.head(known.id), 5)
                self.acknowledge(known, info.offset)
            except FinishPending:
                pass
            with pytest.raises(TusError):
                await append
            if not source.hanging.is_set():
                source.stop(UnexpectedEof())

        if sent.size:
            self.runner.run(both())

    @rule(known=st.one_of(uploads, partials))
    def read(self, known: Known) -> None:
        outcome = self.attempt(self.rig.read(known.id), None)
        if known.complete:
            assert outcome == known.content[: known.length]
        else:
            assert isinstance(outcome, TusError)

    @rule(known=consumes(uploads), mishap=mishaps)
    def terminate(self, known: Known, mishap: tuple[str, int] | None) -> None:
        self.attempt(self.rig.terminate(known.id), mishap)
        if self.runner.run(self.truth(known.id)) is None:
            self.known.pop(known.id, None)

    @rule(target=uploads, first=partials, second=partials)
    def concatenate(self, first: Known, second: Known) -> Any:
        parts = (first.id, second.id)
        outcome = self.attempt(self.rig.run(Create(length=None, concat=Final(parts))), None)
        if not isinstance(outcome, Created) or not (first.complete and second.complete):
            if isinstance(outcome, Created):  # it waits for its parts; what becomes of it is another test's business
                self.runner.run(self.rig.terminate(outcome.info.id))
            return multiple()
        content = first.content[: first.length] + second.content[: second.length]
        known = self.known[outcome.info.id] = Known(outcome.info.id, content, len(content))
        self.acknowledge(known, len(content))
        return known

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
