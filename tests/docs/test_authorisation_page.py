"""docs/howto/authorisation.md: what it shows is what `authorisation/` holds, and works. Who gets in, and who does not, is in
tests/server/test_authorisation.py; the proxy is in tests/proxies/test_authenticating.py."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from multidict import CIMultiDict
from tests.proxies.pages import file_of, replaced
from tests.server.test_authorisation import AUDIENCE, ISSUER, bearer, key, token
from tests.web.raw import Connection, post, request

from tusd.hooks import Access, Changes, HookResponse, PreAccess
from tusd.model import UploadId, UploadInfo
from tusd.plugin import decode_answer
from tusd.protocol.messages import Head
from tusd.registry.one_file import load_file
from tusd.testing.server import ServerProcess

NAME = "authorisation.md"
PAGE = (Path(__file__).parents[2] / "docs" / "howto" / NAME).read_text()
PLUGIN = Path(__file__).parent / "authorisation" / "jwt_hooks.py"
Start = Callable[..., ServerProcess]


def test_the_plugin_is_the_one_that_is_tested() -> None:
    assert file_of(NAME, "jwt_hooks.py") == PLUGIN.read_text()


def test_the_configuration_works(tusd_server: Start, tmp_path: Path) -> None:
    (tmp_path / "login.pem").write_text(key("new")[1])
    text = replaced(file_of(NAME, "config.yaml"), {"/etc/tusd/login.pem": str(tmp_path / "login.pem")})
    server = tusd_server(text + file_of(NAME, "for browsers"), start=False)
    shutil.copy(PLUGIN, server.directory)
    server.start()
    with Connection((server.host, server.port)) as connection:
        answer = connection.ask(post({"Upload-Length": 5}))
        assert f"HTTP/1.1 {answer.status} Unauthorized\nWWW-Authenticate: {answer['WWW-Authenticate']}\n" in PAGE
        created = connection.ask(post({"Upload-Length": 5, "Origin": "https://app.example.com", **dict(bearer(token()))}))
        assert created.status == 201
        assert "WWW-Authenticate" in created["Access-Control-Expose-Headers"]
        assert connection.ask(post({"Upload-Length": 5, "Origin": "https://app.example.com.evil.test"})).status == 403


def test_every_access_is_in_the_table() -> None:
    assert set(re.findall(r"^\| .* \| `pre-access`.* \| `(\w+)` \|$", PAGE, re.MULTILINE)) == set(get_args(Access))


async def test_the_line_that_lets_everybody_read(tmp_path: Path) -> None:
    (line,) = re.findall(r"put `(case PreAccess\(.*?)` before", PAGE)
    owners = "            case PreAccess(upload=info)"
    (tmp_path / "changed.py").write_text(replaced(PLUGIN.read_text(), {owners: f"            {line}\n{owners}"}))
    plugin: Any = load_file("changed.py", tmp_path)[1]
    options = plugin.Options(keys=[key("new")[1]], audience=AUDIENCE, issuer=ISSUER)
    head = Head("GET", "/files/a", CIMultiDict(bearer(token(sub="bob"))))
    info = UploadInfo(id=UploadId("a"), length=5, notes={"owner": "anna"})
    async with plugin(options).open_hooks() as dispatcher:
        for access in get_args(Access):
            answer = await dispatcher.dispatch(PreAccess(upload=info, head=head, access=access))
            assert (answer is None) is (access in ("read", "inspect"))


@pytest.mark.parametrize(
    ("title", "answer"),
    [
        ("remember", HookResponse(change=Changes(notes={"owner": "anna"}))),
        (
            "refuse a creation",
            HookResponse(reject=True, status=401, headers={"WWW-Authenticate": "Bearer"}, body="a token is needed"),
        ),
        ("refuse an access", HookResponse(reject=True, status=403, body="this is somebody else's upload")),
    ],
)
def test_answers_in_json(title: str, answer: HookResponse) -> None:
    assert decode_answer(file_of(NAME, title).encode()) == answer


FAILING = """
def hook(event):
    if event.name == "pre-access":
        raise OSError("the database is down")
"""


def test_a_hook_that_fails_refuses(tusd_server: Start, tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    hooks = [{"use": "python", "function": "failing:hook", "events": ["pre-create", "pre-access"]}]
    server = tusd_server({"hooks": hooks}, env={"PYTHONPATH": str(tmp_path)}, tracebacks=True)
    with Connection((server.host, server.port)) as connection:
        path = "/" + connection.ask(post({"Upload-Length": 5}))["Location"].split("/", 3)[3]
        answers = {method: connection.ask(request(method, path)).status for method in ("HEAD", "GET", "DELETE")}
        assert answers == {"HEAD": 423, "GET": 500, "DELETE": 500}
        assert "database" in server.log
