"""An HTTP client that sends what it is told, byte for byte, and shows what came back."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

OCTETS = "application/offset+octet-stream"
Address = tuple[str, int] | str


@dataclass(frozen=True)
class Answer:
    """A response as it stood on the wire."""

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes

    def __getitem__(self, name: str) -> str:
        """The one value of a header; fails when it is absent or repeated."""
        found = self.all(name)
        assert len(found) == 1, f"{name} occurs {len(found)} times in {self}"
        return found[0]

    def __contains__(self, name: str) -> bool:
        return bool(self.all(name))

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.fields if key.lower() == name.lower()]

    @property
    def code(self) -> str:
        """The error's code, from `CODE: message`."""
        return self.body.decode().partition(":")[0]

    @property
    def closes(self) -> bool:
        """Whether the server says that it will close the connection."""
        return "close" in (value.lower() for value in self.all("Connection"))


def request(
    method: str,
    path: str,
    headers: Mapping[str, object] | Iterable[tuple[str, object]] = (),
    body: bytes = b"",
    *,
    version: str = "HTTP/1.1",
    announce: int | None = None,
    tus: bool = True,
) -> bytes:
    """A request's bytes. Host, Tus-Resumable (`tus`) and Content-Length are added unless given; `announce` lies about the length."""
    given = list(headers.items() if isinstance(headers, Mapping) else headers)
    names = {name.lower() for name, _ in given}
    if "host" not in names and version != "HTTP/1.0":
        given.insert(0, ("Host", "tus.test"))
    if tus and "tus-resumable" not in names:
        given.append(("Tus-Resumable", "1.0.0"))
    size = len(body) if announce is None else announce
    if "content-length" not in names and "transfer-encoding" not in names and (size or method in ("POST", "PATCH")):
        given.append(("Content-Length", size))
    lines = [f"{method} {path} {version}", *(f"{name}: {value}" for name, value in given), "", ""]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + body


def post(headers: Mapping[str, object], body: bytes = b"", *, path: str = "/files/", announce: int | None = None) -> bytes:
    """A creation; with a body, or one announced, a creation with upload."""
    kind = {"Content-Type": OCTETS} if body or announce is not None else {}
    return request("POST", path, {**kind, **headers}, body, announce=announce)


def patch(
    path: str, offset: object, body: bytes = b"", headers: Mapping[str, object] | None = None, *, announce: int | None = None
) -> bytes:
    """More bytes for an upload."""
    return request("PATCH", path, {"Upload-Offset": offset, "Content-Type": OCTETS, **(headers or {})}, body, announce=announce)


def chunked(body: bytes, size: int) -> bytes:
    """A body in chunked transfer coding, in chunks of `size` bytes."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


class Connection:
    """One connection to the server; blocking, with a time-out."""

    def __init__(self, address: Address, *, timeout: float = 10, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        try:
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise
        self._received = b""

    def send(self, data: bytes) -> None:
        """Send all of it. Raises `OSError` when the server has gone."""
        self.socket.sendall(data)

    def send_as_far_as_it_goes(self, data: bytes) -> int:
        """Send until all is sent, the server has gone, or an answer arrives; return the number of bytes sent."""
        view, deadline = memoryview(data), time.monotonic() + 10
        sent = 0
        while sent < len(view) and time.monotonic() < deadline:
            readable, writable, _ = select.select([self.socket], [self.socket], [], 1)
            if readable:
                break
            if writable:
                try:
                    sent += self.socket.send(view[sent : sent + 65536])
                except OSError:
                    break
        return sent

    def answer(self, method: str = "GET") -> Answer:
        """The next answer, to a request of this method (one to HEAD has no body). Raises `EOFError` when none comes."""
        head = self._until(b"\r\n\r\n")
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        fields = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
        version, status, *_ = first.split(" ")
        assert version in ("HTTP/1.0", "HTTP/1.1"), first
        answer = Answer(int(status), fields, b"")
        if method == "HEAD" or answer.status in (204, 304) or answer.status < 200:
            return answer
        assert "Transfer-Encoding" not in answer, "this server always knows the length"
        return Answer(answer.status, fields, self._exactly(int(answer["Content-Length"])))

    def ask(self, data: bytes) -> Answer:
        """Send a whole request and take its answer."""
        self.send(data)
        return self.answer(data.partition(b" ")[0].decode())

    def ended(self, within: float = 5) -> bool:
        """Whether the server has closed, with nothing more to say."""
        self.socket.settimeout(within)
        try:
            more = self.socket.recv(65536)
        except ConnectionError:
            return not self._received
        except TimeoutError:
            return False
        assert not (self._received + more), f"more came: {(self._received + more)[:200]!r}"
        return True

    def silent(self, for_: float = 0.2) -> bool:
        """Whether nothing comes for that long."""
        return not self._received and not select.select([self.socket], [], [], for_)[0]

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Vanish with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _more(self) -> None:
        piece = self.socket.recv(1 << 18)
        if not piece:
            raise EOFError(f"the server closed after {self._received[:200]!r}")
        self._received += piece

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._received:
            self._more()
        found, self._received = self._received.split(mark, 1)
        return found + mark

    def _exactly(self, size: int) -> bytes:
        pieces, left = [self._received[:size]], size - len(self._received[:size])
        self._received = self._received[size:]
        while left:
            piece = self.socket.recv(min(left, 1 << 18))
            if not piece:
                raise EOFError(f"the server closed {left} bytes before the end of its answer")
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)
