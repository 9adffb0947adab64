"""Any sequence of requests, failures and deaths, compared with a model that knows nothing but bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from memory_bucket import LEAST, RULES, UNIFORM, Dead, How, MemoryBucket, Server, new_store
from tusd import plugin
from tusd.plugin import State, UploadId, UploadInfo
from tusd.testing.bodies import FakeBody, FakeLease, pattern

T = TypeVar("T")
ID = UploadId("u")
DATA = pattern(9, 150)
faults = st.one_of(st.none(), st.tuples(st.sampled_from(["before", "after", "dies before", "dies after"]), st.integers(1, 12)))
bodies = st.fixed_dictionaries(
    {"size": st.one_of(st.integers(0, 12), st.integers(0, 70)), "piece": st.sampled_from([1, 7, 64]), "whole": st.booleans()}
)


class Uploading(RuleBasedStateMachine):
    """One upload, and all who ever worked on it."""

    @initialize(
        known=st.booleans(),
        explicit=st.booleans(),
        equal=st.booleans(),
        conditional=st.booleans(),
        memory=st.sampled_from([30, 1000]),
    )
    def create(self, known: bool, explicit: bool, equal: bool, conditional: bool, memory: int) -> None:
        self.runner = asyncio.Runner()
        self.server = Server(least=LEAST)
        self.kind, self.conditional, self.memory = (UNIFORM if equal else RULES), conditional, memory
        self.told = 0
        """Bytes that were acknowledged."""
        self.notes: list[dict[str, str]] = [{}]
        """What may stand there: what was saved last, and what may have been."""
        self.length = len(DATA) if known else None
        state = State.OPEN if explicit else State.RECEIVING
        self.start()
        info = UploadInfo(id=ID, length=self.length, state=state, explicit=explicit)
        self.do(self.store.create(info, FakeLease()))

    def start(self) -> None:
        """A new process."""
        self.bucket = MemoryBucket(self.server, conditional=self.conditional)
        self.store = new_store(self.bucket, self.kind, memory=self.memory)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def broken(self, work: Coroutine[Any, Any, object], fault: tuple[How, int] | None) -> bool:
        """Do it with a fault; whether it came to its end."""
        if fault is not None:
            self.bucket.how, self.bucket.nth = fault[0], len(self.bucket.calls) + fault[1]
        try:
            self.do(work)
        except (plugin.TusError, Dead):
            assert fault is not None
            return False
        finally:
            with suppress(Dead):
                self.do(self.store.close())
            self.bucket.nth = 0
            if self.bucket.dead:
                self.start()
        return True

    @rule(body=bodies, intact=st.booleans(), stop=st.floats(0, 1), fault=faults)
    def append(self, body: dict[str, Any], intact: bool, stop: float, fault: tuple[How, int] | None) -> None:
        upload = self.opened()
        start = upload.info.offset
        data = DATA[start : start + body["size"]]
        end = len(data) if intact else int(len(data) * stop)
        sent = FakeBody(data, whole=body["whole"], piece=body["piece"], intact=intact, stop_at=end)
        ended = self.broken(upload.append(sent), fault)
        self.told = max(self.told, sent.safe or 0, upload.info.offset if upload.info.offset != len(DATA) - 1 else 0)
        if ended:
            counts = end if not sent.whole or (intact and end == len(data)) else 0
            assert upload.info.offset == start + counts
        if sent.whole:
            assert self.opened().info.offset in (start, start + len(data))

    @rule(note=st.text(max_size=3), fault=faults)
    def save(self, note: str, fault: tuple[How, int] | None) -> None:
        upload = self.opened()
        wanted = {"note": note}
        if self.broken(upload.save(replace(upload.info, notes=wanted)), fault):
            self.notes = [wanted]
        else:
            self.notes.append(wanted)

    @precondition(lambda self: self.length is None)
    @rule(fault=faults)
    def declare(self, fault: tuple[How, int] | None) -> None:
        upload = self.opened()
        if self.broken(upload.save(replace(upload.info, length=len(DATA))), fault):
            self.length = len(DATA)
        else:
            self.length = self.do(self.store.info(ID)).length

    @rule()
    def die(self) -> None:
        self.start()

    @rule()
    def blind(self) -> None:
        """Another process, to which listings say nothing, opens it."""
        self.start()
        self.bucket.stale = True
        self.opened()
        self.start()

    def opened(self) -> Any:
        upload = self.do(self.store.open(ID, FakeLease()))
        assert upload.info.offset >= self.told
        assert upload.info.notes in self.notes
        return upload

    @invariant()
    def nobody_is_told_too_much(self) -> None:
        if hasattr(self, "server"):
            seen = self.do(new_store(MemoryBucket(self.server)).info(ID))
            assert seen.offset >= self.told - 1
            assert seen.state is not State.COMPLETE or self.server.objects["u"].data == DATA

    def teardown(self) -> None:
        if hasattr(self, "server"):
            with self.runner:
                self.finish()

    def finish(self) -> None:
        self.start()
        upload = self.opened()
        if rest := DATA[upload.info.offset :]:
            assert self.do(upload.append(FakeBody(rest))) == len(rest)
        self.do(upload.save(replace(upload.info, length=len(DATA))))
        self.do(upload.finish())
        self.do(self.store.close())
        assert self.server.objects["u"].data == DATA
        assert not self.server.overwritten
        assert not [one for one in self.server.multiparts.values() if one.parts]
        self.do(upload.terminate())
        assert not self.server.objects


Uploading.TestCase.settings = settings(max_examples=40, stateful_step_count=12, deadline=None)
TestUploading = Uploading.TestCase
