"""The `space` limiter: by itself, in an engine, and in real servers of several workers."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.engine.rig import FakeMetrics, Rig, exchange

import tusd.builtin.space_limiting as space
from tusd.builtin.space_limiting import SpaceLimiter, SpaceLimiting
from tusd.engine import ranking
from tusd.errors import PluginError, StartError
from tusd.hooks import Fields
from tusd.model import Eviction, Metadata, UploadId, UploadInfo
from tusd.plugin import QuotaExceeded, StorageUnavailable, Worker
from tusd.protocol.messages import Discover, Head
from tusd.registry import load, open_one
from tusd.testing.limiting import LimitingSuite
from tusd.testing.server import ServerProcess

Start = Callable[..., ServerProcess]
PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "limits.md").read_text().partition("## Room")[2].partition("\n## ")[0]
Options = Mapping[str, object]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "_SETTLING", 0)
    monkeypatch.setattr(space, "_REPORT", 0.01)


@asynccontextmanager
async def opened(
    directory: Path, number: int = 1, metrics: FakeMetrics | None = None, **options: Any
) -> AsyncIterator[SpaceLimiter]:
    worker = Worker("limiting:space", logging.getLogger("test"), metrics or FakeMetrics(), directory, number)
    async with open_one(load("limiting", "space", {"total": 100, **options}), worker) as limiter:
        assert isinstance(limiter, SpaceLimiter)
        yield limiter


def upload(name: str, length: int | None = None, offset: int = 0, **facts: Any) -> UploadInfo:
    return UploadInfo(id=UploadId(name), length=length, offset=offset, **facts)


async def listed(*uploads: UploadInfo) -> AsyncIterator[UploadInfo]:
    for one in uploads:
        yield one


class TestSpace(LimitingSuite):
    plugin = SpaceLimiting
    room = 100

    @pytest.fixture
    def options(self) -> Options:
        return {"total": 100}


class TestSpaceOfOneKey(LimitingSuite):
    plugin = SpaceLimiting
    room = 100

    @pytest.fixture
    def options(self) -> Options:
        return {"total": 1000, "totals": {"ann": 100}, "by": "note user"}

    def upload(self, client: int) -> UploadInfo:
        return replace(super().upload(client), notes={"user": "ann"})


# --- options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "total: missing; it has no default"),
        ({"total": 0}, "total: should be greater than 0"),
        ({"total": "much"}, "total: not a size"),
        ({"total": 1, "by": "address"}, "by: does not say whose an upload is; write header NAME, metadata NAME or note NAME"),
        ({"total": 1, "by": "note"}, "by: does not say whose"),
        ({"total": 1, "totals": {"a": 5}}, "totals are those of keys; set by, too"),
        ({"total": 1, "by": "note a", "totals": {"a": 0}}, "totals.a: should be greater than 0"),
        ({"total": 1, "by": "note a", "when_full": "evict"}, "when_full: evict is for all uploads together; leave out by"),
        ({"total": 1, "evict": "newest"}, "evict: should be 'oldest', 'largest' or 'least-recently-touched'"),
    ],
)
def test_what_is_wrong_is_said(options: Options, said: str) -> None:
    with pytest.raises(StartError) as caught:
        load("limiting", "space", options)
    assert said in str(caught.value)


async def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PluginError, match=r"limiting:space: cannot be opened: .*file"):
        async with opened(tmp_path / "file" / "space"):
            pass


# --- one limiter


async def test_it_refuses_what_does_not_fit_and_says_by_how_much(tmp_path: Path) -> None:
    async with opened(tmp_path) as limiter:
        await limiter.reserve(upload("a", 70), 70)
        with pytest.raises(QuotaExceeded) as caught:
            await limiter.reserve(upload("b", 50), 50)
        assert (caught.value.short_by, caught.value.evict, str(caught.value)) == (20, None, QuotaExceeded.message)
        await limiter.reserve(upload("a", 70), 0)
        await limiter.reserve(upload("b", 50), 50)


async def test_several_on_one_host_count_together(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        limiters = [await stack.enter_async_context(opened(tmp_path, number)) for number in range(4)]
        results = await asyncio.gather(
            *(limiters[n % 4].reserve(upload(str(n), 3), 3) for n in range(50)), return_exceptions=True
        )
        assert sum(result is None for result in results) == 33
        assert {type(result) for result in results if result is not None} == {QuotaExceeded}


async def test_what_is_stored_already_is_not_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as limiter:
        await limiter.reserve(upload("a", 90), 90)
        await limiter.reserve(upload("b", None, offset=20), 20)
        with pytest.raises(QuotaExceeded) as caught:
            await limiter.reserve(upload("b", None, offset=20), 21)
        assert caught.value.short_by == 11


async def test_evicting_is_offered_when_it_can_help(tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"when_full": "evict", "evict": "largest", "evict_finished": True, "evict_idle": "5m"}
    async with opened(tmp_path, **chosen) as limiter:
        await limiter.reserve(upload("a", 70), 70)
        with pytest.raises(QuotaExceeded) as caught:
            await limiter.reserve(upload("b", 100), 100)
        assert (caught.value.short_by, caught.value.evict) == (70, Eviction(order="largest", finished=True, idle=300))
        with pytest.raises(QuotaExceeded) as caught:
            await limiter.reserve(upload("b", 101), 101)
        assert caught.value.evict is None, "not even an empty store has room for it"


@pytest.mark.parametrize("by", ["header User", "metadata user", "note user"])
async def test_each_user_has_room_of_their_own(tmp_path: Path, by: str) -> None:
    def of(user: str | None, name: str, length: int) -> UploadInfo:
        if user is None:
            return upload(name, length)
        if by.startswith("note"):
            return upload(name, length, notes={"user": user})
        if by.startswith("header"):
            return upload(name, length, notes=limiter.remember(Head("POST", "/", Fields([("uSER", user)]))))
        return upload(name, length, metadata=Metadata({"user": user.encode()}))

    async with opened(tmp_path, by=by, totals={"big": 300}) as limiter:
        for user, room in (("ann", 100), ("bob", 100), ("big", 300), (None, 100)):
            info = of(user, f"of {user}", room)
            await limiter.reserve(info, room)
            with pytest.raises(QuotaExceeded):
                await limiter.reserve(of(user, f"more of {user}", 1), 1)
            await limiter.reserve(info, room - 1)
            await limiter.reserve(of(user, f"more of {user}", 1), 1)


async def test_keys_may_be_any_text(tmp_path: Path) -> None:
    async with opened(tmp_path, by="note user") as limiter:
        await limiter.reserve(upload("a", 5, notes={"user": "\ud800'\0\n"}), 5)
    async with opened(tmp_path, by="metadata user") as limiter:
        await limiter.reserve(upload("b", 5, metadata=Metadata({"user": b"\xff\0"})), 5)


async def test_a_recount_puts_right_also_what_keys_hold(tmp_path: Path) -> None:
    async with opened(tmp_path, by="note user") as limiter:
        ann = {"user": "ann"}
        await limiter.reserve(upload("gone", 100, notes=ann), 100)
        await limiter.recount(listed(upload("a", 60, notes=ann), upload("b", None, 30, notes=ann), upload("c", 90)))
        with pytest.raises(QuotaExceeded) as caught:
            await limiter.reserve(upload("d", 50, notes=ann), 50)
        assert caught.value.short_by == 40
        await limiter.reserve(upload("e", 10), 10)


async def test_a_recount_leaves_their_room_to_bodies_that_are_on_their_way(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    at_work, left = upload("at work", offset=10, modified=now), upload("left", offset=10, modified=now - timedelta(hours=1))
    async with opened(tmp_path) as limiter:
        for one in (at_work, left):
            await limiter.reserve(replace(one, offset=0), 50)
        await limiter.recount(listed(at_work, left))
        with pytest.raises(QuotaExceeded) as refused:
            await limiter.reserve(upload("b", 41), 41)
        assert refused.value.short_by == 1
        await limiter.reserve(upload("b", 40), 40)


async def test_a_recount_of_many_lets_others_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "_BATCH", 10)
    async with opened(tmp_path, total=10_000) as limiter:
        for n in range(200):
            await limiter.reserve(upload(f"{n}", 10), 10)
        recounting = asyncio.create_task(limiter.recount(listed(*(upload(f"{n}", 10) for n in range(50, 400)))))
        turns = 0
        while not recounting.done():
            await asyncio.sleep(0)
            if turns == 20:
                await limiter.reserve(upload("399", 10), 0)
                await limiter.reserve(upload("new", 7), 7)
            turns += 1
        await recounting
        assert turns > 30
        assert limiter._ledger.used() == 349 * 10 + 7


async def test_figures_come_from_one_worker_alone_and_another_takes_over(tmp_path: Path) -> None:
    first, second = FakeMetrics(), FakeMetrics()

    async def told(metrics: FakeMetrics, used: int) -> None:
        async with asyncio.timeout(2):
            while metrics.sums != {"tusd_space_used_bytes": used, "tusd_space_total_bytes": 100}:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async with opened(tmp_path, 1, second) as other:
        await other.reserve(upload("a", 70), 70)
        await told(second, 70)
        async with opened(tmp_path, 0, first):
            await asyncio.sleep(0.05)
            assert first.sums == {}
    async with opened(tmp_path, 0, first):
        await told(first, 70)


async def test_a_total_for_each_key_is_no_total(tmp_path: Path) -> None:
    metrics = FakeMetrics()
    async with opened(tmp_path, 0, metrics, by="note user"):
        async with asyncio.timeout(2):
            while not metrics.sums:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert metrics.sums == {"tusd_space_used_bytes": 0}


@asynccontextmanager
async def locked(directory: Path) -> AsyncIterator[None]:
    with closing(sqlite3.connect(next(directory.rglob("uploads.sqlite")), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def test_a_process_that_writes_is_waited_for_without_holding_up_the_loop(tmp_path: Path) -> None:
    async with opened(tmp_path) as limiter:
        async with locked(tmp_path):
            reserving = asyncio.create_task(limiter.reserve(upload("a", 70), 70))
            gaps, last = [], time.monotonic()
            for _ in range(20):
                await asyncio.sleep(0.002)
                gaps.append(time.monotonic() - last)
                last = time.monotonic()
            assert not reserving.done()
        await reserving
        assert max(gaps) < 1
        assert limiter._ledger.used() == 70


async def test_one_that_writes_for_too_long_is_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(space, "_PATIENCE", 0.02)
    async with opened(tmp_path) as limiter:
        async with locked(tmp_path):
            with pytest.raises(StorageUnavailable):
                await limiter.reserve(upload("a", 70), 70)
        assert "cannot count how much room uploads take: database is locked" in caplog.text
        assert limiter._ledger.used() == 0


async def test_requests_cost_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as limiter:
        assert not limiter.paces
        asked = exchange(Discover())
        async with limiter.admit(asked.head, asked.request) as allowance:
            await allowance.bind(upload("a", 5))
        assert limiter._ledger.used() == 0


# --- in an engine


@asynccontextmanager
async def engine(directory: Path, **options: Any) -> AsyncIterator[tuple[Rig, SpaceLimiter]]:
    async with opened(directory, **options) as limiter:
        rig = Rig(limits="A")
        rig.engine.limiters = rig.engine._context.limiters = (limiter,)
        yield rig, limiter


async def test_room_comes_back_however_an_upload_ends(tmp_path: Path) -> None:
    async with engine(tmp_path) as (rig, limiter):
        created = await rig.create(100)
        with pytest.raises(QuotaExceeded):
            await rig.create(1)
        await rig.terminate(created.info.id)
        assert limiter._ledger.used() == 0
        rig.fail("create", StorageUnavailable)
        with pytest.raises(StorageUnavailable):
            await rig.create(100)
        assert limiter._ledger.used() == 0


async def test_deferred_uploads_take_what_has_come(tmp_path: Path) -> None:
    async with engine(tmp_path) as (rig, limiter):
        created = await rig.create(None)
        await rig.append(created.info.id, 0, b"x" * 60)
        assert limiter._ledger.used() == 60
        with pytest.raises(QuotaExceeded):
            await rig.append(created.info.id, 60, b"x" * 41)
        with pytest.raises(QuotaExceeded):
            await rig.append(created.info.id, 60, b"x" * 41, chunked=True)
        assert (await rig.head(created.info.id)).offset == 100, "what had room is kept"
        assert limiter._ledger.used() == 100
        await rig.append(created.info.id, 100, length=100)
        assert limiter._ledger.used() == 100


async def test_it_counts_what_is_there_from_before(tmp_path: Path) -> None:
    async with engine(tmp_path) as (rig, limiter):
        await rig.put("old", b"x" * 50)
        await rig.put("begun", b"x", length=40)
        await rig.engine.start(0)
        async with asyncio.timeout(2):
            while limiter._ledger.used() != 90:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        with pytest.raises(QuotaExceeded):
            await rig.create(11)
        await rig.create(10)
        await rig.background()


async def test_it_evicts(tmp_path: Path) -> None:
    async with engine(tmp_path, when_full="evict", evict_finished=True, evict_idle=0) as (rig, limiter):
        first = await rig.create(40, b"x" * 40)
        second = await rig.create(60, b"x" * 30)
        third = await rig.create(40, b"x" * 40)
        assert {info.id for info in await rig.uploads()} == {second.info.id, third.info.id}
        assert first.info.id != second.info.id
        assert limiter._ledger.used() == 100


# --- real servers


class Client:
    """Speaks tus to one server, each request on a connection of its own, so that any worker answers."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.created: list[str] = []

    def ask(self, method: str, path: str, body: bytes = b"", **headers: object) -> tuple[int, Mapping[str, str], bytes]:
        connection = HTTPConnection(self.server.host, self.server.port, timeout=10)
        try:
            named = {name.replace("_", "-"): str(value) for name, value in headers.items()}
            connection.request(method, path, body, {"Tus-Resumable": "1.0.0", **named})
            answer: HTTPResponse = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def create(self, length: int | None, body: bytes | None = None, **headers: object) -> tuple[int, str]:
        """Status, and the upload's path."""
        if length is None:
            headers["Upload_Defer_Length"] = 1
        else:
            headers["Upload_Length"] = length
        if body is not None:
            headers["Content_Type"] = "application/offset+octet-stream"
        status, fields, _ = self.ask("POST", "/files/", body or b"", **headers)
        path = "/files/" + fields.get("location", "").rpartition("/")[2]
        if status == 201:
            self.created.append(path)
        return status, path

    def append(self, path: str, offset: int, body: bytes) -> tuple[int, Mapping[str, str]]:
        media = "application/offset+octet-stream"
        status, fields, _ = self.ask("PATCH", path, body, Upload_Offset=offset, Content_Type=media)
        return status, fields

    def status(self, path: str) -> int:
        return self.ask("HEAD", path)[0]


