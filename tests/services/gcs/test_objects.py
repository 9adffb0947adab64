"""Objects of Google Cloud Storage: see `comparing`."""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import requests
from google.api_core.exceptions import GoogleAPICallError

from tests.services.gcs.comparing import crc32c, md5, put, status, the_testbench

# what an object is


def test_an_object_has_what_it_was_made_with(bucket: Any) -> None:
    data = os.urandom(100_000)
    blob = bucket.blob("a/b")
    blob.metadata = {"author": "Zoë"}
    blob.content_disposition, blob.cache_control, blob.storage_class = "attachment", "no-store", "NEARLINE"
    blob.upload_from_string(data, content_type="video/mp4", retry=None)
    found = bucket.get_blob("a/b")
    assert (found.size, found.crc32c, found.md5_hash) == (len(data), crc32c(data), md5(data))
    assert (found.content_type, found.content_disposition, found.cache_control) == ("video/mp4", "attachment", "no-store")
    assert (found.storage_class, found.metadata["author"], found.metageneration) == ("NEARLINE", "Zoë", 1)
    assert found.generation > 0 and found.component_count is None and found.time_created is not None
    assert bucket.blob("a/b").download_as_bytes(retry=None) == data


def test_the_checksum_is_that_of_the_castagnoli_polynomial(bucket: Any) -> None:
    assert put(bucket, "check", b"123456789").crc32c == base64.b64encode(bytes.fromhex("e3069283")).decode()


@the_testbench("leaves out a size of 0, and its 416 for an empty object lacks Content-Range")
def test_an_empty_object(bucket: Any) -> None:
    put(bucket, "empty", b"")
    found = bucket.get_blob("empty")
    assert (found.size, found.crc32c, found.md5_hash) == (0, crc32c(b""), md5(b""))
    assert found.download_as_bytes(retry=None) == b""


@pytest.mark.parametrize("name", ["sp ace/ü+%25?#x", "a//b", "ends/", "…", "a" * 1024, "%2F", "a&b=c;d"])
def test_names(bucket: Any, name: str) -> None:
    put(bucket, name)
    assert bucket.blob(name).download_as_bytes(retry=None) == b"data"
    assert [blob.name for blob in bucket.list_blobs()] == [name]


@the_testbench("takes any name")
@pytest.mark.parametrize("name", ["a" * 1025, "a\nb", "."])
def test_names_that_no_object_can_have(bucket: Any, endpoint: str, name: str) -> None:
    url = f"{endpoint}/upload/storage/v1/b/{bucket.name}/o"
    assert requests.post(url, params={"uploadType": "media", "name": name}, data=b"x", timeout=10).status_code == 400


def test_there_is_nothing(bucket: Any, client: Any) -> None:
    assert status(bucket.blob("nothing").download_as_bytes) == 404
    assert status(bucket.blob("nothing").delete) == 404
    assert status(client.bucket("no-such-bucket").blob("x").upload_from_string, b"") == 404
    assert status(client.get_bucket, "no-such-bucket") == 404
    assert not bucket.blob("nothing").exists(retry=None)
    assert bucket.get_blob("nothing") is None


@the_testbench("writes errors as a text of JSON in a message")
def test_an_error_is_written_as_google_does(bucket: Any, endpoint: str) -> None:
    answer = requests.get(f"{endpoint}/storage/v1/b/{bucket.name}/o/nothing", timeout=10)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["message"]) == (404, 404, f"No such object: {bucket.name}/nothing")
    assert error["errors"] == [{"domain": "global", "reason": "notFound", "message": error["message"]}]


def test_deleting(bucket: Any) -> None:
    put(bucket, "a")
    bucket.blob("a").delete(retry=None)
    assert bucket.get_blob("a") is None


def test_a_bucket_is_only_made_once(bucket: Any, client: Any) -> None:
    assert status(client.create_bucket, bucket.name) == 409
    bucket.delete(retry=None)
    assert not bucket.exists(retry=None)


@the_testbench("answers 400")
def test_a_bucket_is_only_deleted_empty(bucket: Any) -> None:
    put(bucket, "a")
    assert status(bucket.delete) == 409


# generations and preconditions


