"""The whole server with gRPC hooks, real uploads, and docs/howto/grpc-hooks.md."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from tests.configs import load_config

from grpc_services import GO_PROTO
from tusd.plugin import HookOptions
from tusd.registry import Registry
from tusd.testing.server import ServerProcess, free_port
from tusd_plugin_grpc_hooks import GrpcHooks, Tls

Start = Callable[..., ServerProcess]
ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "howto" / "grpc-hooks.md").read_text()


class Service:
    """A gRPC service in a process of its own, which has printed what `said` returns."""

    def __init__(self, script: Path, port: int) -> None:
        self.endpoint = f"127.0.0.1:{port}"
        self._out = script.parent / "out"
        with self._out.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, script, str(port)],
                cwd=script.parent,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + 20
        while not self._answers(port):
            assert self._process.poll() is None and time.monotonic() < deadline, self._out.read_text()
            time.sleep(0.02)

    def said(self, line: str) -> str:
        """All that it has printed, once a line of it matches a pattern."""
        deadline = time.monotonic() + 10
        while not re.search(line, self._out.read_text(), re.MULTILINE):
            assert time.monotonic() < deadline, f"{line!r} is not in:\n{self._out.read_text()}"
            time.sleep(0.02)
        return self._out.read_text()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self, port: int) -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=2).close()
        except OSError:
            return False
        return True


@pytest.fixture
def go_script(tmp_path: Path) -> Path:
    """`go_service.py` beside code that was generated of Go's messages."""
    folder = tmp_path / "service"
    folder.mkdir()
    shutil.copy(GO_PROTO, folder / "hook.proto")
    generate = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        "--proto_path=.",
        "--python_out=.",
        "--grpc_python_out=.",
        "hook.proto",
    ]
    subprocess.run(generate, cwd=folder, check=True)
    return Path(shutil.copy(Path(__file__).parent / "go_service.py", folder))


@pytest.fixture
def go_service(go_script: Path) -> Iterator[Service]:
    """It runs."""
    service = Service(go_script, free_port())
    yield service
    service.kill()


