"""Clients that race for few uploads, as `python -m tests.races.race --requests 100000 --workers 2`.

They append where they believe the end to be, with and without checksums, chunked, large, waiting for 100 Continue; they vanish in
mid-body by RST, by FIN, or silently; they ask, download, remove, and create anew. Afterwards every acknowledged byte must be stored, and
every stored byte must be of a request that wrote there.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import itertools
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from tests.web.raw import Answer, Connection, chunked, patch, post, request
from tests.web.serving import path_of

from tusd.testing.server import TRACEBACK, ServerProcess

from .ledger import SHIFTS, Ledger, Pen, Stretch

SMALL, LARGE = 40_000, 3_000_000
SLOTS = (SMALL, SMALL, SMALL, SMALL, LARGE)
"""Lengths of the uploads that are raced for."""
CLIENTS = 16
DIRECT = 300_000
"""Bytes that go straight from the socket to the file."""
SILENT = 3
"""Connections that a client leaves behind silently, before it closes the oldest."""


class Race:
    """The uploads of one race, and what has gone wrong so far."""

    def __init__(self, server: ServerProcess, *, seed: int, requests: int) -> None:
        self.server = server
        self.seed = seed
        self.address = (server.host, server.port)
        self.wrong: list[str] = []
        self.statuses: Counter[str] = Counter()
        self.checked = 0
        self._left = itertools.count(requests, -1)
        self._lock = threading.Lock()
        self._slots = [self._create(length) for length in SLOTS]

    def run(self) -> None:
        """Let the clients loose, and check what is left when all are done."""
        clients = [Client(self, number) for number in range(CLIENTS)]
        threads = [threading.Thread(target=client.run, daemon=True) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for ledger in self._slots:
            began = time.monotonic()
            with Connection(self.address) as connection:
                answer = connection.ask(request("HEAD", ledger.path))
            if ledger.gone:
                continue
            if answer.status != 200 or time.monotonic() - began > 2:
                self.complain(ledger, f"after the race HEAD is answered {answer} after {time.monotonic() - began:.2f} s")
            elif int(answer["Upload-Offset"]) != ledger.file.stat().st_size:
                self.complain(ledger, f"{answer['Upload-Offset']} is told, {ledger.file.stat().st_size} bytes are stored")
            self._check(ledger)
        if TRACEBACK in self.server.log:
            self.wrong.append(self.server.log[self.server.log.index(TRACEBACK) :][:3000])

    def goes_on(self) -> bool:
        """Whether there is a request left for a client; it is taken."""
        return next(self._left) > 0 and not self.wrong

    def take(self, rng: random.Random) -> Ledger:
        """One of the uploads; give it back afterwards."""
        with self._lock:
            ledger = rng.choice(self._slots)
            ledger.working += 1
        return ledger

    def give_back(self, ledger: Ledger) -> None:
        """The last who gives back one that is retired checks it."""
        with self._lock:
            ledger.working -= 1
            last = ledger.retired and not ledger.working
        if last and not ledger.gone:
            self._check(ledger)
            ledger.file.unlink()  # a long race would fill the disk

    def replace(self, ledger: Ledger) -> None:
        """A new upload for one that is complete or removed."""
        with self._lock:
            if not ledger.retired:
                ledger.retired = True
                self._slots[self._slots.index(ledger)] = self._create(ledger.length)

    def complain(self, ledger: Ledger, what: str) -> None:
        """It is wrong."""
        self.wrong.append(f"seed {self.seed}, {ledger.path} of {ledger.length}: {what}")

    def _create(self, length: int) -> Ledger:
        with Connection(self.address) as connection:
            path = path_of(connection.ask(post({"Upload-Length": length})))
        name = path.rpartition("/")[2]
        return Ledger(path, self.server.directory / "data" / name, length, int(name[:8], 16) % SHIFTS)

    def _check(self, ledger: Ledger) -> None:
        self.checked += 1
        if found := ledger.wrong():
            self.complain(ledger, found)


class Client:
    """One of those who race."""

    def __init__(self, race: Race, number: int) -> None:
        self._race = race
        self._rng = random.Random(f"{race.seed}/{number}")
        self._pen = Pen(number, LARGE)
        self._connection: Connection | None = None
        self._silent: list[Connection] = []

    def run(self) -> None:
        """Do things until the race is over."""
        actions = {
            self._append: 50, self._append_checked: 10, self._append_chunked: 8, self._append_expecting: 8, self._vanish: 12,
            self._head: 10, self._get: 6, self._remove: 1,
        }  # fmt: skip
        while self._race.goes_on():
            action = self._rng.choices(list(actions), list(actions.values()))[0]
            ledger = self._race.take(self._rng)
            try:
                action(ledger)
            except Exception as error:  # a thread that dies would look like one that is done
                self._race.complain(ledger, f"{action.__name__}: {error!r}")
            finally:
                self._race.give_back(ledger)
        for connection in (self._connection, *self._silent):
            if connection is not None:
                connection.close()

    # --- what it does

    def _append(self, ledger: Ledger) -> None:
        stretch, body = self._draft(ledger)
        self._settle(ledger, stretch, self._ask(ledger, patch(ledger.path, stretch.start, body), stretch))

    def _append_chunked(self, ledger: Ledger) -> None:
        stretch, body = self._draft(ledger)
        coded = chunked(body, self._rng.randint(1 + len(body) // 20, 1 + len(body)))
        stream = patch(ledger.path, stretch.start, coded, {"Transfer-Encoding": "chunked"})
        self._settle(ledger, stretch, self._ask(ledger, stream, stretch))

    def _append_checked(self, ledger: Ledger) -> None:
        stretch, body = self._draft(ledger, whole=True)
        good = self._rng.random() < 0.7
        digest = base64.b64encode(hashlib.sha1(body if good else body + b"x").digest()).decode()
        stream = patch(ledger.path, stretch.start, body, {"Upload-Checksum": f"sha1 {digest}"})
        answer = self._ask(ledger, stream, stretch if good else None)
        if not good and body and answer is not None and answer.status == 204:
            self._race.complain(ledger, "a body with a wrong checksum is taken")
        self._settle(ledger, stretch, answer)

    def _append_expecting(self, ledger: Ledger) -> None:
        stretch, body = self._draft(ledger)
        connection = self._connect()
        connection.send(patch(ledger.path, stretch.start, headers={"Expect": "100-continue"}, announce=len(body)))
        answer = self._answer(connection, "PATCH")
        if answer is not None and answer.status == 100:
            ledger.open.append(stretch)
            answer = self._exchange(connection, body, "PATCH")
        self._settle(ledger, stretch, answer)

    def _vanish(self, ledger: Ledger) -> None:
        """In mid-body. With a checksum nothing of it may stay, without one any part of it may."""
        stretch, body = self._draft(ledger)
        whole = self._rng.random() < 0.3 and len(body) > 0
        sent = body[: self._rng.randrange(len(body) + (0 if whole else 1))]
        headers = {"Upload-Checksum": f"sha1 {base64.b64encode(hashlib.sha1(body).digest()).decode()}"} if whole else {}
        if not whole and sent:
            ledger.open.append(Stretch(stretch.start, len(sent), self._pen))
        connection = Connection(self._race.address)
        connection.send_as_far_as_it_goes(patch(ledger.path, stretch.start, sent, headers, announce=len(body)))
        self._race.statuses["vanished"] += 1
        match self._rng.randrange(3):
            case 0:
                connection.reset()
            case 1:
                connection.close()
            case _:
                self._silent.append(connection)
                if len(self._silent) > SILENT:
                    self._silent.pop(0).close()

    def _head(self, ledger: Ledger) -> None:
        floor, gone = ledger.floor, ledger.gone
        answer = self._ask(ledger, request("HEAD", ledger.path))
        if answer is None:
            return
        self._expect(ledger, answer, (200, 423), gone)
        if answer.status == 200:
            offset = int(answer["Upload-Offset"])
            if offset < floor:
                self._race.complain(ledger, f"HEAD tells {offset} after {floor}")
            ledger.told(offset)

    def _get(self, ledger: Ledger) -> None:
        """Takes no lock: it may be behind, and is never wrong about what was acknowledged before."""
        floor, gone, known = ledger.floor, ledger.gone, list(ledger.acknowledged)
        answer = self._ask(ledger, request("GET", ledger.path))
        if answer is None:
            return
        self._expect(ledger, answer, (200,), gone)
        if answer.status == 200:
            if len(answer.body) < floor:
                self._race.complain(ledger, f"GET gives {len(answer.body)} bytes after {floor}")
            for stretch in known:
                end = stretch.start + stretch.size
                if answer.body[stretch.start : end] != stretch.pen.writes(ledger.shift, stretch.start, stretch.size):
                    self._race.complain(ledger, f"GET gives other bytes than were acknowledged from {stretch.start} to {end}")

    def _remove(self, ledger: Ledger) -> None:
        ledger.dying = True
        answer = self._ask(ledger, request("DELETE", ledger.path))
        if answer is None or answer.status == 204:
            ledger.gone = True  # without an answer nobody knows: it is not looked at again
            self._race.replace(ledger)
        else:
            self._expect(ledger, answer, (423,), False)

    # --- how it does it

    def _draft(self, ledger: Ledger, *, whole: bool = False) -> tuple[Stretch, bytes]:
        """Bytes for where it believes the end to be, mostly rightly."""
        start = ledger.floor
        if start == ledger.length:
            self._race.replace(ledger)
        if self._rng.random() < 0.05:
            start = self._rng.randrange(ledger.length)
        most = DIRECT if ledger.length == LARGE and self._rng.random() < 0.4 else 3000
        size = min(self._rng.randint(most // 10, most), ledger.length - start)
        return Stretch(start, size, self._pen, whole), self._pen.writes(ledger.shift, start, size)

    def _settle(self, ledger: Ledger, stretch: Stretch, answer: Answer | None) -> None:
        """What an answer says of what was sent."""
        if answer is None:
            return  # it stays open
        with ledger.lock:
            if stretch in ledger.open:
                ledger.open.remove(stretch)
        self._expect(ledger, answer, (204, 409, 423, 460), False)
        if answer.status in (204, 423, 460) and "Upload-Offset" in answer:
            end = int(answer["Upload-Offset"])
            kept = end - stretch.start
            if (
                (answer.status == 204 and kept != stretch.size)
                or kept > stretch.size
                or (stretch.whole and 0 < kept < stretch.size)
            ):
                self._race.complain(ledger, f"{stretch.size} bytes sent for {stretch.start}, and the answer is {answer}")
            if kept > 0:
                ledger.acknowledged.append(Stretch(stretch.start, kept, self._pen))
            ledger.told(end)
        elif answer.status == 409:
            ledger.told(int(answer["Upload-Offset"]))

    def _expect(self, ledger: Ledger, answer: Answer, statuses: tuple[int, ...], gone: bool) -> None:
        fine = (404,) if gone else (*statuses, 404) if ledger.dying else statuses
        if answer.status not in fine:
            self._race.complain(ledger, f"is answered {answer}")

    def _ask(self, ledger: Ledger, stream: bytes, stretch: Stretch | None = None) -> Answer | None:
        connection = self._connect()
        if stretch is not None and stretch.size:
            ledger.open.append(stretch)
        return self._exchange(connection, stream, stream.partition(b" ")[0].decode())

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = Connection(self._race.address, timeout=30)
        return self._connection

    def _exchange(self, connection: Connection, stream: bytes, method: str) -> Answer | None:
        """An answer may come before all is sent; where the connection goes on, so does the body."""
        sent = connection.send_as_far_as_it_goes(stream)
        answer = self._answer(connection, method)
        if answer is not None and not answer.closes:
            try:
                connection.send(stream[sent:])
            except ConnectionError:  # it does not wait for long
                connection.close()
                self._connection = None
        return answer

    def _answer(self, connection: Connection, method: str) -> Answer | None:
        """None when the connection was reset before it came: that happens to clients that still send."""
        try:
            answer = connection.answer(method)
        except (EOFError, ConnectionError):
            answer = None
        self._race.statuses[str(answer.status) if answer else "no answer"] += 1
        if answer is None or answer.closes:
            connection.close()
            self._connection = None
        return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--loop", default="auto")
    parser.add_argument("--seed", type=int, default=random.randrange(10**9))
    options = parser.parse_args()
    config = {
        "server": {"workers": options.workers, "loop": options.loop},
        "uploads": {"unfinished_downloads": True},
        "logging": {"level": "warning"},
    }
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, ServerProcess(Path(directory), config) as server:
        began = time.monotonic()
        race = Race(server, seed=options.seed, requests=options.requests)
        race.run()
        print(
            f"seed {options.seed}: {options.requests} requests, {options.workers} workers, {time.monotonic() - began:.0f} s, "
            f"{race.checked} uploads compared, {dict(race.statuses.most_common())}"
        )
        if race.wrong:
            sys.exit("\n".join(race.wrong[:20]))


if __name__ == "__main__":
    main()
