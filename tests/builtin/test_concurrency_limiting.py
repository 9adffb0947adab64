"""The concurrency limiter: the suite, and what it promises beyond it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.builtin.limiters import LOOK, SEND, by, upload

from tusd.builtin import concurrency_limiting
from tusd.builtin.concurrency_limiting import ConcurrencyLimiter, ConcurrencyLimiting
from tusd.config import StartErrors
from tusd.errors import TooManyRequests
from tusd.model import UploadId, UploadInfo
from tusd.plugin import Discover, Head, Request
from tusd.protocol.messages import Append, BodyPlan, Create, Read, Terminate
from tusd.registry import load
from tusd.testing.limiting import LimitingSuite, admitted, refused

Opened = Callable[..., ConcurrencyLimiter]


class TestUploadsPerClient(LimitingSuite):
    plugin = ConcurrencyLimiting
    at_once = 4

    @pytest.fixture
    def options(self) -> Mapping[str, object]:
        return {"uploads_per_client": 4, "uploads": 1000, "requests": 1000}


class TestRequestsPerTenant(LimitingSuite):
    plugin = ConcurrencyLimiting
    at_once = 2

    @pytest.fixture
    def options(self) -> Mapping[str, object]:
        return {"requests_per_client": 2, "client": "note tenant"}

    def head(self, client: int) -> Head:
        return by("192.0.2.1")

    def upload(self, client: int) -> UploadInfo:
        return replace(super().upload(client), notes={"tenant": str(client)})


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Opens limiters; each `worker` is as good as a process."""
    limiters = []

    def make(**options: object) -> ConcurrencyLimiter:
        limiters.append(ConcurrencyLimiter(ConcurrencyLimiting.Options.model_validate(options), tmp_path))
        return limiters[-1]

    yield make
    for limiter in limiters:
        limiter.close()


async def room(limiter: ConcurrencyLimiter, head: Head = by(), request: Request = SEND, info: UploadInfo = upload()) -> int:  # noqa: B008
    """How many of these requests it admits, up to 20."""
    async with AsyncExitStack() as stack:
        for count in range(20):
            try:
                await stack.enter_async_context(admitted(limiter, head, info, request))
            except TooManyRequests:
                return count
    return 20


async def test_each_limit(opened: Opened) -> None:
    limiter = opened(requests=7, requests_per_client=5, uploads=4, uploads_per_client=2)
    assert await room(limiter) == 2
    assert await room(limiter, request=LOOK) == 5
    async with AsyncExitStack() as stack:
        for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2"):
            await stack.enter_async_context(admitted(limiter, by(address), upload()))
        assert await room(limiter, by("192.0.2.3")) == 0, "uploads of the host"
        assert await room(limiter, by("192.0.2.1"), LOOK) == 3
        assert await room(limiter, by("192.0.2.3"), LOOK) == 3, "requests of the host"
        for _ in range(3):
            await stack.enter_async_context(admitted(limiter, by("192.0.2.3"), upload(), LOOK))
        await refused(admitted(limiter, by("192.0.2.4"), upload(), LOOK))
    assert await room(limiter) == 2


@pytest.mark.parametrize(
    ("request_", "counts"),
    [
        (SEND, True),
        (Append(upload_id=UploadId("upload"), offset=0, body=BodyPlan(None)), True),
        (Append(upload_id=UploadId("upload"), offset=5, body=BodyPlan(0)), False),
        (Create(length=5, body=BodyPlan(5)), True),
        (Create(length=5, body=BodyPlan(0)), False),
        (Create(length=5), False),
        (LOOK, False),
        (Read(UploadId("upload")), False),
        (Terminate(UploadId("upload")), False),
    ],
)
async def test_what_an_upload_is(opened: Opened, request_: Request, counts: bool) -> None:
    assert await room(opened(uploads=1), request=request_) == (1 if counts else 20)
    assert await room(opened(uploads_per_client=1), request=request_) == (1 if counts else 20)
    assert await room(opened(requests=1), request=request_) == 1


