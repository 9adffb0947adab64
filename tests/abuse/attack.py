"""Sends a shape to a server, and looks at what it did."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from tests.web.raw import Answer, Connection, patch, post, request
from tests.web.serving import path_of

from tusd.testing.server import ServerProcess

from .shape import LENGTH, SECRET, UPLOAD, VICTIM, Shape

AT_ONCE = 2.0
"""Seconds; it takes milliseconds, on a machine that is busy with other tests more."""
QUIET = 0.25
"""Seconds without a word after which nothing more is expected of a server that waits for the rest of a request."""

_PROBE = "http://probe.test"


def attack(server: ServerProcess, shape: Shape) -> str | None:
    """What is wrong with how the server takes this shape; None when all is well."""
    address = (server.host, server.port)
    with Connection(address) as good:
        upload, victim = (path_of(good.ask(post({"Upload-Length": LENGTH}))) for _ in range(2))
        stream = shape.stream.replace(UPLOAD.encode(), upload.encode()).replace(VICTIM.encode(), victim.encode())
        with Connection(address) as bad:  # open until the end: nothing must depend on its end
            answers, closed = answers_to(bad, stream, waits=shape.waits)
            return _verdict(shape, answers, closed) or _aftermath(good, upload, victim)


def answers_to(connection: Connection, stream: bytes, *, waits: bool = False) -> tuple[list[Answer], bool]:
    """Send, and take all that comes back, and whether the server closed. `waits`: perhaps nothing comes back.

    Behind the first answer that leaves the connection open a request of ours is sent: what comes before its answer belongs to
    the stream, and nobody needs to wait for more."""
    method = stream.strip().partition(b" ")[0].decode("latin-1")
    answers: list[Answer] = []
    asked = False
    connection.send_as_far_as_it_goes(stream)
    connection.socket.settimeout(QUIET if waits else 10)
    try:
        while True:
            answer = connection.answer(method)
            if _PROBE in answer.all("Access-Control-Allow-Origin"):
                return answers, False
            answers.append(answer)
            if not asked and answer.status >= 200 and not answer.closes:
                asked = True
                connection.send(request("OPTIONS", "/files/", {"Origin": _PROBE}))
            method = "GET"
    except TimeoutError:
        return answers, False
    except (EOFError, ConnectionError):
        return answers, True


def _verdict(shape: Shape, answers: list[Answer], closed: bool) -> str | None:
    if not answers and not closed and not shape.waits:
        return "no answer, and not closed"
    if len([answer for answer in answers if answer.status >= 200]) > shape.most:
        return f"{len(answers)} answers: {answers}"
    for answer in answers:
        if answer.status not in shape.fine:
            return f"answered {answer}"
        if "X-Injected" in answer:
            return f"a header came in: {answer}"
        if SECRET in answer.body:
            return f"a secret came out: {answer}"
    return None


def _aftermath(good: Connection, upload: str, victim: str) -> str | None:
    """The upload can be worked on at once, and nothing has happened to the other one."""
    began = time.monotonic()
    head = good.ask(request("HEAD", upload))
    if head.status != 200:
        return f"afterwards a HEAD of the upload is answered {head}"
    offset = int(head["Upload-Offset"])
    if offset < LENGTH:
        more = good.ask(patch(upload, offset, b"x"))
        if more.status != 204:
            return f"afterwards a PATCH of the upload is answered {more}"
    told = good.ask(request("HEAD", victim))
    if told.status != 200 or told["Upload-Offset"] != "0":
        return f"the victim is answered {told}"
    if (took := time.monotonic() - began) > AT_ONCE:
        return f"afterwards the upload was held for {took:.1f} s"
    return None


def attack_with_all(server: ServerProcess, shapes: Iterable[tuple[str, Shape]], *, at_once: int = 20) -> list[str]:
    """What is wrong, each with the name of its shape."""

    def one(named: tuple[str, Shape]) -> str | None:
        name, shape = named
        try:
            wrong = attack(server, shape)
        except (OSError, EOFError, AssertionError) as error:
            wrong = f"{type(error).__name__}: {error}"
        return wrong and f"{name}: {wrong[:600]}"

    with ThreadPoolExecutor(at_once) as pool:
        return [wrong for wrong in pool.map(one, shapes) if wrong]
