"""nginx asks an application who it is, as docs/howto/authorisation.md says; what clients claim themselves never counts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from tests.web.raw import OCTETS, Answer, chunked, patch, post, request

from tusd.testing.server import TRACEBACK, ServerProcess

from .pages import file_of, replaced, tusd_config
from .proxy import Certificate, Nginx, Site

PAGE = "authorisation.md"
Fields = dict[str, object]


class Application(BaseHTTPRequestHandler):
    """Answers `/auth` by the cookie `session`, whose value is the user's name."""

    def do_GET(self) -> None:
        assert self.path == "/auth"
        _, _, user = self.headers.get("Cookie", "").partition("session=")
        preflight = self.headers["X-Original-Method"] == "OPTIONS"
        self.send_response(204 if user or preflight else 401)
        if user:
            self.send_header("X-User", user)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to say."""


@pytest.fixture(scope="module")
def application() -> Iterator[str]:
    """Where it listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Application) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def site(application: str, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """nginx with the lines of the page, and a server with its hook."""
    directory = tmp_path_factory.mktemp("authenticating")
    (directory / "proxy_hooks.py").write_text(file_of(PAGE, "proxy_hooks.py"))
    config = tusd_config(Nginx.page, "tusd.yaml", yaml.safe_load(file_of(PAGE, "tusd.yaml")))
    server = ServerProcess(directory / "server", config, env={"PYTHONPATH": str(directory)})
    within, beside = "proxy_pass http://tusd;", "location @unreachable {"
    changes = {
        within: within + "\n" + file_of(PAGE, "in location /files/"),
        beside: replaced(file_of(PAGE, "beside it"), {"127.0.0.1:8000": application}) + beside,
    }
    with server, Nginx(directory / "nginx", certificate, [f"127.0.0.1:{server.port}"], **changes) as proxy:
        yield Site(proxy, [server])
    assert TRACEBACK not in server.log


def ask(site: Site, data: bytes) -> Answer:
    with site.proxy.connect() as connection:
        return connection.ask(data)


def session(user: str) -> Fields:
    return {"Cookie": f"session={user}"}


def new_upload(site: Site, **headers: object) -> str:
    """The path of anna's upload: 5 of 10 bytes."""
    answer = ask(site, post({"Upload-Length": 10, **session("anna"), **headers}, b"hello"))
    assert answer.status == 201, answer
    return "/" + answer["Location"].split("/", 3)[3]


CLAIMS: list[list[tuple[str, object]]] = [
    [],
    [("X-User", "anna")],
    [("x-user", "anna")],
    [("X_User", "anna")],
    [("X-User", "anna"), ("X-User", "anna")],
    [("X-User", "")],
]


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
def test_what_a_client_claims_does_not_count(site: Site, claim: list[tuple[str, object]]) -> None:
    path = new_upload(site, **{name: "bob" for name, _ in claim})
    attempts: list[tuple[str, Fields]] = [
        ("HEAD", {}),
        ("GET", {}),
        ("DELETE", {}),
        ("POST", {"X-HTTP-Method-Override": "DELETE"}),
        ("PATCH", {"Upload-Offset": 5, "Content-Type": OCTETS}),
    ]
    for method, headers in attempts:
        strange = ask(site, request(method, path, [*headers.items(), *session("bob").items(), *claim]))
        assert strange.status == 403, (method, strange)
        nobody = ask(site, request(method, path, [*headers.items(), *claim]))
        assert nobody.status == (423 if method == "HEAD" else 401), (method, nobody)
        assert nobody["Retry-After"] == "1"
    assert ask(site, request("POST", "/files/", [("Upload-Length", 5), *claim])).status == 401
    assert ask(site, request("HEAD", path, session("anna")))["Upload-Offset"] == "5"


@pytest.mark.parametrize("length", [5, None], ids=["length", "chunked"])
def test_the_owner_goes_on(site: Site, length: int | None) -> None:
    path = new_upload(site)
    if length is None:
        body = chunked(b"world", 2)
        appended = ask(site, patch(path, 5, body, {"Transfer-Encoding": "chunked", **session("anna")}))
    else:
        appended = ask(site, patch(path, 5, b"world", session("anna")))
    assert appended.status == 204
    assert ask(site, request("HEAD", path, session("anna")))["Cache-Control"] == "no-store"
    answer = ask(site, request("GET", path, session("anna")))
    assert answer.body == b"helloworld"
    assert answer["Cache-Control"] == "private"


def test_a_preflight_needs_no_session(site: Site) -> None:
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "PATCH"}
    answer = ask(site, request("OPTIONS", "/files/", asked, tus=False))
    assert answer.status == 200
    assert answer["Access-Control-Allow-Origin"] == "https://app.example"
