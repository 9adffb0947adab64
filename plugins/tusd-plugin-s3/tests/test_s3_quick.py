"""Small requests without the SDK: the same results, and the SDK wherever something is unusual."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.credentials import RefreshableCredentials
from tests.server.certificates import make_pair
from tests.services.servers import S3Bucket

from fake_s3 import Answer, Asked, FakeS3, error, etag, fake_s3
from s3_opening import Figures, opened
from tusd import plugin
from tusd.plugin import StorageUnavailable
from tusd_plugin_s3 import quick
from tusd_plugin_s3.bucket import Bucket, Changed, Missing
from tusd_plugin_s3.headers import carried
from tusd_plugin_s3.options import Options
from tusd_plugin_s3.quick import Place, Quick, Request, Tried
from tusd_plugin_s3.signing import Keys

STAMP = {"Last-Modified": "Sat, 28 Nov 2026 12:00:00 GMT"}


@pytest.fixture
def fake() -> Iterator[FakeS3]:
    with fake_s3() as server:
        yield server


@asynccontextmanager
async def ready(endpoint: str, figures: Figures | None = None, **more: Any) -> AsyncIterator[tuple[Bucket, list[str]]]:
    """A bucket after its trial, and the operations that go through the SDK from now on."""
    async with opened(endpoint, figures, **more) as bucket:
        by_sdk: list[str] = []
        bucket.client.meta.events.register("before-send.s3", lambda request, **_: by_sdk.append(request.method))
        yield bucket, by_sdk


def times(count: int, answer: Answer) -> Callable[[Asked], Answer | None]:
    """Answer so to the first requests."""
    left = [answer] * count
    return lambda asked: left.pop() if left else None


@pytest.mark.parametrize("sdk", [False, True])
async def test_whose_an_object_is_however_the_server_writes_it(fake: FakeS3, sdk: bool) -> None:
    async with ready(fake.endpoint) as (bucket, by_sdk):
        fake.objects["k"] = b"x"
        said = {"ETag": '"e"', "X-Amz-Meta-Tusd-Upload": "me", **STAMP}
        fake.rule = lambda asked: (
            Answer(200, b"x", said) if not sdk or "boto" in asked.headers["user-agent"].lower() else error(500, "Busy")
        )
        assert (await bucket.head("k")).mark == "me"
        assert bool(by_sdk) == sdk


# --- the same as by the SDK

KEYS = ["plain", "a/b//c", "ü +~%2F&?#='(*)!;:@$,", "/first", "dots/..x/.y", "~"]


async def outcome(bucket: Bucket, key: str, carries: dict[str, Any]) -> list[Any]:
    """All that can be seen of small requests to one key; what is there in the end stays."""
    seen: list[Any] = []

    async def see(work: Any) -> None:
        try:
            found = await work
        except (Changed, Missing) as refusal:
            found = type(refusal)
        seen.append(found)

    await see(bucket.get(key))
    await see(bucket.head(key))
    await see(bucket.delete(key))
    await see(bucket.put(key, b"first"))
    first = seen[-1]
    await see(bucket.put(key, b"second", absent=True))
    await see(bucket.put(key, b"second", match="0" * 32))
    if bucket.conditional:
        await see(bucket.put(key, bytearray(b"second"), match=first))
    await see(bucket.delete(key))
    await see(bucket.put(key, b"", absent=True))
    await see(bucket.delete(key, key + "-none"))
    await see(bucket.put(key, b"x" * 70_000, carries=carries))
    found, stat = await bucket.get(key), await bucket.head(key)
    assert found.modified.tzinfo is not None and abs(datetime.now(UTC) - found.modified) < timedelta(minutes=5)
    assert found.modified == stat.modified
    return [*seen, found.data, found.etag, stat.size, stat.etag]


def stored(server: S3Bucket, key: str) -> dict[str, Any]:
    """An object with its headers."""
    with server.server.client() as client:
        found: dict[str, Any] = dict(client.get_object(Bucket=server.name, Key=key))
        found["Body"] = found["Body"].read()
        response = found.pop("ResponseMetadata")["HTTPHeaders"]
    varies = {"date", "last-modified", "x-amz-request-id", "x-amz-id-2", "x-trans-id", "x-openstack-request-id"}
    del found["LastModified"]
    return found | {"headers": {name: value for name, value in response.items() if name not in varies}}


async def test_servers_see_no_difference(s3_bucket: S3Bucket) -> None:
    server = s3_bucket.server
    more: dict[str, Any] = {
        "bucket": s3_bucket.name,
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
        "region": server.region,
    }
    metadata = {"filename": "naïve  file.html".encode(), "filetype": b"text/html; charset=utf-8", "empty": b"", "a-b": b"x  y"}
    carries = carried(
        plugin.UploadInfo(id=plugin.UploadId("i"), length=None, metadata=plugin.Metadata(metadata)),
        Options.model_validate({"bucket": "bucket", "acl": "private"}),
    )
    async with ready(server.endpoint, **more) as (bucket, by_sdk):
        ours = bucket.quick
        assert ours is not None
        for key in KEYS:
            found = await outcome(bucket, "q/" + key, carries)
            assert not by_sdk
            quickly = await asyncio.to_thread(stored, s3_bucket, "q/" + key)
            bucket.quick = None
            await bucket.delete("q/" + key)
            assert await outcome(bucket, "q/" + key, carries) == found and by_sdk
            assert await asyncio.to_thread(stored, s3_bucket, "q/" + key) == quickly
            assert (await bucket.get("q/" + key)).data == quickly["Body"] == b"x" * 70_000
            bucket.quick = ours
            by_sdk.clear()
        assert sorted([one.key async for one in bucket.list("q/")]) == sorted("q/" + key for key in KEYS)


async def test_a_wrong_secret_is_noticed(ceph_bucket: S3Bucket) -> None:
    server = ceph_bucket.server
    more: dict[str, Any] = {
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
        "bucket": ceph_bucket.name,
    }
    async with ready(server.endpoint, region=server.region, **more) as (bucket, by_sdk):
        assert bucket.quick is not None
        bucket.quick._credentials = lambda: Keys(server.access_key, "wrong")
        await bucket.put("k", b"x")
        assert by_sdk == ["PUT"], "the server has noticed the wrong signature"


# --- what the SDK does again


BROKEN_OFF = Answer(200, b"hello", {"ETag": '"e"', **STAMP}, cut=2)
PLAIN = {"head": [BROKEN_OFF], "delete": [Answer(204), Answer(200, b"hello")]}


@pytest.mark.parametrize(
    "answer",
    [
        error(500, "InternalError"),
        error(503, "SlowDown"),
        Answer(502, b"<html>"),
        Answer(429),
        Answer(204),
        Answer(200, b"hello"),
        Answer(200, b"hello", {"ETag": '"e"', "Last-Modified": "yesterday"}, cut=2),
        BROKEN_OFF,
        Answer(hang_up=True),
    ],
)
@pytest.mark.parametrize("method", ["get", "head", "put", "delete"])
async def test_what_is_unusual_is_done_again(fake: FakeS3, answer: Answer, method: str) -> None:
    figures = Figures()
    async with ready(fake.endpoint, figures, attempts=3) as (bucket, by_sdk):
        fake.objects["k"] = b"hello"
        figures.observed.clear()
        figures.values.clear()
        fake.asked.clear()
        fake.rule = times(2 if answer.hang_up else 1, answer)
        if method == "get":
            assert (await bucket.get("k")).data == b"hello"
        elif method == "head":
            assert (await bucket.head("k")).size == 5
        elif method == "put":
            assert await bucket.put("k", b"hello, too") == etag(b"hello, too") == etag(fake.objects["k"])
        else:
            await bucket.delete("k")
        plain = answer in PLAIN.get(method, ())
        assert (len(by_sdk), len(fake.asked)) == ((0, 1) if plain else (1, 3) if answer.hang_up else (1, 2))
        assert plain or ("k" in fake.objects) == (method != "delete")
        assert figures.values.get(("tusd_s3_retries_total", ()), 0) == len(fake.asked) - 1
        assert len(figures.observed["tusd_s3_request_duration_ms", (f"{method}_object",)]) == 1


@pytest.mark.parametrize(
    "answer", [error(404, "NoSuchBucket"), Answer(404), error(403, "AccessDenied"), error(400, "ExpiredToken")]
)
async def test_refusals_mean_what_they_mean_by_the_sdk(fake: FakeS3, answer: Answer) -> None:
    async with ready(fake.endpoint, attempts=1) as (bucket, by_sdk):
        fake.rule = lambda asked: answer
        ours, results = bucket.quick, []
        for bucket.quick in (ours, None):
            for work in (
                bucket.get("k"),
                bucket.put("k", b"x", match="e"),
                bucket.put("k", b"x", absent=True),
                bucket.delete("k"),
            ):
                results.append(type((await asyncio.gather(work, return_exceptions=True))[0]))
        bucket.quick = ours
        assert results[:4] == results[4:] and by_sdk


async def test_a_write_with_conditions_whose_answer_was_lost(fake: FakeS3) -> None:
    async with ready(fake.endpoint, attempts=2) as (bucket, by_sdk):

        def lose(asked: Asked) -> Answer | None:
            if asked.operation == "put_object" and len(fake.asked) < 3:
                fake._put_object(asked)
                return Answer(hang_up=True)
            return None

        fake.asked.clear()
        fake.rule = lose
        assert await bucket.put("k", b"mine", absent=True) == etag(b"mine")
        assert [asked.operation for asked in fake.asked] == ["put_object"] * 3 + ["get_object"] and by_sdk == ["PUT"]
        fake.objects["k"] = b"another's"
        with pytest.raises(Changed):
            await bucket.put("k", b"mine", absent=True)
        assert fake.objects["k"] == b"another's"


async def test_connections_that_the_server_closed_are_no_failures(fake: FakeS3) -> None:
    async with ready(fake.endpoint) as (bucket, by_sdk):
        fake.objects["k"] = b"hello"
        whole = Answer(200, b"hello", {"ETag": '"e"', **STAMP}, cut=5)
        for pause in (0, 0.05, 0, 0.05):  # noticed, or not
            fake.rule = times(1, whole)
            assert (await bucket.get("k")).data == b"hello"
            await asyncio.sleep(pause)
            assert await bucket.put("l", b"x") == etag(b"x")
            fake.rule = times(1, Answer(hang_up=True))
            assert await bucket.put("l", b"y", match=etag(b"x")) == etag(b"y")
        assert not by_sdk


@pytest.mark.parametrize("operation", ["get_object", "put_object"])
async def test_a_server_that_is_silent(fake: FakeS3, operation: str) -> None:
    release = threading.Event()
    async with ready(fake.endpoint, read_timeout=0.3, attempts=2) as (bucket, by_sdk):
        fake.objects["k"] = b"hello"
        waits = [True]

        def hold(asked: Asked) -> Answer | None:
            if asked.operation == operation and waits:
                waits.pop()
                release.wait(20)
            return None

        fake.rule = hold
        try:
            assert await (bucket.get("k") if operation == "get_object" else bucket.put("k", b"hello"))
        finally:
            release.set()
        assert len(by_sdk) == 1


async def test_a_server_that_is_gone_fails_as_by_the_sdk() -> None:
    with fake_s3() as fake:
        async with ready(fake.endpoint, attempts=1) as (bucket, by_sdk):
            await bucket.put("k", b"x")
            fake.rule = lambda asked: Answer(hang_up=True)
            for _ in range(5):
                with pytest.raises(StorageUnavailable):
                    await bucket.get("k")
            assert len(by_sdk) == 5


async def test_a_server_that_is_unusual_each_time_is_not_asked_twice(fake: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "_REST", 0.3)
    async with ready(fake.endpoint, attempts=1) as (bucket, by_sdk):
        fake.asked.clear()
        fake.rule = lambda asked: error(403, "AccessDenied")
        for _ in range(6):
            with pytest.raises(StorageUnavailable):
                await bucket.put("k", b"x")
        assert (len(by_sdk), len(fake.asked)) == (6, 6 + 3)
        fake.rule = None
        await bucket.put("k", b"x")
        assert len(by_sdk) == 7
        await asyncio.sleep(0.4)
        await bucket.put("k", b"x")
        assert len(by_sdk) == 7


# --- cancellation, connections, the end


@pytest.mark.parametrize("then", [None, error(500, "InternalError"), Answer(hang_up=True)])
async def test_a_cancelled_caller_waits_and_nothing_is_begun_after_it(fake: FakeS3, then: Answer | None) -> None:
    release = threading.Event()
    async with ready(fake.endpoint, attempts=3) as (bucket, by_sdk):
        fake.asked.clear()

        def hold(asked: Asked) -> Answer | None:
            assert release.wait(20)
            return then

        fake.rule = hold
        writing = asyncio.create_task(bucket.put("k", b"x"))
        while not fake.asked:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for _ in range(3):
            writing.cancel()
            await asyncio.sleep(0.02)
        assert not writing.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert not by_sdk and ("k" in fake.objects) == (then is None)


async def test_connections_are_bounded(fake: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "CONNECTIONS", 3)
    async with ready(fake.endpoint) as (bucket, by_sdk):
        lock, now, most = threading.Lock(), 0, 0

        def count(asked: Asked) -> None:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.02)
            with lock:
                now -= 1

        fake.rule = count
        await asyncio.gather(*(bucket.put(str(number), b"x") for number in range(20)))
        assert most == 3 and not by_sdk and len(fake.objects) == 20


async def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing warns at the end."""
    with fake_s3(make_pair(tmp_path, "server")) as server:
        bundle = str(tmp_path / "server.crt")
        for more in ({"ca_bundle": bundle}, {"verify": False}, {}):
            if not more:
                monkeypatch.setenv("AWS_CA_BUNDLE", bundle)
            async with ready(server.endpoint, **more) as (bucket, by_sdk):
                await bucket.put("k", b"x")
                assert (await bucket.get("k")).data == b"x" and not by_sdk
    make_pair(tmp_path, "other")
    with fake_s3(make_pair(tmp_path, "third")) as server:
        ours = quick_to(server, lambda: Keys("a", "s"), bundle=str(tmp_path / "other.crt"))
        assert await ours.ask(Request("PUT", "k", {}, b"x"), Tried()) is None and not server.asked, "another's certificate"
        await ours.close()


