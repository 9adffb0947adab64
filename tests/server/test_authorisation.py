"""The plugin of docs/howto/authorisation.md lets nobody in who should not: every request with every wrong token, over real sockets."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import ValidationError
from tests.docs.authorisation.jwt_hooks import JwtHooks
from tests.e2e.files import MIB, random_file, sha256
from tests.e2e.test_tus_js import Client
from tests.server.running import until
from tests.web.raw import OCTETS, Answer, Connection, post, request

from tusd.testing.server import TRACEBACK, ServerProcess

PLUGIN = Path(__file__).parents[1] / "docs" / "authorisation" / "jwt_hooks.py"
ISSUER, AUDIENCE = "https://login.example.com", "uploads"
Auth = list[tuple[str, str]]


# --- tokens


@functools.cache
def key(name: str) -> tuple[rsa.RSAPrivateKey, str]:
    """An RSA key, and its public half in PEM."""
    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return made, made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def claims(**changes: object) -> dict[str, Any]:
    """What anna's token says, with changes; None takes away."""
    found = {"sub": "anna", "aud": AUDIENCE, "iss": ISSUER, "exp": int(time.time()) + 600, **changes}
    return {name: value for name, value in found.items() if value is not None}


def token(by: str = "new", header: Mapping[str, Any] | None = None, **changes: object) -> str:
    return jwt.encode(claims(**changes), key(by)[0], "RS256", headers=dict(header or {}))


def forged(algorithm: object, sign: Callable[[bytes], bytes], payload: bytes | None = None, **header: object) -> str:
    """A token that no library would make."""
    head = json.dumps({"alg": algorithm, "typ": "JWT", **header}).encode()
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (head, payload or json.dumps(claims()).encode()))
    return (text + b"." + base64.urlsafe_b64encode(sign(text)).rstrip(b"=")).decode()


def unsigned(text: bytes) -> bytes:
    return b""


def with_public_key(text: bytes) -> bytes:
    """Who takes the algorithm from the token takes the public key for the secret of an HMAC."""
    return hmac.new(key("new")[1].encode(), text, hashlib.sha256).digest()


def bearer(text: str) -> Auth:
    return [("Authorization", f"Bearer {text}")]


def anna() -> Auth:
    return bearer(token())


def bob() -> Auth:
    return bearer(token(sub="bob"))


def expired() -> Auth:
    return bearer(token(exp=int(time.time()) - 2))


