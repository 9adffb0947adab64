"""Getting to the bucket: credentials, endpoints, and what is said when it cannot be used."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.server.running import tusd
from tests.services.gcs.process import GcsServer

from gcs_rig import Place, new_info
from tusd.plugin import UploadId
from tusd.testing.bodies import FakeBody, FakeLease
from tusd.testing.door import Door
from tusd.testing.server import ServerProcess, free_port
from tusd_plugin_gcs import GcsStorage
from tusd_plugin_gcs.connecting import way_of

Start = Callable[..., ServerProcess]
FAILING = {"error": {"code": 403, "message": "x@y.iam.gserviceaccount.com does not have storage.objects.create access"}}


async def refusal(options: dict[str, object], directory: Path) -> str:
    """Why a store cannot be opened."""
    door: Door[Any] = Door("storage", GcsStorage, options, directory)
    with pytest.raises(Exception) as caught:
        async with door.open():
            pass
    text = str(caught.value)
    assert text.startswith("storage:gcs: cannot be opened: ") and "\n" not in text
    return text.removeprefix("storage:gcs: cannot be opened: ")


class Fake(ThreadingHTTPServer):
    """A server that answers every request alike, after the first `good` ones, which write an object."""

    def __init__(self, status: int, body: object, good: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.status, self.body, self.good = status, body, good
        self.endpoint = f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    server: Fake

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, body = self.server.status, self.server.body
        if self.server.good:
            self.server.good -= 1
            status, body = 200, {"generation": "1"}
        text = json.dumps(body).encode() if not isinstance(body, bytes) else body
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def fake() -> Iterator[Callable[..., Fake]]:
    """Starts servers that answer as the test says."""
    servers: list[Fake] = []

    def start(*args: Any, **kwargs: Any) -> Fake:
        server = Fake(*args, **kwargs)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def private_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsServer]:
    """A server that wants credentials."""
    server = GcsServer(tmp_path_factory.mktemp("private"), private=True)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def key_file(private_server: GcsServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The key of a service account that the private server knows."""
    return private_server.service_account_key(tmp_path_factory.mktemp("key") / "key.json")


# --- the ways


def test_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    def way(**options: object) -> tuple[str | None, bool, str | None]:
        found = way_of(GcsStorage.Options(bucket="bkt", **options))  # type: ignore[arg-type]
        return found.endpoint, found.anonymous, found.key_file

    assert way() == (None, False, None)
    assert way(anonymous=True) == (None, True, None)
    assert way(service_account_file="k") == (None, False, "k")
    assert way(endpoint="http://h:1/") == ("http://h:1", True, None)
    assert way(endpoint="http://h:1", anonymous=False) == ("http://h:1", False, None)
    assert way(endpoint="http://h:1", service_account_file="k") == ("http://h:1", False, "k")
    assert way(endpoint="https://h") == ("https://h", False, None)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://e:1")
    assert way() == ("http://e:1", True, None)
    assert way(endpoint="https://h") == ("https://h", False, None)
    monkeypatch.setenv("GCS_SERVICE_ACCOUNT_FILE", "g")
    assert way() == ("http://e:1", False, "g")
    assert way(service_account_file="k") == ("http://e:1", False, "k")
    assert way(anonymous=True) == ("http://e:1", True, None)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "e:1")
    with pytest.raises(Exception, match="STORAGE_EMULATOR_HOST is 'e:1'"):
        way()


