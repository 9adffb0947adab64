"""Throws mutated requests at a server and looks for answers that must not be: `python -m tests.abuse.fuzz --seconds 600`.

Each case is made of the seed and its number only: `--seed S --first N --cases 1` sends it again.
"""

from __future__ import annotations

import argparse
import errno
import random
import re
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.proc import memory
from tests.web.raw import OCTETS, Connection, chunked, patch, post, request
from tests.web.serving import path_of

from tusd.testing.server import TRACEBACK, ServerProcess

LENGTH = 5000
CLOSE = {"Connection": "close"}
SHA1 = "sha1 qvTGHdzF6KLavt4PO0gs2a6pQ00="  # of "hello"
FAILURES = re.compile(rb"^HTTP/\S+ (?:500|502|504)|\nHTTP/1\.[01] (?:500|502|504) ", re.MULTILINE)
WORDS = [
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"%00", b"%2e%2e/", b"../", b"%0d%0a", b"\xff", b"\xc3\xa4"),
    *(b"-1", b"0", b"1e9", b"0x10", b"9223372036854775807", b"9223372036854775808", b"18446744073709551616", b"9" * 5000),
    *(
        b"chunked",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 0\r\n",
        b"Expect: 100-continue\r\n",
    ),
    *(b"Upload-Defer-Length: 1\r\n", b"Upload-Concat: partial\r\n", b"Upload-Concat: final;", b"Upload-Metadata: a b,c\r\n"),
    *(b"Upgrade: h2c\r\n", b"Connection: keep-alive\r\n", b"X-HTTP-Method-Override: HEAD\r\n", b"Range: bytes=0-1,3-4\r\n"),
    *(
        b"Upload-Checksum: sha1 ",
        b"Content-Encoding: gzip\r\n",
        b"Upload-Offset: 0\r\n",
        b"Upload-Length: 5\r\n",
        b"HTTP/1.0",
        b"HTTP/0.9",
    ),
    *(b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"a" * 70_000, b"X: y\r\n" * 200, b"[::1]", b"http://a/files/", b"/files/"),
    *(
        b"Upload-Draft-Interop-Version: 8\r\n",
        b"Upload-Complete: ?0\r\n",
        b"Upload-Complete: ?1\r\n",
        b":::",
        b"Content-Digest: sha-256=:",
    ),
]
METHODS = [b"GET", b"HEAD", b"POST", b"PATCH", b"DELETE", b"OPTIONS", b"PUT", b"CONNECT", b"TRACE", b"PRI"]


def requests(path: str) -> list[bytes]:
    """Valid requests, to begin with."""
    return [
        request("OPTIONS", "/files/", CLOSE),
        request("HEAD", path, CLOSE),
        request("GET", path, {"Range": "bytes=1-20", "If-None-Match": '"a"', **CLOSE}),
        request("DELETE", path, CLOSE),
        patch(path, 0, b"hello", CLOSE),
        patch(path, 5, b"x" * 300, CLOSE),
        patch(path, 0, b"hello", {"Upload-Checksum": SHA1, **CLOSE}),
        patch(path, 0, chunked(b"hello world", 4), {"Transfer-Encoding": "chunked", **CLOSE}),
        patch(path, 0, b"hello", {"Expect": "100-continue", **CLOSE}),
        post({"Upload-Length": 5, "Upload-Metadata": "filename YQ==,filetype dGV4dC9wbGFpbg==", **CLOSE}),
        post({"Upload-Length": 5, "Upload-Checksum": SHA1, **CLOSE}, b"hello"),
        post({"Upload-Defer-Length": 1, **CLOSE}, b"hello"),
        post({"Upload-Concat": "partial", "Upload-Length": 0, **CLOSE}),
        post({"Upload-Concat": f"final;{path} {path}", **CLOSE}),
        request("POST", path, {"X-HTTP-Method-Override": "PATCH", "Upload-Offset": 0, "Content-Type": OCTETS, **CLOSE}, b"hello"),
        request("OPTIONS", path, {"Origin": "http://a", "Access-Control-Request-Method": "PATCH", **CLOSE}),
        request("HEAD", path, {"Forwarded": "for=1.2.3.4;host=a;proto=https", "X-Forwarded-Host": "a", **CLOSE}),
        *_of_the_ietf(path),
    ]


def _of_the_ietf(path: str) -> list[bytes]:
    """Requests of the other protocol that is spoken at the same URLs."""
    draft: dict[str, object] = {"Upload-Draft-Interop-Version": 8, **CLOSE}
    part = {"Upload-Offset": 0, "Content-Type": "application/partial-upload", **draft}
    digest = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:"  # of "hello"
    return [
        request("HEAD", path, draft, tus=False),
        request("OPTIONS", "/files/", draft, tus=False),
        request("DELETE", path, draft, tus=False),
        request("POST", "/files/", {"Upload-Complete": "?1", "Upload-Length": 5, **draft}, b"hello", tus=False),
        request("POST", "/files/", {"Upload-Complete": "?0", "Repr-Digest": digest, **draft}, b"hello", tus=False),
        request("PATCH", path, {"Upload-Complete": "?0", "Content-Digest": digest, **part}, b"hello", tus=False),
        request("PATCH", path, {"Upload-Incomplete": "?1", **part, "Upload-Draft-Interop-Version": 3}, b"hello", tus=False),
        request("PUT", "/files/", {"Upload-Complete": "?1", "Want-Repr-Digest": "sha-256=5", **draft}, b"hello", tus=False),
    ]


def mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    """One of them, or several, with something changed."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(11):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[at : at + rng.choice((1, 1, 2, 5, 40))]
            case 2:
                data[at:at] = rng.choice(WORDS)
            case 3:
                word = rng.choice(WORDS)
                data[at : at + len(word)] = word
            case 4:
                data[at:at] = data[at : at + rng.choice((1, 4, 30, 200))]
            case 5:
                _shuffle_lines(rng, data)
            case 6:
                _change_number(rng, data)
            case 7:
                data += rng.choice(seeds)
            case 8:
                other = rng.choice(seeds)
                data[at:] = other[rng.randrange(len(other)) :]
            case 9:
                data[: data.find(b" ")] = rng.choice(METHODS)
            case _:
                if rng.random() < 0.3:
                    del data[at:]
    return bytes(data)


def _shuffle_lines(rng: random.Random, data: bytearray) -> None:
    lines = data.split(b"\r\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    if rng.random() < 0.5:
        lines[one], lines[other] = lines[other], lines[one]
    else:
        lines.insert(one, lines[other])
    data[:] = b"\r\n".join(lines)


def _change_number(rng: random.Random, data: bytearray) -> None:
    found = list(re.finditer(rb"\d+", bytes(data)))
    if found:
        number = rng.choice(found)
        data[number.start() : number.end()] = rng.choice((b"0", b"1", b"5", b"-1", b"%d" % rng.getrandbits(64), b"007", b""))


class Fuzzer:
    """Sends cases to a server, and keeps what is wrong."""

    def __init__(self, server: ServerProcess, seed: int) -> None:
        self.server = server
        self.seed = seed
        self.statuses: Counter[str] = Counter()
        self._address = (server.host, server.port)
        self._victim = self._create()
        self._paths = [self._create() for _ in range(20)]

    def run(self, first: int, cases: int) -> list[str]:
        """Send these cases, many at once; what is wrong, each with its number."""
        with ThreadPoolExecutor(24) as pool:
            wrong = [
                f"seed {self.seed} case {n}: {found}"
                for n, found in enumerate(pool.map(self._case, range(first, first + cases)), first)
                if found
            ]
        return wrong + [f"seed {self.seed}, after case {first + cases - 1}: {found}" for found in self._aftermath()]

    def _case(self, number: int) -> str | None:
        rng = random.Random(f"{self.seed}/{number}")
        stream = mutated(rng, requests(self._paths[number % len(self._paths)]))
        half_close, reset = rng.random() < 0.5, rng.random() < 0.1
        try:
            with Connection(self._address, timeout=5) as connection:
                connection.send_as_far_as_it_goes(stream)
                if reset:
                    connection.reset()
                    return None
                if half_close:
                    connection.half_close()
                connection.socket.settimeout(0.1)
                said = _all_of(connection)
        except ConnectionResetError:
            return None
        except OSError as error:
            if error.errno == errno.ENOTCONN:  # of the half-close: it was reset before
                return None
            return f"{error!r}: {stream[:2000]!r}"
        self.statuses[said[9:12].decode("latin-1") or "none"] += 1
        if FAILURES.search(said):
            return f"{said[:300]!r} to {stream[:2000]!r}"
        return None

    def _aftermath(self) -> list[str]:
        """Every upload can be worked on at once, those that were removed are replaced, and the victim is untouched."""
        wrong = []
        with Connection(self._address, timeout=10) as connection:
            for n, path in enumerate(self._paths):
                began = time.monotonic()
                status = connection.ask(request("HEAD", path)).status
                if status not in (200, 404) or time.monotonic() - began > 2:
                    wrong.append(f"HEAD {path} was answered {status} after {time.monotonic() - began:.2f} s")
                self._paths[n] = self._create()
            told = connection.ask(request("HEAD", self._victim))
            if told.status != 200 or told["Upload-Offset"] != "0":
                wrong.append(f"the victim is answered {told}")
        if TRACEBACK in self.server.log:
            wrong.append(f"a traceback in the log: {self.server.log[self.server.log.index(TRACEBACK) :][:3000]}")
        return wrong

    def _create(self) -> str:
        with Connection(self._address) as connection:
            return path_of(connection.ask(post({"Upload-Length": LENGTH})))


def _all_of(connection: Connection) -> bytes:
    """What comes until the server closes, or has nothing to say for a while."""
    said = b""
    try:
        while piece := connection.socket.recv(65536):
            said += piece
    except TimeoutError:
        pass
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long, when --cases is not given")
    parser.add_argument("--cases", type=int, help="how many")
    parser.add_argument("--seed", type=int, default=random.randrange(10**9))
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--loop", default="auto")
    options = parser.parse_args()
    config = {
        "server": {"workers": options.workers, "loop": options.loop},
        "uploads": {"unfinished_downloads": True},
        "logging": {"level": "warning"},
    }
    with tempfile.TemporaryDirectory() as directory, ServerProcess(Path(directory), config) as server:
        fuzzer = Fuzzer(server, options.seed)
        began, done, warm = time.monotonic(), 0, 0
        while done < options.cases if options.cases else time.monotonic() - began < options.seconds:
            batch = min(options.cases or 1000, 1000)
            wrong = fuzzer.run(options.first + done, batch)
            done += batch
            if wrong:
                sys.exit("\n".join(wrong))
            if done == 20_000:
                warm = memory(server)
        print(f"seed {options.seed}, {options.workers} workers: {done} cases in {time.monotonic() - began:.0f} s")
        print(dict(fuzzer.statuses.most_common()))
        if warm:
            print(f"memory after 20000 cases {warm >> 20} MiB, at the end {memory(server) >> 20} MiB")


if __name__ == "__main__":
    main()