def test_another_upload_is_another_generation(bucket: Any) -> None:
    first, second = put(bucket, "a", b"1"), put(bucket, "a", b"2")
    assert second.generation > first.generation
    assert bucket.blob("a", generation=second.generation).download_as_bytes(retry=None) == b"2"


@the_testbench("keeps generations that were overwritten, as if the bucket had versioning")
def test_an_old_generation_is_gone(bucket: Any) -> None:
    old = put(bucket, "a", b"1").generation
    put(bucket, "a", b"2")
    assert status(bucket.blob("a", generation=old).download_as_bytes) == 404


def test_conditions_of_uploads(bucket: Any) -> None:
    assert status(bucket.blob("a").upload_from_string, b"", if_generation_match=5) == 412
    first = put(bucket, "a", b"1", if_generation_match=0)
    assert status(bucket.blob("a").upload_from_string, b"", if_generation_match=0) == 412
    assert status(bucket.blob("a").upload_from_string, b"", if_generation_match=first.generation + 1) == 412
    assert status(bucket.blob("a").upload_from_string, b"", if_generation_not_match=first.generation) == 304
    assert status(bucket.blob("a").upload_from_string, b"", if_metageneration_match=9) == 412
    assert bucket.blob("a").download_as_bytes(retry=None) == b"1"
    put(bucket, "a", b"2", if_generation_match=first.generation, if_metageneration_match=1)
    assert bucket.blob("a").download_as_bytes(retry=None) == b"2"


@the_testbench("lets it pass, as nothing has another generation than that")
def test_what_is_not_there_matches_no_generation_nor_another(bucket: Any) -> None:
    assert status(bucket.blob("a").upload_from_string, b"", if_generation_not_match=5) == 304


def test_conditions_of_reads(bucket: Any) -> None:
    blob = put(bucket, "a")
    wrong = blob.generation + 1
    assert status(blob.reload, if_generation_match=wrong) == status(blob.download_as_bytes, if_generation_match=wrong) == 412
    assert status(blob.reload, if_metageneration_match=2) == 412
    assert status(blob.reload, if_generation_not_match=blob.generation) == 304
    assert status(bucket.blob("a").download_as_bytes, if_generation_not_match=blob.generation) == 304
    blob.reload(if_generation_match=blob.generation, if_metageneration_match=1, if_generation_not_match=wrong, retry=None)


def test_conditions_of_deletes(bucket: Any) -> None:
    blob = put(bucket, "a")
    assert status(bucket.blob("a").delete, if_generation_match=blob.generation + 1) == 412
    assert status(bucket.blob("a").delete, if_metageneration_match=2) == 412
    assert status(bucket.blob("a").delete, if_generation_not_match=blob.generation) == 304
    bucket.blob("a").delete(if_generation_match=blob.generation, retry=None)
    assert status(bucket.blob("a").delete, if_generation_match=blob.generation) == 404


def race(attempts: Sequence[Callable[[], object]]) -> int:
    """Make them at once. One of them succeeds, and the others are answered with 412; which one."""

    def run(attempt: Callable[[], object]) -> bool:
        try:
            attempt()
        except GoogleAPICallError as error:
            assert error.code == 412
            return False
        return True

    with ThreadPoolExecutor(len(attempts)) as pool:
        won = list(pool.map(run, attempts))
    assert won.count(True) == 1
    return won.index(True)


def test_of_eight_that_create_one_object_one_does(bucket: Any) -> None:
    for number in range(30):
        winner = race([partial(put, bucket, f"race{number}", f"{racer}", if_generation_match=0) for racer in range(8)])
        assert bucket.blob(f"race{number}").download_as_bytes(retry=None) == f"{winner}".encode()


def test_of_eight_that_compose_one_object_one_does(bucket: Any) -> None:
    sources = [put(bucket, f"{racer}", f"{racer}" * 300_000) for racer in range(8)]
    current = 0
    for _ in range(5):
        blobs = [bucket.blob("all") for _ in sources]
        condition = {"if_generation_match": current, "retry": None}
        winner = race([partial(blob.compose, [source], **condition) for blob, source in zip(blobs, sources, strict=True)])
        assert bucket.blob("all").download_as_bytes(retry=None) == f"{winner}".encode() * 300_000
        current = blobs[winner].generation