# --- credentials


def quick_to(fake: FakeS3, credentials: Callable[[], Keys], bundle: str | None = None) -> Quick:
    """A client of its own."""
    tls = True if bundle is None else ssl.create_default_context(cafile=bundle)
    host = fake.endpoint.partition("//")[2]
    return Quick(Place(fake.endpoint, host, "/bucket/", "us-east-1"), credentials, tls, 5, 5)


async def test_credentials_are_renewed_in_a_thread(fake: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def renew() -> dict[str, str]:
        threads.append(threading.get_ident())
        time.sleep(0.05)
        soon = datetime.now(UTC) + timedelta(minutes=1)  # due again at once
        return {"access_key": f"A{len(threads)}", "secret_key": "s", "token": f"T{len(threads)}", "expiry_time": soon.isoformat()}

    provider = RefreshableCredentials.create_from_metadata(renew(), renew, "test")

    def credentials() -> Keys:
        frozen = provider.get_frozen_credentials()
        return Keys(frozen.access_key or "", frozen.secret_key or "", frozen.token)

    threads.clear()
    ours = quick_to(fake, credentials)
    fake.objects["k"] = b"x"
    asking = [ours.ask(Request("GET", "k"), Tried()) for _ in range(5)]
    assert all(await asyncio.gather(*asking)) and len(threads) == 1 and threads[0] != threading.get_ident()
    assert {asked.headers["x-amz-security-token"] for asked in fake.asked} == {"T1"}
    fake.rule = times(1, error(400, "ExpiredToken"))
    assert await ours.ask(Request("GET", "k"), Tried()) is None
    assert await ours.ask(Request("GET", "k"), Tried()) is not None and fake.asked[-1].headers["x-amz-security-token"] == "T2"
    monkeypatch.setattr(quick, "_FRESH", 0)
    assert await ours.ask(Request("GET", "k"), Tried()) is not None
    ours._until = 0
    assert await ours.ask(Request("GET", "k"), Tried()) is not None and fake.asked[-1].headers["x-amz-security-token"] == "T3"
    await ours.close()


async def test_credentials_that_cannot_be_had(fake: FakeS3) -> None:
    def credentials() -> Keys:
        raise RuntimeError("no role")

    ours = quick_to(fake, credentials)
    assert await ours.ask(Request("GET", "k"), Tried()) is None and not fake.asked
    await ours.close()
