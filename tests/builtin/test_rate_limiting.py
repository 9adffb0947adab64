"""The rate limiter: the suite, and what it promises beyond it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.builtin.limiters import LOOK, SEND, by, upload

from tusd.builtin import rate_limiting
from tusd.builtin.rate_limiting import RateLimiter, RateLimiting
from tusd.config import StartErrors
from tusd.errors import TooManyRequests
from tusd.model import UploadInfo
from tusd.plugin import Discover, Head, Request
from tusd.registry import load
from tusd.testing.limiting import LimitingSuite, admitted, ends_cancelled, enter, refused, timed

Opened = Callable[..., RateLimiter]
MB = 1_000_000


class TestRequestsPerClient(LimitingSuite):
    plugin = RateLimiting
    in_a_row = 10

    @pytest.fixture
    def options(self) -> Mapping[str, object]:
        return {"requests_per_client": 5, "burst": "2s", "requests": 10_000}


class TestRequestsPerTeam(LimitingSuite):
    plugin = RateLimiting
    in_a_row = 6

    @pytest.fixture
    def options(self) -> Mapping[str, object]:
        return {"requests_per_client": 3, "burst": "2s", "client": "note team"}

    def upload(self, client: int) -> UploadInfo:
        return replace(super().upload(client), notes={"team": str(client)})


class TestBytesPerClient(LimitingSuite):
    plugin = RateLimiting
    pace = 10 * MB

    @pytest.fixture
    def options(self) -> Mapping[str, object]:
        return {"bytes_per_client": "10MB", "bytes": "1GB"}


class TestBytesPerClientByHeader(LimitingSuite):
    plugin = RateLimiting
    pace = MB

    @pytest.fixture
    def options(self) -> Mapping[str, object]:
        return {"bytes_per_client": "1MB", "client": "header X-Account"}

    def head(self, client: int) -> Head:
        return by("192.0.2.1", **{"X-Account": str(client)})


class Clock:
    """The time as the limiters see it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rate_limiting, "time", clock)
    return clock


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Opens limiters; each is as good as one of another process."""
    limiters = []

    def make(**options: object) -> RateLimiter:
        limiters.append(RateLimiter(RateLimiting.Options.model_validate(options), tmp_path))
        return limiters[-1]

    yield make
    for limiter in limiters:
        limiter.close()


async def tokens(limiter: RateLimiter, head: Head = by(), request: Request = LOOK, info: UploadInfo = upload()) -> int:  # noqa: B008
    """How many of these requests it admits now, up to 1000."""
    for count in range(1000):
        try:
            await enter(admitted(limiter, head, info, request))
        except TooManyRequests:
            return count
    return 1000


async def test_the_burst_and_then_the_rate(opened: Opened, clock: Clock) -> None:
    limiter = opened(requests_per_client=10, burst="3s")
    assert await tokens(limiter) == 30
    for pause, admitted_ in ((0.05, 0), (0.06, 1), (1.01, 10), (2.01, 20), (100, 30)):
        clock.now += pause
        assert await tokens(limiter) == admitted_
    assert await refused(admitted(limiter, by(), upload())) == pytest.approx(0.1, abs=0.001)


async def test_each_limit(opened: Opened, clock: Clock) -> None:
    limiter = opened(requests=5, requests_per_client=3, burst="1s")
    assert await tokens(limiter, by("192.0.2.1")) == 3
    assert await tokens(limiter, by("192.0.2.2")) == 2, "of the host"
    clock.now += 1
    assert await tokens(limiter, by("192.0.2.3")) == 3


async def test_a_burst_of_one_is_the_least(opened: Opened, clock: Clock) -> None:
    limiter = opened(requests=1, burst=0)
    assert await tokens(limiter) == 1
    assert await refused(admitted(limiter, by(), upload())) == pytest.approx(1)


@pytest.mark.parametrize("client", ["address", "metadata team"])
async def test_refusals_take_nothing_from_anybody(opened: Opened, clock: Clock, client: str) -> None:
    limiter = opened(requests=5, requests_per_client=2, burst="1s", client=client)
    red, blue = (by("192.0.2.1"), LOOK, upload(team="red")), (by("192.0.2.2"), LOOK, upload(team="blue"))
    assert await tokens(limiter, *red) == 2
    for _ in range(20):
        await refused(admitted(limiter, by("192.0.2.1"), upload(team="red")))
    assert await tokens(limiter, *blue) == 2
    green = (by("192.0.2.3"), LOOK, upload(team="green"))
    assert await tokens(limiter, *green) == 1, "the host has one token left"
    for _ in range(20):
        await refused(admitted(limiter, by("192.0.2.3"), upload(team="green")))
    clock.now += 0.21
    assert await tokens(limiter, *green) == 1, "its own token was given back when the host had none"


async def test_options_are_free(opened: Opened, clock: Clock) -> None:
    limiter = opened(requests=1, requests_per_client=1, burst=0)
    assert await tokens(limiter) == 1
    assert await tokens(limiter, request=Discover()) == 1000
    clock.now += 1
    assert await tokens(limiter) == 1


async def test_what_is_not_limited(opened: Opened) -> None:
    for limiter in (opened(requests=1000), opened(requests_per_client=1)):
        assert not limiter.paces
        async with admitted(limiter, by(), upload()) as allowance:
            assert await timed(allowance.spend(1 << 60)) < 1
    assert opened(bytes=1).paces
    assert opened(bytes_per_client=1).paces


async def test_workers_share_their_buckets(opened: Opened, clock: Clock) -> None:
    one, other = opened(requests_per_client=4, burst="1s"), opened(requests_per_client=4, burst="1s")
    await enter(admitted(one, by(), upload()))
    await enter(admitted(other, by(), upload()))
    assert await tokens(one) == 2
    assert await tokens(other) == 0


async def test_another_generation_may_have_other_rates(opened: Opened, clock: Clock) -> None:
    old, new = opened(requests_per_client=4, burst="1s"), opened(requests_per_client=100, burst="1s")
    assert await tokens(old) == 4
    assert await tokens(new) == 0
    clock.now += 0.5
    assert await tokens(new) == 50


async def test_nothing_of_an_earlier_run_counts(opened: Opened, clock: Clock) -> None:
    """The clock begins anew when the machine does."""
    limiter = opened(requests=5, burst="1s")
    assert await tokens(limiter) == 5
    limiter.close()
    clock.now = 1
    assert await tokens(opened(requests=5, burst="1s")) == 5


async def test_more_clients_than_rows(opened: Opened, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who have used the least are forgotten, and the host's own bucket never is."""
    monkeypatch.setattr(rate_limiting, "_ROWS", 8)
    limiter = opened(requests_per_client=10, requests=100, burst="1s")
    assert await tokens(limiter, by("192.0.2.99")) == 10
    for number in range(30):
        await enter(admitted(limiter, by(f"192.0.2.{number}"), upload()))
    assert await tokens(limiter, by("192.0.2.99")) == 0
    assert sum([await tokens(limiter, by(f"198.51.100.{number}")) for number in range(20)]) == 60