WRONG: dict[str, Callable[[], Auth]] = {
    "none": lambda: [],
    "an empty header": lambda: [("Authorization", "")],
    "no token": lambda: [("Authorization", "Bearer")],
    "an empty token": lambda: [("Authorization", "Bearer ")],
    "another scheme": lambda: [("Authorization", f"Basic {token()}")],
    "no scheme": lambda: [("Authorization", token())],
    "the wrong key": lambda: bearer(token("wrong")),
    "the wrong key in the header": lambda: bearer(token("wrong", {"jwk": {"kty": "oct", "k": "AA"}, "kid": "../../dev/null"})),
    "alg none": lambda: bearer(forged("none", unsigned)),
    "alg nOnE": lambda: bearer(forged("nOnE", unsigned)),
    "no alg": lambda: bearer(forged(None, unsigned)),
    "HS256 with the public key": lambda: bearer(forged("HS256", with_public_key)),
    "RS256 with an HMAC": lambda: bearer(forged("RS256", with_public_key)),
    "RS256 unsigned": lambda: bearer(forged("RS256", unsigned)),
    "RS512": lambda: bearer(jwt.encode(claims(), key("new")[0], "RS512")),
    "ES256": lambda: bearer(jwt.encode(claims(), ec.generate_private_key(ec.SECP256R1()), "ES256")),
    "another payload": lambda: bearer(".".join([(p := token().split("."))[0], token(sub="bob").split(".")[1], p[2]])),
    "a cut signature": lambda: bearer(token()[:-20]),
    "another audience": lambda: bearer(token(aud="mail")),
    "no audience": lambda: bearer(token(aud=None)),
    "another issuer": lambda: bearer(token(iss="https://evil.example")),
    "no issuer": lambda: bearer(token(iss=None)),
    "no subject": lambda: bearer(token(sub=None)),
    "no end": lambda: bearer(token(exp=None)),
    "not yet valid": lambda: bearer(token(nbf=int(time.time()) + 60)),
    "expired and of another key": lambda: bearer(token("wrong", exp=1)),
    "two tokens": lambda: 2 * anna(),
    "a good one before a bad one": lambda: [*anna(), *bearer("x")],
    "a good one behind a bad one": lambda: [*bearer("x"), *anna()],
    "two tokens in one header": lambda: [("Authorization", f"Bearer {token()}, Bearer {token()}")],
    "a good one with another word": lambda: bearer(f"{token()} x"),
    "a header of another name": lambda: [(name, f"Bearer {token()}") for name in ("Authorization_", "Proxy-Authorization")],
    "a name as CGI writes it": lambda: [("HTTP_AUTHORIZATION", f"Bearer {token()}")],
    "a cookie": lambda: [("Cookie", f"Authorization=Bearer {token()}; access_token={token()}")],
    "bytes that are no text": lambda: bearer("\udcff\udcfe"),
    "letters of elsewhere": lambda: bearer("über.ändert.ö"),
    "dots": lambda: bearer(".."),
    "a deep header": lambda: bearer(base64.urlsafe_b64encode(b"[" * 4500).decode() + ".e30.x"),
    "a number of many digits": lambda: bearer(base64.urlsafe_b64encode(b'{"alg":' + b"9" * 4500 + b"}").decode() + ".e30.x"),
    "a deep payload": lambda: bearer(forged("RS256", unsigned, b"[" * 4500)),
    "a payload that is not sent": lambda: bearer(forged("RS256", unsigned, b64=False, crit=["b64"])),
}


# --- requests

DRAFT = {"Upload-Draft-Interop-Version": "8"}
OLD_DRAFT = {"Upload-Draft-Interop-Version": "3"}
PART = "application/partial-upload"
Make = Callable[[str, Auth], bytes]


def made(
    method: str, headers: Mapping[str, str] | None = None, body: bytes = b"", *, tus: bool = True, creates: bool = False
) -> Make:
    """A request for the upload at a path; in headers `<path>` stands for that path."""

    def make(path: str, auth: Auth) -> bytes:
        given = [(name, value.replace("<path>", path)) for name, value in (headers or {}).items()]
        return request(method, "/files/" if creates else path, [*given, *auth], body, tus=tus)

    return make


