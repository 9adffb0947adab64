"""The order of effects: locks, limits, hooks and stores, for each thing a client can do. Knows no header, status or socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import assert_never

from ..errors import QuotaExceeded, TooManyRequests
from ..hooks import Dispatcher
from ..limiting import Allowance, Limiter
from ..locking import Locker
from ..metrics import Metrics
from ..model import Extension
from ..protocol.messages import Append, Create, Discover, Discovered, Inspect, Outcome, Read, Terminate
from ..protocol.rules import Policy
from ..storage import Atomic, Capability, Concatenable, DataStore, Readable, Terminable
from .announce import Announcer
from .append import append
from .context import Context, Exchange
from .create import create
from .deliver import deliverers_of
from .figures import ALL, LIMITED
from .inspect import inspect
from .read import read
from .recount import counting, keep_counting
from .sweep import Sweeper, sweeper_of
from .terminate import terminate

__all__ = ["Engine", "Exchange"]

_NEEDS: dict[Extension, type[Capability]] = {
    Extension.TERMINATION: Terminable,
    Extension.CONCATENATION: Concatenable,
    Extension.CONCATENATION_UNFINISHED: Concatenable,
    Extension.CHECKSUM: Atomic,
}


class Engine:
    """Carries out requests. One per worker process.

    async with engine(exchange) as outcome:
        ...  # send the answer, a download too: limiters count it until the end of the block
    """

    def __init__(
        self,
        *,
        store: DataStore,
        locker: Locker,
        metrics: Metrics,
        policy: Policy,
        limiters: Sequence[Limiter] = (),
        dispatchers: Sequence[Dispatcher] = (),
    ) -> None:
        can = store.capabilities
        extensions = frozenset(e for e in policy.extensions if e not in _NEEDS or _NEEDS[e] in can)
        if Extension.CONCATENATION not in extensions:
            extensions -= {Extension.CONCATENATION_UNFINISHED}
        self.policy = replace(policy, extensions=extensions, downloads=policy.downloads and Readable in can)
        """The operator's policy, less what the store cannot do."""
        self.limiters = tuple(limiters)
        self.metrics = metrics
        metrics.declare(*ALL)
        self._context = Context(
            store=store,
            locker=locker,
            limiters=self.limiters,
            announcer=Announcer(dispatchers, metrics),
            metrics=metrics,
            policy=self.policy,
        )

    def __call__(self, exchange: Exchange) -> AbstractAsyncContextManager[Outcome]:
        """Carry out one request. Entering raises `TusError`; with its `info` set if the upload exists."""
        return _limited(self, exchange) if self.limiters else _Free(self, exchange)

    async def start(self, number: int = 0) -> None:
        """Begin the work that no request causes, in worker `number` of this host. Called once, before the first request. Raises
        `StartError`."""
        if number == 0 and (limiters := counting(self._context)):
            self._context.background.begin(partial(keep_counting, self._context, limiters), "counting the uploads")
        if (sweeper := sweeper_of(self._context)) is not None:
            self._context.background.begin(sweeper.run, "the sweeper")
        for deliverer in deliverers_of(self._context):
            await deliverer.open()
            self._context.background.begin(deliverer.run, "an outbox")

    def sweeper(self) -> Sweeper:
        """For one sweep from the command line."""
        return Sweeper(self._context, self.policy.sweep_interval, self.policy.remove_parts)

    async def close(self) -> None:
        """End that work, and wait for what goes on in the background: told events, concatenations. The caller sets the time-out by
        cancelling."""
        await self._context.close()

    async def run(self, exchange: Exchange, allowances: Sequence[Allowance]) -> Outcome:
        """Carry out one request that limiters have admitted."""
        context = self._context
        match exchange.request:
            case Append() as request:
                return await append(context, exchange, request, allowances)
            case Create() as request:
                return await create(context, exchange, request, allowances)
            case Inspect() as request:
                return await inspect(context, exchange, request, allowances)
            case Read() as request:
                return await read(context, exchange, request, allowances)
            case Terminate() as request:
                return await terminate(context, exchange, request, allowances)
            case Discover():
                return Discovered(tuple(e for e in Extension if self.policy.has(e)), self.policy.max_size)
            case never:
                assert_never(never)


class _Free:
    """One request without limiters. Written out, because it is entered for every request."""

    __slots__ = ("_engine", "_exchange")

    def __init__(self, engine: Engine, exchange: Exchange) -> None:
        self._engine = engine
        self._exchange = exchange

    async def __aenter__(self) -> Outcome:
        return await self._engine.run(self._exchange, ())

    async def __aexit__(self, *failure: object) -> None:
        """Nothing to give back."""


@asynccontextmanager
async def _limited(engine: Engine, exchange: Exchange) -> AsyncIterator[Outcome]:
    async with AsyncExitStack() as stack:
        try:
            admissions = [limiter.admit(exchange.head, exchange.request) for limiter in engine.limiters]
            outcome = await engine.run(exchange, [await stack.enter_async_context(one) for one in admissions])
        except (TooManyRequests, QuotaExceeded) as error:
            engine.metrics.add(LIMITED, labels=(error.code,))
            raise
        yield outcome