def test_of_eight_that_change_metadata_one_does(bucket: Any) -> None:
    put(bucket, "a")
    blobs = [bucket.blob("a") for _ in range(8)]
    for racer, blob in enumerate(blobs):
        blob.metadata = {"racer": f"{racer}"}
    winner = race([partial(blob.patch, if_metageneration_match=1, retry=None) for blob in blobs])
    assert bucket.get_blob("a").metadata["racer"] == f"{winner}"


# metadata


def test_changing_metadata(bucket: Any) -> None:
    blob = put(bucket, "a")
    blob.metadata, blob.content_type = {"a": "1", "b": "ü"}, "text/plain"
    blob.patch(retry=None)
    found = bucket.get_blob("a")
    assert (found.metadata["a"], found.metadata["b"], found.content_type) == ("1", "ü", "text/plain")
    assert (found.generation, found.metageneration, found.size) == (blob.generation, 2, 4)
    assert status(found.patch, if_metageneration_match=1) == 412
    found.metadata = {**found.metadata, "a": None}
    found.patch(if_metageneration_match=2, retry=None)
    again = bucket.get_blob("a")
    assert "a" not in again.metadata and again.metadata["b"] == "ü" and again.metageneration == 3


def test_an_update_replaces_all_metadata(bucket: Any, endpoint: str) -> None:
    put(bucket, "a")
    answer = requests.put(f"{endpoint}/storage/v1/b/{bucket.name}/o/a", json={"metadata": {"c": "3"}}, timeout=10).json()
    assert answer["metadata"]["c"] == "3" and "contentType" not in answer and answer["metageneration"] == "2"


@the_testbench("keeps metadata of any size")
def test_custom_metadata_is_at_most_8_kib(bucket: Any) -> None:
    blob = bucket.blob("a")
    blob.metadata = {"k": "v" * 8192}
    assert status(blob.upload_from_string, b"") == 400
    blob.metadata = {"k": "v" * 8191}
    blob.upload_from_string(b"", retry=None)


def test_access_to_a_new_object(bucket: Any) -> None:
    blob = put(bucket, "a", predefined_acl="publicRead")
    blob.acl.reload()
    assert "READER" in blob.acl.all().get_roles()


@the_testbench("forgets the key")
def test_the_key_that_encrypts_a_new_object(bucket: Any) -> None:
    key = "projects/p/locations/global/keyRings/r/cryptoKeys/k"
    bucket.blob("a", kms_key_name=key).upload_from_string(b"data", retry=None)
    assert bucket.get_blob("a").kms_key_name == f"{key}/cryptoKeyVersions/1"


def test_permissions(bucket: Any) -> None:
    asked = ["storage.objects.create", "storage.objects.delete"]
    assert sorted(bucket.test_iam_permissions(asked)) == asked


# reading


def test_ranges(bucket: Any, endpoint: str) -> None:
    data = os.urandom(1000)
    blob = put(bucket, "a/b", data)

    def get(value: str) -> tuple[int, str | None, bytes]:
        url = f"{endpoint}/download/storage/v1/b/{bucket.name}/o/a%2Fb?alt=media"
        answer = requests.get(url, headers={"Range": value}, timeout=10)
        return answer.status_code, answer.headers.get("Content-Range"), answer.content

    assert get("bytes=2-5") == (206, "bytes 2-5/1000", data[2:6])
    assert get("bytes=990-") == (206, "bytes 990-999/1000", data[990:])
    assert get("bytes=990-5000") == (206, "bytes 990-999/1000", data[990:])
    assert get("bytes=-3") == (206, "bytes 997-999/1000", data[997:])
    assert get("bytes=1000-")[0] == 416
    assert blob.download_as_bytes(start=10, end=19, checksum=None, retry=None) == data[10:20]


def test_headers_of_a_download(bucket: Any, endpoint: str) -> None:
    blob = put(bucket, "a", b"data")
    answer = requests.get(f"{endpoint}/storage/v1/b/{bucket.name}/o/a?alt=media", timeout=10)
    assert answer.content == b"data" and answer.headers["Content-Type"] == "video/mp4"
    assert answer.headers["X-Goog-Generation"] == str(blob.generation) and answer.headers["X-Goog-Metageneration"] == "1"
    hashes = answer.headers["X-Goog-Hash"].replace(" ", "").split(",")
    assert sorted(hashes) == [f"crc32c={crc32c(b'data')}", f"md5={md5(b'data')}"]
    assert answer.headers["X-Goog-Stored-Content-Length"] == "4"


