"""Listening sockets: `host:port`, `[::1]:port`, `host:0` for any free port, `unix:/path`, `systemd`.

They are bound once, before any worker starts, so that a taken port is one line on the terminal, a restarted worker finds its
sockets open, and a reload keeps those whose addresses stay.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ..config import Config, StartErrors
from ..errors import ConfigError
from ..listen import SYSTEMD, UNIX, Listen
from ..web.app import BACKLOG, Listener
from .systemd import Inherited

_AF_UNIX = getattr(socket, "AF_UNIX", None)


class CannotListen(Exception):
    """Says why, and the cure."""


@dataclass(frozen=True, slots=True)
class Place:
    """One listener of the configuration, and where it stands there."""

    listen: Listen
    admin: bool
    index: int

    @property
    def key(self) -> tuple[str, bool]:
        """What makes it the same listener after a reload."""
        return self.listen.address, self.admin

    def error(self, config: Config, what: str) -> ConfigError:
        """An error of this listener."""
        path = ("server", "admin_listen" if self.admin else "listen")
        inner = (*path, self.index)
        return config.places.error(inner if inner in config.places.marks else path, what)


def places(config: Config) -> list[Place]:
    """All listeners that a configuration names."""
    server = config.server
    return [
        Place(listen, admin, index)
        for admin, listens in ((False, server.listen), (True, server.admin_listen or ()))
        for index, listen in enumerate(listens)
    ]


@dataclass(slots=True)
class _Bound:
    """What has been bound for one listener."""

    sockets: list[socket.socket] = field(default_factory=list)
    file: tuple[str, int] | None = None
    """Of a unix socket: its path, and the inode by which we know it as ours."""

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        if self.file is not None:
            path, inode = self.file
            with suppress(FileNotFoundError):
                if os.stat(path).st_ino == inode:  # a successor may have put its own there
                    os.unlink(path)


class Sockets:
    """The listening sockets of a process, through all its reloads."""

    def __init__(self, inherited: Inherited) -> None:
        self._inherited = inherited
        self._bound: dict[tuple[str, bool], _Bound] = {}

    def bind(self, config: Config) -> None:
        """Open what a configuration names and is not open yet. Raises `StartErrors`, having opened nothing then."""
        before, errors = set(self._bound), []
        for place in places(config):
            try:
                if place.listen.address.partition(":")[0] == SYSTEMD:
                    if not self._given(place.listen.address, config):
                        raise CannotListen(_no_socket(place.listen.address, self._inherited.names))
                elif place.key in self._bound:
                    bound = self._bound[place.key]
                    if bound.file:
                        _give_rights(bound.file[0], place.listen)
                else:
                    self._bound[place.key] = _bind(place.listen)
            except CannotListen as error:
                errors.append(place.error(config, f"cannot listen on {place.listen.address}: {error}"))
        if errors:
            self._close(key for key in [*self._bound] if key not in before)
            raise StartErrors(errors)

    def keep(self, config: Config) -> None:
        """Close what this configuration does not name."""
        wanted = {place.key for place in places(config)}
        self._close(key for key in [*self._bound] if key not in wanted)

    def of(self, place: Place, config: Config) -> list[socket.socket]:
        """The sockets of one listener that has been bound: several for a host name with several addresses."""
        bound = self._bound.get(place.key)
        return bound.sockets if bound else self._given(place.listen.address, config)

    def close(self) -> None:
        """Close all, and remove the files of unix sockets."""
        self._close([*self._bound])
        self._inherited.close()

    def leave(self, config: Config) -> None:
        """In a worker: close this process's copies of what its configuration does not name, and touch no file."""
        wanted = {place.key for place in places(config)}
        for key, bound in self._bound.items():
            if key not in wanted:
                for sock in bound.sockets:
                    sock.close()

    def _given(self, address: str, config: Config) -> list[socket.socket]:
        named = (place.listen.address.partition(":") for place in places(config))
        _, colon, name = address.partition(":")
        return self._inherited.find(name if colon else None, frozenset(name for kind, _, name in named if kind == SYSTEMD))

    def _close(self, keys: Iterable[tuple[str, bool]]) -> None:
        for key in [*keys]:
            self._bound.pop(key).close()


def is_open(listeners: Sequence[Listener]) -> bool:
    """Whether other hosts may reach them: one listens on all addresses of this host."""
    return any(one.sock.family != _AF_UNIX and one.sock.getsockname()[0] in ("0.0.0.0", "::") for one in listeners)


