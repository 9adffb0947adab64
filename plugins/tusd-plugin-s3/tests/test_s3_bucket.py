"""Each request: what it asks, what its answers mean, what is tried again, and what is told of failures."""

from __future__ import annotations

import asyncio
import io
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from fake_s3 import Answer, Asked, FakeS3, error, etag, fake_s3
from s3_opening import Figures, opened
from tusd.plugin import Blocks, Memory, StorageFull, StorageUnavailable
from tusd_plugin_s3.bucket import Bucket, Changed, Gone, Missing, Part
from tusd_plugin_s3.calling import SMALL_THREADS

ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def fake() -> Iterator[FakeS3]:
    with fake_s3() as server:
        yield server


@pytest.fixture
def figures() -> Figures:
    return Figures()


@pytest.fixture
async def bucket(fake: FakeS3, figures: Figures) -> AsyncIterator[Bucket]:
    async with opened(fake.endpoint, figures, attempts=3, concurrency=2) as bucket:
        fake.asked.clear()
        figures.values.clear()
        figures.observed.clear()
        yield bucket


def operations(fake: FakeS3) -> list[str]:
    return [asked.operation for asked in fake.asked]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that a thread does."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def once(operation: str, answer: Answer) -> Callable[[Asked], Answer | None]:
    """Answer so to the first such request."""
    left = [answer]
    return lambda asked: left.pop() if left and asked.operation == operation else None


def after(fake: FakeS3, operation: str, answer: Answer) -> Callable[[Asked], Answer | None]:
    """Do what the first such request asks, and answer so: the answer is lost."""
    left = [answer]

    def rule(asked: Asked) -> Answer | None:
        if not left or asked.operation != operation:
            return None
        fake.rule = None
        found = left.pop()
        fake.answer(asked)
        return found

    return rule


@pytest.mark.parametrize("data", [b"hello", bytearray(b"hello"), b"", bytearray(3 << 20)])
async def test_an_object_comes_back_as_it_was_written(bucket: Bucket, fake: FakeS3, data: bytes | bytearray) -> None:
    written = await bucket.put("k ü+&", data)
    found = await bucket.get("k ü+&")
    assert (found.data, found.etag, written) == (bytes(data), etag(data), etag(data))
    stat = await bucket.head("k ü+&")
    assert (stat.size, stat.etag) == (len(data), written) and found.modified == stat.modified
    assert operations(fake) == ["put_object", "get_object", "head_object"]


async def test_bodies_are_sent_as_they_are(bucket: Bucket, fake: FakeS3) -> None:
    await bucket.put("k", b"x" * 100)
    upload = await bucket.create_multipart("m", {})
    await bucket.upload_part("m", upload, 1, bytearray(100))
    for asked in (fake.asked[0], fake.asked[-1]):
        assert "expect" not in asked.headers and "content-encoding" not in asked.headers
        assert asked.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
        assert not [name for name in asked.headers if "checksum" in name or name == "content-md5"]


async def test_a_file_is_sent_from_its_start_each_time(bucket: Bucket, fake: FakeS3) -> None:
    upload = await bucket.create_multipart("m", {})
    fake.rule = once("upload_part", error(503, "SlowDown"))
    file = io.BytesIO(b"0123456789")
    file.seek(5)
    assert await bucket.upload_part("m", upload, 1, file) == etag(b"0123456789")
    assert await bucket.put("k", file) == etag(b"0123456789")


async def test_md5(fake: FakeS3) -> None:
    async with opened(fake.endpoint, checksums="md5") as bucket:
        blocks = Blocks(Memory(100).spare)
        blocks.add(b"hello")
        for data in (b"hello", bytearray(b"hello"), io.BytesIO(b"hello"), blocks):
            await bucket.put("k", data)
            assert fake.asked[-1].headers["content-md5"] == "XUFAKrxLKna5cZ2REBfFkg==" and fake.objects["k"] == b"hello"
        upload = await bucket.create_multipart("m", {})
        await bucket.upload_part("m", upload, 1, bytearray(b"hello"))
        assert fake.asked[-1].headers["content-md5"] == "XUFAKrxLKna5cZ2REBfFkg=="


