"""What is served besides uploads, and on which listener."""

from __future__ import annotations

import logging
import re
import threading
import time

import pytest

from tusd.engine.new import new_id
from tusd.plugin import Response, Routes
from tusd.protocol.messages import Head
from tusd.protocol.urls import Origins
from tusd.web.pages import ids_of_pages

from .conftest import Serve
from .raw import post, request
from .test_health import get


async def page(head: Head) -> Response:
    return Response(200)


# --- GET /


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("base_path", ["/files/", "/"])
def test_the_index_says_where_to_upload(serve: Serve, base_path: str, method: str) -> None:
    server = serve(origins=Origins(base_path=base_path))
    answer = get(server.address, "/", method)
    assert (answer.status, answer["Content-Type"]) == (200, "text/plain; charset=utf-8")
    if method == "GET":
        assert f"Uploads go to http://tus.test{base_path}\n" in answer.body.decode()
    assert server.ask(post({"Upload-Length": 5}, path=base_path)).status == 201
    assert server.ask(request("OPTIONS", base_path)).status == 200


def test_the_index_of_a_host_that_is_none(serve: Serve) -> None:
    server = serve(origins=Origins(allowed_hosts=frozenset({"up.example.com"})))
    answer = server.ask(request("GET", "/", {"Host": "evil.test"}))
    assert answer.status == 200
    assert b"evil" not in answer.body


def test_no_index(serve: Serve) -> None:
    server = serve(extras={"index": False})
    assert get(server.address, "/").status == 404


# --- routes


def test_a_path_that_is_taken_or_not_allowed() -> None:
    routes = Routes("/files/")
    routes.get("/a", page)
    routes.get("/b", page, admin=True)
    for path in ("/a", "/b", "/healthz", "/readyz", "/debug/profile", "/files", "/files/x", "x"):
        for admin in (False, True):
            with pytest.raises(ValueError, match=re.escape(repr(path))):
                routes.get(path, page, admin=admin)
    assert (list(routes.found), list(routes.admin)) == (["/a"], ["/b"])


def test_routes_among_uploads() -> None:
    """They may have any path but one that the server might give to an upload."""
    routes = Routes("/")
    routes.get("/metrics", page, admin=True)
    routes.get("/about/us", page)
    routes.get("/", page)
    for path in (f"/{new_id()}", f"/{new_id()}+2~x", "/metrics", "/healthz", "about"):
        with pytest.raises(ValueError, match=re.escape(repr(path))):
            routes.get(path, page)
    assert ids_of_pages(routes, Origins(base_path="/")) == {"metrics", "about/us", "healthz", "readyz"}
    assert ids_of_pages(routes, Origins(base_path="/files/")) == frozenset()


def test_a_page_that_no_upload_could_be_at() -> None:
    routes = Routes("/")
    routes.get("/.well-known/tusd", page)
    routes.get("/%61bout", page)
    assert ids_of_pages(routes, Origins(base_path="/")) == {"about", "healthz", "readyz"}


def test_routes_for_operators_are_public_without_an_admin_listener(serve: Serve) -> None:
    server = serve()
    assert get(server.address, "/hello").status == 200
    assert get(server.address, "/figures").status == 200


def test_with_an_admin_listener_they_are_there_only(serve: Serve) -> None:
    server = serve(admin=True)
    assert get(server.address, "/hello").status == 200
    assert get(server.address, "/figures").status == 404
    assert get(server.admin_address, "/figures").status == 200
    assert get(server.admin_address, "/hello").status == 404
    assert get(server.admin_address, "/figures", "DELETE").status == 405


@pytest.mark.parametrize("base_path", ["/files/", "/"])
def test_the_admin_listener_takes_no_uploads(serve: Serve, base_path: str) -> None:
    server = serve(admin=True, origins=Origins(base_path=base_path))
    path = server.ask(post({"Upload-Length": 5}, b"hello", path=base_path))["Location"].removeprefix("http://tus.test")
    for method in ("GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS"):
        for where in (path, base_path):
            answer = get(server.admin_address, where, method)
            assert answer.status == 404
            assert "Tus-Resumable" not in answer
    assert server.ask(request("GET", path)).body == b"hello"


# --- the profile


def test_the_profile_is_off_by_default_and_never_public(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve(admin=True)
    assert get(server.admin_address, "/debug/profile?seconds=1").status == 404
    with caplog.at_level(logging.WARNING):
        public = serve(extras={"profile": True})
    assert "set server.admin_listen" in caplog.text
    assert get(public.address, "/debug/profile?seconds=1").status == 404
    both = serve(extras={"profile": True}, admin=True)
    assert get(both.address, "/debug/profile?seconds=1").status == 404


def test_a_profile_shows_what_runs(serve: Serve) -> None:
    server = serve(extras={"profile": True}, admin=True)
    stop = threading.Event()

    def burn_the_time_away() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=burn_the_time_away, name="busy one")
    thread.start()
    try:
        began = time.monotonic()
        answer = get(server.admin_address, "/debug/profile?seconds=1")
        assert 0.9 < time.monotonic() - began < 5
    finally:
        stop.set()
        thread.join()
    assert answer.status == 200
    lines = answer.body.decode().splitlines()
    assert all(re.fullmatch(r"[^ ]+ [1-9][0-9]*", line) for line in lines), "stack, a space, a number"
    (busy,) = {line.split(";")[0] for line in lines if "burn_the_time_away" in line}
    assert busy == "busy_one"
    assert any(line.startswith("server;") for line in lines), "the event loop's thread"
    assert not any(line.startswith("profile;") for line in lines), "the sampler itself"
    samples = sum(int(line.rpartition(" ")[2]) for line in lines if line.startswith("busy_one;"))
    assert samples > 20
    assert not [thread for thread in threading.enumerate() if thread.name == "profile"]


def test_one_profile_at_a_time(serve: Serve) -> None:
    server = serve(extras={"profile": True}, admin=True)
    statuses: list[int] = []
    first = threading.Thread(target=lambda: statuses.append(get(server.admin_address, "/debug/profile?seconds=1").status))
    first.start()
    time.sleep(0.3)
    assert get(server.admin_address, "/debug/profile?seconds=1").status == 409
    first.join()
    assert statuses == [200]
    assert get(server.admin_address, "/debug/profile?seconds=1").status == 200


@pytest.mark.parametrize("seconds", ["0", "61", "-1", "x", "nan", "inf", "1e9"])
def test_bounded_seconds(serve: Serve, seconds: str) -> None:
    server = serve(extras={"profile": True}, admin=True)
    answer = get(server.admin_address, f"/debug/profile?seconds={seconds}")
    assert (answer.status, answer.body) == (400, b"seconds: a number from 1 to 60\n")
