"""Rows of figures that the processes of one host count in together: a file of fixed size, mapped into memory.

A row belongs to a key, such as a client's address, of which only a hash is kept. The hash chooses eight rows, one of which the key may
have. Its seed is random, so nobody can choose keys that meet in the same eight. The first row is for the whole host.

Each process that has the table open has a seat: a number, and a small file with a kernel lock on it. The seat of a process that is gone,
however it ended, is one whose lock can be had. Who finds nobody seated begins with an empty table: nothing of an earlier run, or of the
time before a reboot, ever counts.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

try:
    import fcntl
except ImportError as error:
    raise ImportError("limits that workers share need a Unix system (flock); here, leave this limiter out") from error

SEATS = 128
"""The most processes at one table. While a reload hands over, the workers of two generations sit there."""
HOST = 0
"""The row of the whole host."""
_WAYS = 8
_SEED = 16
_KEYS = 32
"""Where the keys begin. Before them stand the seed, and in two bytes how many seats there are."""
_KEY = 16


class SharedTable:
    """A table of `rows` rows, a multiple of eight, and the host's, each of `width` bytes. Raises `OSError` when the folder cannot hold it.

    Rows are looked at and changed inside `with table:`, which holds a lock on all of it. Whatever runs inside takes microseconds: the
    event loops of all other workers may be waiting."""

    def __init__(self, directory: Path, *, rows: int, width: int) -> None:
        self._sets = rows // _WAYS
        self._begin = _KEYS + _KEY * (rows + 1)
        size = self._begin + width * (rows + 1)
        self._directory = directory
        self._seat_file = -1
        directory.mkdir(parents=True, exist_ok=True)
        self._file = os.open(directory / f"{rows}x{width}.table", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with self:
                self.seat, alone = self._sit()
                """This process's number, below `SEATS`."""
                if alone or os.fstat(self._file).st_size != size:
                    _write(
                        self._file, os.urandom(_SEED).ljust(size, b"\0")
                    )  # not a hole, which could not be filled on a full disk
                self._map = mmap.mmap(self._file, size)
                self.seats = max(self.seats, self.seat + 1)
        except BaseException:
            self.close()
            raise
        self._seed = self._map[:_SEED]
        self.values = memoryview(self._map)[self._begin :]
        """The rows, one after another."""
        self._width = width

    def close(self) -> None:
        """Leave the seat."""
        for file in (self._seat_file, self._file):
            if file >= 0:
                os.close(file)
        self._seat_file = self._file = -1

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *failure: object) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)

    @property
    def seats(self) -> int:
        """All seats that anybody has, or had, are below this number."""
        return int.from_bytes(self._map[_SEED : _SEED + 2])

    @seats.setter
    def seats(self, count: int) -> None:
        self._map[_SEED : _SEED + 2] = count.to_bytes(2)

    def key(self, name: str) -> bytes:
        """What a name is called in here. Needs no lock."""
        return blake2b(name.encode(errors="surrogatepass"), digest_size=_KEY, key=self._seed).digest()

    def find(self, key: bytes) -> int | None:
        """The key's row, if it has one."""
        start = self._start(key)
        at = self._map.find(key, start, start + _WAYS * _KEY)
        return None if at < 0 else (at - _KEYS) // _KEY

    def find_or_take(self, key: bytes, spare: Callable[[range], int | None]) -> int | None:
        """The key's row. If it has none, it gets, with zeros in it, the one that `spare` chooses of those it may have; None if that is none."""
        row = self.find(key)
        if row is None:
            first = (self._start(key) - _KEYS) // _KEY
            row = spare(range(first, first + _WAYS))
            if row is not None:
                self.values[row * self._width : (row + 1) * self._width] = bytes(self._width)
                self._map[_KEYS + row * _KEY : _KEYS + (row + 1) * _KEY] = key
        return row

    def vacant(self) -> list[int]:
        """The seats of processes that are gone. Nobody sits down as long as the table is locked."""
        found = []
        for seat in range(self.seats):
            if seat != self.seat and (file := self._lock_seat(seat)) is not None:
                os.close(file)
                found.append(seat)
        return found

    def _start(self, key: bytes) -> int:
        """Where the keys of its eight rows begin."""
        return _KEYS + _KEY * (1 + int.from_bytes(key[:8]) % self._sets * _WAYS)

    def _sit(self) -> tuple[int, bool]:
        """Take the first seat that is vacant. Returns its number, and whether nobody else sits."""
        count = sum(name.endswith(".seat") for name in os.listdir(self._directory))  # they are never removed
        alone = True
        for seat in range(min(count + 1, SEATS)):
            file = self._lock_seat(seat)
            if file is None:
                alone = False
            elif self._seat_file < 0:
                self._seat_file, number = file, seat
            else:
                os.close(file)
        if self._seat_file < 0:
            raise OSError(errno.EUSERS, f"{SEATS} processes use it already; run fewer workers", str(self._directory))
        return number, alone

    def _lock_seat(self, seat: int) -> int | None:
        """The locked file of a seat; None if somebody sits there."""
        file = os.open(self._directory / f"{seat}.seat", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        return file


def _write(file: int, content: bytes) -> None:
    """Replace what is in a file."""
    view, at = memoryview(content), 0
    while at < len(view):
        at += os.pwrite(file, view[at:], at)
    os.ftruncate(file, len(view))
