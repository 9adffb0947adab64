"""Stores over a bucket in memory that breaks on demand: any call fails before or after its effect, never comes back, or has its effect late.

Calls have numbers, from 1, in the order in which they are made. What a store of S3 promises holds here, too: parts are checked when a multipart
upload is completed, ETags are digests, conditions are atomic. Listings may be stale.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from tusd import plugin
from tusd_plugin_s3.bucket import Bucket, Changed, Data, Found, Gone, Listed, Missing, Part, Parts, Stat
from tusd_plugin_s3.headers import MARK
from tusd_plugin_s3.options import Options
from tusd_plugin_s3.profiles import Profile
from tusd_plugin_s3.store import S3Store

T = TypeVar("T")
How = Literal["before", "after", "dies before", "dies after", "held before", "held after"]


class Dead(BaseException):
    """The process that made the call is no more."""


@dataclass
class Thing:
    """An object, or a part."""

    data: bytes
    etag: str
    modified: datetime = field(default_factory=plugin.utcnow)
    carries: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Multipart:
    """A multipart upload that is under way."""

    key: str
    carries: Mapping[str, Any]
    parts: dict[int, Thing] = field(default_factory=dict)


@dataclass
class Server:
    """What all processes share."""

    objects: dict[str, Thing] = field(default_factory=dict)
    multiparts: dict[str, Multipart] = field(default_factory=dict)
    least: int = 5
    """Bytes of every part but the last."""
    most: int = 10_000
    """The highest number of a part."""
    created: int = 0
    overwritten: list[tuple[str, int]] = field(default_factory=list)
    """Parts that were written twice, with different bytes."""


class MemoryBucket(Bucket):
    """One process's view of a server, with its faults."""

    def __init__(self, server: Server | None = None, *, conditional: bool = True) -> None:
        self.server = server or Server()
        self.conditional = conditional
        self.name = "bucket"
        self.calls: list[tuple[str, ...]] = []
        """Operation and key of each call."""
        self.nth = 0
        """The call that breaks; 0: none does."""
        self.how: How = "before"
        self.dead = False
        self.held = asyncio.Event()
        """The call is being held."""
        self.release = asyncio.Event()
        """It may go on."""
        self.stale = False
        """Listings show nothing."""
        self.most_at_once = 0
        self._at_once = 0

    @property
    def struck(self) -> bool:
        """Whether the call that breaks was made."""
        return 0 < self.nth <= len(self.calls)

    async def _call(self, effect: Callable[[], T], *what: str) -> T:  # type: ignore[override]
        self.calls.append(what)
        mine = len(self.calls) == self.nth
        if mine and self.how.startswith("dies"):
            self.dead = True
            if self.how == "dies after":
                effect()
        self._die()
        if mine and self.how == "before":
            raise plugin.StorageUnavailable("on purpose")
        if mine and self.how == "held before":
            await self._hold()
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(0)
        self._at_once -= 1
        self._die()
        result = effect()
        if mine and self.how == "held after":
            await self._hold()
        await asyncio.sleep(0)
        if mine and self.how == "after":
            raise plugin.StorageUnavailable("on purpose")
        self._die()
        return result

    def _die(self) -> None:
        if self.dead:
            raise Dead

    async def _hold(self) -> None:
        self.held.set()
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                continue  # as a thread does, which cannot be cancelled

    # --- objects

    async def get(self, key: str, operation: str = "get_object") -> Found:
        def effect() -> Found:
            thing = self._object(key)
            return Found(thing.data, thing.etag, thing.modified)

        return await self._call(effect, operation, key)

    async def get_range(self, key: str, start: int, stop: int, operation: str = "get_object") -> bytes:
        return await self._call(lambda: self._object(key).data[start:stop], operation, key)

    async def stream(self, key: str, start: int, stop: int, operation: str = "get_object") -> AsyncIterator[bytes]:
        data = await self._call(lambda: self._object(key).data[start:stop], operation, key)
        for n in range(0, len(data), 3):
            yield data[n : n + 3]

    async def head(self, key: str, operation: str = "head_object") -> Stat:
        def effect() -> Stat:
            thing = self._object(key)
            return Stat(len(thing.data), thing.etag, thing.modified, thing.carries.get("Metadata", {}).get(MARK))

        return await self._call(effect, operation, key)

    async def put(
        self,
        key: str,
        data: Data,
        *,
        carries: Mapping[str, Any] | None = None,
        match: str | None = None,
        absent: bool = False,
        operation: str = "put_object",
    ) -> str:
        sent = bytes_of(data)

        def effect() -> str:
            there = self.server.objects.get(key)
            if self.conditional and (absent or match is not None):
                if there is not None and there.data == sent:
                    return there.etag
                if (absent and there is not None) or (match is not None and (there is None or there.etag != match)):
                    raise Changed
            etag = hashlib.md5(sent).hexdigest()
            self.server.objects[key] = Thing(sent, etag, carries=carries or {})
            return etag

        return await self._call(effect, operation, key)

    async def delete(self, *keys: str, operation: str = "delete_object") -> None:
        def effect() -> None:
            for key in keys:
                self.server.objects.pop(key, None)

        await self._call(effect, operation, *keys)

    async def list(self, prefix: str, operation: str = "list_objects") -> AsyncIterator[Listed]:
        def effect() -> list[Listed]:
            found = sorted(self.server.objects.items()) if not self.stale else []
            return [Listed(k, len(t.data), t.etag, t.modified) for k, t in found if k.startswith(prefix)]

        for listed in await self._call(effect, operation, prefix):
            yield listed

    # --- multipart uploads

    async def create_multipart(self, key: str, carries: Mapping[str, Any], operation: str = "create_multipart_upload") -> str:
        def effect() -> str:
            self.server.created += 1
            multipart = f"m{self.server.created}"
            self.server.multiparts[multipart] = Multipart(key, carries)
            return multipart

        return await self._call(effect, operation, key)

    async def upload_part(self, key: str, multipart: str, number: int, data: Data, operation: str = "upload_part") -> str:
        assert 1 <= number <= self.server.most
        sent = bytes_of(data)
        return await self._call(lambda: self._part(key, multipart, number, sent), operation, str(number))

    async def copy_part(
        self,
        key: str,
        multipart: str,
        number: int,
        source: str,
        start: int,
        stop: int,
        whole: bool,
        operation: str = "upload_part_copy",
    ) -> str:
        def effect() -> str:
            data = self._object(source).data
            assert 0 <= start < stop <= len(data) and whole == (stop - start == len(data))
            return self._part(key, multipart, number, data[start:stop])

        return await self._call(effect, operation, str(number))

    async def list_parts(self, key: str, multipart: str, after: int = 0, operation: str = "list_parts") -> Parts:
        def effect() -> Parts:
            parts = self._multipart(key, multipart).parts
            found = [] if self.stale else sorted(parts.items())
            return [Part(number, len(thing.data), thing.etag) for number, thing in found if number > after]

        return await self._call(effect, operation, key)

    async def complete(
        self, key: str, multipart: str, parts: Sequence[Part], operation: str = "complete_multipart_upload"
    ) -> None:
        def effect() -> None:
            there = self._multipart(key, multipart)
            things = [there.parts.get(part.number) for part in parts]
            whole = b""
            for n, (part, thing) in enumerate(zip(parts, things, strict=True)):
                if thing is None or thing.etag != part.etag or len(thing.data) != part.size:
                    raise plugin.StorageUnavailable("InvalidPart")
                if len(thing.data) < self.server.least and n < len(parts) - 1:
                    raise plugin.StorageUnavailable("EntityTooSmall")
                whole += thing.data
            numbers = [part.number for part in parts]
            if not parts or numbers != sorted(set(numbers)):
                raise plugin.StorageUnavailable("InvalidPartOrder")
            del self.server.multiparts[multipart]
            self.server.objects[key] = Thing(whole, f"{multipart}-{len(parts)}", carries=there.carries)

        await self._call(effect, operation, key)

    async def abort(self, key: str, multipart: str, operation: str = "abort_multipart_upload") -> None:
        await self._call(lambda: self.server.multiparts.pop(multipart, None), operation, key)

    # --- effects

    def _object(self, key: str) -> Thing:
        if key not in self.server.objects:
            raise Missing
        return self.server.objects[key]

    def _multipart(self, key: str, multipart: str) -> Multipart:
        if multipart not in self.server.multiparts:
            raise Gone
        found = self.server.multiparts[multipart]
        assert found.key == key
        return found

    def _part(self, key: str, multipart: str, number: int, data: bytes) -> str:
        parts = self._multipart(key, multipart).parts
        if number in parts and parts[number].data != data:
            self.server.overwritten.append((multipart, number))
        etag = hashlib.md5(data).hexdigest()
        parts[number] = Thing(data, etag)
        return etag


