"""Locks in an SQLite database, for the processes of one host."""

import asyncio
import logging
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from tusd import plugin

POLL = 0.02  # seconds between two looks into the database


class SqliteLocking:
    """Keep locks in an SQLite database."""

    api_version = 1
    scope = plugin.Scope.HOST

    class Options(plugin.Options):
        directory: Path | None = None
        lease: plugin.Duration = 10

    def __init__(self, options: Options) -> None:
        self.options = options

    @plugin.hookimpl
    @asynccontextmanager
    async def open_locking(self, worker: plugin.Worker) -> AsyncIterator[plugin.Locker]:
        directory = self.options.directory or worker.directory
        directory.mkdir(parents=True, exist_ok=True)
        locker = SqliteLocker(directory / "locks.db", self.options.lease, worker.logger)
        try:
            await locker.run(SCHEMA)
            yield locker
        finally:
            locker.close()


SCHEMA = """
CREATE TABLE IF NOT EXISTS locks (
    token   INTEGER PRIMARY KEY AUTOINCREMENT,  -- never goes back, also when rows are deleted
    name    TEXT UNIQUE,
    owner   TEXT UNIQUE,
    expires REAL,                               -- by now()
    wanted  INTEGER DEFAULT 0
)"""


def now() -> float:
    """Seconds of a clock that is the same in all processes, that nobody sets, and that runs while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class SqliteLease:
    """What a holder gets: its `check` knows by itself, from the clock, that the lease has run out."""

    token = 0
    until = 0.0

    def check(self) -> None:
        if now() >= self.until:
            raise plugin.LeaseLost()


class SqliteLocker(plugin.Locker):
    def __init__(self, path: Path, lease: float, logger: logging.Logger) -> None:
        self.seconds = lease
        self.logger = logger
        self.database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.database.execute("PRAGMA journal_mode=WAL")
        self.database.execute("PRAGMA synchronous=OFF")  # no lock has to outlive a power cut
        self.thread = ThreadPoolExecutor(1)

    def close(self) -> None:
        self.thread.shutdown()
        self.database.close()

    async def run(self, statement: str, *values: object) -> tuple[int, ...] | None:
        """The first row of the answer. Statements run one after the other, in a thread."""

        def execute() -> tuple[int, ...] | None:
            row: tuple[int, ...] | None = next(iter(self.database.execute(statement, values).fetchall()), None)
            return row

        try:
            # Not cancelled halfway: a statement that was sent is carried out, and the next one comes after it.
            return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self.thread, execute))
        except sqlite3.Error as error:
            self.logger.error("SQLite: %s", error)
            raise plugin.LockUnavailable() from error

    async def check(self) -> None:
        await self.run("SELECT 1 FROM locks")

    @asynccontextmanager
    async def lock(self, name: str, wanted: Callable[[], None]) -> AsyncIterator[plugin.Lease]:
        key, owner = name.encode(errors="surrogatepass"), uuid.uuid4().hex
        lease = SqliteLease()
        try:
            while True:
                if await self.take(key, owner, lease):
                    break
                await asyncio.sleep(POLL)
            keeping = asyncio.create_task(self.keep(owner, lease, wanted))
            try:
                yield lease
            finally:
                keeping.cancel()
        finally:
            lease.until = 0
            await self.run("DELETE FROM locks WHERE owner = ?", owner)

    async def take(self, key: bytes, owner: str, lease: SqliteLease) -> bool:
        """Take the lock if nobody holds it or its lease has run out; otherwise leave a note that it is wanted."""
        start = now()
        until = start + self.seconds
        # A lease that ends far too late is from before the machine was started again: the clock began at 0. Not just later than
        # ours, which others may have taken while our statement waited for its turn.
        await self.run("DELETE FROM locks WHERE name = ? AND NOT expires BETWEEN ? AND ?", key, start, until + 60)
        row = await self.run(
            "INSERT OR IGNORE INTO locks (name, owner, expires) VALUES (?, ?, ?) RETURNING token", key, owner, until
        )
        if row is None:
            await self.run("UPDATE locks SET wanted = 1 WHERE name = ?", key)
            return False
        (lease.token,) = row
        lease.until = until
        return True

    async def keep(self, owner: str, lease: SqliteLease, wanted: Callable[[], None]) -> None:
        """Renew the lease and see whether somebody waits, until cancelled or too late."""
        while now() < lease.until:
            await asyncio.sleep(POLL)
            until = now() + self.seconds  # counted from before the statement is sent
            try:
                row = await self.run("UPDATE locks SET expires = ? WHERE owner = ? RETURNING wanted", until, owner)
            except plugin.LockUnavailable:
                continue  # it may work again before the lease runs out
            if row is None:
                lease.until = 0
                return
            lease.until = until
            if row[0]:
                wanted()