def ask(server: ServerProcess, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[HTTPResponse, str]:
    connection = HTTPConnection(server.host, server.port, timeout=20)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(
            method, path, body, {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream", **named}
        )
        answer = connection.getresponse()
        return answer, answer.read().decode()
    finally:
        connection.close()


def named(filename: str) -> str:
    return f"filename {b64encode(filename.encode()).decode()}"


@pytest.mark.parametrize(("loop", "workers"), [("uvloop", 1), ("asyncio", 1), ("auto", 2)])
def test_a_service_for_go_tusd(go_service: Service, tusd_server: Start, loop: str, workers: int) -> None:
    events = ["pre-create", "post-create", "pre-finish", "post-finish", "post-terminate"]
    server = tusd_server(
        {
            "server": {"loop": loop, "workers": workers},
            "hooks": [{"use": "grpc", "endpoint": go_service.endpoint, "events": events}],
        }
    )
    refused, text = ask(server, "POST", "/files/", b"hello", Upload_Length="5")
    assert (refused.status, text, refused.getheader("X-Why")) == (422, "a file name is needed", "name")
    taken, _ = ask(server, "POST", "/files/", b"hello", Upload_Length="5", Upload_Metadata=named("a"), X_User="alice")
    assert (taken.status, taken.getheader("X-Checked")) == (201, "yes")
    path = "/files/" + (taken.getheader("Location") or "").rpartition("/")[2]
    assert path == "/files/named-a"
    assert ask(server, "HEAD", path)[0].getheader("Upload-Metadata") == "owner YWxpY2U="
    assert ask(server, "GET", path)[1] == "hello"
    go_service.said("^post-finish named-a 5 5 filestore$")
    assert ask(server, "DELETE", path)[0].status == 204
    said = go_service.said("^post-terminate named-a 5 5 filestore$")
    told = [line.split()[0] for line in said.splitlines()]
    assert [name for name in told if name.startswith("pre-")] == ["pre-create", "pre-create", "pre-finish"]
    assert [name for name in told if name.startswith("post-")] == ["post-create", "post-finish", "post-terminate"]
    assert server.stop() == 0
    assert "Traceback" not in server.log


def test_what_cannot_be_sent_is_a_failure(go_service: Service, tusd_server: Start) -> None:
    server = tusd_server({"hooks": [{"use": "grpc", "endpoint": go_service.endpoint}]})
    for wish, logged in (
        ("status", "answered the status 9999"),
        ("control", "answered a header that cannot be sent"),
        ("raise", "answered UNKNOWN: Exception calling application"),
    ):
        answer, text = ask(server, "POST", "/files/", b"hello", Upload_Length="5", Upload_Metadata=named(wish))
        assert (answer.status, answer.getheader("X-Injected")) == (500, None)
        assert "secret" not in text and go_service.endpoint not in text
        assert logged in server.log


def test_a_service_that_is_not_there(tusd_server: Start) -> None:
    """The server starts, a told hook holds nobody up, and an asked one fails."""
    hooks = {"use": "grpc", "endpoint": f"127.0.0.1:{free_port()}", "attempts": 2, "backoff": "10ms"}
    server = tusd_server({"hooks": [{**hooks, "events": ["post-create", "pre-terminate"]}]})
    taken, _ = ask(server, "POST", "/files/", b"hello", Upload_Length="5")
    assert taken.status == 201
    path = "/files/" + (taken.getheader("Location") or "").rpartition("/")[2]
    answer, text = ask(server, "DELETE", path)
    assert (answer.status, "127.0.0.1" in text) == (500, False)
    assert "Connection refused (attempt 2 of 2)" in server.log
    assert ask(server, "GET", path)[1] == "hello"


def test_a_service_that_comes_later_is_told_what_was_kept(go_script: Path, tmp_path: Path, tusd_server: Start) -> None:
    port = free_port()
    hooks = {"use": "grpc", "endpoint": f"127.0.0.1:{port}", "attempts": 1, "events": ["post-create", "post-finish"]}
    server = tusd_server({"hooks": [{**hooks, "delivery": "at-least-once", "outbox": str(tmp_path / "outbox")}]})
    assert ask(server, "POST", "/files/", b"hello", Upload_Length="5")[0].status == 201
    service = Service(go_script, port)
    try:
        said = service.said("^post-finish [0-9a-f]+ 5 5 filestore$")
        assert [line.split()[0] for line in said.splitlines()] == ["post-create", "post-finish"]
    finally:
        service.kill()


def test_grpc_writes_nothing_past_the_log(go_service: Service, tusd_server: Start) -> None:
    hooks = {"use": "grpc", "endpoint": go_service.endpoint, "tls": {}, "attempts": 1}
    server = tusd_server({"hooks": [hooks], "logging": {"format": "json"}})
    assert ask(server, "POST", "/files/", b"hello", Upload_Length="5")[0].status == 500
    assert "handshake failed" in server.log
    assert [line for line in server.log.splitlines() if not line.startswith(("{", "tusd "))] == []


def test_an_upload_is_stopped(go_service: Service, tusd_server: Start) -> None:
    server = tusd_server(
        {
            "uploads": {"progress_interval": "50ms"},
            "hooks": [{"use": "grpc", "endpoint": go_service.endpoint, "events": ["post-receive"]}],
        }
    )
    created, _ = ask(server, "POST", "/files/", Upload_Length="1000000", Upload_Metadata="owner c3RvcA==", Content_Type="")
    path = "/files/" + (created.getheader("Location") or "").rpartition("/")[2]
    connection = HTTPConnection(server.host, server.port, timeout=20)
    connection.putrequest("PATCH", path)
    for name, value in {"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Content-Length": "1000000"}.items():
        connection.putheader(name, value)
    connection.putheader("Content-Type", "application/offset+octet-stream")
    connection.endheaders(b"x" * 500_000)
    assert connection.getresponse().status == 400
    connection.close()
    assert ask(server, "HEAD", path)[0].status == 404


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def has_grpc(pid: int) -> bool:
    return "grpc/_cython" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into /proc")
def test_nothing_of_grpc_is_loaded_before_the_fork(tusd_server: Start) -> None:
    server = tusd_server({"server": {"workers": 2}, "hooks": [{"use": "grpc", "endpoint": "127.0.0.1:1"}]})
    assert server.process is not None
    assert not has_grpc(server.process.pid)
    deadline = time.monotonic() + 10
    while [has_grpc(child) for child in children(server.process.pid)].count(True) != 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert server.stop() == 0


def test_files_that_cannot_be_used_end_the_start(tmp_path: Path, tusd_server: Start) -> None:
    hooks = {"use": "grpc", "endpoint": "127.0.0.1:1", "tls": {"ca": str(tmp_path / "absent.pem")}}
    with pytest.raises(AssertionError, match=r"hooks\[0\]:grpc: cannot be opened: .*No such file or directory: '.*absent.pem'"):
        tusd_server({"hooks": [hooks]})


# --- docs/howto/grpc-hooks.md


def test_the_service_of_the_page(tmp_path: Path, tusd_server: Start) -> None:
    commands = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)[1]
    generate = commands.partition("\n")[2].rpartition("python service.py")[0]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-euc", generate], cwd=tmp_path, env=environment, check=True)
    (code,) = re.findall(r'```python title="service.py"\n(.*?)```', PAGE, re.DOTALL)
    port = free_port()
    assert "127.0.0.1:50051" in code and "endpoint: 127.0.0.1:50051" in PAGE
    (tmp_path / "service.py").write_text(code.replace("50051", str(port)))
    service = Service(tmp_path / "service.py", port)
    try:
        server = tusd_server({"hooks": [{"use": "grpc", "endpoint": service.endpoint}]})
        refused, text = ask(server, "POST", "/files/", b"hello", Upload_Length="5")
        assert (refused.status, text) == (422, "a file name is needed\n")
        taken, _ = ask(server, "POST", "/files/", b"hello", Upload_Length="5", Upload_Metadata=named("a"))
        upload = (taken.getheader("Location") or "").rpartition("/")[2]
        kept = ask(server, "HEAD", f"/files/{upload}")[0].getheader("Upload-Metadata") or ""
        assert set(kept.split(",")) == {named("a"), "owner YWxpY2U="}
        path = re.findall(rf"^{upload}: 5 bytes in (.+)$", service.said(f"^{upload}: 5 bytes"), re.MULTILINE)
        assert Path(path[0]).read_bytes() == b"hello"
    finally:
        service.kill()


def options(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Every option but those of every hook, with its field and meaning, as the page has to show them."""
    for name, field in model.model_fields.items():
        if name in HookOptions.model_fields:
            continue
        yield prefix + name, field, field.description or ""
        if name == "tls":
            yield from options(Tls, "tls.")


def test_the_options_of_the_page() -> None:
    shown = re.findall(r"^\| `([\w.]+)` \| (.+?) \| (.+) \|$", PAGE.split("\n## Options\n")[1].split("\n## ")[0], re.MULTILINE)
    assert [name for name, _, _ in shown] == [name for name, _, _ in options(GrpcHooks.Options)]
    for (name, default, meaning), (_, field, description) in zip(shown, options(GrpcHooks.Options), strict=True):
        assert meaning == description, name
        if default == "none":
            assert field.is_required()
        elif default == "not set":
            assert field.default is None
        else:
            given = GrpcHooks.Options.model_validate({"endpoint": "a:1", name: yaml.safe_load(default.strip("`"))})
            assert getattr(given, name) == field.default, name


def test_the_configurations_of_the_page_are_good(tmp_path: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        (tmp_path / "tusd.yaml").write_text(example)
        (loaded,) = (one for one in Registry(load_config(tmp_path / "tusd.yaml")).loaded if one.seam == "hooks")
        assert isinstance(loaded.options, GrpcHooks.Options)


def test_every_field_that_the_page_names_is_one() -> None:
    table = PAGE.split("\n## What is said\n")[1].split("\n\n")[1]
    proto = (ROOT / "plugins/tusd-plugin-grpc-hooks/src/tusd_plugin_grpc_hooks/hook.proto").read_text()
    names = {name for text in re.findall(r"`([\w.]+)`", table) for name in text.split(".")}
    assert len(names) > 15
    assert [name for name in sorted(names) if not re.search(rf" {name} = \d+;", proto)] == []