def urls(listeners: Sequence[Listener], base_path: str) -> list[str]:
    """Where clients on this host find what the listeners serve."""
    found = []
    for listener in listeners:
        name = listener.sock.getsockname()
        if listener.sock.family == _AF_UNIX:
            found.append(f"unix:{name}:{base_path}")
            continue
        scheme = "https" if listener.tls else "http"
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name[0], name[0])
        found.append(f"{scheme}://[{host}]:{name[1]}{base_path}" if ":" in host else f"{scheme}://{host}:{name[1]}{base_path}")
    return found


def _bind(listen: Listen) -> _Bound:
    bound = _Bound()
    try:
        if listen.address.startswith(UNIX):
            _bind_unix(listen, bound)
        else:
            for sock in _tcp_sockets(listen.address):
                bound.sockets.append(sock)
    except BaseException as error:
        bound.close()
        if isinstance(error, UnicodeError):
            raise CannotListen("not the name of a host") from None
        if isinstance(error, OSError):
            raise CannotListen(_cure(error, listen.address)) from None
        raise
    return bound


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


def _bind_unix(listen: Listen, bound: _Bound) -> None:
    path = listen.address.removeprefix(UNIX)
    if _AF_UNIX is None:
        raise CannotListen(f"needs unix sockets, which Python on {sys.platform} lacks; write host:port")
    _remove_stale(path)
    listener = socket.socket(_AF_UNIX, socket.SOCK_STREAM)
    bound.sockets.append(listener)
    listener.setblocking(False)
    listener.bind(path)
    bound.file = path, os.stat(path).st_ino
    _give_rights(path, listen)  # until it listens nobody can connect, so nobody gets in by wrong rights
    listener.listen(BACKLOG)


def _give_rights(path: str, listen: Listen) -> None:
    """Owner, group and permissions of a socket's file, as far as they are given. Raises `CannotListen`."""
    if listen.owner is not None or listen.group is not None:
        owner = -1 if listen.owner is None else _id("user", listen.owner)
        group = -1 if listen.group is None else _id("group", listen.group)
        try:
            os.chown(path, owner, group)
        except OSError as error:
            to = " and ".join(f"{what} {name}" for what, name in (("user", listen.owner), ("group", listen.group)) if name)
            cure = "only root may give files away, and others only to groups that they are in"
            raise CannotListen(f"its file cannot be given to {to}: {(error.strerror or '').lower()}; {cure}") from None
    if listen.mode is not None:
        try:
            os.chmod(path, listen.mode)
        except OSError as error:
            raise CannotListen(f"its file's permissions cannot be set: {(error.strerror or '').lower()}") from None


def _id(what: str, name: str) -> int:
    if name.isdecimal():
        return int(name)
    import grp
    import pwd

    try:
        return pwd.getpwnam(name).pw_uid if what == "user" else grp.getgrnam(name).gr_gid
    except KeyError:
        raise CannotListen(f'there is no {what} "{name}" on this host; create it, or name another') from None


def _remove_stale(path: str) -> None:
    """Remove the socket file of a server that was killed. One that somebody listens on, and any other file, stays."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise CannotListen("it exists and is not a socket; move it away or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:  # its queue is full: somebody listens
            pass
    raise CannotListen("another process listens on it; stop that or choose another path")


def _no_socket(address: str, names: tuple[str, ...]) -> str:
    _, colon, name = address.partition(":")
    if not names:
        return "no sockets were handed over (LISTEN_FDS); start it by its .socket unit, or write host:port"
    what = f'named "{name}"' if colon else "left"
    return f"of the sockets that were handed over ({', '.join(names)}) none is {what} that listens for streams; see FileDescriptorName="


def _cure(error: OSError, address: str) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "the port is in use; stop the other process or choose another port"
        case errno.EACCES | errno.EPERM if address.startswith(UNIX):
            return "permission denied; choose a directory that this user may write to"
        case errno.EACCES | errno.EPERM:
            return "permission denied; ports below 1024 need a privilege, choose a higher one"
        case errno.EADDRNOTAVAIL:
            return "this host has no such address"
        case errno.ENOENT:
            return "its directory does not exist; make it first"
        case _:
            return (error.strerror or str(error)).lower()
