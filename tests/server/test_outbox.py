"""No finished upload's post-finish is lost, however the server dies; and `tusd hooks` shows and handles what waits."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest
from tests.server.running import tusd

from tusd.testing.server import ServerProcess

HOOKS = """
import json, os
from tusd.plugin import HookError, event_as_json

def hook(event):
    if os.path.exists("fail"):
        raise HookError(open("fail").read(), permanent=os.path.exists("for-good"))
    told = json.dumps([event.name, event.delivery_id, event.upload.id, event_as_json(event)["Event"]["HTTPRequest"]["Header"]])
    fd = os.open("told", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, told.encode() + b"\\n")
    os.close(fd)
"""


def config(workers: int = 1, **entry: object) -> dict[str, Any]:
    return {
        "server": {"workers": workers},
        "hooks": [{"use": "python", "function": "outbox_hooks:hook", "delivery": "at-least-once", **entry}],
    }


def server_of(tmp_path: Path, config: dict[str, Any]) -> ServerProcess:
    (tmp_path / "outbox_hooks.py").write_text(HOOKS)
    return ServerProcess(tmp_path, config, env={"PYTHONPATH": str(tmp_path)})


def told(tmp_path: Path) -> list[tuple[str, str, str]]:
    """Event, delivery id and upload of all that a hook was told."""
    path = tmp_path / "told"
    return [tuple(json.loads(line)[:3]) for line in path.read_text().splitlines()] if path.exists() else []


def until(condition: Callable[[], bool], what: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


def ask(server: ServerProcess, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, Any]:
    connection = HTTPConnection(server.host, server.port, timeout=10)
    try:
        connection.request(method, path, body, {"Tus-Resumable": "1.0.0", **headers})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers
    finally:
        connection.close()


def upload(server: ServerProcess, length: int, body: bytes = b"", **headers: str) -> str:
    """The path of a new upload."""
    given = {"Upload-Length": str(length), "Content-Type": "application/offset+octet-stream", **headers}
    status, found = ask(server, "POST", "/files/", given, body)
    assert status == 201, status
    return "/files/" + str(found["Location"]).rpartition("/")[2]


class Client(threading.Thread):
    """Uploads one small file after another in two steps, until it is told to stop; knows which it has created."""

    def __init__(self, server: ServerProcess) -> None:
        super().__init__()
        self.server, self.over, self.paths = server, False, [""][:0]

    def run(self) -> None:
        while not self.over:
            try:
                self.paths.append(upload(self.server, 10, b"01234"))
                patch = {"Upload-Offset": "5", "Content-Type": "application/offset+octet-stream"}
                ask(self.server, "PATCH", self.paths[-1], patch, b"56789")
            except (OSError, HTTPException):
                time.sleep(0.02)  # it was killed just now


@pytest.mark.parametrize("workers", [1, 2])
def test_every_finished_uploads_post_finish_arrives_however_the_server_is_killed(tmp_path: Path, workers: int) -> None:
    server = server_of(tmp_path, config(workers, events=["post-create", "post-finish"]))
    with server:
        clients = [Client(server) for _ in range(4)]
        for client in clients:
            client.start()
        try:
            for _ in range(4):
                time.sleep(random.uniform(0.2, 0.5))
                server.kill()
                server.start()
        finally:
            for client in clients:
                client.over = True
            for client in clients:
                client.join()
        paths = [path for client in clients for path in client.paths]
        complete = set()
        for path in paths:
            status, headers = ask(server, "HEAD", path, {})
            if status == 423 or headers["Upload-Offset"] != "10":  # killed before it was finished: its client goes on
                patch = {"Upload-Offset": headers["Upload-Offset"] or "10", "Content-Type": "application/offset+octet-stream"}
                rest = b"0123456789"[int(patch["Upload-Offset"]) :]
                assert ask(server, "PATCH", path, patch, rest)[0] == 204
            complete.add(path.rpartition("/")[2])
        assert len(complete) > 20

        def finished() -> dict[str, set[str]]:
            found: dict[str, set[str]] = {}
            for name, delivery, of in told(tmp_path):
                if name == "post-finish":
                    found.setdefault(of, set()).add(delivery)
            return found

        until(lambda: complete <= finished().keys(), lambda: complete - finished().keys())
        until(lambda: not list((tmp_path / "outbox").glob("*/*.json")))
        assert {len(ids) for ids in finished().values()} == {1}, "always with the same delivery id"
        by_upload: dict[str, list[str]] = {}
        for name, _, of in told(tmp_path):
            by_upload.setdefault(of, []).append(name)
        for of in complete:
            assert by_upload[of].index("post-create") < by_upload[of].index("post-finish"), "in order"
        assert list((tmp_path / "outbox").glob("*/*.parked")) == []


def test_a_hook_that_is_down_for_a_while_is_told_of_all_after_a_restart(tmp_path: Path) -> None:
    (tmp_path / "fail").write_text("down")
    with server_of(
        tmp_path, config(events=["post-create", "post-finish", "post-terminate"], forward_headers=["x-user"])
    ) as server:
        headers = {"X-User": "me", "Authorization": "Bearer secret"}
        path = upload(server, 5, b"01234", **headers)
        assert ask(server, "DELETE", path, {})[0] == 204
        until(lambda: server.log.count("the next try is in") >= 2)
        assert server.stop() == 0
        kept = sorted((tmp_path / "outbox").glob("*/*"))
        assert [one.name[7:] for one in kept] == ["post-create.json", "post-finish.json", "post-terminate.json"]
        assert not any("secret" in one.read_text() for one in kept)
        (tmp_path / "fail").unlink()
        server.start()
        until(lambda: len(told(tmp_path)) == 3)
        assert [name for name, _, _ in told(tmp_path)] == ["post-create", "post-finish", "post-terminate"]
        first = json.loads((tmp_path / "told").read_text().splitlines()[0])
        assert first[3] == {"X-User": ["me"]}
        until(lambda: os.listdir(tmp_path / "outbox") == ["name"])


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_is_lost_while_generations_change(tmp_path: Path, workers: int) -> None:
    with server_of(tmp_path, config(workers, events=["post-create", "post-finish"])) as server:
        client = Client(server)
        client.start()
        try:
            for number in range(1, 4):
                time.sleep(0.3)
                assert server.process is not None
                server.process.send_signal(signal.SIGHUP)
                until(partial(lambda n: server.log.count("INFO reloaded") == n, number), lambda: server.log)
        finally:
            client.over = True
            client.join()
        complete = {path.rpartition("/")[2] for path in client.paths if ask(server, "HEAD", path, {})[1]["Upload-Offset"] == "10"}
        assert len(complete) > 10
        until(lambda: not list((tmp_path / "outbox").glob("*/*.json")))
        assert complete <= {of for name, _, of in told(tmp_path) if name == "post-finish"}


def test_what_a_sweep_beside_the_server_removes_is_told_by_the_server(tmp_path: Path) -> None:
    settings = config(events=["post-finish", "post-expire"]) | {
        "uploads": {"expire_finished_after": 1, "sweep_interval": 3600},
        "storage": {"use": "file", "directory": str(tmp_path / "data")},
    }
    with server_of(tmp_path, settings) as server:
        of = upload(server, 5, b"01234").rpartition("/")[2]
        until(lambda: [name for name, _, _ in told(tmp_path)] == ["post-finish"])
        time.sleep(1)
        swept = tusd("sweep", "-c", str(server.config_file), cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
        assert "1 upload removed" in swept.stdout, swept
        until(lambda: [(name, one) for name, _, one in told(tmp_path)] == [("post-finish", of), ("post-expire", of)])


def test_the_commands_show_and_handle_what_waits(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        result = tusd("hooks", *arguments, "-c", str(server.config_file), cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
        assert result.returncode == 0, result.stderr
        return result.stdout

    server = server_of(tmp_path, config(events=["post-create"]))
    assert run("list") == "0 waiting, 0 parked\n"
    (tmp_path / "fail").write_text("down")
    with server:
        upload(server, 5)
        until(lambda: "the next try is in" in server.log)
        line, last = run("list").splitlines()
        (row,) = json.loads(run("list", "--json"))
        start = f"{row['id']}  waiting  post-create  upload {row['upload']}  hooks[0]:python  tries: "
        assert re.match(re.escape(start) + r"\d+, (next in [1-9]\d* s|due now): down$", line)
        assert last == "1 waiting, 0 parked"
        (tmp_path / "for-good").write_text("")
        assert run("retry", "--all") == "1 due now\n"
        until(lambda: len(list((tmp_path / "outbox").glob("*/*.parked"))) == 1)
        assert "  parked  post-create  " in run("list")
        upload(server, 5)
        until(lambda: len(list((tmp_path / "outbox").glob("*/*.parked"))) == 2)
        assert run("drop", row["id"][:8]) == "1 dropped\n"
        assert len(json.loads(run("list", "--json"))) == 1
        (tmp_path / "fail").unlink()
        (other,) = json.loads(run("list", "--json"))
        assert run("retry", other["id"]) == "1 due now\n"
        until(lambda: [delivery for _, delivery, _ in told(tmp_path)] == [other["id"]])
        until(lambda: os.listdir(tmp_path / "outbox") == ["name"])
        assert run("drop", "--parked") == "0 dropped\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["retry"], "which? Give ids that `tusd hooks list` shows, or --all\n"),
        (["drop"], "which? Give ids that `tusd hooks list` shows, or --parked\n"),
        (["retry", "0123456789"], "0123456789: there is no such event; `tusd hooks list` shows them"),
    ],
)
def test_what_the_commands_cannot_do(tmp_path: Path, arguments: list[str], says: str) -> None:
    server = server_of(tmp_path, config())
    result = tusd("hooks", *arguments, "-c", str(server.config_file), cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(says)


def test_two_hooks_do_not_share_an_outbox(tmp_path: Path) -> None:
    both = config()
    both["hooks"] *= 2
    server = server_of(tmp_path, both)
    result = tusd("check", "-c", str(server.config_file), cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert result.returncode == 2
    assert "hooks[1].outbox: hooks[0]:python keeps its events there, too; each entry needs a folder of its own" in result.stderr


def test_an_outbox_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    server = server_of(tmp_path, config(outbox=str(tmp_path / "file" / "outbox")))
    with pytest.raises(AssertionError, match="status 2"):
        server.start()
    assert "hooks[0]:python: the outbox" in server.log and "cannot be used: Not a directory" in server.log
