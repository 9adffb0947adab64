"""The YAML block: what is refused and how, what a profile gives, and what the SDK's client is made of it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from s3_opening import read_once
from tusd_plugin_s3 import S3Storage, connecting
from tusd_plugin_s3.options import Options
from tusd_plugin_s3.profiles import PROFILES

KEYS = {"access_key_id": "a", "secret_access_key": "b"}
NEEDED: dict[str, dict[str, str]] = {
    "minio": {"endpoint": "http://127.0.0.1:9000"},
    "ceph": {"endpoint": "http://127.0.0.1:7480"},
    "r2": {"endpoint": "https://0123.r2.cloudflarestorage.com"},
    "other": {"endpoint": "http://127.0.0.1:1"},
    "backblaze": {"region": "eu-central-003"},
    "scaleway": {"region": "fr-par"},
    "digitalocean": {"region": "ams3"},
}
"""What each profile needs besides a bucket."""


make_client = read_once(connecting.make_client)


def made(**given: Any) -> Options:
    return Options.model_validate({"bucket": "uploads", **given})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bucket": "s3://uploads"}, "not the name of a bucket; write only its name"),
        ({"bucket": "ab"}, "not the name of a bucket"),
        ({"endpoint": "127.0.0.1:9000"}, "not an endpoint; write https://host, or http://host:port"),
        ({"endpoint": "http://host/v1/uploads/"}, "endpoint: write it without the bucket"),
        ({"endpoint": "http://host?x=y"}, "not an endpoint"),
        ({"proxy": "proxy:3128"}, "not a proxy; write http://host:port"),
        ({"proxy": "http://proxy/path"}, "not a proxy"),
        ({"endpoint": "http://user:secret@host"}, "not an endpoint"),
        ({"endpoint": "http://host:99999"}, "not an endpoint"),
        ({"endpoint": "ftp://host"}, "not an endpoint"),
        ({"access_key_id": "a"}, "access_key_id and secret_access_key belong together"),
        ({"secret_access_key": "a"}, "access_key_id and secret_access_key belong together"),
        ({"session_token": "a"}, "session_token needs access_key_id"),
        ({"aws_profile": "work", **KEYS}, "both say whose credentials to use"),
        ({"profile": "minio"}, "endpoint is needed with profile: minio"),
        ({"profile": "r2"}, "endpoint is needed with profile: r2"),
        ({"profile": "scaleway"}, "region is needed with profile: scaleway; its servers are at https://s3.{region}.scw.cloud"),
        ({"profile": "dropbox"}, "Input should be 'aws'"),
        ({"dual_stack": True, "endpoint": "http://host"}, "are for profile: aws, without an endpoint"),
        ({"transfer_acceleration": True, "profile": "wasabi"}, "are for profile: aws"),
        ({"transfer_acceleration": True, "bucket": "up.loads"}, "needs the bucket in the host"),
        (
            {"tags": {"a": "b"}, "profile": "digitalocean", "region": "ams3"},
            "tags: profile digitalocean cannot have any; remove it",
        ),
        ({"acl": "public-read", "profile": "r2", "endpoint": "https://h"}, "acl: profile r2 cannot have any"),
        ({"acl": "everybody"}, "Input should be 'private'"),
        ({"encryption": {"algorithm": "aws:kms"}, "profile": "wasabi"}, "profile wasabi knows AES256 only"),
        ({"encryption": {"kms_key": "k"}}, "kms_key and bucket_key need algorithm"),
        ({"tags": {str(n): "x" for n in range(11)}}, "10 at most"),
        ({"tags": {"": "x"}}, "tags: a tag's name has 1 to 128 characters"),
        ({"tags": {"a": "x" * 257}}, "tags: a tag's value has 256 characters at most"),
        ({"part_size": "6GiB"}, "part_size must be at least min_part_size (5242880) and at most 5368709120"),
        ({"part_size": "1MiB"}, "part_size must be at least min_part_size"),
        ({"buffer": "1MiB"}, "buffer must have room for a part: 5242880 bytes at least"),
        ({"buffer": "20MiB", "profile": "r2", "endpoint": "https://h"}, "buffer must have room for a part: 52428800"),
        ({"concurrency": 0}, "greater than or equal to 1"),
        ({"attempts": 0}, "greater than or equal to 1"),
        ({"read_timeout": 0}, "greater than 0"),
        ({"conditional_writes": "maybe"}, "Input should be 'auto', 'on' or 'off'"),
        ({"prefix": "/uploads"}, "not a prefix for keys: it has a / at an end"),
        ({"info_prefix": "a/../b"}, "it has . or .. between slashes"),
        ({"prefix": "a\nb"}, "it has control characters"),
        ({"prefix": "a" * 300}, "longer than 256 bytes"),
        ({"key": "{date:%Y}/{filename}"}, "it must hold {id} once"),
        ({"key": "{id}{user}"}, "it may hold {id}, {filename} and {date:%Y/%m/%d}"),
        ({"key": "{id!r}"}, "it may hold"),
        ({"key": "{id:>10}"}, "it may hold"),
        ({"key": "{date:{id}}{id}"}, "it may hold"),
        ({"key": "{id"}, "not a template"),
        ({"key": "/{id}"}, "makes keys that cannot be used"),
        ({"key": "../{id}"}, "it has . or .. between slashes"),
        ({"key": "{id}/" + "a" * 300}, "longer than 256 bytes"),
        ({"bukket": 1}, "Extra inputs are not permitted"),
    ],
)
def test_what_is_wrong_is_refused_with_a_cure(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        made(**given)
    assert said in str(refusal.value)


def test_every_option_has_a_description() -> None:
    fields = {**Options.model_fields, **Options.model_json_schema()["$defs"]["Encryption"]["properties"]}
    assert [name for name, one in fields.items() if not (one["description"] if isinstance(one, dict) else one.description)] == []


def test_secrets_are_marked() -> None:
    properties = Options.model_json_schema()["properties"]
    for name in ("secret_access_key", "session_token", "proxy"):
        assert {"type": "string", "writeOnly": True} in properties[name]["anyOf"], name


def test_the_profile_follows_from_the_endpoint() -> None:
    assert made().profile_name == "aws" and made().where is None and not made().path_style
    other = made(endpoint="http://127.0.0.1:9000/")
    assert (other.profile_name, other.where, other.path_style) == ("other", "http://127.0.0.1:9000", True)


@pytest.mark.parametrize("name", PROFILES)
def test_each_profile_makes_a_client(name: str) -> None:
    options = made(profile=name, **NEEDED.get(name, {}), **KEYS)
    client, origin = make_client(options)
    assert origin == "storage.access_key_id"
    expected = {
        "aws": "https://s3.amazonaws.com",
        "backblaze": "https://s3.eu-central-003.backblazeb2.com",
        "wasabi": "https://s3.us-east-1.wasabisys.com",
        "scaleway": "https://s3.fr-par.scw.cloud",
        "digitalocean": "https://ams3.digitaloceanspaces.com",
        "google": "https://storage.googleapis.com",
    }
    assert client.meta.endpoint_url == expected.get(name, NEEDED.get(name, {}).get("endpoint"))
    url = client.generate_presigned_url("get_object", Params={"Bucket": "uploads", "Key": "k"})
    assert ("/uploads/k" in url) == options.path_style
    assert options.rules.smallest_part <= options.part_size <= options.rules.largest_part
    client.close()


def test_what_the_yaml_says_wins_over_the_profile() -> None:
    options = made(profile="wasabi", endpoint="https://s3.example.com", region="xx-1", addressing="virtual", **KEYS)
    client, _ = make_client(options)
    assert client.meta.endpoint_url == "https://s3.example.com" and client.meta.region_name == "xx-1"
    assert client.generate_presigned_url("get_object", Params={"Bucket": "uploads", "Key": "k"}).startswith(
        "https://uploads.s3.example.com/k"
    )
    client.close()


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ({}, "https://uploads.s3.eu-west-1.amazonaws.com/"),
        ({"dual_stack": True}, "https://uploads.s3.dualstack.eu-west-1.amazonaws.com/"),
        ({"transfer_acceleration": True}, "https://uploads.s3-accelerate.amazonaws.com/"),
        (
            {"transfer_acceleration": True, "dual_stack": True},
            "https://uploads.s3-accelerate.dualstack.amazonaws.com/",
        ),
        ({"addressing": "path"}, "https://s3.eu-west-1.amazonaws.com/uploads/"),
    ],
)
def test_endpoints_of_aws(given: dict[str, Any], host: str) -> None:
    client, _ = make_client(made(region="eu-west-1", **KEYS, **given))
    assert client.generate_presigned_url("get_object", Params={"Bucket": "uploads", "Key": "k"}).startswith(host)
    client.close()


def test_what_else_the_client_is_told() -> None:
    options = made(
        region="eu-west-1", connect_timeout="3s", read_timeout="2m", attempts=7, concurrency=33, proxy="http://proxy:3128", **KEYS
    )
    client, _ = make_client(options)
    config: Any = client.meta.config
    assert (config.connect_timeout, config.read_timeout) == (3, 120)
    assert config.retries == {"mode": "standard", "total_max_attempts": 7}
    assert config.max_pool_connections > 33
    assert config.request_checksum_calculation == "when_required" and config.response_checksum_validation == "when_required"
    assert config.s3["payload_signing_enabled"] is False
    assert config.proxies == {"http": "http://proxy:3128", "https": "http://proxy:3128"}
    client.close()


@pytest.mark.parametrize(("written", "read"), [(True, "on"), (False, "off"), ("auto", "auto"), ("on", "on")])
def test_on_and_off_as_yaml_reads_them(written: object, read: str) -> None:
    assert made(conditional_writes=written).conditional_writes == read


def test_prefixes_end_in_a_slash() -> None:
    assert (made(prefix="a/b").prefix, made(prefix="a/b/").prefix, made().prefix) == ("a/b/", "a/b/", "")
    assert made(prefix="a").below_info == "a/" and made(prefix="a", info_prefix="").below_info == ""


def test_loading_the_plugin_does_not_load_the_sdk() -> None:
    code = "import sys, tusd_plugin_s3; sys.exit('botocore' in sys.modules or 'boto3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert S3Storage.Options is Options


def test_a_proxys_password_is_not_shown() -> None:
    assert made(proxy="http://user:s3cr3t@proxy:3128/").proxy_shown == "http://proxy:3128"
    assert made(proxy="https://proxy").proxy_shown == "https://proxy" and made().proxy_shown == "of the environment"


def test_an_endpoint_may_have_a_path() -> None:
    client, _ = make_client(made(endpoint="https://abc.example.com/storage/v1/s3", region="eu", **KEYS))
    url = client.generate_presigned_url("get_object", Params={"Bucket": "uploads", "Key": "k"})
    assert url.startswith("https://abc.example.com/storage/v1/s3/uploads/k?")
    client.close()