async def test_a_client_that_waits_for_itself_takes_nothing_from_the_host(opened: Opened) -> None:
    limiter = opened(bytes_per_client="100kB", bytes="10MB", bytes_burst=0)
    async with admitted(limiter, by("192.0.2.1"), upload()) as slow, admitted(limiter, by("192.0.2.2"), upload()) as quick:
        waiting = [asyncio.create_task(slow.spend(10 * MB)) for _ in range(10)]
        await asyncio.sleep(0.02)
        assert await timed(quick.spend(1000)) < 1
        for task in waiting:
            assert await ends_cancelled(task)
        assert await timed(slow.spend(1000)) < 1


async def test_a_wait_for_the_host_gives_back_both(opened: Opened) -> None:
    limiter = opened(bytes_per_client="100MB", bytes="100kB", bytes_burst=0)
    async with admitted(limiter, by(), upload()) as allowance:
        waiting = asyncio.create_task(allowance.spend(10 * MB))
        await asyncio.sleep(0.15)
        assert await ends_cancelled(waiting)
        assert await timed(allowance.spend(1000)) < 1


async def test_the_host_s_bytes_are_for_all(opened: Opened) -> None:
    limiter = opened(bytes="1MB", bytes_burst=0)
    async with admitted(limiter, by("192.0.2.1"), upload()) as one, admitted(limiter, by("192.0.2.2"), upload(), SEND) as other:
        began = time.monotonic()
        await asyncio.gather(one.spend(150_000), other.spend(150_000))
        assert 0.29 < time.monotonic() - began < 2


def test_options_that_make_no_sense() -> None:
    for options in ({"requests": 0}, {"bytes": 0}, {"bytes_per_client": "0"}, {"burst": "-1s"}, {"bytes_burst": -1}):
        with pytest.raises(ValidationError):
            RateLimiting.Options.model_validate(options)


def test_without_limits_it_is_a_mistake() -> None:
    with pytest.raises(StartErrors, match=r"limiting\S*: it limits nothing; set requests, "):
        load("limiting", "rate", {"client": "note tenant"})
