"""Figures that the processes of a host keep together in one folder: each writes a file of its own, and whoever asks adds all of them up.

    <random>.figures    the figures of one process, which holds a lock on it (flock) for as long as it lives
    ended.json          the sums of those that have ended, and the names of their files
    lock                held by whoever reads the folder, or adds to it

A file is a head of five cells (magic, end of the records, process id, its seconds of CPU, one for nothing) and records. A record is the
lengths of its text and its cells (two numbers of 4 bytes), a text that says what the cells are of, and the cells. Cells are doubles, and
aligned, so that one is read before or after a change and never in the middle; a record counts once the head's end lies behind it.

When a process has ended, its counters and histograms are folded into ended.json and its file is removed. ended.json is replaced as a whole and
names the files that it holds: a crash before that loses nothing, and after it nothing is counted twice.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import mmap
import os
import re
import secrets
import struct
import time
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tusd import plugin

try:
    import fcntl
except ImportError:  # Windows, where a server has one process: its figures stay in memory
    fcntl = None  # type: ignore[assignment]

SIZE = 1 << 19
"""Bytes of a file: room for some 2000 sets of labels."""
LABEL_SETS = 500
"""The most of one metric, so that one with labels without end leaves room for the others."""
_ENDED_SETS = 5000
"""The most of all metrics of processes that have ended."""
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Of a histogram that names none."""

_MAGIC = b"figures1"
_HEAD = struct.Struct("=8s4d")
_END, _CPU, _NOWHERE = 1, 3, 4
_LENGTHS = struct.Struct("=II")
_INFINITY = math.inf
_PATIENCE = 5.0
"""Seconds after which the folder's lock is not to be had."""
_COMPLAINTS = 100
"""The most messages about metrics that cannot be kept."""


@dataclass(frozen=True, slots=True)
class Series:
    """What a number is of: a metric and the values of its labels."""

    name: str
    kind: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...]
    """Of a histogram; its cells are a count for each, the count of what is beyond the last, and the sum. Others have one cell."""
    values: tuple[str, ...]
    help: str = field(compare=False)

    @property
    def shape(self) -> tuple[object, ...]:
        """What all series of one name must have in common."""
        return self.kind, self.labels, self.buckets

    @property
    def cells(self) -> int:
        return len(self.buckets) + 2 if self.kind == "histogram" else 1


Sums = dict[Series, list[float]]


@dataclass(frozen=True, slots=True)
class Collected:
    """The figures of all processes."""

    sums: Sums
    """Of series that contradict each other in kind, labels or buckets, all but the first are left out."""
    pids: tuple[int, ...]
    """The processes that live."""
    cpu: float
    """Seconds of CPU, of those that have ended, too."""


