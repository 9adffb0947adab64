"""docs/howto/s3.md: its commands on a real server, its numbers, tables and files against the code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from tests.configs import load_config
from tests.services.servers import S3Bucket, S3Server

from fake_s3 import BUCKET, FakeS3, fake_s3
from s3_opening import options as made
from tusd.registry import Registry
from tusd.testing.server import ServerProcess
from tusd_plugin_s3.cures import needed
from tusd_plugin_s3.options import Options
from tusd_plugin_s3.profiles import PROFILES

Start = Callable[..., ServerProcess]
ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "howto" / "s3.md").read_text()
WRITING = ("put_object", "create_multipart_upload", "upload_part", "complete_multipart_upload", "list_parts", "list_objects")
"""What AWS charges as PUT, COPY, POST or LIST: more than ten times as much as GET. DELETE and abort are free."""


def section(heading: str) -> str:
    return re.split(r"\n##+ ", PAGE.split(f"\n## {heading}\n")[1])[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return found[2:]


def code(language: str) -> list[str]:
    return re.findall(rf"```{language}.*?\n(.*?)```", PAGE, re.DOTALL)


def ask(server: ServerProcess, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection(server.host, server.port, timeout=30)
    try:
        sent = {"Tus-Resumable": "1.0.0", **{name.replace("_", "-"): value for name, value in headers.items()}}
        if body:
            sent["Content-Type"] = "application/offset+octet-stream"
        connection.request(method, path, body or None, sent)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def upload_path(response: HTTPResponse) -> str:
    assert response.status == 201
    return "/files/" + (response.getheader("Location") or "").rpartition("/")[2]


# --- commands and files


def test_five_minutes(localstack: S3Server, tmp_path: Path, tusd_server: Start) -> None:
    """As the page says, with another server in MinIO's place."""
    (configuration,) = re.findall(r'```yaml title="s3.yaml"\n(.*?)```', PAGE, re.DOTALL)
    (commands,) = [text for text in code("sh") if "create_bucket" in text]
    export, create, check, serve = commands.splitlines()
    assert (
        "http://127.0.0.1:9000" in configuration
        and "http://127.0.0.1:9000" in create
        and serve == ".venv/bin/tusd serve -c s3.yaml"
    )
    name = f"page-{os.getpid()}-{tmp_path.name[-20:].strip('_').replace('_', '-')}"
    replaced = {
        "http://127.0.0.1:9000": localstack.endpoint,
        "bucket: uploads": f"bucket: {name}",
        'Bucket="uploads"': f'Bucket="{name}"',
    }
    script = (
        "\n".join((export, create, check))
        .replace(".venv/bin/python", sys.executable)
        .replace(".venv/bin/tusd", f"{sys.executable} -m tusd")
    )
    for old, new in replaced.items():
        configuration, script = configuration.replace(old, new), script.replace(old, new)
    (tmp_path / "s3.yaml").write_text(configuration)
    done = subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and "all backends can be used" in done.stdout, done.stderr
    keys = dict(pair.split("=") for pair in export.removeprefix("export ").split())
    server = tusd_server(configuration, env=keys)
    taken, _ = ask(
        server, "POST", "/files/", b"hello", Upload_Length="5", Upload_Metadata="filename Y2F0LnR4dA==,filetype dGV4dC9wbGFpbg=="
    )
    path = upload_path(taken)
    assert ask(server, "GET", path)[1] == b"hello"
    with localstack.client() as client:
        found = client.get_object(Bucket=name, Key=path.rpartition("/")[2])
        assert found["Body"].read() == b"hello"
        assert (found["ContentType"], found["Metadata"]) == ("text/plain", {"filename": "cat.txt", "filetype": "text/plain"})


def test_the_configurations_are_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    examples = code("yaml")
    assert len(examples) == 3
    for example in examples:
        (tmp_path / "tusd.yaml").write_text(example)
        (loaded,) = (one for one in Registry(load_config(tmp_path / "tusd.yaml")).loaded if one.seam == "storage")
        assert isinstance(loaded.options, Options)


def test_the_keys_of_the_example(tmp_path: Path) -> None:
    assert "gives `incoming/2026/11/28/5f0c.../cat.jpg` and `tusd/5f0c....info`" in PAGE
    given = yaml.safe_load(code("yaml")[2])["storage"]
    options = made("http://h", **{name: given[name] for name in ("prefix", "info_prefix", "key")})
    assert (options.prefix, options.below_info, options.key) == ("incoming/", "tusd/", "{date:%Y/%m/%d}/{id}/{filename}")


