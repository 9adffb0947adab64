"""What the groups of `StorageSuite` share: making uploads, working on them, and the one check that all faults end in."""

from __future__ import annotations

import functools
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, ClassVar, TypeVar, cast

from ..errors import UploadNotFound
from ..model import Scope, UploadId, UploadInfo
from ..protocol.urls import checked_id
from ..storage import Capability, Concatenable, DataStore, Readable, Terminable, Upload
from .bodies import FakeBody, FakeLease
from .door import Door
from .faults import Calls

S = TypeVar("S", bound="StorageBase")


class StorageBase:
    """What a plugin author states, and may override, in a subclass of `StorageSuite`."""

    seam: ClassVar = "storage"
    plugin: ClassVar[type[Any]]
    """The plugin class; it must be installed, with its entry point."""
    takes_away: ClassVar[frozenset[type[Capability]]] = frozenset()
    """Capabilities that the classes inherit but that the store, opened with these options, does not declare."""
    large: ClassVar[int] = 3 * 2**20 + 1
    """The size of a large body in bytes: more than whatever the backend handles in one piece."""

    def failing(self, nth: int) -> AbstractContextManager[Calls] | None:
        """Make the `nth` call to the backend fail, inside the context: see `faults.failing_call`. None: the tests with
        failing calls cannot be run for this store, and check nothing."""
        return None

    def shared(self) -> bool:
        """Whether other processes see the uploads, by the `scope` that the plugin states."""
        return cast(Scope, self.plugin.scope) > Scope.PROCESS

    async def content(self, store: DataStore, info: UploadInfo) -> bytes:
        """The bytes of a complete upload. Override it for a store that is not `Readable`."""
        assert Readable in store.capabilities, "a store that is not Readable must override `content` in its test class"
        return b"".join([piece async for piece in cast(Readable, store).read(info, 0, info.offset)])


def new_id(hint: str = "upload") -> UploadId:
    """An id that no upload has, in a shared backend either."""
    return checked_id(f"{hint}-{uuid.uuid4().hex}")


def new_info(size: int | None = 10, **fields: Any) -> UploadInfo:
    """What `create` gets for an upload of `size` bytes; None: deferred."""
    return UploadInfo(**{"id": new_id(), "length": size, **fields})


async def new_upload(store: DataStore, size: int | None = 10, **fields: Any) -> Upload:
    """A new upload, open."""
    return await store.create(new_info(size, **fields), FakeLease())


async def full_upload(store: DataStore, data: bytes, **fields: Any) -> Upload:
    """A new upload with all its bytes, finished."""
    upload = await new_upload(store, len(data), **fields)
    if data:
        assert await upload.append(FakeBody(data)) == len(data)
    await upload.finish()
    return upload


async def reopen(store: DataStore, upload_id: UploadId, token: int = 2) -> Upload:
    """The upload as the next holder of its lock gets it."""
    return await store.open(upload_id, FakeLease(token))


async def exists(store: DataStore, upload_id: UploadId) -> bool:
    """Whether the store knows the upload."""
    try:
        await store.info(upload_id)
    except UploadNotFound:
        return False
    return True


async def terminate(upload: Upload) -> None:
    """Terminate an upload that can be."""
    await cast(Terminable, upload).terminate()


async def concatenate(upload: Upload, parts: Sequence[UploadInfo]) -> None:
    """Fill an upload that can be filled with others."""
    await cast(Concatenable, upload).concatenate(parts)


def remembered(info: UploadInfo) -> UploadInfo:
    """What has to survive unchanged: all but `modified` and `storage`, which are the store's own to say."""
    return replace(info.at(info.offset), modified=info.created, storage={})


def assert_bytes(found: bytes, sent: bytes) -> None:
    """Compare without printing megabytes."""
    if found == sent:
        return
    wrong = next((i for i, (a, b) in enumerate(zip(found, sent, strict=False)) if a != b), min(len(found), len(sent)))
    raise AssertionError(
        f"the upload holds {len(found)} bytes (SHA-256 {hashlib.sha256(found).hexdigest()}) instead of the {len(sent)} that were "
        f"sent ({hashlib.sha256(sent).hexdigest()}); the first wrong byte is at {wrong}"
    )


async def assert_resumable(
    suite: StorageBase, store: DataStore, upload_id: UploadId, data: bytes, *, at_least: int = 0, at_most: int | None = None
) -> int:
    """Open the upload as the next holder, check its offset, send the rest of `data`, finish it and compare every byte.

    `at_least`: what was acknowledged, so may not be lost; `at_most`: what was sent, so may be there. Returns the offset found."""
    before = await store.info(upload_id)
    upload = await reopen(store, upload_id, token=1000)
    offset = upload.info.offset
    most = len(data) if at_most is None else at_most
    assert at_least <= offset <= most, f"offset {offset} after the fault; {at_least} bytes were safe, at most {most} can be"
    assert before.offset <= offset, f"info() said {before.offset}, but only {offset} bytes are there"
    await _send_rest(suite, store, upload, data)
    return offset


async def _send_rest(suite: StorageBase, store: DataStore, upload: Upload, data: bytes) -> None:
    rest = data[upload.info.offset :]
    if rest:
        assert await upload.append(FakeBody(rest)) == len(rest)
    assert upload.info.offset == len(data)
    await upload.finish()
    assert_bytes(await suite.content(store, await store.info(upload.info.id)), data)


def needs(
    *capabilities: type[Capability],
) -> Callable[[Callable[[S, Door[DataStore]], Awaitable[None]]], Callable[[S, Door[DataStore]], Awaitable[None]]]:
    """The test is about these capabilities: it runs when the store declares them all; otherwise the missing ones are proved absent."""

    def decorate(test: Callable[[S, Door[DataStore]], Awaitable[None]]) -> Callable[[S, Door[DataStore]], Awaitable[None]]:
        @functools.wraps(test)
        async def run(self: S, tusd_door: Door[DataStore]) -> None:
            async with tusd_door.open() as store:
                missing = [c for c in capabilities if c not in store.capabilities]
                for capability in missing:
                    assert_absent(self, store, capability)
            if not missing:
                await test(self, tusd_door)

        return run

    return decorate


def assert_absent(suite: StorageBase, store: DataStore, capability: type[Capability]) -> None:
    """The capability is not declared, and is not inherited either, unless the suite says that it is taken away."""
    assert capability not in store.capabilities
    if capability not in suite.takes_away:
        for cls in (type(store), store.upload_class):
            assert not issubclass(cls, capability), (
                f"{cls.__name__} inherits {capability.__name__}, but the store's `capabilities` leave it out; "
                f"when its options take it away, say so: takes_away = frozenset({{{capability.__name__}}})"
            )
