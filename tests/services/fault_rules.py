"""What can be done to a request, and the rules that say to which."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tests.services.s3_requests import Named

TIMEOUT = 30.0
"""Seconds that a test waits for what must come."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The proxy answers. The server gets nothing of the request; with `done` it does it all, and its own answer is lost."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    done: bool = False
    early: bool = False
    """Answer before the body has come, and close the connection. Not together with `done`."""


def s3_error(
    status: int, code: str, *, done: bool = False, early: bool = False, headers: Mapping[str, str] | None = None
) -> Answer:
    """An answer as S3 gives it."""
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>made by a test</Message></Error>'
    return Answer(status, body.encode(), {"Content-Type": "application/xml", **(headers or {})}, done, early)


def json_error(status: int, reason: str, *, done: bool = False, early: bool = False) -> Answer:
    """An answer as Google's JSON interfaces give it."""
    body = f'{{"error": {{"code": {status}, "message": "made by a test", "errors": [{{"reason": "{reason}"}}]}}}}'
    return Answer(status, body.encode(), {"Content-Type": "application/json"}, done, early)


INTERNAL_ERROR = s3_error(500, "InternalError")
SLOW_DOWN = s3_error(503, "SlowDown")
TOO_MANY_REQUESTS = s3_error(429, "TooManyRequests", headers={"Retry-After": "1"})


@dataclass(frozen=True, slots=True)
class Drop:
    """The connection is reset. The server gets nothing of the request."""


@dataclass(frozen=True, slots=True)
class CutRequest:
    """The server gets the head and `after` bytes of the body, then its connection ends and the client's is reset.

    Bytes as they are sent, with the lines between chunks. Of a shorter body it gets all, and its answer is lost.
    """

    after: int


@dataclass(frozen=True, slots=True)
class LoseAnswer:
    """The server does it. Instead of its answer the client gets a reset."""


@dataclass(frozen=True, slots=True)
class CutAnswer:
    """The client gets the head and `after` bytes of the answer's body, then its connection is closed, or reset."""

    after: int
    how: Literal["close", "reset"] = "close"


@dataclass(frozen=True, slots=True)
class Delay:
    """Seconds before the request goes to the server, and before its answer goes to the client."""

    request: float = 0.0
    answer: float = 0.0


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing moves until the test releases it.

    - `head`: the server has got nothing, and the body has not been read.
    - `body`: the server has got nothing; the proxy has the whole body. Released, it goes to the server even if the client is gone
      by then, or dead: a late request.
    - `answer`: the server has done it, and the proxy has the answer.
    """

    at: Literal["head", "body", "answer"] = "body"


@dataclass(frozen=True, slots=True)
class HideNewer:
    """A listing of S3 misses what was written through this proxy in the last `seconds`: objects, parts or uploads."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Repeat:
    """The client gets what the same request got before, the server is not asked. What was never asked before passes.

    For requests that `FaultProxy(remember=...)` names: listings.
    """


Fault = Answer | Drop | CutRequest | LoseAnswer | CutAnswer | Delay | Hold | HideNewer | Repeat


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came."""

    number: int
    """From 1, in the order in which their heads came since the last `clear`."""
    method: str
    target: str
    """Path and query as they were sent."""
    path: str
    """Decoded."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By lower-case names."""
    named: Named

    @property
    def operation(self) -> str:
        """S3's name of it, as `UploadPart`."""
        return self.named.operation

    @property
    def key(self) -> str:
        """Of the object, without the bucket."""
        return self.named.key

    @property
    def part(self) -> int | None:
        """The part's number."""
        return self.named.part


@dataclass(slots=True)
class Seen:
    """A request and what became of it, so far."""

    request: Request
    fault: Fault | None
    """What was done to it."""
    sent: int = 0
    """Bytes of its body that the server has got."""
    answered: int | None = None
    """The server's status; None where it has not answered, or was not asked."""
    status: int | None = None
    """The client's status; None where it has got none."""

    @property
    def operation(self) -> str:
        """S3's name of the request."""
        return self.request.operation

    @property
    def key(self) -> str:
        """Of the object."""
        return self.request.key

    @property
    def part(self) -> int | None:
        """The part's number."""
        return self.request.part


class Rule:
    """A fault and the requests that it is for."""

    def __init__(self, fault: Fault, matches: Callable[[Request], bool], skip: int, times: int | None) -> None:
        self.fault = fault
        self.seen: list[Seen] = []
        """Those that it was applied to."""
        self._matches = matches
        self._skip = skip
        self._times = times
        self._reached = threading.Event()
        self._over = threading.Event()
        self._released = False
        self._held: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def wait(self, timeout: float = TIMEOUT) -> Seen:
        """Until it is applied: of Hold, until a request is held. Returns the first; raises TimeoutError."""
        if not self._reached.wait(timeout):
            raise TimeoutError(f"no request came for {self.fault}")
        return self.seen[0]

    def finish(self, timeout: float = TIMEOUT) -> Seen:
        """Until a request that it was applied to is over: the server has answered it if it ever will. Returns the first."""
        if not self._over.wait(timeout):
            raise TimeoutError(f"no request is over for {self.fault}")
        return self.seen[0]

    def release(self) -> None:
        """Let go what is held, and apply it no more."""
        self._released = True
        for loop, event in self._held:
            loop.call_soon_threadsafe(event.set)

    def takes(self, request: Request) -> bool:
        """Whether it is applied to this request, which is counted. For the proxy, as all below."""
        if self._released or self._times == 0 or not self._matches(request):
            return False
        if self._skip:
            self._skip -= 1
            return False
        if self._times is not None:
            self._times -= 1
        return True

    def reached(self) -> None:
        self._reached.set()

    def over(self) -> None:
        self._over.set()

    async def hold(self) -> None:
        """Until it is released."""
        event = asyncio.Event()
        self._held.append((asyncio.get_running_loop(), event))
        self._reached.set()
        if not self._released:  # looked at after the event is where `release` finds it
            await event.wait()


class Rules:
    """All rules of a proxy and all requests that it has seen. The test's threads change them while the proxy's reads."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._seen: list[Seen] = []
        self._lock = threading.Lock()

    def add(self, rule: Rule) -> None:
        """Where several rules match, the one that was added first counts."""
        with self._lock:
            self._rules.append(rule)

    def seen(self) -> list[Seen]:
        """All requests so far, in the order in which they came."""
        with self._lock:
            return list(self._seen)

    def clear(self) -> None:
        """Forget all rules and requests, and release what is held."""
        with self._lock:
            rules, self._rules, self._seen = self._rules, [], []
        for rule in rules:
            rule.release()

    def begin(self, make: Callable[[int], Request]) -> tuple[Seen, Rule | None]:
        """A request has come: `make` is given its number. Returns the rule for it."""
        with self._lock:
            request = make(len(self._seen) + 1)
            rule = next((rule for rule in self._rules if rule.takes(request)), None)
            seen = Seen(request, rule.fault if rule else None)
            self._seen.append(seen)
            if rule is not None:
                rule.seen.append(seen)
            return seen, rule