async def test_all_objects_are_encrypted_and_only_the_upload_carries_the_rest(fake: FakeS3) -> None:
    async with opened(fake.endpoint, encryption={"algorithm": "aws:kms", "kms_key": "k1"}) as bucket:
        await bucket.put("a.info", b"{}")
        await bucket.create_multipart("b", {"ContentType": "text/plain", "StorageClass": "GLACIER_IR"})
        for key in ("a.info", "b"):
            carried = fake.carried[key]
            assert carried["x-amz-server-side-encryption"] == "aws:kms"
            assert carried["x-amz-server-side-encryption-aws-kms-key-id"] == "k1"
        assert "x-amz-storage-class" not in fake.carried["a.info"]
        assert (fake.carried["b"]["x-amz-storage-class"], fake.carried["b"]["content-type"]) == ("GLACIER_IR", "text/plain")


async def test_what_is_not_there(bucket: Bucket) -> None:
    for asking in (bucket.get("k"), bucket.get_range("k", 0, 5), bucket.head("k"), anext(aiter(bucket.stream("k", 0, 5)))):
        with pytest.raises(Missing):
            await asking
    await bucket.delete("k", "l")


async def test_a_bucket_that_is_gone_is_no_missing_key(bucket: Bucket, fake: FakeS3) -> None:
    fake.rule = lambda asked: error(404, "NoSuchBucket")
    with pytest.raises(StorageUnavailable):
        await bucket.get("k")
    with pytest.raises(StorageUnavailable):
        await bucket.put("k", b"x", match="e")


# --- conditions


async def test_conditions(bucket: Bucket) -> None:
    first = await bucket.put("k", b"1", absent=True)
    with pytest.raises(Changed):
        await bucket.put("k", b"2", absent=True)
    second = await bucket.put("k", b"2", match=first)
    with pytest.raises(Changed):
        await bucket.put("k", b"3", match=first)
    assert (await bucket.get("k")).etag == second
    with pytest.raises(Changed):
        await bucket.put("nothing here", b"3", match=first)


async def test_conditions_that_are_switched_off_are_not_sent(fake: FakeS3) -> None:
    async with opened(fake.endpoint, conditional_writes="off") as bucket:
        assert not bucket.conditional
        await bucket.put("k", b"1", absent=True)
        await bucket.put("k", b"2", absent=True)
        await bucket.put("k", b"3", match="e")
    assert not [asked for asked in fake.asked if "if-match" in asked.headers or "if-none-match" in asked.headers]


@pytest.mark.parametrize("size", [5, 3 << 20])
@pytest.mark.parametrize("lost", [Answer(hang_up=True), error(500, "InternalError"), error(503, "SlowDown")])
async def test_a_write_whose_answer_was_lost_is_recognised(bucket: Bucket, fake: FakeS3, lost: Answer, size: int) -> None:
    data = bytearray(b"x" * size)
    fake.rule = after(fake, "put_object", lost)
    assert await bucket.put("k", data, absent=True) == etag(data)
    changed = bytearray(b"y" * size)
    fake.rule = after(fake, "put_object", lost)
    assert await bucket.put("k", io.BytesIO(changed), match=etag(data)) == etag(changed)


@pytest.mark.parametrize("size", [5, 3 << 20])
async def test_anothers_write_is_not_taken_for_ours(bucket: Bucket, fake: FakeS3, size: int) -> None:
    fake.objects["k"] = b"x" * (size - 1) + b"y"
    with pytest.raises(Changed):
        await bucket.put("k", b"x" * size, absent=True)
    with pytest.raises(Changed):
        await bucket.put("k", b"x" * (size + 1), absent=True)
    fake.objects["k"] = b"x" * (size + 1)
    with pytest.raises(Changed):
        await bucket.put("k", b"x" * size, absent=True)


async def test_a_conflict_is_tried_again(bucket: Bucket, fake: FakeS3) -> None:
    fake.rule = once("put_object", error(409, "ConditionalRequestConflict"))
    assert await bucket.put("k", b"1", absent=True) == etag(b"1")
    fake.rule = lambda asked: error(409, "ConditionalRequestConflict") if asked.operation == "put_object" else None
    with pytest.raises(Changed):
        await bucket.put("l", b"1", absent=True)
    assert operations(fake).count("put_object") == 2 + 3


# --- multipart uploads


async def test_a_multipart_upload(bucket: Bucket, fake: FakeS3) -> None:
    upload = await bucket.create_multipart("k", {})
    parts = [Part(number, 3, await bucket.upload_part("k", upload, number, f"{number:03}".encode())) for number in (1, 2, 7)]
    assert await bucket.list_parts("k", upload) == parts and await bucket.list_parts("k", upload, 2) == parts[2:]
    await bucket.complete("k", upload, parts[1:])
    assert fake.objects["k"] == b"002007" and b'"' + parts[1].etag.encode() + b'"' in fake.asked[-1].body.replace(b"&quot;", b'"')


