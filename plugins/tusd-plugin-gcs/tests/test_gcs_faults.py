"""Faults on the wire between the store and the bucket: resets, cut answers, throttling, errors, delays. Clients hear of none that passes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Literal

import pytest
from tests.services.fault_rules import CutAnswer, CutRequest, Delay, Drop, Fault, LoseAnswer, Request, json_error
from tests.services.faults import FaultProxy

from gcs_rig import KIB, MIB, Place, assert_bytes, content, new_info, settled
from tusd.plugin import State, UploadId
from tusd.testing.bodies import FakeBody, FakeLease, pattern
from tusd_plugin_gcs.store import GcsStore
from tusd_plugin_gcs.upload import GcsUpload

DATA = pattern(41, 700 * KIB)


@pytest.fixture
def proxy(place: Place) -> Iterator[FaultProxy]:
    """Between the store and the bucket."""
    with FaultProxy(place.server.endpoint) as proxy:
        yield proxy


def inserts(request: Request) -> bool:
    return request.path.startswith("/upload/")


def composes(request: Request) -> bool:
    return request.path.endswith("/compose")


def deletes(request: Request) -> bool:
    return request.method == "DELETE" or request.path.startswith("/batch/")


def downloads(request: Request) -> bool:
    return request.query.get("alt") == "media"


def anything(request: Request) -> bool:
    return True


UNAVAILABLE = json_error(503, "backendError")
CASES: list[tuple[str, Fault, Callable[[Request], bool]]] = [
    ("503", UNAVAILABLE, anything),
    ("500", json_error(500, "backendError"), anything),
    ("429", json_error(429, "rateLimitExceeded"), anything),
    ("408", json_error(408, "uploadBrokenConnection", early=True), inserts),
    ("503 though it was done", json_error(503, "backendError", done=True), anything),
    ("reset", Drop(), anything),
    ("reset in a body", CutRequest(100 * KIB), inserts),
    ("reset in a small body", CutRequest(100), inserts),
    ("answer lost", LoseAnswer(), anything),
    ("answer of a composition lost", LoseAnswer(), composes),
    ("answer of a deletion lost", LoseAnswer(), deletes),
    ("answer cut", CutAnswer(20), anything),
    ("answer reset", CutAnswer(20, "reset"), anything),
    ("slow", Delay(request=0.05, answer=0.05), anything),
]


async def whole_life(store: GcsStore, place: Place, upload_id: UploadId) -> None:
    """Created, sent in three requests, downloaded, removed."""
    await store.create(new_info(len(DATA), id=upload_id), None)
    for stop in (10, len(DATA) - 10, len(DATA)):
        upload = await store.open(upload_id, FakeLease())
        await upload.append(FakeBody(DATA[upload.info.offset : stop]))
        assert upload.info.offset == stop
    info = await store.info(upload_id)
    assert info.state is State.COMPLETE
    assert_bytes(await content(store, info), DATA)
    assert_bytes(place.data(upload_id), DATA)
    await settled(store)
    upload = await store.open(upload_id, FakeLease())
    assert isinstance(upload, GcsUpload)
    await upload.terminate()


@pytest.mark.parametrize(("name", "fault", "match"), CASES, ids=[name for name, _, _ in CASES])
async def test_what_passes_is_tried_again(
    place: Place, proxy: FaultProxy, name: str, fault: Fault, match: Callable[[Request], bool]
) -> None:
    """Every third request that matches has the fault, once."""
    async with place.store(endpoint=proxy.endpoint, give_up_after=30) as store:
        matched = 0

        def third(request: Request) -> bool:
            nonlocal matched
            matched += match(request)
            return match(request) and matched % 3 == 1

        rule = proxy.add(fault, third, times=None)
        async with asyncio.timeout(60):
            await whole_life(store, place, UploadId("upload"))
        assert rule.seen
        assert place.names() == []


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_download_that_is_cut_goes_on(place: Place, proxy: FaultProxy, how: Literal["close", "reset"]) -> None:
    data = DATA * 4
    async with place.store(endpoint=proxy.endpoint, part_size="4MiB") as store:
        upload = await store.create(new_info(len(data)), FakeLease())
        await upload.append(FakeBody(data))
        proxy.clear()
        proxy.add(CutAnswer(2200 * KIB, how), downloads)
        assert_bytes(await content(store, upload.info), data)
        first, second = [seen.request.headers["range"] for seen in proxy.seen() if downloads(seen.request)]
        assert first == f"bytes=0-{len(data) - 1}"
        assert second in [f"bytes={start}-{len(data) - 1}" for start in (0, MIB, 2 * MIB, 2200 * KIB)], (
            "a reset takes what was not read yet"
        )
