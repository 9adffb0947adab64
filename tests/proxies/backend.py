"""Servers that do what tusd would not, to see what a proxy makes of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Answering = Callable[[socket.socket, bytes], None]


@contextmanager
def backend(answer: Answering) -> Iterator[str]:
    """A server that calls `answer(connection, head)` for the head of the first request of each connection and then closes; its
    address. `OSError` of a proxy that has gone is nothing to it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, answer), daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)  # `close` alone does not wake accept


def _accept(listener: socket.socket, answer: Answering) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(connection, answer), daemon=True).start()


def _serve(connection: socket.socket, answer: Answering) -> None:
    with connection, suppress(OSError):
        connection.settimeout(10)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = connection.recv(1)
            if not piece:
                return
            head += piece
        answer(connection, head)