async def test_options_are_free(opened: Opened) -> None:
    limiter = opened(requests=1, requests_per_client=1)
    async with admitted(limiter, by(), upload()):
        assert await room(limiter, request=Discover()) == 20


async def test_a_client_that_is_refused_takes_nothing_of_the_host(opened: Opened) -> None:
    limiter = opened(requests=5, requests_per_client=1)
    async with admitted(limiter, by("192.0.2.1"), upload()):
        for _ in range(10):
            await refused(admitted(limiter, by("192.0.2.1"), upload()))
        assert await room(limiter, by("192.0.2.2")) == 1


async def test_clients_by_metadata_count_once_the_upload_is_known(opened: Opened) -> None:
    limiter = opened(uploads_per_client=2, uploads=4, client="metadata team")
    async with limiter.admit(by(), SEND), limiter.admit(by(), SEND), limiter.admit(by(), SEND) as allowance:
        await allowance.bind(upload(team="red"))
        assert await room(limiter, info=upload(team="red")) == 1
        async with admitted(limiter, by(), upload(team="red")):
            await refused(admitted(limiter, by(), upload(team="blue")))
    async with AsyncExitStack() as stack:
        for team in ("red", "red", "blue"):
            await stack.enter_async_context(admitted(limiter, by(), upload(team=team)))
        for _ in range(5):
            await refused(admitted(limiter, by(), upload(team="red")))
        assert await room(limiter, info=upload(team="blue")) == 1


async def test_workers_count_together_and_each_gives_back_its_own(opened: Opened) -> None:
    one, other = opened(requests_per_client=3), opened(requests_per_client=3)
    async with admitted(one, by(), upload()), admitted(other, by(), upload()):
        assert await room(one) == await room(other) == 1
    assert await room(one) == await room(other) == 3


async def test_another_generation_may_have_other_limits(opened: Opened) -> None:
    old, new = opened(requests_per_client=5), opened(requests_per_client=2, uploads=8)
    async with admitted(old, by(), upload()):
        assert await room(new) == 1
        assert await room(old) == 4


async def test_what_a_worker_left_behind_is_cleared(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency_limiting, "_LOOK", 0)
    one, other = opened(requests_per_client=3, requests=3), opened(requests_per_client=3, requests=3)
    gone = other.admit(by(), SEND)
    await gone.__aenter__()
    assert await room(one) == 2
    other.close()
    assert await room(one) == 3
    heir = opened(requests_per_client=3)
    assert heir.table.seat == 1
    assert await room(heir) == 3


async def test_who_opens_it_clears_what_a_worker_left_behind(opened: Opened) -> None:
    one, other = opened(requests=3), opened(requests=3)
    await other.admit(by(), SEND).__aenter__()
    other.close()
    opened(requests=3)
    assert await room(one) == 3


async def test_more_clients_than_rows(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever finds no row counts for the host only: nobody can lock others out by having many addresses."""
    monkeypatch.setattr(concurrency_limiting, "_ROWS", 8)
    limiter = opened(requests_per_client=1, requests=15)
    async with AsyncExitStack() as stack:
        for number in range(8):
            await stack.enter_async_context(admitted(limiter, by(f"192.0.2.{number}"), upload()))
        await refused(admitted(limiter, by("192.0.2.3"), upload()))
        assert await room(limiter, by("192.0.2.99")) == 7
    assert await room(limiter, by("192.0.2.99")) == 1


def test_options_that_make_no_sense() -> None:
    for options in ({"requests": 0}, {"uploads": 70_000}, {"requests_per_client": -1}):
        with pytest.raises(ValidationError):
            ConcurrencyLimiting.Options.model_validate(options)


def test_without_limits_it_is_a_mistake() -> None:
    with pytest.raises(StartErrors, match=r"limiting\S*: it limits nothing; set requests, "):
        load("limiting", "concurrency", {"client": "note tenant"})