async def test_what_is_gone(bucket: Bucket) -> None:
    for asking in (
        bucket.upload_part("k", "m", 1, b"x"),
        bucket.list_parts("k", "m"),
        bucket.complete("k", "m", [Part(1, 1, "e")]),
    ):
        with pytest.raises(Gone):
            await asking
    await bucket.abort("k", "m")


async def test_servers_that_answer_500_for_what_is_gone(bucket: Bucket, fake: FakeS3) -> None:
    """As Ceph does."""

    def ceph(asked: Asked) -> Answer | None:
        if asked.operation in ("complete_multipart_upload", "abort_multipart_upload"):
            return error(500, "InternalError")
        return error(404, "NoSuchKey") if asked.operation == "list_parts" else None

    fake.rule = ceph
    with pytest.raises(Gone):
        await bucket.complete("k", "m", [Part(1, 1, "e")])
    await bucket.abort("k", "m")
    fake.rule = lambda asked: error(500, "InternalError") if asked.operation != "list_parts" else None
    upload = "still there"
    fake.multiparts[upload] = {}
    with pytest.raises(StorageUnavailable):
        await bucket.complete("k", upload, [Part(1, 1, "e")])


async def test_pages_are_put_together(bucket: Bucket, fake: FakeS3) -> None:
    fake.multiparts["m"] = {number: b"x" for number in range(1, 2401, 2)}
    assert [part.number for part in await bucket.list_parts("k", "m", 100)] == list(range(101, 2401, 2))
    fake.objects = {f"p/{number:04} ü&<": b"x" for number in range(1200)} | {"q": b""}
    assert [one.key async for one in bucket.list("p/")] == sorted(fake.objects)[:-1]
    assert operations(fake) == ["list_parts"] * 2 + ["list_objects"] * 2


async def test_a_server_that_lists_all_parts_whatever_it_is_asked(bucket: Bucket, fake: FakeS3) -> None:
    fake.multiparts["m"] = {number: b"x" for number in range(1, 6)}
    fake.rule = lambda asked: fake._list_parts(replace(asked, query={"uploadId": "m"}))
    assert [part.number for part in await bucket.list_parts("k", "m", 3)] == [4, 5]


# --- reading


async def test_a_stream_comes_in_small_pieces(bucket: Bucket, fake: FakeS3) -> None:
    data = bytes(range(256)) * 16384
    fake.objects["k"] = data
    pieces = [piece async for piece in bucket.stream("k", 7, len(data) - 9)]
    assert b"".join(pieces) == data[7:-9] and max(map(len, pieces)) <= 1 << 20
    assert [piece async for piece in bucket.stream("k", 5, 5)] == [] and await bucket.get_range("k", 5, 5) == b""
    assert await bucket.get_range("k", 255, 258) == b"\xff\x00\x01"


async def test_a_stream_goes_on_where_its_connection_broke(bucket: Bucket, fake: FakeS3, figures: Figures) -> None:
    data = bytes(range(256)) * 16384
    fake.objects["k"] = data
    cuts = [1 << 20, (1 << 20) + 5, 17]

    def cut(asked: Asked) -> Answer | None:
        if not cuts or asked.operation != "get_object":
            return None
        found = fake._get_object(asked)
        return Answer(found.status, found.body, found.headers, cut=cuts.pop(0))

    fake.rule = cut
    assert b"".join([piece async for piece in bucket.stream("k", 3, len(data))]) == data[3:]
    ranges = [asked.headers["range"] for asked in fake.asked]
    assert ranges[0] == f"bytes=3-{len(data) - 1}" and len(set(ranges)) == 4, ranges
    assert {asked.headers.get("if-match") for asked in fake.asked[1:]} == {f'"{etag(data)}"'}
    assert figures.values["tusd_s3_retries_total", ()] == 3


async def test_a_stream_of_an_object_that_was_replaced_ends(bucket: Bucket, fake: FakeS3) -> None:
    fake.objects["k"] = bytes(3 << 20)

    def replaced(asked: Asked) -> Answer | None:
        if "if-match" in asked.headers:
            return error(412, "PreconditionFailed")
        found = fake._get_object(asked)
        return Answer(found.status, found.body, found.headers, cut=1 << 20)

    fake.rule = replaced
    with pytest.raises(StorageUnavailable):
        async for _ in bucket.stream("k", 0, 3 << 20):
            pass


