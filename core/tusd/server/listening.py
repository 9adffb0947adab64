"""Listening sockets: `host:port`, `[::1]:port`, `host:0` for any free port, `unix:/path`.

They are bound once, before any worker starts, so that a taken port is one line on the terminal and a restarted worker finds
its sockets open.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from ..errors import StartError
from ..web.app import BACKLOG

_UNIX = "unix:"
_AF_UNIX = getattr(socket, "AF_UNIX", None)


@contextmanager
def listening(address: str) -> Iterator[list[socket.socket]]:
    """Listen on `server.listen`: one socket, or one for each IP address of a host name. Port 0: a free one, the same for all.

    On leaving they are closed, and a unix socket's file is removed. Raises `StartError`.
    """
    with ExitStack() as stack:
        try:
            if address.startswith(_UNIX):
                sockets = [stack.enter_context(_unix_socket(address.removeprefix(_UNIX)))]
            else:
                sockets = [stack.enter_context(found) for found in _tcp_sockets(address)]
        except OSError as error:
            raise StartError(f"server.listen: cannot listen on {address}: {_cure(error, address)}") from None
        except UnicodeError:
            raise StartError(f"server.listen: cannot listen on {address}: not the name of a host") from None
        yield sockets


def is_open(sockets: list[socket.socket]) -> bool:
    """Whether other hosts may reach them: one listens on all addresses of this host."""
    return any(s.family != _AF_UNIX and s.getsockname()[0] in ("0.0.0.0", "::") for s in sockets)


def urls(sockets: list[socket.socket], base_path: str) -> list[str]:
    """Where clients on this host find what the sockets serve."""
    found = []
    for listener in sockets:
        name = listener.getsockname()
        if listener.family == _AF_UNIX:
            found.append(f"unix:{name}:{base_path}")
            continue
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name[0], name[0])
        found.append(f"http://[{host}]:{name[1]}{base_path}" if ":" in host else f"http://{host}:{name[1]}{base_path}")
    return found


def _tcp_sockets(address: str) -> Iterator[socket.socket]:
    host, _, port = address.rpartition(":")
    number = int(port)
    found = socket.getaddrinfo(host.strip("[]"), number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, _, _, _, name in dict.fromkeys(found):
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name == "posix":  # restart at once; on Windows this option would let two servers share the port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and len(found) > 1:  # [::] alone takes IPv4, too
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.setblocking(False)
            listener.bind((name[0], number, *name[2:]))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            if family == socket.AF_INET6 and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) and len(found) > 1:
                continue  # a name such as localhost has an IPv6 address that this host does not use
            raise
        number = listener.getsockname()[1]  # port 0: the same free port for all addresses of the name
        yield listener


@contextmanager
def _unix_socket(path: str) -> Iterator[socket.socket]:
    if _AF_UNIX is None:
        raise StartError(f"server.listen: unix:{path} needs unix sockets, which Python on {sys.platform} lacks; write host:port")
    _remove_stale(path)
    with socket.socket(_AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.setblocking(False)
        listener.bind(path)
        ours = os.stat(path).st_ino
        try:
            listener.listen(BACKLOG)
            yield listener
        finally:
            with suppress(FileNotFoundError):
                if os.stat(path).st_ino == ours:
                    os.unlink(path)


def _remove_stale(path: str) -> None:
    """Remove the socket file of a server that was killed. One that somebody listens on, and any other file, stays."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StartError(f"server.listen: {path} exists and is not a socket; move it away or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:  # its queue is full: somebody listens
            pass
    raise StartError(f"server.listen: another process listens on unix:{path}; stop it or choose another path")


def _cure(error: OSError, address: str) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "the port is in use; stop the other process or choose another port"
        case errno.EACCES | errno.EPERM if address.startswith(_UNIX):
            return "permission denied; choose a directory that this user may write to"
        case errno.EACCES | errno.EPERM:
            return "permission denied; ports below 1024 need a privilege, choose a higher one"
        case errno.EADDRNOTAVAIL:
            return "this host has no such address"
        case errno.ENOENT:
            return "its directory does not exist; make it first"
        case _:
            return (error.strerror or str(error)).lower()