def running(start: Start, options: Mapping[str, object], config: Mapping[str, object] | None = None) -> Client:
    return Client(start({"server": {"workers": 2}, "limiting": [{"use": "space", **options}], **(config or {})}))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server with room for 1000 bytes."""
    config = {"server": {"workers": 2}, "limiting": [{"use": "space", "total": 1000}]}
    with ServerProcess(tmp_path_factory.mktemp("small"), config) as server:
        yield Client(server)


@pytest.fixture
def client(small: Client) -> Iterator[Client]:
    """It, empty."""
    small.created.clear()
    yield small
    for path in small.created:
        assert small.ask("DELETE", path)[0] in (204, 404)


def test_a_full_server_says_so_until_there_is_room_again(client: Client) -> None:
    paths = []
    for _ in range(4):
        status, path = client.create(250)
        assert status == 201
        paths.append(path)
    for _ in range(4):
        status, fields, text = client.ask("POST", "/files/", Upload_Length=1)
        assert (status, text.decode().strip()) == (507, "ERR_QUOTA_EXCEEDED: the quota does not allow this upload")
        assert fields["tus-resumable"] == "1.0.0"
        assert "location" not in fields
    assert client.append(paths[0], 0, b"x" * 250)[0] == 204, "what was reserved is there"
    assert client.create(1)[0] == 507, "and finished uploads take room, too"
    assert client.ask("DELETE", paths[0])[0] == 204
    assert client.create(250)[0] == 201
    assert client.create(1)[0] == 507


def test_a_deferred_upload_keeps_what_had_room(client: Client) -> None:
    status, path = client.create(None)
    assert status == 201
    assert client.append(path, 0, b"x" * 600)[0] == 204
    status, fields = client.append(path, 600, b"x" * 401)
    assert (status, fields["upload-offset"], fields["tus-resumable"]) == (507, "600", "1.0.0")
    assert client.append(path, 600, b"x" * 400)[0] == 204
    assert client.create(1)[0] == 507


def test_many_clients_at_once_get_what_there_is_and_no_more(client: Client) -> None:
    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(lambda _: client.create(90)[0], range(40)))
    assert (statuses.count(201), statuses.count(507)) == (11, 29)


def test_what_expires_gives_its_room_back(tusd_server: Start) -> None:
    rules = {"uploads": {"expire_after": "1h", "sweep_interval": "100ms"}}
    client = running(tusd_server, {"total": 1000}, rules)
    status, path = client.create(1000)
    assert status == 201
    assert client.create(1)[0] == 507
    age(client.server, path)
    until(lambda: client.create(1000)[0] == 201)


def age(server: ServerProcess, path: str) -> None:
    """Let an upload be two hours old."""
    past = time.time() - 7200
    data = server.directory / "data" / path.rpartition("/")[2]
    info = data.with_name(data.name + ".info")
    kept = json.loads(info.read_text())
    kept["tusd"]["created"] = datetime.fromtimestamp(past, UTC).isoformat()
    info.write_text(json.dumps(kept))
    os.utime(data, (past, past))


def until(right: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not right():
        assert time.monotonic() < deadline, "it did not come right"
        time.sleep(0.05)


def test_a_restart_counts_what_came_and_went_behind_its_back_and_a_reload_goes_on(tusd_server: Start) -> None:
    client = running(tusd_server, {"total": 1000})
    _, kept = client.create(300, b"x" * 300)
    _, lost = client.create(600, b"x" * 600)
    client.server.stop()
    data = client.server.directory / "data"
    name = lost.rpartition("/")[2]
    (data / name).unlink()
    (data / f"{name}.info").unlink()
    (data / "other").write_bytes(b"y" * 500)
    (data / "other.info").write_text(
        (data / f"{kept.rpartition('/')[2]}.info").read_text().replace(kept[7:], "other").replace("300", "500")
    )
    client.server.start()
    until(lambda: "uploads counted: 2, their bytes: 800" in client.server.log)
    assert client.create(201)[0] == 507
    _, new = client.create(200)
    assert client.server.process is not None
    client.server.process.send_signal(signal.SIGHUP)
    until(lambda: "uploads counted: 3, their bytes: 1000" in client.server.log)
    assert client.create(1)[0] == 507
    assert client.ask("DELETE", new)[0] == 204
    assert client.create(200)[0] == 201


def test_what_is_evicted_is_gone_and_told(tusd_server: Start, tmp_path: Path) -> None:
    told = tmp_path / "told"
    (tmp_path / "teller.py").write_text(
        "from tusd.plugin import PostExpire\n\n\n"
        "def tell(event):\n"
        f"    with open({str(told)!r}, 'a') as file:\n"
        "        file.write(f'{event.name} {event.upload.id} {event.reason}\\n')\n"
    )
    server = tusd_server(
        {
            "server": {"workers": 2},
            "limiting": [{"use": "space", "total": 1000, "when_full": "evict"}],
            "hooks": [{"use": "python", "function": "teller:tell", "events": ["post-expire"]}],
        },
        env={"PYTHONPATH": str(tmp_path)},
    )
    client = Client(server)
    _, old = client.create(400)
    _, whole = client.create(300, b"x" * 300)
    _, new = client.create(300)
    age(server, old)
    status, path = client.create(350)
    assert status == 201
    assert [client.status(one) for one in (old, whole, new, path)] == [404, 200, 200, 200]
    until(told.exists)
    assert told.read_text() == f"post-expire {old[7:]} evicted\n"
    assert client.create(800)[0] == 507, "finished uploads stay, so all that may go would not do"
    assert [client.status(one) for one in (whole, new, path)] == [200, 200, 200]


def test_one_that_is_being_written_is_not_evicted(tusd_server: Start) -> None:
    client = running(tusd_server, {"total": 1000, "when_full": "evict", "evict": "largest"})
    _, busy = client.create(700)
    _, idle = client.create(300)
    for path in (busy, idle):
        age(client.server, path)
    with closing(HTTPConnection(client.server.host, client.server.port, timeout=10)) as connection:
        connection.putrequest("PATCH", busy)
        for name, value in {
            "Tus-Resumable": "1.0.0",
            "Upload-Offset": "0",
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": "700",
        }.items():
            connection.putheader(name, value)
        connection.endheaders()
        connection.send(b"x" * 350)
        until(lambda: (client.server.directory / "data" / busy.rpartition("/")[2]).stat().st_size == 350)
        assert client.create(300)[0] == 201, "the idle one goes, though the other one is larger"
        assert client.create(500)[0] == 507
        connection.send(b"x" * 350)
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("Upload-Offset")) == (204, "700")
    assert [client.status(path) for path in (busy, idle)] == [200, 404]


# --- the page


def test_the_page_gives_each_user_room(tusd_server: Start) -> None:
    (both,) = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "by: header" in text]
    for entry in both["limiting"]:
        entry["total"] = 1000 if "by" in entry else 1500
    both["limiting"][0]["totals"] = {"alice": 1200}
    client = Client(tusd_server({"server": {"workers": 2}, **both}))
    assert client.create(1001, X_User="bob")[0] == 507
    assert client.create(1000, X_User="bob")[0] == 201
    assert client.create(1, X_User="bob")[0] == 507
    assert client.create(501, X_User="alice")[0] == 507, "all together"
    assert client.create(500, X_User="alice")[0] == 201


def test_whose_an_upload_is_by_its_header_is_known_to_a_recount(tusd_server: Start, tmp_path: Path) -> None:
    config = {"limiting": [{"use": "space", "by": "header X-User", "total": 1000}]}
    client = Client(tusd_server(config))
    assert client.create(700, X_User="bob")[0] == 201
    assert client.create(700, X_User="ann")[0] == 201
    client.server.stop()
    for path in (tmp_path / "server0" / "run").glob("**/uploads.sqlite*"):
        path.unlink()
    client.server.start()
    until(lambda: "uploads counted: 2, their bytes: 1400" in client.server.log)
    assert client.create(301, X_User="bob")[0] == 507
    assert client.create(300, X_User="bob")[0] == 201


def test_the_examples_on_the_page_are_valid() -> None:
    blocks = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
    entries = [entry for block in blocks for entry in block.get("limiting", []) if entry["use"] == "space"]
    assert len(entries) == 4
    for entry in entries:
        load("limiting", entry.pop("use"), entry)
    assert all(metric.name in PAGE for metric in (space.USED, space.TOTAL))
    assert f"{ranking.MOST} uploads at the most" in PAGE