async def test_an_abandoned_stream_closes_its_connection(bucket: Bucket, fake: FakeS3) -> None:
    fake.objects["k"] = bytes(64 << 20)
    stream: Any = bucket.stream("k", 0, 64 << 20)
    assert len(await anext(stream)) == 1 << 20
    pool: Any = bucket.client
    await stream.aclose()
    assert await bucket.get_range("k", 0, 3) == bytes(3)
    assert pool is bucket.client and len(fake.asked) == 2


@pytest.mark.parametrize("stop", [5, 3 << 20])
async def test_a_server_that_ignores_ranges_is_noticed(bucket: Bucket, fake: FakeS3, stop: int) -> None:
    fake.objects["k"] = bytes(4 << 20)
    fake.rule = lambda asked: Answer(200, fake.objects["k"], {"ETag": '"e"'}) if asked.operation == "get_object" else None
    with pytest.raises(StorageUnavailable):
        await bucket.get_range("k", 1, stop)
    with pytest.raises(StorageUnavailable):
        async for _ in bucket.stream("k", 1, stop):
            pass


async def test_a_truncated_answer_is_asked_for_again(bucket: Bucket, fake: FakeS3) -> None:
    fake.objects["k"] = b"0123456789"
    head = {"ETag": '"e"', "Last-Modified": "Sat, 28 Nov 2026 12:00:00 GMT"}
    fake.rule = once("get_object", Answer(200, b"0123456789", head, cut=4))
    assert (await bucket.get("k")).data == b"0123456789"
    fake.rule = lambda asked: Answer(200, b"0123456789", head, cut=4)
    with pytest.raises(StorageUnavailable):
        await bucket.get("k")
    assert operations(fake) == ["get_object"] * (2 + 1 + 3)


async def test_a_stream_that_is_cancelled_while_it_opens_leaves_nothing_open(bucket: Bucket, fake: FakeS3) -> None:
    fake.objects["k"] = bytes(8 << 20)
    release = threading.Event()
    bodies: list[Any] = []
    opened = bucket.client.get_object

    def get_object(**arguments: Any) -> Any:
        assert release.wait(20)
        bodies.append(opened(**arguments)["Body"])
        return {"Body": bodies[-1], "ETag": "e", "ResponseMetadata": {"HTTPStatusCode": 206}}

    bucket.client.get_object = get_object  # type: ignore[method-assign]

    async def read() -> None:
        async for _ in bucket.stream("k", 0, 8 << 20):
            pass

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    reading.cancel()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await reading
    (body,) = bodies
    assert body._raw_stream.closed


# --- failures


@pytest.mark.parametrize(
    "answer",
    [error(500, "InternalError"), error(503, "SlowDown"), error(503, "ServiceUnavailable"), Answer(502), Answer(hang_up=True)],
)
async def test_what_may_pass_is_tried_again(bucket: Bucket, fake: FakeS3, figures: Figures, answer: Answer) -> None:
    fake.rule = once("put_object", answer)
    await bucket.put("k", bytearray(b"x"))
    assert fake.objects["k"] == b"x" and operations(fake) == ["put_object"] * 2
    assert figures.values["tusd_s3_retries_total", ()] == 1
    assert len(figures.observed["tusd_s3_request_duration_ms", ("put_object",)]) == 1


async def test_a_failure_is_told_once_and_clients_learn_nothing_of_it(
    bucket: Bucket, fake: FakeS3, figures: Figures, caplog: pytest.LogCaptureFixture
) -> None:
    fake.rule = lambda asked: error(403, "AccessDenied", "User: arn:aws:iam::123:user/x is not\nauthorized")
    with caplog.at_level(logging.INFO), pytest.raises(StorageUnavailable) as failure:
        await bucket.put(f"{ID}.info", b"x", operation="put_info_object")
    assert str(failure.value) == "the server's storage is not available"
    [line] = [record for record in caplog.records if record.name == "tusd.test"]
    assert line.getMessage() == "put_info_object failed: AccessDenied: User: arn:aws:iam::123:user/x is not authorized"
    facts = vars(line)
    assert (facts["upload"], facts["code"], facts["s3_request"]) == (f"{ID}.info", "AccessDenied", "R1")
    assert figures.values["tusd_s3_request_errors_total", ("put_info_object", "AccessDenied")] == 1
    assert len(fake.asked) == 2, "without the SDK, and by it for its message"


@pytest.mark.parametrize(
    ("status", "code"), [(507, "InsufficientStorage"), (403, "QuotaExceeded"), (507, "XMinioStorageFull"), (507, "SomethingElse")]
)
async def test_a_full_server(bucket: Bucket, fake: FakeS3, status: int, code: str) -> None:
    fake.rule = lambda asked: error(status, code)
    with pytest.raises(StorageFull):
        await bucket.put("k", b"x")