def meaning(method: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Make:
    return made("POST", {"X-HTTP-Method-Override": method, **(headers or {})}, body)


APPEND = {"Upload-Offset": "5", "Content-Type": OCTETS}
OF_UPLOADS: dict[str, Make] = {
    "HEAD": made("HEAD"),
    "HEAD by override": meaning("HEAD"),
    "HEAD without a version": made("HEAD", tus=False),
    "HEAD of the draft": made("HEAD", DRAFT, tus=False),
    "HEAD of the old draft": made("HEAD", OLD_DRAFT, tus=False),
    "GET of the draft": made("GET", DRAFT, tus=False),
    "PATCH": made("PATCH", APPEND, b"evil!"),
    "PATCH of nothing": made("PATCH", APPEND),
    "PATCH by override": meaning("PATCH", APPEND, b"evil!"),
    "PATCH of the draft": made(
        "PATCH", {**DRAFT, "Upload-Offset": "5", "Upload-Complete": "?1", "Content-Type": PART}, b"evil!", tus=False
    ),
    "PATCH of the old draft": made("PATCH", {**OLD_DRAFT, "Upload-Offset": "5", "Upload-Incomplete": "?0"}, b"evil!", tus=False),
    "GET": made("GET"),
    "GET without a version": made("GET", tus=False),
    "GET by override": meaning("GET"),
    "GET of a range": made("GET", {"Range": "bytes=0-0"}),
    "GET of no range": made("GET", {"Range": "bytes=99-"}),
    "GET if it has changed": made("GET", {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}),
    "DELETE": made("DELETE"),
    "DELETE by override": meaning("dElEtE"),
    "DELETE without a version": made("DELETE", tus=False),
    "DELETE of the draft": made("DELETE", DRAFT, tus=False),
    "final": made("POST", {"Upload-Concat": "final;<path>"}, creates=True),
    "final of another host": made("POST", {"Upload-Concat": "final;https://evil.example<path>"}, creates=True),
}
CREATIONS: dict[str, Make] = {
    "POST": made("POST", {"Upload-Length": "5"}, creates=True),
    "POST of no bytes": made("POST", {"Upload-Length": "0"}, creates=True),
    "POST of unknown length": made("POST", {"Upload-Defer-Length": "1"}, creates=True),
    "POST with upload": made("POST", {"Upload-Length": "5", "Content-Type": OCTETS}, b"evil!", creates=True),
    "POST of a part": made("POST", {"Upload-Length": "5", "Upload-Concat": "partial"}, creates=True),
    "POST without the slash": lambda path, auth: request("POST", "/files", [("Upload-Length", "5"), *auth]),
    "POST of the draft": made("POST", {**DRAFT, "Upload-Complete": "?1"}, b"evil!", tus=False, creates=True),
    "POST of the standard": made("POST", {"Upload-Complete": "?1"}, b"evil!", tus=False, creates=True),
    "PUT of the draft": made("PUT", {**DRAFT, "Upload-Complete": "?0"}, b"evil!", tus=False, creates=True),
}
REQUESTS = OF_UPLOADS | CREATIONS
TELLING = (
    "Location",
    "Upload-Offset",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Concat",
    "Upload-Expires",
    "ETag",
    "Last-Modified",
)


# --- a server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Also serves downloads of unfinished uploads, so that nothing but the hooks protects them. Wrong tokens are no errors in its log."""
    config = {
        "server": {"cors": {"expose_headers": ["WWW-Authenticate"]}},
        "uploads": {"unfinished_downloads": True},
        "hooks": [{"use": str(PLUGIN), "keys": [key("old")[1], key("new")[1]], "audience": AUDIENCE, "issuer": ISSUER}],
    }
    with ServerProcess(tmp_path_factory.mktemp("authorisation"), config) as running:
        yield running
        assert running.stop() == 0
    assert TRACEBACK not in running.log
    assert " ERROR " not in running.log
    assert "eyJ" not in running.log, "a token is in the log"


def connect(server: ServerProcess) -> Connection:
    return Connection((server.host, server.port))


def ask(server: ServerProcess, data: bytes) -> Answer:
    with connect(server) as connection:
        return connection.ask(data)


def uploads(server: ServerProcess) -> set[str]:
    return {path.name for path in (server.directory / "data").glob("*.info")}


def new_upload(server: ServerProcess) -> str:
    """The path of a new upload of anna's: 5 of 10 bytes, to become a part."""
    headers = {"Upload-Length": 10, "Upload-Concat": "partial", "Upload-Metadata": "filename c2VjcmV0"}
    answer = ask(server, post({**headers, **dict(anna())}, b"hello"))
    assert answer.status == 201
    return "/" + answer["Location"].split("/", 3)[3]


@pytest.fixture(scope="module")
def upload(server: ServerProcess) -> str:
    return new_upload(server)


def untouched(server: ServerProcess, path: str) -> None:
    """The upload is as it was made."""
    answer = ask(server, request("GET", path, anna()))
    assert (answer.status, answer.body) == (200, b"hello")
    assert ask(server, request("HEAD", path, anna()))["Upload-Offset"] == "5"


def tells_nothing(answer: Answer, path: str) -> None:
    assert [name for name in TELLING if name in answer] == []
    assert path.rpartition("/")[2].encode() not in answer.body
    assert answer.all("Cache-Control") == ["no-store"]


# --- who gets in


@pytest.mark.parametrize("name", REQUESTS)
def test_the_owner_may(server: ServerProcess, name: str) -> None:
    answer = ask(server, REQUESTS[name](new_upload(server), anna()))
    assert answer.status < 300 or (name, answer.status) == ("GET of no range", 416)


def test_a_key_that_is_being_replaced_still_counts(server: ServerProcess, upload: str) -> None:
    assert ask(server, request("HEAD", upload, bearer(token("old")))).status == 200


def test_the_scheme_and_the_header_may_be_written_in_any_case(server: ServerProcess, upload: str) -> None:
    assert ask(server, request("HEAD", upload, [("aUTHORIZATION", f"bEARER {token()}")])).status == 200


# --- who does not


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_token_is_none(server: ServerProcess, upload: str, wrong: str) -> None:
    before = uploads(server)
    for name, make in REQUESTS.items():
        answer = ask(server, make(upload, WRONG[wrong]()))
        assert answer.status == 401, (name, answer)
        assert answer["WWW-Authenticate"].startswith("Bearer")
        tells_nothing(answer, upload)
    untouched(server, upload)
    assert uploads(server) == before


@pytest.mark.parametrize("name", OF_UPLOADS)
def test_an_upload_is_for_its_owner_alone(server: ServerProcess, upload: str, name: str) -> None:
    before = uploads(server)
    answer = ask(server, OF_UPLOADS[name](upload, bob()))
    assert answer.status == 403
    assert "WWW-Authenticate" not in answer
    tells_nothing(answer, upload)
    untouched(server, upload)
    assert uploads(server) == before


@pytest.mark.parametrize("name", REQUESTS)
def test_who_comes_with_an_expired_token_in_the_middle_is_told_to_come_again(
    server: ServerProcess, upload: str, name: str
) -> None:
    answer = ask(server, REQUESTS[name](upload, expired()))
    again = 423 if b"Tus-Resumable" in REQUESTS[name](upload, []) else 503
    goes_on = name.startswith(("HEAD", "PATCH", "GET of the draft"))
    assert answer.status == (again if goes_on else 401)
    assert answer.all("Retry-After") == (["1"] if goes_on else [])
    assert answer["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    tells_nothing(answer, upload)
    untouched(server, upload)


def test_a_part_of_somebody_else_among_ones_own(server: ServerProcess, upload: str) -> None:
    own = ask(server, post({"Upload-Length": 2, "Upload-Concat": "partial", **dict(bob())}, b"me"))["Location"]
    before = uploads(server)
    for parts in (f"{own} {upload}", f"{upload} {own}"):
        answer = ask(server, post({"Upload-Concat": f"final;{parts}", **dict(bob())}))
        assert answer.status == 403
        tells_nothing(answer, upload)
    assert uploads(server) == before
    mine = ask(server, post({"Upload-Concat": f"final;{own}", **dict(bob())}))
    assert mine.status == 201
    assert ask(server, request("GET", "/" + mine["Location"].split("/", 3)[3], anna())).status == 403


def test_an_upload_that_nobody_has_created_is_nobodys(server: ServerProcess) -> None:
    data = server.directory / "data"
    (data / "old").write_bytes(b"hello")
    (data / "old.info").write_text('{"ID":"old","Size":10,"Offset":5,"MetaData":{"owner":"anna"},"IsPartial":true}')
    for name, make in OF_UPLOADS.items():
        assert ask(server, make("/files/old", anna())).status == 403, name
    assert (data / "old").read_bytes() == b"hello"


def test_the_owner_is_remembered_over_a_restart(server: ServerProcess) -> None:
    path = new_upload(server)
    server.restart()
    assert ask(server, request("HEAD", path, bob())).status == 403
    untouched(server, path)


def test_what_is_not_there_is_404_for_everybody(server: ServerProcess) -> None:
    for auth in (anna(), bob(), []):
        assert ask(server, request("GET", "/files/" + "0" * 32, auth)).status == 404


# --- ways around


def spellings(path: str) -> dict[str, bool]:
    """Ways to write an upload's path, and whether its owner is understood."""
    upload_id = path.rpartition("/")[2]
    return {
        path + "/": True,
        path + "?": True,
        path + "?access_token=x": True,
        path + "#x": True,
        f"http://evil.example{path}": True,
        f"/files/%{ord(upload_id[0]):02x}{upload_id[1:]}": True,
        f"/files//{upload_id}": False,
        f"//files/{upload_id}": False,
        f"///files/{upload_id}": False,
        path + "//": False,
        path + ";x": False,
        path + "%2F": False,
        path + "/.": False,
        path + "%00": False,
        path + ".info": False,
        path + ".part": False,
        f"/files%2F{upload_id}": False,
        f"/files/%2F{upload_id}": False,
        f"/files/%252F{upload_id}": False,
        f"/files/./{upload_id}": False,
        f"/files/x/../{upload_id}": False,
        f"/files/x%2F..%2F{upload_id}": False,
        f"/public/../files/{upload_id}": False,
        f"/files/..\\files\\{upload_id}": False,
        f"/FILES/{upload_id}": False,
        f"/files/{upload_id.upper()}": False,
        f"/files/{upload_id[:-1]}*": False,
    }


def test_another_spelling_of_the_path_is_no_way_around(server: ServerProcess) -> None:
    path = new_upload(server)
    while path.rpartition("/")[2].upper() == path.rpartition("/")[2]:  # of digits only
        path = new_upload(server)
    for spelling, understood in spellings(path).items():
        assert (ask(server, request("HEAD", spelling, anna())).status == 200) is understood, spelling
        for make in (made("GET"), made("DELETE"), made("PATCH", APPEND, b"evil!"), meaning("DELETE")):
            for auth, refused in ((bob(), 403), ([], 401)):
                answer = ask(server, make(spelling, auth))
                assert answer.status == refused if understood else answer.status in (400, 404, 405), (spelling, answer)
    for spelling, understood in spellings(path).items():
        answer = ask(server, post({"Upload-Concat": f"final;{spelling}", **dict(bob())}))
        assert answer.status == 403 if understood else answer.status in (400, 403, 404), (spelling, answer)
    untouched(server, path)


def test_who_may_not_touch_an_upload_cannot_interrupt_it(server: ServerProcess) -> None:
    path = new_upload(server)
    with connect(server) as running:
        running.send(request("PATCH", path, [*APPEND.items(), *anna()], b"wo", announce=5))
        until(lambda: ask(server, request("GET", path, anna())).body == b"hellowo")  # it holds the lock
        for auth in (bob(), [], expired()):
            for make in OF_UPLOADS.values():
                assert ask(server, make(path, auth)).status >= 400
        assert running.silent()
        running.send(b"rld")
        assert running.answer("PATCH").status == 204
    assert ask(server, request("GET", path, anna())).body == b"helloworld"


def test_who_may_not_touch_an_upload_does_not_use_up_what_its_owner_may_do(tusd_server: Callable[..., ServerProcess]) -> None:
    hooks = {"use": str(PLUGIN), "keys": [key("new")[1]], "audience": AUDIENCE, "issuer": ISSUER}
    limit = {"use": "rate", "client": "note owner", "requests_per_client": 1, "burst": "30s"}
    server = tusd_server({"hooks": [hooks], "limiting": [limit]})
    path = new_upload(server)
    for auth in (bob(), [], expired()):
        for make in OF_UPLOADS.values():
            assert ask(server, make(path, auth)).status not in (200, 204, 429)
    assert ask(server, request("HEAD", path, anna()))["Upload-Offset"] == "5"
    until(lambda: ask(server, request("GET", path, anna())).status == 429)  # it counts those of the owner


@pytest.mark.parametrize("name", ["PATCH", "PATCH by override", "PATCH of the draft", "POST with upload", "POST of the draft"])
def test_who_is_refused_is_not_asked_for_the_body(server: ServerProcess, upload: str, name: str) -> None:
    before = uploads(server)
    for auth, status in ((bob(), 403), ([], 401)):
        if auth and name.startswith("POST"):
            continue  # bob may create uploads of his own
        head, _, _ = REQUESTS[name](upload, [*auth, ("Expect", "100-continue")]).partition(b"\r\n\r\n")
        with connect(server) as connection:
            connection.send(head + b"\r\n\r\n")
            assert connection.answer("PATCH").status == status  # neither 100 nor 104 comes before
    untouched(server, upload)
    assert uploads(server) == before


def test_each_request_of_a_connection_is_judged_by_itself(server: ServerProcess, upload: str) -> None:
    with connect(server) as connection:
        connection.send(b"".join(request("GET", upload, auth) for auth in (anna(), [], bob(), anna())))
        assert [connection.answer().status for _ in range(4)] == [200, 401, 403, 200]


# --- browsers


def test_a_preflight_needs_no_token(server: ServerProcess, upload: str) -> None:
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "PATCH"}
    for path in ("/files/", upload):
        headers = {**asked, "Access-Control-Request-Headers": "authorization,tus-resumable,upload-offset"}
        answer = ask(server, request("OPTIONS", path, headers, tus=False))
        assert answer.status == 200
        assert "Authorization" in answer["Access-Control-Allow-Headers"].split(", ")
        assert "PATCH" in answer["Access-Control-Allow-Methods"].split(", ")


def test_a_script_may_read_why_it_was_refused(server: ServerProcess, upload: str) -> None:
    for auth in ([], bob(), expired()):
        answer = ask(server, request("HEAD", upload, [("Origin", "https://app.example"), *auth]))
        assert answer["Access-Control-Allow-Origin"] == "https://app.example"
        assert "WWW-Authenticate" in answer["Access-Control-Expose-Headers"].split(", ")


def test_tus_js_client_goes_on_with_a_fresh_token(server: ServerProcess, tmp_path: Path) -> None:
    """Its token expires in the middle. A HEAD that is refused would make it start over, a PATCH that is refused would make it fail."""
    file, old = random_file(tmp_path / "file", 4 * MIB), token(exp=int(time.time()) - 2)
    events = list(Client(server, file, tokens=[token(), token(), token(), old, old, old, token()]).events())
    assert [(event["method"], event["status"]) for event in events if event["event"] == "answer"] == [
        ("POST", 201),
        ("PATCH", 204),
        ("PATCH", 204),
        ("PATCH", 423),
        ("HEAD", 423),
        ("HEAD", 423),
        ("HEAD", 200),
        ("PATCH", 204),
        ("PATCH", 204),
    ]
    content = ask(server, request("GET", "/" + events[-1]["url"].split("/", 3)[3], anna())).body
    assert hashlib.sha256(content).hexdigest() == sha256(file)


# --- its options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": []}, "at least 1 item"),
        ({"keys": ["secret" * 10]}, "not one for RS256"),
        ({"algorithm": "HS256"}, "not one for HS256"),
        ({"algorithm": "HS256", "keys": ["secret"]}, "32 bytes"),
        ({"algorithm": "ES256"}, "not one for ES256"),
        ({"algorithm": "none", "keys": [""]}, "Input should be"),
        ({"audience": None}, "valid string"),
        ({"issuer": None}, "valid string"),
        ({"events": ["pre-create"]}, "open to everybody"),
    ],
)
def test_options_that_would_protect_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"keys": [key("new")[1]], "audience": AUDIENCE, "issuer": ISSUER}
    assert JwtHooks.Options(**good).algorithm == "RS256"
    with pytest.raises(ValidationError, match=message) as raised:
        JwtHooks.Options(**{**good, **options})
    assert "secretsecret" not in str(raised.value)