@pytest.mark.parametrize("named_by", ["option", "environment", "default"])
async def test_a_service_account(
    private_server: GcsServer, key_file: Path, named_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens are got with its key, and sent. What it may is what a bucket that is not there says: there is no bucket."""
    options: dict[str, object] = {"bucket": "missing", "endpoint": private_server.endpoint, "anonymous": False}
    match named_by:
        case "option":
            options["service_account_file"] = str(key_file)
        case "environment":
            monkeypatch.setenv("GCS_SERVICE_ACCOUNT_FILE", str(key_file))
        case "default":
            monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key_file))
    text = await refusal(options, tmp_path)
    assert text.startswith(f"bucket missing at {private_server.endpoint} does not exist")
    assert "gcloud storage buckets create gs://missing" in text


async def test_an_emulator(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", place.server.endpoint)
    door: Door[Any] = Door("storage", GcsStorage, {"bucket": place.bucket}, place.directory)
    async with door.open() as store:
        assert place.names() == [], "the probe leaves nothing"
        upload = await store.create(new_info(3), FakeLease())
        await upload.append(FakeBody(b"123"))
    assert place.data("upload") == b"123"


# --- refusals


async def test_a_bucket_that_is_not_there(place: Place, tmp_path: Path) -> None:
    text = await refusal({**place.options, "bucket": "not-there"}, tmp_path)
    assert re.fullmatch(
        r"bucket not-there at http://\S+ does not exist: .*[^.]; make it \(gcloud .*\) or correct storage.bucket or .*", text
    )


async def test_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    text = await refusal({"bucket": "bkt"}, tmp_path)
    assert text.startswith("no Google credentials were found: ")
    for cure in ("storage.service_account_file", "GCS_SERVICE_ACCOUNT_FILE", "gcloud auth application-default login"):
        assert cure in text


async def test_credentials_that_are_not_sent(private_server: GcsServer, tmp_path: Path) -> None:
    text = await refusal({"bucket": "bkt", "endpoint": private_server.endpoint}, tmp_path)
    assert "does not let us in without credentials: " in text
    assert text.endswith("set storage.service_account_file")


async def test_a_file_that_is_no_key(place: Place, tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text('{"type": "authorized_user"}')
    for name in ("key.json", "none.json"):
        text = await refusal({**place.options, "service_account_file": str(tmp_path / name)}, tmp_path)
        assert text.startswith(f"the file {tmp_path / name}, named by service_account_file, is not the key of a service account")
        assert "gcloud iam service-accounts keys create" in text


async def test_a_key_that_nobody_knows(private_server: GcsServer, key_file: Path, tmp_path: Path) -> None:
    stranger = GcsServer(tmp_path / "other", private=True)
    stranger.start()
    try:
        strange = json.loads(stranger.service_account_key(tmp_path / "key.json").read_text())
    finally:
        stranger.kill()
    strange["token_uri"] = f"{private_server.endpoint}/token"
    (tmp_path / "key.json").write_text(json.dumps(strange))
    options: dict[str, object] = {
        "bucket": "bkt",
        "endpoint": private_server.endpoint,
        "service_account_file": str(tmp_path / "key.json"),
    }
    text = await refusal(options, tmp_path)
    assert "does not take our credentials: " in text and "invalid_grant" in text
    assert text.endswith(f"check those of {tmp_path / 'key.json'}")


@pytest.mark.parametrize(("good", "permission"), [(0, "create"), (1, "delete"), (2, "get"), (3, "list")])
async def test_a_permission_that_is_missing(fake: Callable[..., Fake], tmp_path: Path, good: int, permission: str) -> None:
    server = fake(403, FAILING, good)
    text = await refusal({"bucket": "bkt", "endpoint": server.endpoint}, tmp_path)
    assert f"lack storage.objects.{permission}: give their account the role roles/storage.objectUser on the bucket" in text
    assert "x@y.iam.gserviceaccount.com does not have" in text


async def test_a_server_that_ignores_conditions(fake: Callable[..., Fake], tmp_path: Path) -> None:
    server = fake(200, {"generation": "1"})
    text = await refusal({"bucket": "bkt", "endpoint": server.endpoint}, tmp_path)
    assert "ignores ifGenerationMatch" in text


async def test_other_servers(fake: Callable[..., Fake], tmp_path: Path) -> None:
    options: dict[str, object] = {"bucket": "bkt", "give_up_after": 0}
    text = await refusal({**options, "endpoint": fake(200, b"<html>").endpoint}, tmp_path)
    assert "is `endpoint` right?" in text
    text = await refusal({**options, "endpoint": fake(503, {}).endpoint}, tmp_path)
    assert "it answers 503" in text and text.endswith("try again later")
    text = await refusal({**options, "endpoint": fake(400, {"error": {"message": "Cannot use ACL API"}}).endpoint}, tmp_path)
    assert "refuses what we write: Cannot use ACL API; check storage.acl" in text
    text = await refusal({**options, "endpoint": f"http://127.0.0.1:{free_port()}"}, tmp_path)
    assert text.endswith(" cannot be reached: Connection refused; check storage.endpoint")


async def test_a_folder_for_spilling_that_is_not_there(place: Place, tmp_path: Path) -> None:
    text = await refusal({**place.options, "spill": str(tmp_path / "none")}, tmp_path)
    assert text.startswith(f"spill: {tmp_path / 'none'} is no folder")


# --- in a server


def test_check_and_serve_say_it(place: Place, tusd_server: Start, tmp_path: Path) -> None:
    storage = {"use": "gcs", **place.options, "bucket": "not-there"}
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"storage": storage, "server": {"run_directory": str(tmp_path / "run")}})
    )
    checked = tusd("check", "--connect", "-c", "config.yaml", cwd=tmp_path)
    assert checked.returncode == 2
    assert "storage:gcs: cannot be opened: bucket not-there at http://" in checked.stderr
    assert "Traceback" not in checked.stderr
    server = tusd_server({"storage": storage}, start=False)
    with pytest.raises(AssertionError, match="ended with status 2"):
        server.start()
    assert "storage:gcs: cannot be opened: bucket not-there at http://" in server.log
    assert "make it (gcloud storage buckets create gs://not-there)" in server.log


def test_check_is_content(place: Place, tmp_path: Path) -> None:
    storage = {"use": "gcs", **place.options}
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"storage": storage, "server": {"run_directory": str(tmp_path / "run")}})
    )
    checked = tusd("check", "--connect", "-c", "config.yaml", cwd=tmp_path)
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stderr
    assert place.names() == []


async def test_the_bucket_is_asked_whether_it_is_ready(place: Place) -> None:
    async with place.store() as store:
        await store.check()
        place.server.kill()
        try:
            with pytest.raises(Exception, match="storage is not available"):
                await store.check()
        finally:
            place.server.start()
        await store.check()
        await store.create(new_info(1, id=UploadId("again")), None)
