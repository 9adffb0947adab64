"""GET takes no lock: it never waits for a writer and never makes one stop."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Iterator

import pytest
from tests.proc import need_proc
from tests.web.raw import Connection, patch, post, request
from tests.web.serving import path_of

from tusd.testing.server import ServerProcess

KIB = 1024
READERS = 4
PIECE = 20 * KIB


@pytest.fixture(scope="module", params=[1, 2], ids=["1 worker", "2 workers"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Serves what has arrived of unfinished uploads, too."""
    need_proc()
    config = {"server": {"workers": request.param}, "uploads": {"unfinished_downloads": True}}
    with ServerProcess(tmp_path_factory.mktemp("downloads"), config) as running:
        yield running


class Reader(threading.Thread):
    """Downloads an upload again and again, over one connection."""

    def __init__(self, server: ServerProcess, path: str, body: bytes, *, most: int) -> None:
        super().__init__(daemon=True)
        self.times: list[float] = []
        self.sizes: list[int] = []
        self.wrong: list[str] = []
        self.enough = threading.Event()
        self._connection = Connection((server.host, server.port))
        self._ask = request("GET", path, {"Range": f"bytes=-{most}"})
        self._body = body

    def run(self) -> None:
        with self._connection as connection:
            while not self.enough.is_set():
                began = time.monotonic()
                answer = connection.ask(self._ask)
                self.times.append(time.monotonic() - began)
                if answer.status not in (200, 206):
                    self.wrong.append(str(answer))
                    return
                stop = int(answer["Content-Range"].split("/")[1]) if answer.status == 206 else len(answer.body)
                self.sizes.append(stop)
                if answer.body != self._body[stop - len(answer.body) : stop]:
                    self.wrong.append(f"other bytes before {stop}")


@pytest.mark.parametrize("size", [200 * KIB, 2000 * KIB], ids=["small", "direct"])
def test_a_running_patch_goes_on_under_many_downloads(server: ServerProcess, size: int) -> None:
    """It is slow; the downloads answer within milliseconds all the time, never see bytes go, and it ends as if they were not."""
    body = os.urandom(size)
    with Connection((server.host, server.port)) as writer:
        path = path_of(writer.ask(post({"Upload-Length": size})))
        writer.send(patch(path, 0, announce=size) + body[:PIECE])
        file = server.directory / "data" / path.rpartition("/")[2]
        while not file.stat().st_size:
            time.sleep(0.005)
        readers = [Reader(server, path, body, most=1000) for _ in range(READERS)]
        for reader in readers:
            reader.start()
        step = (size - PIECE) // 20 + 1
        for at in range(PIECE, size, step):
            assert writer.silent(0.05), "an answer before the end"
            writer.send(body[at : at + step])
        answer = writer.answer()
        for reader in readers:
            reader.enough.set()
            reader.join()
    assert (answer.status, answer["Upload-Offset"]) == (204, str(size)), answer
    assert file.read_bytes() == body
    quick_and_right(readers)
    assert all(len(set(reader.sizes)) > 3 for reader in readers), "they did not see it grow"


def test_downloads_while_a_writer_says_nothing(server: ServerProcess) -> None:
    """It holds the lock of the one upload; another upload is complete."""
    body = os.urandom(50 * KIB)
    with Connection((server.host, server.port)) as writer, Connection((server.host, server.port)) as asks:
        done = path_of(asks.ask(post({"Upload-Length": len(body)}, body)))
        path = path_of(writer.ask(post({"Upload-Length": 2 * len(body)})))
        writer.send(patch(path, 0, announce=2 * len(body)) + body)
        file = server.directory / "data" / path.rpartition("/")[2]
        while file.stat().st_size < len(body):
            time.sleep(0.005)
        readers = [Reader(server, which, body, most=len(body)) for which in (path, done) for _ in range(2)]
        for reader in readers:
            reader.start()
        assert writer.silent(0.7), "the writer was interrupted"
        for reader in readers:
            reader.enough.set()
            reader.join()
        quick_and_right(readers)
        writer.send(body)
        assert writer.answer()["Upload-Offset"] == str(2 * len(body))


def quick_and_right(readers: list[Reader]) -> None:
    """It takes about a millisecond each; the limits are for machines that are busy with other things."""
    for reader in readers:
        assert not reader.wrong, reader.wrong
        assert statistics.median(reader.times) < 0.1, "the median download waited"
        assert max(reader.times) < 1, "a download waited"
        assert reader.sizes == sorted(reader.sizes), "bytes went away"