def bytes_of(data: Data) -> bytes:
    """What would be sent."""
    if isinstance(data, bytes | bytearray):
        return bytes(data)
    data.seek(0)
    return b"".join(iter(data.read, b""))


LEAST, PREFERRED = 5, 10
"""Bytes of the smallest and of the usual part in these stores."""
RULES = Profile(most_parts=300, largest_object=3000)
"""Three part numbers are claimed at once, and parts of unknown length are not larger than others."""
UNIFORM = replace(RULES, uniform_parts=True)


class NoMetrics(plugin.Metrics):
    """Takes figures nowhere."""

    def add(self, metric: plugin.Metric, amount: float = 1, labels: tuple[str, ...] = ()) -> None:
        return

    def set(self, metric: plugin.Metric, amount: float, labels: tuple[str, ...] = ()) -> None:
        return

    def observe(self, metric: plugin.Metric, amount: float, labels: tuple[str, ...] = ()) -> None:
        return


WORKER = plugin.Worker("storage:s3", logging.getLogger("test.s3"), NoMetrics(), Path("unused"))


def new_store(bucket: Bucket, rules: Profile = RULES, *, memory: int | plugin.Memory = 1000, **options: Any) -> S3Store:
    """A store with small parts over a bucket."""
    chosen = Options(**{"bucket": "bucket", "part_size": PREFERRED, "min_part_size": LEAST, "concurrency": 3, **options})
    return S3Store(bucket, chosen, rules, plugin.Memory(memory) if isinstance(memory, int) else memory, WORKER)
