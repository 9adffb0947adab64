"""What the tests of the store share: an opened store, faults of every call, and the objects as somebody else sees them."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast
from unittest import mock
from urllib.parse import quote

import requests
from tests.services.gcs.process import GcsServer

from tusd.plugin import UploadId, UploadInfo
from tusd.testing.door import Door
from tusd_plugin_gcs import GcsStorage
from tusd_plugin_gcs.bucket import Bucket
from tusd_plugin_gcs.cloud import Cloud, Failure
from tusd_plugin_gcs.store import GcsStore

KIB, MIB = 1 << 10, 1 << 20
Mode = Literal["before", "after", "dead", "dead after"]
CALLS = ("request", "download", "delete_all")


@dataclass(frozen=True)
class Place:
    """A bucket, and the store in it."""

    server: GcsServer
    bucket: str
    options: Mapping[str, object]
    directory: Path

    @asynccontextmanager
    async def store(self, **options: object) -> AsyncIterator[GcsStore]:
        """What a worker would open."""
        door: Door[Any] = Door("storage", GcsStorage, {**self.options, **options}, self.directory)
        async with door.open() as store:
            yield cast(GcsStore, store)

    def names(self, prefix: str = "") -> list[str]:
        """Of all objects in the bucket."""
        answer = self._get("", prefix=prefix)
        return [item["name"] for item in answer.json().get("items", [])]

    def put(self, name: str, data: bytes, **fields: Any) -> None:
        """Write an object, as somebody else would."""
        url = f"{self.server.endpoint}/upload/storage/v1/b/{self.bucket}/o"
        answer = requests.post(url, params={"uploadType": "media", "name": name}, data=data, timeout=10)
        answer.raise_for_status()
        if fields:
            address = f"{self.server.endpoint}/storage/v1/b/{self.bucket}/o/{quote(name, safe='')}"
            requests.patch(address, json=fields, timeout=10).raise_for_status()

    def delete(self, name: str) -> None:
        """Remove an object, as somebody else would."""
        address = f"{self.server.endpoint}/storage/v1/b/{self.bucket}/o/{quote(name, safe='')}"
        requests.delete(address, timeout=10).raise_for_status()

    def delete_bucket(self) -> None:
        """Remove the bucket, which is empty."""
        requests.delete(f"{self.server.endpoint}/storage/v1/b/{self.bucket}", timeout=10).raise_for_status()

    def data(self, name: str) -> bytes:
        """The bytes of an object."""
        return self._get(name, alt="media").content

    def fields(self, name: str) -> dict[str, Any]:
        """The fields of an object; those that begin with `tusd-` are left out of its metadata."""
        found: dict[str, Any] = self._get(name, projection="full").json()
        metadata = {key: value for key, value in found.get("metadata", {}).items() if not key.startswith("tusd-")}
        return found | {"metadata": metadata}

    def _get(self, name: str, **query: str) -> requests.Response:
        address = f"{self.server.endpoint}/storage/v1/b/{self.bucket}/o"
        answer = requests.get(f"{address}/{quote(name, safe='')}" if name else address, params=query, timeout=10)
        answer.raise_for_status()
        return answer


@dataclass
class Broken:
    """What `breaking` did."""

    made: int = 0
    struck: bool = False


@contextmanager
def breaking(nth: int, mode: Mode) -> Iterator[Broken]:
    """The `nth` request fails before it has its effect, or after it; `dead`: and all others from then on, as if the process were gone."""
    broken, lock = Broken(), threading.Lock()

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with lock:
                broken.made += 1
                this = broken.made
                broken.struck = broken.struck or this == nth
            if this == nth and mode in ("after", "dead after"):
                real(*args, **kwargs)
            if this == nth or (this > nth and mode in ("dead", "dead after")):
                raise Failure(503, f"injected into request {this}")
            return real(*args, **kwargs)

        return call

    with ExitStack() as stack:
        for name in CALLS:
            stack.enter_context(mock.patch.object(Cloud, name, wrapped(getattr(Cloud, name))))
        yield broken


@dataclass
class Requests:
    """What a store has asked of the bucket, by operation."""

    made: Counter[str] = field(default_factory=Counter)

    def taken(self) -> dict[str, int]:
        """Those since the last time."""
        found = dict(sorted(self.made.items()))
        self.made.clear()
        return found


@contextmanager
def counting() -> Iterator[Requests]:
    """Count the requests of all stores."""
    found = Requests()
    real = Bucket._do

    async def counted(self: Bucket, operation: str, *args: Any, **kwargs: Any) -> Any:
        found.made[operation] += 1
        return await real(self, operation, *args, **kwargs)

    with mock.patch.object(Bucket, "_do", counted):
        yield found


class Hold:
    """Holds requests at a chosen place until the test lets them go on."""

    def __init__(self) -> None:
        self.held = threading.Event()
        self.go_on = threading.Event()

    @contextmanager
    def at(self, chosen: Callable[[str, str], bool], *, after: bool = False) -> Iterator[None]:
        """Hold the first request whose method and object are `chosen`, before it is sent, or when its answer is there."""
        real, lock = Cloud.request, threading.Lock()

        def request(cloud: Cloud, method: str, path: str, *args: Any, **kwargs: Any) -> Any:
            name = str(getattr(kwargs.get("body"), "_head", b"")) + path
            with lock:
                mine = not self.held.is_set() and chosen(method, name)
                if mine and not after:
                    self.held.set()
            if not mine:
                return real(cloud, method, path, *args, **kwargs)
            reply = real(cloud, method, path, *args, **kwargs) if after else None
            self.held.set()
            assert self.go_on.wait(30), "nobody has let it go on"
            return reply if after else real(cloud, method, path, *args, **kwargs)

        with mock.patch.object(Cloud, "request", request):
            try:
                yield
            finally:
                self.go_on.set()


async def content(store: GcsStore, info: UploadInfo, start: int = 0, stop: int | None = None) -> bytes:
    """The bytes as a download gets them."""
    return b"".join([piece async for piece in store.read(info, start, info.offset if stop is None else stop)])


async def settled(store: GcsStore) -> None:
    """Wait until nothing is deleted in the background any more."""
    while store._discarding:
        await asyncio.wait(store._discarding)


def new_info(size: int | None, **fields: Any) -> UploadInfo:
    """What `create` gets for an upload of `size` bytes; None: deferred."""
    return UploadInfo(**{"id": UploadId("upload"), "length": size, **fields})


def assert_bytes(found: bytes, sent: bytes) -> None:
    """Compare without printing megabytes."""
    assert (len(found), hashlib.sha256(found).hexdigest()) == (len(sent), hashlib.sha256(sent).hexdigest())
