"""Starting: what is tried, what is found out about the server, and what is said of all that can be wrong."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.server.certificates import make_pair
from tests.services.servers import S3Bucket

from fake_s3 import BUCKET, Answer, Asked, FakeS3, error, fake_s3
from s3_opening import Figures, opened, options
from tusd.plugin import StorageUnavailable
from tusd.testing.server import free_port
from tusd_plugin_s3.bucket import Bucket, Gone, Missing, Part
from tusd_plugin_s3.cures import ACTIONS, needed
from tusd_plugin_s3.figures import OPERATIONS


@pytest.fixture
def fake() -> Iterator[FakeS3]:
    with fake_s3() as server:
        yield server


async def refusal(endpoint: str, **more: Any) -> str:
    """What a start is refused with."""
    with pytest.raises(StorageUnavailable) as failure:
        async with opened(endpoint, attempts=1, **more):
            raise AssertionError("it was opened")
    return str(failure.value)


# --- what is found out


@pytest.mark.parametrize(
    ("conditions", "conditional", "quoted"),
    [
        ("quoted", True, True),
        ("unquoted", True, False),
        ("ignored", False, None),
        ("unknown", False, None),
        ("create-only", False, None),
        ("match-ignored", False, None),
    ],
)
async def test_conditional_writes_are_used_where_they_work(
    fake: FakeS3, caplog: pytest.LogCaptureFixture, conditions: Any, conditional: bool, quoted: bool | None
) -> None:
    fake.conditions = conditions
    async with opened(fake.endpoint) as bucket:
        assert bucket.conditional == conditional
        if conditional:
            assert bucket.quoted == quoted
            first = await bucket.put("k", b"1", absent=True)
            assert await bucket.put("k", b"2", match=first) != first
    said = [record.getMessage() for record in caplog.records if record.name == "tusd.test"]
    assert said == (
        [] if conditional else ["the server cannot write with conditions: what keeps uploads right is their locks alone"]
    )
    assert not [key for key in fake.objects if "trial" in key] and not fake.multiparts


async def test_conditional_writes_can_be_demanded(fake: FakeS3) -> None:
    fake.conditions = "ignored"
    assert "the server cannot write with conditions; set storage.conditional_writes: auto" in await refusal(
        fake.endpoint, conditional_writes="on"
    )
    fake.conditions = "quoted"
    async with opened(fake.endpoint, conditional_writes="on") as bucket:
        assert bucket.conditional


async def test_the_trial_stays_below_its_prefixes_and_leaves_nothing(fake: FakeS3) -> None:
    async with opened(fake.endpoint, prefix="data", info_prefix="meta"):
        pass
    keys = {asked.key for asked in fake.asked if asked.key}
    assert keys and all(re.fullmatch(r"(meta/|data/)tusd-trial-[0-9a-f]{16}(-missing|-multipart)?", key) for key in keys), keys
    assert not fake.objects and not fake.multiparts
    assert len(fake.asked) <= 14, "each worker asks this much at its start"


async def test_the_trial_carries_what_uploads_carry(fake: FakeS3) -> None:
    more: dict[str, Any] = {
        "storage_class": "STANDARD_IA",
        "acl": "private",
        "tags": {"a": "b"},
        "encryption": {"algorithm": "aws:kms"},
    }
    async with opened(fake.endpoint, **more):
        pass
    [creating] = [asked for asked in fake.asked if asked.operation == "create_multipart_upload"]
    assert creating.headers["x-amz-storage-class"] == "STANDARD_IA" and creating.headers["x-amz-tagging"] == "a=b"
    assert creating.headers["x-amz-acl"] == "private" and creating.headers["x-amz-server-side-encryption"] == "aws:kms"


async def test_figures_are_there_from_the_start(fake: FakeS3) -> None:
    figures = Figures()
    async with opened(fake.endpoint, figures, concurrency=7):
        assert figures.values["tusd_s3_upload_semaphore_limit", ()] == 7
    assert {"list_parts", "create_multipart_upload"} <= {labels[0] for _, labels in figures.observed} & set(OPERATIONS)


# --- what is wrong

REFUSALS: list[tuple[str, Answer, dict[str, Any], str]] = [
    ("no bucket", error(404, "NoSuchBucket"), {}, "there is no such bucket; make it, or correct storage.bucket"),
    ("key", error(403, "InvalidAccessKeyId"), {}, "the server does not know the access key of storage.access_key_id; correct it"),
    (
        "secret",
        error(403, "SignatureDoesNotMatch"),
        {},
        "the access key and the secret of storage.access_key_id do not belong together",
    ),
    ("expired", error(400, "ExpiredToken"), {}, "the credentials of storage.access_key_id have expired; get new ones"),
    ("token", error(400, "InvalidToken"), {}, "does not take the session token of storage.access_key_id"),
    (
        "clock",
        error(403, "RequestTimeTooSkewed", ServerTime="2026-11-28T12:00:00Z"),
        {},
        "this machine's clock is wrong (the server has 2026-11-28T12:00:00Z); set it",
    ),
    (
        "region in a field",
        error(400, "AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong; expecting 'eu-x-1'", Region="eu-x-1"),
        {},
        "the bucket is in another region; set storage.region: eu-x-1",
    ),
    (
        "region in words",
        error(
            400, "AuthorizationHeaderMalformed", "The authorization header is malformed; the region is wrong; expecting 'eu-x-2'."
        ),
        {},
        "the bucket is in another region; set storage.region: eu-x-2",
    ),
    (
        "region in a header",
        Answer(301, error(301, "PermanentRedirect").body, {"x-amz-bucket-region": "eu-x-3"}),
        {},
        "the bucket is in another region; set storage.region: eu-x-3",
    ),
    ("region unsaid", error(400, "IllegalLocationConstraintException"), {}, "another region; correct storage.region"),
    (
        "denied",
        error(403, "AccessDenied"),
        {},
        "put_object was refused; allow storage.access_key_id s3:PutObject (docs/howto/s3.md",
    ),
    ("no tags", error(501, "NotImplemented"), {"tags": {"a": "b"}}, "cannot do what put_object asks for; remove storage.tags"),
    (
        "ACLs off",
        error(400, "AccessControlListNotSupported"),
        {"acl": "private"},
        "the bucket does not allow ACLs; remove storage.acl",
    ),
    (
        "class",
        error(400, "InvalidStorageClass"),
        {"storage_class": "COLD"},
        "no storage class COLD; correct storage.storage_class",
    ),
    (
        "KMS",
        error(400, "KMS.NotFoundException", "no key"),
        {"encryption": {"algorithm": "aws:kms", "kms_key": "k"}},
        "the key of storage.encryption cannot be used (KMS.NotFoundException: no key); correct storage.encryption.kms_key",
    ),
    (
        "not S3",
        Answer(404, b"<html>nginx</html>"),
        {},
        "what answers there is no S3 server, or has its S3 API elsewhere; correct storage.endpoint",
    ),
    ("not S3 either", Answer(405), {}, "what answers there is no S3 server"),
    ("a web page", Answer(200, b"<html>welcome</html>"), {}, "what answers there is no S3 server"),
    (
        "a web page for all",
        Answer(200, b"welcome"),
        {},
        "its answer to put_object is none of S3 (500: Internal Server Error); is it an",
    ),
    (
        "a gateway",
        Answer(502, b"<html>bad gateway</html>"),
        {},
        "its answer to put_object is none of S3 (502: Bad Gateway); is it an",
    ),
    ("hangs up", Answer(hang_up=True), {}, "it closed the connection without an answer; is it an S3 server"),
    ("unknown", error(418, "Teapot", "short and\nstout"), {}, "put_object was refused: Teapot: short and stout"),
]


@pytest.mark.parametrize(("answer", "more", "said"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS])
async def test_a_refusal_says_what_where_and_the_cure(
    fake: FakeS3, caplog: pytest.LogCaptureFixture, answer: Answer, more: dict[str, Any], said: str
) -> None:
    fake.rule = lambda asked: answer
    text = await refusal(fake.endpoint, **more)
    assert text.startswith(f'bucket "{BUCKET}" at {fake.endpoint}: ') and said in text and "\n" not in text, text
    assert not [record for record in caplog.records if record.name == "tusd.test"], "it is told once"


@pytest.mark.parametrize(
    ("operation", "actions"),
    [
        ("get_object", ["s3:GetObject"]),
        ("delete_object", ["s3:DeleteObject"]),
        ("list_objects", ["s3:ListBucket"]),
        ("create_multipart_upload", ["s3:PutObject"]),
        ("list_parts", ["s3:ListMultipartUploadParts"]),
        ("abort_multipart_upload", ["s3:AbortMultipartUpload"]),
    ],
)
async def test_what_the_permissions_miss_is_named(fake: FakeS3, operation: str, actions: list[str]) -> None:
    fake.deny(operation)
    text = await refusal(fake.endpoint)
    assert f"{operation} was refused; allow storage.access_key_id {' and '.join(actions)}" in text


async def test_all_that_the_permissions_miss_is_named_at_once(fake: FakeS3) -> None:
    fake.deny("get_object", "list_parts", "abort_multipart_upload", "delete_object")
    text = await refusal(fake.endpoint)
    for action in ("s3:GetObject", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload", "s3:DeleteObject"):
        assert action in text


async def test_a_server_that_keeps_nothing(fake: FakeS3) -> None:
    fake.rule = lambda asked: Answer(
        200,
        b"" if asked.operation == "put_object" else b"welcome",
        {"ETag": '"e"', "Last-Modified": "Sat, 28 Nov 2026 12:00:00 GMT"},
    )
    assert "what answers there is no S3 server" in await refusal(fake.endpoint)


async def test_without_a_listing_missing_keys_cannot_be_told(fake: FakeS3) -> None:
    """As AWS answers where s3:ListBucket is not allowed."""

    def rule(asked: Asked) -> Answer | None:
        if asked.operation == "list_objects":
            return error(403, "AccessDenied")
        return Answer(403) if asked.operation == "head_object" and asked.key not in fake.objects else None

    fake.rule = rule
    assert "without s3:ListBucket the server answers 403 where there is no object" in await refusal(fake.endpoint)


async def test_what_options_need_is_named_with_them(fake: FakeS3) -> None:
    fake.deny("create_multipart_upload")
    text = await refusal(fake.endpoint, tags={"a": "b"}, acl="private", encryption={"algorithm": "aws:kms"})
    assert (
        "and for storage.tags, acl, encryption also s3:PutObjectTagging, s3:PutObjectAcl, kms:GenerateDataKey, kms:Decrypt"
        in text
    )


async def test_an_object_that_cannot_be_removed_hides_nothing_else(fake: FakeS3) -> None:
    fake.deny("delete_object", "get_object")
    text = await refusal(fake.endpoint)
    assert "s3:GetObject" in text and "s3:DeleteObject" in text


async def test_nothing_listens() -> None:
    text = await refusal(f"http://127.0.0.1:{free_port()}")
    assert text.endswith("nothing listens there; start the server, or correct storage.endpoint")


async def test_a_name_that_is_not_known() -> None:
    text = await refusal("http://s3.nowhere.invalid")
    assert "the server's name is not known; correct storage.endpoint" in text


async def test_tls_that_is_not_trusted(tmp_path: Path) -> None:
    with fake_s3(make_pair(tmp_path, "server")) as server:
        text = await refusal(server.endpoint)
        assert "its TLS cannot be used (SSLError: " in text and text.endswith("set storage.ca_bundle if you trust it")
        async with opened(server.endpoint, ca_bundle=str(tmp_path / "server.crt")) as bucket:
            assert (await bucket.get_range("x", 0, 0)) == b""
        async with opened(server.endpoint, verify=False):
            pass


@pytest.mark.parametrize("there", [False, True])
async def test_a_certificate_file_that_cannot_be_used(fake: FakeS3, tmp_path: Path, there: bool) -> None:
    path = tmp_path / "ca.crt"
    if there:
        path.write_text("no certificate")
    text = await refusal(fake.endpoint.replace("http:", "https:"), ca_bundle=str(path))
    assert text.startswith(f"storage.ca_bundle: {path} cannot be used: ") and not text.endswith("None"), text


async def test_tls_spoken_to_a_server_that_does_not(fake: FakeS3) -> None:
    text = await refusal(fake.endpoint.replace("http:", "https:"))
    assert "its TLS cannot be used" in text and text.endswith("write http:// in storage.endpoint")


async def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        text = await refusal(f"http://127.0.0.1:{silent.getsockname()[1]}", read_timeout="200ms")
    assert "it was silent for 0.2 s" in text


async def test_a_proxy(fake: FakeS3) -> None:
    text = await refusal("http://s3.nowhere.invalid", proxy=f"http://127.0.0.1:{free_port()}")
    assert "cannot be used" in text and text.endswith("correct storage.proxy")
    fake.rule = lambda asked: error(403, "AccessDenied")
    await refusal("http://s3.nowhere.invalid", proxy=fake.endpoint)
    assert fake.asked[0].headers["host"] == "s3.nowhere.invalid", "the proxy was asked"


async def test_a_region_that_the_sdk_would_find_is_named(fake: FakeS3) -> None:
    """It would take two requests more for each client."""

    def elsewhere(asked: Asked) -> Answer | None:
        there = "/eu-x-9/" in asked.headers["authorization"]
        return None if there else error(400, "AuthorizationHeaderMalformed", "the region is wrong", Region="eu-x-9")

    fake.rule = elsewhere
    assert (await refusal(fake.endpoint)).endswith("the bucket is in another region; set storage.region: eu-x-9")
    async with opened(fake.endpoint, region="eu-x-9"):
        assert not fake.objects


@pytest.mark.parametrize("name", ["file", "file/below"])
async def test_a_folder_for_parts_that_cannot_be_written(fake: FakeS3, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    text = await refusal(fake.endpoint, spill=str(tmp_path / name))
    assert text.startswith(f"storage.spill: {tmp_path / name} cannot be written: ") and not fake.asked
    async with opened(fake.endpoint, spill=str(tmp_path / "new")):
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


# --- credentials


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine on which the SDK finds none. Returns the file that it would look into."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return tmp_path / "credentials"


NONE = {"access_key_id": None, "secret_access_key": None}


async def test_no_credentials(fake: FakeS3, no_credentials: Path) -> None:
    text = await refusal(fake.endpoint, **NONE)
    assert text.endswith(
        "there are no credentials; set storage.access_key_id and secret_access_key, or give them as the AWS SDK finds them"
    )
    assert not fake.asked


async def test_credentials_of_the_environment(fake: FakeS3, no_credentials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    async with opened(fake.endpoint, **NONE):
        assert "Credential=AKIAENV/" in fake.asked[0].headers["authorization"]
    fake.rule = lambda asked: error(403, "InvalidAccessKeyId")
    assert "does not know the access key of the AWS SDK (env); correct it" in await refusal(fake.endpoint, **NONE)


async def test_credentials_of_a_profile(fake: FakeS3, no_credentials: Path) -> None:
    no_credentials.write_text("[work]\naws_access_key_id = AKIAWORK\naws_secret_access_key = s\n")
    async with opened(fake.endpoint, aws_profile="work", **NONE):
        assert "Credential=AKIAWORK/" in fake.asked[0].headers["authorization"]
    text = await refusal(fake.endpoint, aws_profile="play", **NONE)
    assert text.endswith("there is no profile play in ~/.aws/config; correct storage.aws_profile")


async def test_temporary_credentials(fake: FakeS3) -> None:
    async with opened(fake.endpoint, session_token="t0ken"):
        assert {asked.headers["x-amz-security-token"] for asked in fake.asked} == {"t0ken"}


async def test_secrets_are_in_no_message_and_no_log(fake: FakeS3, caplog: pytest.LogCaptureFixture) -> None:
    fake.rule = lambda asked: error(403, "SignatureDoesNotMatch")
    with caplog.at_level(logging.INFO):
        text = await refusal(fake.endpoint, secret_access_key="s3cr3t", session_token="t0k3n")
    assert "s3cr3t" not in text + caplog.text and "t0k3n" not in text + caplog.text


# --- real servers


def given(bucket: S3Bucket) -> dict[str, Any]:
    server = bucket.server
    return {
        "bucket": bucket.name,
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
        "region": server.region,
    }


async def test_a_real_server_is_found_to_be_good(s3_bucket: S3Bucket) -> None:
    async with opened(s3_bucket.server.endpoint, **given(s3_bucket)) as bucket:
        await bucket.check()
        await lives(bucket)
        assert [one.key async for one in bucket.list("")] == ["k"]


async def lives(bucket: Bucket) -> None:
    """What differs between servers works through the bucket."""
    if bucket.conditional:
        first = await bucket.put("k", b"1", absent=True)
        assert await bucket.put("k", b"12", match=first) != first
    else:
        await bucket.put("k", b"12")
    assert (await bucket.get("k")).data == b"12" and await bucket.get_range("k", 1, 2) == b"2"
    source, key = "a b+&/ü ☃?#'.bin", "made of it"
    data = bytearray(os.urandom(6 << 20))
    await bucket.put(source, data)
    upload = await bucket.create_multipart(key, {"Metadata": {"name": "x"}, "ContentDisposition": "attachment"})
    first = await bucket.copy_part(key, upload, 1, source, 0, len(data), True)
    second = await bucket.copy_part(key, upload, 5, source, 7, (5 << 20) + 7, False)
    last = await bucket.upload_part(key, upload, 9, bytearray(b"end"))
    parts = [Part(1, len(data), first), Part(5, 5 << 20, second), Part(9, 3, last)]
    # Swift does not tell the ETag of a part that was copied.
    assert [(part.number, part.size) for part in await bucket.list_parts(key, upload)] == [
        (part.number, part.size) for part in parts
    ]
    assert await bucket.list_parts(key, upload, 5) == parts[2:]
    with pytest.raises(Missing):
        await bucket.copy_part(key, upload, 2, "no such key", 0, 5, True)
    await bucket.complete(key, upload, parts)
    with contextlib.suppress(Gone):  # Ceph and Swift say that it is done
        await bucket.complete(key, upload, parts)
    await bucket.abort(key, upload)
    whole = bytes(data) + bytes(data[7 : (5 << 20) + 7]) + b"end"
    assert b"".join([piece async for piece in bucket.stream(key, 0, len(whole))]) == whole and (
        await bucket.head(key)
    ).size == len(whole)
    await bucket.delete(source, key, "no such key")
    upload = await bucket.create_multipart(key, {})
    part = Part(1, 3, await bucket.upload_part(key, upload, 1, bytearray(b"abc")))
    await bucket.abort(key, upload)
    await bucket.abort(key, upload)
    for late in (bucket.complete(key, upload, [part]), bucket.upload_part(key, upload, 2, b"x"), bucket.list_parts(key, upload)):
        with pytest.raises(Gone):
            await late


async def test_what_each_real_server_can(localstack_bucket: S3Bucket, swift_bucket: S3Bucket) -> None:
    async with opened(localstack_bucket.server.endpoint, **given(localstack_bucket)) as bucket:
        assert (bucket.conditional, bucket.quoted) == (True, True)
    async with opened(swift_bucket.server.endpoint, **given(swift_bucket)) as bucket:
        assert not bucket.conditional


async def test_ceph_wants_etags_without_quotes(ceph_bucket: S3Bucket) -> None:
    async with opened(ceph_bucket.server.endpoint, **given(ceph_bucket)) as bucket:
        assert (bucket.conditional, bucket.quoted) == (True, False)


WRONG: list[tuple[str, dict[str, str], str]] = [
    ("localstack", {"bucket": "no-such-bucket"}, "there is no such bucket; make it"),
    ("swift", {"bucket": "no-such-bucket"}, "there is no such bucket; make it"),
    ("swift", {"secret_access_key": "x"}, "the access key and the secret of storage.access_key_id do not belong together"),
    ("swift", {"access_key_id": "nobody:else"}, "the access key and the secret of storage.access_key_id do not belong together"),
    ("swift", {"region": "eu-central-1"}, "the bucket is in another region; set storage.region: us-east-1"),
    ("ceph", {"bucket": "no-such-bucket"}, "there is no such bucket; make it"),
    ("ceph", {"secret_access_key": "x"}, "the access key and the secret of storage.access_key_id do not belong together"),
    ("ceph", {"access_key_id": "nobody"}, "the server does not know the access key of storage.access_key_id"),
]


@pytest.mark.parametrize(("server", "wrong", "said"), WRONG)
async def test_what_real_servers_refuse(request: pytest.FixtureRequest, server: str, wrong: dict[str, str], said: str) -> None:
    bucket: S3Bucket = request.getfixturevalue(f"{server}_bucket")
    assert said in await refusal(bucket.server.endpoint, **{**given(bucket), **wrong})


# --- the whole server


def configured(tmp_path: Path, endpoint: str, **more: object) -> Path:
    path = tmp_path / "config.yaml"
    lines = {
        "use": "s3",
        "bucket": BUCKET,
        "endpoint": endpoint,
        "access_key_id": "a",
        "secret_access_key": "b",
        "attempts": 1,
        **more,
    }
    path.write_text(
        f"server: {{listen: '127.0.0.1:0', run_directory: {tmp_path}/run}}\n"
        "storage:\n" + "".join(f"  {name}: {value}\n" for name, value in lines.items())
    )
    return path


def tusd(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tusd", *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("command", [["check", "--connect"], ["serve"]])
def test_the_command_line_says_what_is_wrong(fake: FakeS3, tmp_path: Path, command: list[str]) -> None:
    fake.rule = lambda asked: error(404, "NoSuchBucket")
    ended = tusd(*command, "-c", str(configured(tmp_path, fake.endpoint)))
    assert ended.returncode == 2
    said = f'storage:s3: cannot be opened: bucket "{BUCKET}" at {fake.endpoint}: there is no such bucket; make it, or correct'
    assert said in ended.stderr and "Traceback" not in ended.stderr, ended.stderr


def test_a_check_that_is_good(fake: FakeS3, tmp_path: Path) -> None:
    ended = tusd("check", "--connect", "-c", str(configured(tmp_path, fake.endpoint)))
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    assert "good, and all backends can be used" in ended.stdout and not fake.objects


def test_a_check_without_connect_asks_nobody(fake: FakeS3, tmp_path: Path) -> None:
    ended = tusd("check", "-c", str(configured(tmp_path, fake.endpoint)))
    assert ended.returncode == 0 and not fake.asked
    ended = tusd("check", "-c", str(configured(tmp_path, "localhost:9000")))
    assert ended.returncode == 2 and re.search(r"config\.yaml:\d+:\d+ storage\.endpoint: .*not an endpoint", ended.stderr), (
        ended.stderr
    )


def test_secrets_are_not_shown(fake: FakeS3, tmp_path: Path) -> None:
    ended = tusd(
        "config", "show", "-c", str(configured(tmp_path, fake.endpoint, secret_access_key="s3cr3t", session_token="t0k3n"))
    )
    assert ended.returncode == 0 and "bucket: bucket" in ended.stdout
    assert "s3cr3t" not in ended.stdout and "t0k3n" not in ended.stdout


# --- permissions


def test_every_request_has_its_permission() -> None:
    """The policy in docs/howto/s3.md is made of these."""
    source = Path(sys.modules[Bucket.__module__].__file__ or "").read_text()
    asked = set(re.findall(r"self\.client\.([a-z_0-9]+)\b", source)) - {"meta", "close"}
    named = {name.replace("list_objects_v2", "list_objects") for name in asked}
    assert named == set(ACTIONS)
    assert needed(options("http://h")) == {
        *(
            "s3:AbortMultipartUpload",
            "s3:DeleteObject",
            "s3:GetObject",
            "s3:ListBucket",
            "s3:ListMultipartUploadParts",
            "s3:PutObject",
        ),
    }
    assert needed(options("http://h", tags={"a": "b"})) - needed(options("http://h")) == {"s3:PutObjectTagging"}
