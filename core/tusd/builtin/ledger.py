"""How many bytes each upload holds, counted by all processes of one host: a small SQLite database.

A process that dies in the middle of a change has changed nothing. A power cut may take the last changes, or damage the file, since nothing is
synced; a damaged one is made anew, empty. Either way the next count of what is really there puts it right. Methods take some 50 µs and never
wait: one that comes while another process writes raises `sqlite3.OperationalError` (`is_busy`) and has changed nothing.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError as error:
    raise ImportError("the space limiter needs a Unix system (flock)") from error

_SCHEMA = """
CREATE TABLE IF NOT EXISTS uploads (id TEXT PRIMARY KEY, key TEXT NOT NULL, bytes INTEGER NOT NULL, told INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sums (key TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counts (id INTEGER PRIMARY KEY CHECK (id = 1), last INTEGER NOT NULL, running INTEGER NOT NULL);
INSERT OR IGNORE INTO counts VALUES (1, 0, 0);

CREATE TRIGGER IF NOT EXISTS comes AFTER INSERT ON uploads BEGIN
    INSERT INTO sums VALUES (new.key, new.bytes) ON CONFLICT (key) DO UPDATE SET bytes = bytes + new.bytes;
END;
CREATE TRIGGER IF NOT EXISTS changes AFTER UPDATE ON uploads BEGIN
    UPDATE sums SET bytes = bytes - old.bytes WHERE key = old.key;
    INSERT INTO sums VALUES (new.key, new.bytes) ON CONFLICT (key) DO UPDATE SET bytes = bytes + new.bytes;
END;
CREATE TRIGGER IF NOT EXISTS goes AFTER DELETE ON uploads BEGIN
    UPDATE sums SET bytes = bytes - old.bytes WHERE key = old.key;
END;

BEGIN IMMEDIATE;
DELETE FROM sums;
INSERT INTO sums SELECT key, sum(bytes) FROM uploads GROUP BY key;
COMMIT;
"""
"""`told`: the number of the last count that had begun when the row was written. While one runs (`running`), uploads that go leave a row of 0 bytes."""

_HELD = "SELECT key, bytes FROM uploads WHERE id = ?"
_SUM = "SELECT bytes FROM sums WHERE key = ?"
_COUNT = "SELECT last, running FROM counts"
_PUT = "INSERT INTO uploads VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET key = excluded.key, bytes = excluded.bytes, told = excluded.told"
_FOUND = f"{_PUT} WHERE uploads.told < excluded.told"
_FOUND_GROWING = _FOUND.replace("= excluded.bytes", "= max(bytes, excluded.bytes)")
_PAGE = "SELECT id, bytes, told FROM uploads WHERE id > ? ORDER BY id LIMIT ?"
_OPENING = 5.0
"""Seconds to wait for other processes while opening."""


class Ledger:
    """An open one. Opening blocks; raises `OSError`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with _alone(path):
                try:
                    self._db = _opened(path)
                except sqlite3.DatabaseError as error:
                    if _code(error) not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                        raise
                    for end in ("", "-wal", "-shm"):
                        with suppress(FileNotFoundError):
                            os.remove(f"{path}{end}")
                    self._db = _opened(path)
        except sqlite3.Error as error:
            raise OSError(f"{path}: {error}; nobody else may use this file") from error
        self._voice = os.open(f"{path}.speaker", os.O_RDWR | os.O_CREAT, 0o600)

    def close(self) -> None:
        os.close(self._voice)
        self._db.close()

    def speaks(self) -> bool:
        """Whether this one, of all that are open, speaks for all. Then it does until it is closed."""
        try:
            fcntl.flock(self._voice, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def hold(self, upload_id: str, key: str, size: int, limit: int | None) -> int:
        """Let an upload hold `size` bytes in all, of the `limit` bytes that all of this key may hold together; 0: it is gone.

        Returns 0, or how many bytes are missing, and then nothing has changed. Nobody is refused what they hold already."""
        with self._writing():
            row = self._db.execute(_HELD, (upload_id,)).fetchone()
            held = row[1] if row is not None and row[0] == key else 0
            if limit is not None and size > held:
                found = self._db.execute(_SUM, (key,)).fetchone()
                missing: int = (found[0] if found else 0) - held + size - limit
                if missing > 0:
                    return missing
            last, running = self._db.execute(_COUNT).fetchone()
            if size or running:
                self._db.execute(_PUT, (upload_id, key, size, last))
            elif row is not None:
                self._db.execute("DELETE FROM uploads WHERE id = ?", (upload_id,))
        return 0

    def used(self) -> int:
        """The bytes that all uploads hold."""
        total: int = self._db.execute("SELECT ifnull(sum(bytes), 0) FROM sums").fetchone()[0]
        return total

    def begin(self) -> int:
        """A count of what is really there begins; its number. Whatever is told from now on counts more than what it finds."""
        with self._writing():
            self._db.execute("UPDATE counts SET last = last + 1, running = 1")
            number: int = self._db.execute(_COUNT).fetchone()[0]
        return number

    def found(self, number: int, uploads: Iterable[tuple[str, str, int]], *, growing: bool = False) -> None:
        """The count has found these: id, key, bytes. `growing`: those hold no less than before."""
        with self._writing():
            self._db.executemany(_FOUND_GROWING if growing else _FOUND, ((*upload, number) for upload in uploads))

    def end(self, number: int) -> None:
        """The count has found all there is. What it has not found is to be forgotten now, page by page."""
        with self._writing():
            self._db.execute("UPDATE counts SET running = 0 WHERE last = ?", (number,))

    def forget(self, number: int, after: str, most: int) -> str | None:
        """Forget what is not there, of the `most` uploads whose ids come after this one; the last of them, None at the end."""
        with self._writing():
            page = self._db.execute(_PAGE, (after, most)).fetchall()
            gone = [(one,) for one, size, told in page if told < number or (told == number and not size)]
            self._db.executemany("DELETE FROM uploads WHERE id = ?", gone)
            if page:
                last: str = page[-1][0]
                return last
            self._db.execute("DELETE FROM sums WHERE bytes = 0")
        return None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """All of the block, or nothing of it, and no other process in between."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


def is_busy(error: sqlite3.Error) -> bool:
    """Whether the same call may succeed in a moment."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code (https://sqlite.org/rescode.html)."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _opened(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # ids of uploads are secrets
    db = sqlite3.connect(path, timeout=_OPENING, isolation_level=None, check_same_thread=False)
    try:
        # With a log beside the file a change is one write; without syncs none waits for the disk.
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = OFF")
        if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            damaged = sqlite3.DatabaseError("damaged")
            damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise damaged
        db.executescript(_SCHEMA)
        db.execute("PRAGMA busy_timeout = 0")
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While no other process opens it, too: two could make it anew at the same time."""
    fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