# listing


def test_listing(bucket: Any) -> None:
    for name in ("b/1", "b/2", "a", "c", "b0", "é"):
        put(bucket, name)
    assert [blob.name for blob in bucket.list_blobs()] == ["a", "b/1", "b/2", "b0", "c", "é"]
    assert [blob.name for blob in bucket.list_blobs(prefix="b/")] == ["b/1", "b/2"]
    assert [blob.name for blob in bucket.list_blobs(start_offset="b/2", end_offset="c")] == ["b/2", "b0"]
    found = bucket.list_blobs(delimiter="/")
    assert ([blob.name for blob in found], sorted(found.prefixes)) == (["a", "b0", "c", "é"], ["b/"])


PAGES = the_testbench("gives all at once")


@pytest.mark.parametrize("size", [*(pytest.param(size, marks=PAGES) for size in (1, 2, 3)), 7, 1000])
def test_pages_of_a_listing(bucket: Any, size: int) -> None:
    names = [f"p{number}" for number in range(7)]
    for name in names:
        put(bucket, name)
    pages = list(bucket.list_blobs(page_size=size).pages)
    assert [page.num_items for page in pages] == [min(size, 7 - start) for start in range(0, 7, size)]
    assert [blob.name for blob in bucket.list_blobs(page_size=size)] == names


@PAGES
def test_prefixes_count_on_pages(bucket: Any) -> None:
    for name in ("a/1", "a/2", "b/1", "c"):
        put(bucket, name)
    found = bucket.list_blobs(delimiter="/", page_size=1)
    pages = [([blob.name for blob in page], page.prefixes) for page in found.pages]
    assert pages == [([], ("a/",)), ([], ("b/",)), (["c"], ())]


# composing and copying


def test_composing(bucket: Any) -> None:
    pieces = [os.urandom(70_000) for _ in range(3)]
    sources = [put(bucket, f"p{number}", piece) for number, piece in enumerate(pieces)]
    blob = bucket.blob("whole")
    blob.metadata, blob.content_type = {"k": "v"}, "text/plain"
    blob.compose(sources, if_generation_match=0, retry=None)
    found = bucket.get_blob("whole")
    assert (found.size, found.crc32c) == (210_000, crc32c(b"".join(pieces)))
    assert (found.content_type, found.metadata["k"], found.metageneration) == ("text/plain", "v", 1)
    assert found.download_as_bytes(retry=None) == b"".join(pieces)
    assert [blob.name for blob in bucket.list_blobs()] == ["p0", "p1", "p2", "whole"]


@the_testbench("gives composite objects an MD5")
def test_a_composite_object_has_no_md5(bucket: Any) -> None:
    bucket.blob("b").compose([put(bucket, "a")], retry=None)
    assert bucket.get_blob("b").md5_hash is None


@the_testbench("has no componentCount")
def test_a_composite_object_says_how_many_components_it_has(bucket: Any) -> None:
    sources = [put(bucket, "a"), put(bucket, "b")]
    blob = bucket.blob("two")
    blob.compose(sources, retry=None)
    bucket.blob("five").compose([blob, sources[0], blob], retry=None)
    assert (bucket.get_blob("two").component_count, bucket.get_blob("five").component_count) == (2, 5)


def test_composing_appends_where_the_destination_is_a_source(bucket: Any) -> None:
    blob = put(bucket, "a", b"one")
    first = blob.generation
    again = bucket.blob("a")
    again.compose([blob, put(bucket, "b", b"two")], if_generation_match=first, retry=None)
    assert again.generation > first and bucket.blob("a").download_as_bytes(retry=None) == b"onetwo"


@the_testbench("expects the result to have the MD5 that Google's client says the destination had")
def test_a_checksum_in_a_compose_request_is_ignored(bucket: Any) -> None:
    blob = put(bucket, "a", b"one")
    blob.compose([blob, put(bucket, "b", b"two")], retry=None)
    assert bucket.blob("a").download_as_bytes(retry=None) == b"onetwo"


