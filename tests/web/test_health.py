"""`/healthz` and `/readyz`: for everybody a word, for operators which backend fails."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from tusd.errors import StorageUnavailable
from tusd.hooks import PreFinish
from tusd.protocol.messages import Head
from tusd.protocol.urls import Origins
from tusd.web.health import Health

from .conftest import Serve
from .raw import Address, Answer, Connection, patch, request
from .serving import Served
from .test_handover import SlowFinish

SECRET = "cannot reach db-7.internal"


class Flaky:
    """A backend's check."""

    def __init__(self, error: Exception | None = None, takes: float = 0) -> None:
        self.error, self.takes, self.asked = error, takes, 0

    async def __call__(self) -> None:
        self.asked += 1
        await asyncio.sleep(self.takes)
        if self.error is not None:
            raise self.error


def get(address: Address, path: str, method: str = "GET") -> Answer:
    with Connection(address) as connection:
        return connection.ask(request(method, path, tus=False))


@pytest.mark.parametrize("base_path", ["/files/", "/"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_all_is_well(serve: Serve, base_path: str, method: str, path: str) -> None:
    server = serve(origins=Origins(base_path=base_path))
    answer = get(server.address, path, method)
    assert (answer.status, answer["Content-Length"], answer["Cache-Control"]) == (200, "3", "no-store")
    assert answer.body == (b"ok\n" if method == "GET" else b"")
    assert get(server.address, path, "DELETE").status in (404, 405, 412)


@pytest.mark.parametrize("error", [StorageUnavailable(SECRET), OSError(SECRET)])
def test_a_backend_that_fails(serve: Serve, error: Exception) -> None:
    served = serve_with(serve, {"storage:test": Flaky(error), "locking:test": Flaky()}, admin=True)
    assert get(served.address, "/healthz").status == 200
    answer = get(served.address, "/readyz")
    assert (answer.status, answer.body) == (503, b"unavailable\n")
    assert "db-7" not in repr(answer)
    assert get(served.address, "/readyz", "HEAD").status == 503
    told = json.loads(get(served.admin_address, "/readyz").body)
    assert told["status"] == "unavailable"
    assert told["backends"]["locking:test"] == {"state": "ok"}
    assert told["backends"]["storage:test"]["state"] == "failed"
    assert SECRET in told["backends"]["storage:test"]["error"]


def serve_with(serve: Serve, checks: dict[str, Flaky], **options: Any) -> Served:
    return serve(extras={"checks": checks, **options.pop("extras", {})}, **options)


def test_details_for_everybody_on_demand(serve: Serve) -> None:
    served = serve_with(serve, {"storage:test": Flaky(StorageUnavailable(SECRET))}, extras={"details": True})
    assert json.loads(get(served.address, "/healthz").body) == {"status": "ok"}
    answer = get(served.address, "/readyz")
    assert answer["Content-Type"] == "application/json"
    assert json.loads(answer.body) == {
        "status": "unavailable",
        "backends": {"storage:test": {"state": "failed", "error": SECRET}},
    }


def test_backends_are_asked_once_a_second_at_the_most(serve: Serve) -> None:
    check = Flaky(takes=0.05)
    served = serve_with(serve, {"storage:test": check})
    with served.connect() as one, served.connect() as two:
        for connection in (one, two) * 50:
            connection.send(request("GET", "/readyz"))
        for connection in (one, two) * 50:
            assert connection.answer().status == 200
        assert check.asked == 1
        time.sleep(1.1)
        assert one.ask(request("GET", "/readyz")).status == 200
    assert check.asked == 2


async def test_a_backend_that_hangs_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold a thread for as long as it hangs, so no second one is given to it."""
    monkeypatch.setattr("tusd.web.health._PATIENCE", 0.05)
    monkeypatch.setattr("tusd.web.health._FRESH", 0)
    slow, quick = Flaky(takes=0.5), Flaky()
    ready = Health({"storage:slow": slow, "locking:quick": quick}).pages(details=True)["/readyz"]
    head = Head("GET", "/readyz", {})  # type: ignore[arg-type]
    for _ in range(5):
        answer = await ready(head)
        assert answer.status == 503
        told = json.loads(answer.body)["backends"]
        assert told == {"storage:slow": {"state": "failed", "error": "no answer within 0.05 s"}, "locking:quick": {"state": "ok"}}
    assert (slow.asked, quick.asked) == (1, 5)
    await asyncio.sleep(0.5)
    assert (await ready(head)).status == 200
    assert slow.asked == 1, "the answer that came late counts"
    slow.takes = 0
    assert (await ready(head)).status == 200
    assert slow.asked == 2


async def test_a_prober_that_went_away_does_not_disturb_the_next() -> None:
    check = Flaky(takes=0.1)
    ready = Health({"storage:test": check}).pages(details=False)["/readyz"]
    head = Head("GET", "/readyz", {})  # type: ignore[arg-type]
    impatient = asyncio.ensure_future(ready(head))
    await asyncio.sleep(0.02)
    impatient.cancel()
    assert (await ready(head)).status == 200
    assert check.asked == 1


def test_a_server_that_drains_is_not_ready(serve: Serve) -> None:
    server = serve(dispatchers=[SlowFinish()], admin=True)
    assert PreFinish in SlowFinish.events
    path = server.create(5)
    with server.connect() as busy:
        busy.send(patch(path, 0, b"hello") + request("GET", "/readyz") + request("GET", "/healthz"))
        server.wait_for_offset(path, 5)
        health = server.site._health

        async def ready() -> tuple[int, int]:
            pages = health.pages(details=False)
            head = Head("GET", "/", {})  # type: ignore[arg-type]
            return (await pages["/readyz"](head)).status, (await pages["/healthz"](head)).status

        assert server.run(ready()) == (200, 200)
        server.begin_stop()
        time.sleep(0.1)
        assert server.run(ready()) == (503, 200)
        assert busy.answer().status == 204
