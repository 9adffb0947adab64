"""What a service manager says and wants to hear: sockets it has opened, sd_listen_fds(3), and notifications, sd_notify(3).

Plain environment variables and datagrams; where nobody set them, nothing happens.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping

_FIRST_FD = 3
"""SD_LISTEN_FDS_START."""


class Inherited:
    """The sockets that the service manager opened for this process. They stay open as long as it runs: nobody could open them again."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._sockets: list[tuple[str, socket.socket]] = []
        count = environ.get("LISTEN_FDS", "")
        if environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
            return
        names = environ.get("LISTEN_FDNAMES", "").split(":")
        for index in range(int(count)):
            os.set_inheritable(_FIRST_FD + index, False)
            with contextlib.suppress(OSError):  # a FIFO or a file: whoever asks for it is told that there is no such socket
                sock = socket.socket(fileno=_FIRST_FD + index)
                sock.setblocking(False)
                self._sockets.append((names[index] if index < len(names) else "unknown", sock))

    @property
    def names(self) -> tuple[str, ...]:
        """The names (FileDescriptorName=) of all of them."""
        return tuple(name for name, _ in self._sockets)

    def find(self, name: str | None, taken: frozenset[str] = frozenset()) -> list[socket.socket]:
        """The listening stream sockets of a name; None: all, except those whose names are `taken`."""
        wanted = [sock for own, sock in self._sockets if (own == name if name is not None else own not in taken)]
        return [sock for sock in wanted if sock.type == socket.SOCK_STREAM and _listens(sock)]

    def close(self) -> None:
        """Close this process's copies; the service manager has its own."""
        for _, sock in self._sockets:
            sock.close()


class Notifier:
    """Tells the service manager how this process is; nobody where there is none."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address if address.startswith("/") else ""
        usec = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.alive_every = int(usec) / 2_000_000 if self._address and ours and usec.isdecimal() and int(usec) else None
        """Seconds between calls of `alive` that the service manager waits for (half of its limit); None: it waits for none."""

    def ready(self, status: str) -> None:
        """It serves, at first or after a reload."""
        self._send("READY=1", f"MAINPID={os.getpid()}", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload has begun; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reloading")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1", "STATUS=stopping")

    def alive(self) -> None:
        """The watchdog's beat."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        message = "\n".join(line.replace("\n", " ") for line in lines).encode("utf-8", "replace")
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)  # a manager that does not read must not stop us
            sock.sendto(message, self._address)


def _listens(sock: socket.socket) -> bool:
    try:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    except OSError:
        return False