class SharedFigures(plugin.Metrics):
    """The figures of one process, in `directory`. Raises `OSError` when that cannot be used.

    When no other process lives there, all begins at 0."""

    def __init__(self, directory: Path, logger: logging.Logger) -> None:
        self._folder = _Folder(directory, logger)
        self._logger = logger
        self._places: dict[tuple[str, tuple[str, ...]], int] = {}
        """Cells of counters and gauges."""
        self._histograms: dict[tuple[str, tuple[str, ...]], tuple[int, tuple[float, ...]]] = {}
        self._shapes: dict[str, tuple[object, ...]] = {}
        self._label_sets: Counter[str] = Counter()
        self._complaints: set[str] = set()
        self._closed = False
        self._end = _HEAD.size
        self._map, self.name = self._folder.new() if fcntl else (mmap.mmap(-1, SIZE), "")
        self._map[: _HEAD.size] = _new_head()
        self._cells: memoryview[float] | array[float] = memoryview(self._map).cast("d")

    def close(self) -> None:
        """Let others count this one among those that have ended. Figures that come later go nowhere."""
        mapped, self._cells = self._cells, array("d", self._cells)
        self._closed = True
        if isinstance(mapped, memoryview):
            mapped.release()
            self._map.close()

    def add(self, metric: plugin.Metric, amount: float = 1, labels: tuple[str, ...] = ()) -> None:
        at = self._places.get((metric.name, labels))
        if at is None:
            at = self._make(metric, labels, ("counter", "gauge"))
        if 0 <= amount < _INFINITY or (metric.kind == "gauge" and amount < 0):
            self._cells[at] += amount
        else:
            self._complain(metric.name, f"cannot be added to by {amount}")

    def set(self, metric: plugin.Metric, value: float, labels: tuple[str, ...] = ()) -> None:
        at = self._places.get((metric.name, labels))
        if at is None or metric.kind != "gauge":
            at = self._make(metric, labels, ("gauge",))
        self._cells[at] = value

    def observe(self, metric: plugin.Metric, value: float, labels: tuple[str, ...] = ()) -> None:
        found = self._histograms.get((metric.name, labels))
        if found is None:
            self._make(metric, labels, ("histogram",))
            found = self._histograms.get((metric.name, labels))
        if found is None:
            return
        if -_INFINITY < value < _INFINITY:
            at, buckets = found
            self._cells[at + bisect_left(buckets, value)] += 1
            self._cells[at + len(buckets) + 1] += value
        else:
            self._complain(metric.name, f"cannot count {value}")

    def declare(self, *metrics: plugin.Metric) -> None:
        for metric in metrics:
            for labels in metric.preset if metric.labels else ((),):
                if (metric.name, labels) not in (self._histograms if metric.kind == "histogram" else self._places):
                    self._make(metric, labels, (metric.kind,))

    def collect(self, cpu_of: Callable[[int], float]) -> Collected:
        """Add up what all processes have; `cpu_of` tells the seconds of CPU of a process, 0 if it cannot. Takes milliseconds, and waits for others
        that do the same, so it belongs in a thread. Raises `OSError`."""
        own = _File(self.name, self._cells[: self._end // 8].tobytes())
        if fcntl is None:
            return Collected(dict(own.records(self._logger)), (own.pid,), cpu_of(own.pid))
        return self._folder.collect(own, cpu_of)

    def _make(self, metric: plugin.Metric, labels: tuple[str, ...], kinds: tuple[str, ...]) -> int:
        """Make the cells of a series; where they are, or those for nothing if it cannot be kept."""
        if self._closed:
            return _NOWHERE
        try:
            if metric.kind not in kinds:
                raise ValueError(f"is a {metric.kind} and not a {' or '.join(kinds)}")
            series = _series(metric.name, metric.kind, metric.help, metric.labels, metric.buckets, labels)
            if self._shapes.setdefault(series.name, series.shape) != series.shape:
                raise ValueError("is declared twice, and differently")
            if self._label_sets[series.name] == LABEL_SETS:
                raise ValueError(f"has more than {LABEL_SETS} sets of labels")
            record = _encoded(series)
            end = self._end + len(record)
            if end > SIZE:
                raise ValueError("finds no room any more")
        except ValueError as error:
            self._complain(metric.name, str(error))
            return _NOWHERE
        self._label_sets[series.name] += 1
        self._map[self._end : end] = record
        self._end = end
        self._cells[_END] = end
        at = end // 8 - series.cells
        if series.kind == "histogram":
            self._histograms[metric.name, labels] = at, series.buckets
        else:
            self._places[metric.name, labels] = at
        return at

    def _complain(self, name: str, why: str) -> None:
        if name not in self._complaints and len(self._complaints) < _COMPLAINTS:
            self._complaints.add(name)
            self._logger.error("the metric %s %s; such figures are left out", name, why)


class _File:
    """What stands in a process's file. What is not understood counts as the end."""

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self._data = data
        magic, end, pid, cpu, _ = _HEAD.unpack_from(data) if len(data) >= _HEAD.size else (b"", 0.0, 0.0, 0.0, 0.0)
        if magic != _MAGIC or not _HEAD.size <= end <= len(data) or not 0 < pid < 1 << 32 or not 0 <= cpu < _INFINITY:
            end = pid = cpu = 0.0
        self.end, self.pid, self.cpu = int(end), int(pid), cpu

    def records(self, logger: logging.Logger) -> Iterator[tuple[Series, list[float]]]:
        """The series and their cells."""
        at = _HEAD.size
        try:
            while at < self.end:
                text, cells = _LENGTHS.unpack_from(self._data, at)
                at += _LENGTHS.size
                series = _decoded(self._data[at : at + text])
                at += text
                if series.cells != cells:
                    raise ValueError("the number of cells is wrong")
                found = list(struct.unpack_from(f"={cells}d", self._data, at))
                at += 8 * cells
                if series.kind == "gauge" or all(map(math.isfinite, found)):
                    yield series, found
            if not self.end:
                raise ValueError("the head is wrong")
        except (ValueError, struct.error) as error:
            logger.warning("the figures in %s cannot be read to their end: %s", self.name, error)


class _Folder:
    """The files of all processes."""

    def __init__(self, directory: Path, logger: logging.Logger) -> None:
        self.directory = directory
        self.logger = logger

    def new(self) -> tuple[mmap.mmap, str]:
        """A file for this process, mapped and locked, and its name. Raises `OSError`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.locked():
            living, ended = self.look()
            if living:
                self.fold(ended, living)
            else:
                for path in (*(self.directory / one.name for one in ended), self.directory / "ended.json"):
                    path.unlink(missing_ok=True)
            name = f"{secrets.token_hex(8)}.figures"
            fd = os.open(self.directory / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                # Zeros are written, because a hole that the disk has no room for kills the process that fills it.
                with open(fd, "wb", closefd=False) as file:
                    file.write(_new_head() + bytes(SIZE - _HEAD.size))
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return mmap.mmap(fd, SIZE), name  # which holds the file, and with it the lock, open
            except BaseException:
                (self.directory / name).unlink()
                raise
            finally:
                os.close(fd)

    def collect(self, own: _File, cpu_of: Callable[[int], float]) -> Collected:
        with self.locked():
            living, ended = self.look(own.name)
            living.insert(0, own)
            before = self.fold(ended, living)
            pids = tuple({one.pid: None for one in living if one.pid})
            cpu = {pid: max(cpu_of(pid), *(one.cpu for one in living if one.pid == pid)) for pid in pids}
            for one in living:
                if one.pid:
                    self.note_cpu(one, cpu[one.pid])
        sums: Sums = {}
        shapes: dict[str, tuple[object, ...]] = {}
        for one in living:
            for series, cells in one.records(self.logger):
                if shapes.setdefault(series.name, series.shape) == series.shape:
                    _add(sums, series, cells)
        for series, cells in before.sums.items():
            if shapes.setdefault(series.name, series.shape) == series.shape:
                _add(sums, series, cells)
        return Collected(sums, pids, before.cpu + sum(cpu.values()))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock. Raises `OSError`."""
        fd = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + _PATIENCE
            while not _flock(fd):
                if time.monotonic() > deadline:
                    raise OSError(errno.EAGAIN, "another process holds its lock and does not let go", str(self.directory))
                time.sleep(0.002)
            yield
        finally:
            os.close(fd)

    def look(self, own: str = "") -> tuple[list[_File], list[_File]]:
        """The files of those that live, and of those that have ended; without one's own."""
        living: list[_File] = []
        ended: list[_File] = []
        for name in sorted(os.listdir(self.directory)):
            if name.endswith(".figures") and name != own:
                with suppress(OSError):  # it is somebody else's, in every sense
                    fd = os.open(self.directory / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                    try:
                        (ended if _flock(fd) else living).append(_File(name, os.pread(fd, SIZE, 0)))
                    finally:
                        os.close(fd)
        return living, ended

    def fold(self, ended: list[_File], living: list[_File]) -> _Ended:
        """Count those that have ended among those before, and remove their files."""
        before = _Ended.read(self.directory / "ended.json", self.logger)
        if ended:
            before.take_in(ended, {one.pid for one in living}, self.logger)
            before.write(self.directory / "ended.json")
            for one in ended:
                (self.directory / one.name).unlink(missing_ok=True)
        return before

    def note_cpu(self, one: _File, cpu: float) -> None:
        """Write into a process's file what it has used, because nobody can be asked once it has ended."""
        with suppress(OSError):
            fd = os.open(self.directory / one.name, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.pwrite(fd, struct.pack("=d", cpu), 8 * _CPU)
            finally:
                os.close(fd)


@dataclass(slots=True)
class _Ended:
    """The sums of the processes that have ended."""

    names: list[str] = field(default_factory=list)
    """The files that were there when the sums were last written, all of them counted."""
    cpu: float = 0.0
    sums: Sums = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, logger: logging.Logger) -> _Ended:
        try:
            found = json.loads(path.read_bytes())
            sums: Sums = {}
            for text, cells in found["sums"]:
                series = _series(*text)
                if len(cells) != series.cells:
                    raise ValueError("the number of cells is wrong")
                sums[series] = [float(cell) for cell in cells]
            return cls([str(name) for name in found["names"]], float(found["cpu"]), sums)
        except FileNotFoundError:
            return cls()
        except (ValueError, TypeError, LookupError) as error:
            logger.warning("the figures of processes that have ended are lost: %s: %s", path, error)
            return cls()

    def write(self, path: Path) -> None:
        new = path.with_suffix(".new")
        sums = [(_as_list(series), cells) for series, cells in self.sums.items()]
        new.write_text(json.dumps({"names": self.names, "cpu": self.cpu, "sums": sums}))
        new.replace(path)

    def take_in(self, ended: list[_File], living: set[int], logger: logging.Logger) -> None:
        cpu: dict[int, float] = {}
        for one in ended:
            if one.name not in self.names:
                # A process that has closed one file may live on with another, after a reload.
                if one.pid not in living:
                    cpu[one.pid] = max(one.cpu, cpu.get(one.pid, 0.0))
                for series, cells in one.records(logger):
                    if series.kind != "gauge" and (series in self.sums or len(self.sums) < _ENDED_SETS):
                        _add(self.sums, series, cells)
        self.cpu += sum(cpu.values())
        self.names = [one.name for one in ended]


def _add(sums: Sums, series: Series, cells: list[float]) -> None:
    found = sums.get(series)
    sums[series] = cells if found is None else [a + b for a, b in zip(found, cells, strict=True)]


def _new_head() -> bytes:
    return _HEAD.pack(_MAGIC, _HEAD.size, os.getpid(), 0, 0)


def _flock(fd: int) -> bool:
    """Lock an open file, if nobody has it locked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _series(name: Any, kind: Any, help: Any, labels: Any, buckets: Any, values: Any) -> Series:
    """Raises `ValueError` for what Prometheus does not take."""
    texts = (name, kind, help, *labels, *values)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("has a name, label or value that is no text")
    if not re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", name):
        raise ValueError("has a name with other characters than letters, digits, _ and :")
    if kind not in ("counter", "gauge", "histogram"):
        raise ValueError("is no counter, gauge or histogram")
    if not all(re.fullmatch(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", label) for label in labels) or len({*labels, "le"}) <= len(labels):
        raise ValueError(f"cannot have the labels {', '.join(labels)}")
    if len(values) != len(labels):
        raise ValueError(f"has {len(labels)} labels, but was given {len(values)} values")
    bounds = (tuple(float(bound) for bound in buckets) or BUCKETS) if kind == "histogram" else ()
    if bounds and (sorted({*bounds}) != [*bounds] or not all(map(math.isfinite, bounds))):
        raise ValueError("has buckets that do not grow")
    return Series(name, kind, tuple(labels), bounds, tuple(values), help)


def _as_list(series: Series) -> list[object]:
    return [series.name, series.kind, series.help, series.labels, series.buckets, series.values]


def _encoded(series: Series) -> bytes:
    text = json.dumps(_as_list(series)).encode()
    text += b" " * (-len(text) % 8)
    return _LENGTHS.pack(len(text), series.cells) + text + bytes(8 * series.cells)


def _decoded(text: bytes) -> Series:
    found = json.loads(text)
    if not isinstance(found, list) or len(found) != 6 or not all(isinstance(one, list) for one in found[3:]):
        raise ValueError("a text is wrong")
    return _series(*found)
