"""What is sent without the SDK is signed, addressed and described as the SDK does it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.config import Config
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from s3_opening import read_once
from tusd import plugin
from tusd_plugin_s3 import connecting
from tusd_plugin_s3.headers import carried
from tusd_plugin_s3.options import Options
from tusd_plugin_s3.quick import headers_of, place_of
from tusd_plugin_s3.signing import UNSIGNED, Keys, Signer, path_of, query_of

KEYS: dict[str, Any] = {"access_key_id": "AK/ID", "secret_access_key": "sec/ret+"}

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40) | st.text("aZ0 +~/-_.%&=?#:;ü€", min_size=1)
visible = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
names = st.from_regex(r"(x-amz-(meta-[a-z0-9_.!-]{1,20}|acl|tagging)|if-match|range|content-(type|md5))", fullmatch=True)


@given(
    key=text,
    host=st.sampled_from(["s3.example.com", "b.s3.example.com:8443", "127.0.0.1:9000", "[::1]:9000"]),
    headers=st.dictionaries(names, visible, max_size=6),
    query=st.lists(st.tuples(text, text), max_size=4),
    body=st.none() | st.binary(max_size=100),
    token=st.none() | st.from_regex(r"[A-Za-z0-9+/=]{1,40}", fullmatch=True),
    secret=st.text(min_size=1, max_size=40).filter(lambda found: found.isascii()),
    method=st.sampled_from(["GET", "HEAD", "PUT", "DELETE"]),
    moment=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)),
    region=st.sampled_from(["us-east-1", "auto", "fr-par"]),
)
def test_signatures_are_those_of_the_sdk(
    key: str,
    host: str,
    headers: dict[str, str],
    query: list[tuple[str, str]],
    body: bytes | None,
    token: str | None,
    secret: str,
    method: str,
    moment: datetime,
    region: str,
) -> None:
    """With `body` its digest is signed."""
    path, asked = "/bucket/" + path_of(key), query_of(query)
    request = AWSRequest(method, f"https://{host}{path}?{asked}", {**headers}, body)
    request.context["client_config"] = Config(s3={"payload_signing_enabled": body is not None})
    with patch("botocore.auth.get_current_datetime", lambda: moment.replace(tzinfo=UTC)):
        S3SigV4Auth(Credentials("AKID", secret, token), "s3", region).add_auth(request)
    payload = UNSIGNED if body is None else hashlib.sha256(body).hexdigest()
    ours = Signer(region).sign(
        Keys("AKID", secret, token), f"{moment:%Y%m%dT%H%M%SZ}", method, path, {**headers, "host": host}, asked, payload
    )
    assert ours == {"host": host} | {name.lower(): value for name, value in request.headers.items()}


def test_a_signer_goes_along_with_days_and_secrets() -> None:
    signer = Signer("us-east-1")

    def signed(by: Signer, secret: str, day: int) -> str:
        return by.sign(Keys("a", secret), f"202611{day:02}T120000Z", "GET", "/b/k", {"host": "h"})["authorization"]

    for secret, day in [("s", 1), ("s", 2), ("t", 2), ("s", 2), ("s", 1)]:
        assert signed(signer, secret, day) == signed(Signer("us-east-1"), secret, day)


def test_secrets_are_not_shown() -> None:
    assert "secret" not in repr(Keys("a", "secret", "secret too"))


def made(**given: Any) -> Options:
    return Options.model_validate({"bucket": "uploads", **given})


BODY: Any = bytearray(b"x")


class Sent:
    """A client whose requests are kept instead of sent."""

    def __init__(self, options: Options) -> None:
        self.client, _ = read_once(connecting.make_client)(options)
        keep: Any = self._keep
        self.client.meta.events.register("before-send.s3", keep)
        self.last: Any = None

    def _keep(self, request: Any, **_: Any) -> AWSResponse:
        self.last = request
        raw: Any = SimpleNamespace(stream=lambda: [])
        headers: Any = {"ETag": '"e"'}
        return AWSResponse(request.url, 200, headers, raw)


@pytest.fixture
def sending() -> Iterator[Callable[[Options], Sent]]:
    clients: list[Sent] = []

    def send(options: Options) -> Sent:
        clients.append(Sent(options))
        return clients[-1]

    yield send
    for one in clients:
        one.client.close()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"region": "us-east-1"},
        {"region": "eu-west-1"},
        {"region": "cn-north-1"},
        {"region": "eu-west-1", "addressing": "path"},
        {"region": "eu-west-1", "bucket": "up.loads"},
        {"region": "eu-west-1", "dual_stack": True},
        {"region": "eu-west-1", "transfer_acceleration": True},
        {"region": "eu-west-1", "transfer_acceleration": True, "dual_stack": True},
        {"endpoint": "http://127.0.0.1:9000"},
        {"endpoint": "https://[::1]:9000"},
        {"endpoint": "https://s3.example.com:443"},
        {"endpoint": "http://s3.example.com", "addressing": "virtual", "region": "xx-1"},
        {"profile": "r2", "endpoint": "https://0123.r2.cloudflarestorage.com"},
        {"profile": "scaleway", "region": "fr-par"},
        {"profile": "google"},
        {"session_token": "token+/="},
    ],
)
def test_requests_go_where_the_sdk_sends_them(sending: Callable[[Options], Sent], given: dict[str, Any]) -> None:
    options = made(**KEYS, **given)
    sent = sending(options)
    place = connecting.place(sent.client, options)
    assert place is not None
    for key in ("a", "ü +~/%2F//..k?#&=", "/a", "k" * 300):
        sent.client.put_object(Bucket=options.bucket, Key=key, Body=BODY)
        assert place.origin + place.path + path_of(key) == sent.last.url
        scope = sent.last.headers["Authorization"].decode().split(",")[0].split("/")
        assert scope[-4:] == [scope[-4], place.region, "s3", "aws4_request"] and scope[-5:-3][1].isdecimal()
    assert place.origin.endswith("//" + place.host)


@pytest.mark.parametrize(
    "given",
    [
        {"bucket": "arn:aws:s3:eu-west-1:123456789012:accesspoint/name", "region": "eu-west-1"},
        {"bucket": "name--use1-az4--x-s3", "region": "us-east-1"},
        {"proxy": "http://proxy:3128"},
    ],
)
def test_what_only_the_sdk_knows_goes_through_it(sending: Callable[[Options], Sent], given: dict[str, Any]) -> None:
    options = made(**KEYS, **given)
    assert connecting.place(sending(options).client, options) is None


def test_proxies_of_the_environment(sending: Callable[[Options], Sent], monkeypatch: pytest.MonkeyPatch) -> None:
    options = made(**KEYS, endpoint="https://s3.example.com")
    sent = sending(options)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert connecting.place(sent.client, options) is None
    monkeypatch.setenv("NO_PROXY", "example.com")
    assert connecting.place(sent.client, options) is not None


def test_other_signatures_are_not_ours(sending: Callable[[Options], Sent]) -> None:
    options = made(**KEYS)
    url = sending(options).client.generate_presigned_url("put_object", Params={"Bucket": "uploads", "Key": "k"})
    assert place_of(url, "k") is not None
    for changed in (
        url.replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"),
        url.replace("%2Fs3%2F", "%2Fs3express%2F"),
        url.replace("SignedHeaders=host", "SignedHeaders=host%3Bx"),
        url + "&X-Amz-S3session-Token=x",
        url.replace("/k?", "/l?"),
        "https://uploads.example.com/k?Signature=x&AWSAccessKeyId=y",
    ):
        assert changed != url and place_of(changed, "k") is None


FULL: dict[str, Any] = {
    "endpoint": "http://127.0.0.1:9000",
    "storage_class": "STANDARD_IA",
    "acl": "bucket-owner-full-control",
    "tags": {"a b": "c&d=ü", "e": ""},
    "encryption": {"algorithm": "aws:kms", "kms_key": "arn:aws:kms:eu-west-1:1:key/2", "bucket_key": True},
}
OTHERS = {"content-length", "user-agent", "expect", "authorization", "x-amz-date", "host"}
full = made(**KEYS, **FULL)
plain = made(**KEYS, endpoint="http://127.0.0.1:9000", encryption={"algorithm": "AES256"})


@pytest.fixture(scope="module")
def clients() -> Iterator[list[tuple[Options, Sent]]]:
    made = [(options, Sent(options)) for options in (full, plain)]
    yield made
    for _, one in made:
        one.client.close()


@given(
    metadata=st.dictionaries(
        st.sampled_from(["filename", "filetype", "Name", "empty", "a-b_c"]) | visible,
        text.map(str.encode) | visible.map(str.encode),
    ),
    condition=st.sampled_from([{}, {"IfMatch": '"e"'}, {"IfMatch": "e"}, {"IfNoneMatch": "*"}]),
)
def test_objects_carry_what_they_carry_by_the_sdk(
    clients: list[tuple[Options, Sent]], metadata: dict[str, bytes], condition: dict[str, str]
) -> None:
    info = plugin.UploadInfo(id=plugin.UploadId("i"), length=None, metadata=plugin.Metadata(metadata))
    for options, sent in clients:
        arguments = {**carried(info, options), **condition}
        ours = headers_of(arguments)
        assert ours is not None
        sent.client.put_object(Bucket="uploads", Key="k", Body=BODY, **arguments)
        theirs = {name.lower(): value if isinstance(value, str) else value.decode() for name, value in sent.last.headers.items()}
        sdk = {name for name in theirs if name.startswith("amz-sdk-")} | OTHERS | {"x-amz-content-sha256"}
        assert ours == {name: value for name, value in theirs.items() if name not in sdk}
        assert theirs["x-amz-content-sha256"] == UNSIGNED


@pytest.mark.parametrize(
    "arguments",
    [
        {"CacheControl": "no-store"},
        {"ContentMD5": "x"},
        {"Metadata": {"a": "ü"}},
        {"Metadata": {"a": "b\r\nx-amz-acl: public-read"}},
        {"Metadata": {"a": " b"}},
        {"ContentType": 5},
    ],
)
def test_arguments_that_only_the_sdk_knows(arguments: dict[str, Any]) -> None:
    assert headers_of(arguments) is None