async def test_the_log_never_holds_a_chosen_id_whole(fake: FakeS3, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(fake.endpoint, key="{date:%Y}/{id}/{filename}", attempts=1) as bucket:
        fake.rule = lambda asked: Answer(hang_up=True)
        for key in ("2026/a-chosen-secret/name", "a-chosen-secret.info"):
            with pytest.raises(StorageUnavailable):
                await bucket.get(key)
        for shown in ("2026/a-chosen-secret/name", "2026%2Fa-chosen-secret%2Fname"):
            refusal = error(403, "AccessDenied", f"not authorized to perform: s3:GetObject on: arn:aws:s3:::b/{shown}")
            fake.rule = lambda asked, refusal=refusal: refusal
            with pytest.raises(StorageUnavailable):
                await bucket.get("2026/a-chosen-secret/name")
    lines = [record for record in caplog.records if record.name == "tusd.test"]
    assert [vars(line).get("key") for line in lines] == ["2026/a-chosen.../name", None, *["2026/a-chosen.../name"] * 2]
    assert lines[2].getMessage().endswith("arn:aws:s3:::b/2026/a-chosen.../name")
    assert vars(lines[1])["upload"] == "a-chosen-secret.info"  # the log shortens this fact
    assert not [line for line in lines if "secret" in line.getMessage()]


# --- threads


async def test_who_waits_long_behind_requests_without_answers_is_not_sent(fake: FakeS3) -> None:
    """Or the last of many would wait as many times as long as the first."""
    async with opened(fake.endpoint) as bucket:
        release, sent, usual = threading.Event(), list[int](), bucket.calling._options
        hanging = [
            asyncio.create_task(bucket.calling.call("get_object", "k", lambda: release.wait(20), None, None))
            for _ in range(SMALL_THREADS)
        ]
        late = asyncio.create_task(bucket.calling.call("get_object", "k", lambda: sent.append(1), None, None))
        await asyncio.sleep(0)  # all of them wait now
        await asyncio.sleep(0.2)
        bucket.calling._options = usual.model_copy(update={"read_timeout": 0.1})
        release.set()
        assert all(await asyncio.gather(*hanging))
        with pytest.raises(StorageUnavailable):
            await late
        assert not sent
        bucket.calling._options = usual
        await bucket.calling.call("get_object", "k", lambda: sent.append(1), None, None)
        assert sent


async def test_small_requests_do_not_wait_behind_parts(bucket: Bucket, fake: FakeS3, figures: Figures) -> None:
    release = threading.Event()

    def hold(asked: Asked) -> Answer | None:
        if asked.operation == "upload_part":
            assert release.wait(20)
        return None

    upload = await bucket.create_multipart("k", {})
    fake.rule = hold
    sending = [asyncio.create_task(bucket.upload_part("k", upload, number, bytearray(10))) for number in range(1, 6)]
    try:
        await until(lambda: operations(fake).count("upload_part") == 2)
        assert figures.values["tusd_s3_upload_semaphore_demand", ()] == 5
        for _ in range(20):
            await bucket.put("small", b"x")
        assert operations(fake).count("upload_part") == 2, "as many as `concurrency` at once"
    finally:
        release.set()
        await asyncio.gather(*sending)
    assert figures.values["tusd_s3_upload_semaphore_demand", ()] == 0


async def test_a_cancelled_caller_waits_for_its_request(bucket: Bucket, fake: FakeS3) -> None:
    release = threading.Event()

    def hold(asked: Asked) -> None:
        assert release.wait(20)

    fake.rule = hold
    writing = asyncio.create_task(bucket.put("k", b"x"))
    await until(lambda: bool(fake.asked))
    writing.cancel()
    await asyncio.sleep(0.05)
    assert not writing.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert fake.objects["k"] == b"x"


async def test_the_event_loop_goes_on_meanwhile(bucket: Bucket, fake: FakeS3) -> None:
    fake.rule = lambda asked: time.sleep(0.2)
    asking, beats = asyncio.gather(*(bucket.put(str(n), bytearray(2 << 20)) for n in range(4))), 0
    while not asking.done():
        await asyncio.sleep(0.005)
        beats += 1
    await asking
    assert beats > 20


async def test_a_check_asks_the_server(bucket: Bucket, fake: FakeS3) -> None:
    await bucket.check()
    assert operations(fake) == ["head_object"]
    fake.rule = lambda asked: Answer(403)
    with pytest.raises(StorageUnavailable):
        await bucket.check()