def test_composing_what_is_not_there(bucket: Any) -> None:
    put(bucket, "a")
    assert status(bucket.blob("c").compose, [bucket.blob("a"), bucket.blob("none")]) == 404
    assert status(bucket.blob("c").compose, [bucket.blob("a")] * 33) == 400
    bucket.blob("c").compose([bucket.blob("a")] * 32, retry=None)
    assert bucket.get_blob("c").size == 128


@the_testbench("makes an empty object of no sources")
def test_composing_nothing(bucket: Any) -> None:
    assert status(bucket.blob("c").compose, []) == 400


def test_conditions_of_composing(bucket: Any) -> None:
    blob = put(bucket, "a", b"one")
    compose = bucket.blob("a").compose
    assert status(compose, [bucket.blob("a")], if_generation_match=0) == 412
    assert status(compose, [bucket.blob("a")], if_generation_match=blob.generation + 1) == 412
    assert status(compose, [bucket.blob("a")], if_metageneration_match=2) == 412
    assert status(compose, [bucket.blob("a")], if_source_generation_match=[blob.generation + 1]) == 412
    bucket.blob("c").compose([bucket.blob("a")], if_source_generation_match=[blob.generation], retry=None)
    assert bucket.get_blob("a").generation == blob.generation


@the_testbench("composes objects of different storage classes")
def test_sources_are_of_one_storage_class(bucket: Any) -> None:
    cold = bucket.blob("cold")
    cold.storage_class = "COLDLINE"
    cold.upload_from_string(b"", retry=None)
    assert status(bucket.blob("c").compose, [cold, put(bucket, "a")]) == 400
    bucket.blob("c").compose([cold], retry=None)
    assert bucket.get_blob("c").storage_class == "COLDLINE"


@the_testbench("looks for deleteSourceObjects in the query, while Google's client sends it in the body")
def test_composing_can_delete_the_sources(bucket: Any) -> None:
    sources = [put(bucket, "a", b"1"), put(bucket, "b", b"2")]
    bucket.blob("b").compose(sources, delete_source_objects=True, retry=None)
    assert [(blob.name, blob.size) for blob in bucket.list_blobs()] == [("b", 2)]


def test_copying(bucket: Any, client: Any) -> None:
    blob = put(bucket, "a", b"data")
    other = client.create_bucket(f"bucket-{uuid.uuid4().hex[:12]}")
    assert status(bucket.copy_blob, blob, other, "b", if_source_generation_match=1) == 412
    bucket.copy_blob(blob, other, "b", if_generation_match=0, retry=None)
    assert status(bucket.copy_blob, blob, other, "b", if_generation_match=0) == 412
    found = other.get_blob("b")
    assert (found.content_type, found.md5_hash, found.metageneration) == ("video/mp4", md5(b"data"), 1)
    assert found.download_as_bytes(retry=None) == b"data"
    token, done, size = other.blob("c").rewrite(found, retry=None)
    assert (token, done, size) == (None, 4, 4) and other.blob("c").download_as_bytes(retry=None) == b"data"


@the_testbench("has no componentCount")
def test_rewriting_into_another_class_makes_one_component(bucket: Any) -> None:
    blob = bucket.blob("two")
    blob.compose([put(bucket, "a"), put(bucket, "b")], retry=None)
    bucket.blob("same").rewrite(blob, retry=None)
    blob.update_storage_class("NEARLINE")
    found = bucket.get_blob("two")
    assert (found.storage_class, found.component_count, found.md5_hash) == ("NEARLINE", 1, None)
    assert bucket.get_blob("same").component_count == 2


# batches


@the_testbench("knows no batches")
def test_batches(bucket: Any, client: Any) -> None:
    names = [f"a/{number} ü" for number in range(20)]
    for name in names:
        put(bucket, name)
    with client.batch(raise_exception=False) as batch:
        for name in [*names[:10], "none", *names[10:19]]:
            bucket.blob(name).delete()
    assert [answer.status_code for answer in batch._responses] == [204] * 10 + [404] + [204] * 9
    assert [blob.name for blob in bucket.list_blobs()] == names[19:]