def test_the_policy_allows_what_is_asked_and_no_more() -> None:
    policy = json.loads(code("json")[0])
    allowed = {action: one["Resource"] for one in policy["Statement"] for action in one["Action"]}
    assert set(allowed) == needed(made("http://h"))
    assert {action for action, resource in allowed.items() if not resource.endswith("/*")} == {"s3:ListBucket"}
    more = PAGE.split("\nWith `tags` also ")[1].split("\n\n")[0]
    every = needed(made("http://h", tags={"a": "b"}, acl="private", encryption={"algorithm": "aws:kms"}))
    assert set(re.findall(r"`((?:s3|kms):\w+)`", more)) - {"s3:ListBucket"} == every - set(allowed)


def test_the_lifecycle_is_taken(localstack_bucket: S3Bucket) -> None:
    lifecycle: Any = json.loads(code("json")[1])
    with localstack_bucket.server.client() as client:
        client.put_bucket_lifecycle_configuration(Bucket=localstack_bucket.name, LifecycleConfiguration=lifecycle)
        (rule,) = client.get_bucket_lifecycle_configuration(Bucket=localstack_bucket.name)["Rules"]
        assert rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == 14
        version: Any = json.loads("{" + re.findall(r'`("NoncurrentVersionExpiration".*?)`', PAGE)[0] + "}")
        versioned: Any = {"Rules": [{**lifecycle["Rules"][0], **version}]}
        client.put_bucket_lifecycle_configuration(Bucket=localstack_bucket.name, LifecycleConfiguration=versioned)


# --- tables


def test_the_profiles() -> None:
    table = {row[0].strip("`"): row[1:] for row in rows(section("Other servers"))}
    assert list(table) == list(PROFILES)
    for name, (endpoint, region, place, special) in table.items():
        profile = PROFILES[name]
        if profile.endpoint is not None:
            assert endpoint == f"`{profile.endpoint}`"
        else:
            assert endpoint in ("yours", "as the SDK has it", "`https://<account>.r2.cloudflarestorage.com`")
        assert ("yours" in region) == profile.region_needed
        if profile.region is not None:
            assert region == f"`{profile.region}`"
        assert place == ("path" if profile.path_style else "host")
        assert ("no tags" in special, "`acl`" in special, "`aws:kms`" in special) == (
            not profile.tags,
            not profile.acl,
            not profile.kms,
        ), name
        assert ("one size" in special, "1,000 parts" in special, "Concatenation goes through" in special) == (
            profile.uniform_parts,
            profile.most_parts == 1000,
            not profile.copies_parts,
        ), name


def options(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel], str]]:
    for name, field in model.model_fields.items():
        yield prefix + name, model, name
        if name == "encryption":
            (inner,) = (one for one in getattr(field.annotation, "__args__", ()) if one is not type(None))
            yield from options(inner, "encryption.")


def test_the_options() -> None:
    shown = re.findall(r"^\| `([\w.]+)` \| (.+?) \| (.+) \|$", section("Options"), re.MULTILINE)
    assert [name for name, _, _ in shown] == [name for name, _, _ in options(Options)]
    for (_, default, meaning), (_, model, name) in zip(shown, options(Options), strict=True):
        field = model.model_fields[name]
        assert meaning == field.description, name
        if default == "none":
            assert field.is_required(), name
        elif default == "not set":
            assert field.default is None, name
        else:
            needs = {"bucket": "uploads"} if model is Options else {}
            assert getattr(model.model_validate({**needs, name: yaml.safe_load(default.strip("`"))}), name) == field.default, name


def test_the_flags_of_go() -> None:
    table = rows(section("From Go tusd"))
    flags = [row[0].strip("`") for row in table]
    assert len(flags) == 10 and all(flag.startswith("-s3-") for flag in flags)
    for _, option, _ in table:
        assert option == "none" or option.strip("`") in Options.model_fields


def test_the_numbers_in_the_text() -> None:
    defaults = made("http://h")
    assert "(256 MiB)" in PAGE and defaults.buffer == 256 << 20
    assert "(5 MiB)" in PAGE and defaults.buffer // defaults.min_part_size == 51 and "51 large uploads go on at once" in PAGE


# --- what it costs

SMALL, PART = 10_000, 100_000
COSTS: dict[str, Callable[[ServerProcess, Callable[[], None]], None]] = {}


def cost(name: str) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        COSTS[name] = function
        return function

    return register


@cost("POST, without a body")
def create(server: ServerProcess, begin: Callable[[], None]) -> None:
    begin()
    upload_path(ask(server, "POST", "/files/", Upload_Length=str(10 * PART))[0])


@cost("POST with all of it, less than a part")
def small(server: ServerProcess, begin: Callable[[], None]) -> None:
    begin()
    upload_path(ask(server, "POST", "/files/", bytes(SMALL), Upload_Length=str(SMALL))[0])


@cost("POST with all of it, ten parts")
def large(server: ServerProcess, begin: Callable[[], None]) -> None:
    begin()
    upload_path(ask(server, "POST", "/files/", bytes(10 * PART), Upload_Length=str(10 * PART))[0])


def patched(server: ServerProcess, begin: Callable[[], None], size: int, before: int = 2) -> None:
    """The PATCH of such a size after so many others."""
    path = upload_path(ask(server, "POST", "/files/", Upload_Length=str(20 * PART))[0])
    for number in range(before + 1):
        if number == before:
            begin()
        assert ask(server, "PATCH", path, bytes(size), Upload_Offset=str(number * size))[0].status == 204


@cost("PATCH of less than a part, the first one")
def patch_first(server: ServerProcess, begin: Callable[[], None]) -> None:
    patched(server, begin, SMALL, before=0)


@cost("PATCH of less than a part, in the middle")
def patch_small(server: ServerProcess, begin: Callable[[], None]) -> None:
    patched(server, begin, SMALL)


@cost("PATCH of one part, in the middle")
def patch(server: ServerProcess, begin: Callable[[], None]) -> None:
    patched(server, begin, PART)


@cost("HEAD")
def head(server: ServerProcess, begin: Callable[[], None]) -> None:
    path = upload_path(ask(server, "POST", "/files/", bytes(5 * PART), Upload_Length=str(10 * PART))[0])
    begin()
    assert ask(server, "HEAD", path)[0].getheader("Upload-Offset") == str(5 * PART)


@cost("GET")
def get(server: ServerProcess, begin: Callable[[], None]) -> None:
    path = upload_path(ask(server, "POST", "/files/", bytes(5 * PART), Upload_Length=str(5 * PART))[0])
    begin()
    assert ask(server, "GET", path)[1] == bytes(5 * PART)


@cost("DELETE of a finished upload")
def delete(server: ServerProcess, begin: Callable[[], None]) -> None:
    path = upload_path(ask(server, "POST", "/files/", bytes(5 * PART), Upload_Length=str(5 * PART))[0])
    begin()
    assert ask(server, "DELETE", path)[0].status == 204


def counted(asked: Counter[str]) -> list[str]:
    """As the page has it."""
    total, writing = sum(asked.values()), sum(n for name, n in asked.items() if name in WRITING)
    short = {name: name.removesuffix("_object").removesuffix("_multipart_upload") for name in asked}
    return [str(total), str(writing), ", ".join(short[name] if n == 1 else f"{n} {short[name]}" for name, n in asked.items())]


def test_what_each_request_costs(tusd_server: Start) -> None:
    shown = {row[0]: row[1:] for row in rows(section("Memory, speed, costs"))}
    assert list(shown) == list(COSTS)
    with fake_s3() as fake:
        server = tusd_server({"storage": storage(fake), "uploads": {"downloads": True}})

        def begin() -> None:
            settled(fake)
            fake.asked.clear()

        for name, function in COSTS.items():
            function(server, begin)
            settled(fake)
            assert shown[name] == counted(Counter(one.operation for one in fake.asked)), name


def storage(fake: FakeS3) -> dict[str, Any]:
    return {
        "use": "s3",
        "bucket": BUCKET,
        "endpoint": fake.endpoint,
        "access_key_id": "a",
        "secret_access_key": "b",
        "part_size": PART,
        "min_part_size": PART // 2,
        "concurrency": 2,
    }


def settled(fake: FakeS3) -> None:
    """Wait for what the server does in the background."""
    count, since = -1, time.monotonic()
    while len(fake.asked) != count or time.monotonic() - since < 0.3:
        if len(fake.asked) != count:
            count, since = len(fake.asked), time.monotonic()
        time.sleep(0.02)


def test_what_a_start_costs(tusd_server: Start) -> None:
    with fake_s3() as fake:
        tusd_server({"storage": storage(fake)})
        assert "Each worker asks about 12 requests at its start" in PAGE and 10 <= len(fake.asked) <= 14, len(fake.asked)
