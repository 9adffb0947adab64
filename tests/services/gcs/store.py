"""What the fake of Google Cloud Storage keeps: objects as files of a folder, and all that is known of them in a SQLite database beside.

Everything here runs in one thread and waits for nothing, so a precondition and the change that it guards are one step. Whatever
has returned outlives `kill -9`; files that belong to nothing (of uploads that were cut off) are removed at the next start.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import google_crc32c

WRITABLE = {"cacheControl", "contentDisposition", "contentEncoding", "contentLanguage", "contentType", "customTime", "metadata"}
METADATA_LIMIT = 8192  # bytes of the keys and values of an object's custom metadata, https://cloud.google.com/storage/quotas
HEADERS = {"conditionNotMet": "If-Match", "required": "Authorization", "authError": "Authorization"}  # that a reason is about


class GcsError(Exception):
    """An answer other than success, as Google words it: a status, its `reason` and a message."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message

    def as_json(self) -> dict[str, Any]:
        """The body of the answer."""
        domain = "usageLimits" if self.status == 429 else "global"
        error = {"message": self.message, "domain": domain, "reason": self.reason}
        if self.reason in HEADERS:
            error |= {"locationType": "header", "location": HEADERS[self.reason]}
        return {"error": {"code": self.status, "message": self.message, "errors": [error]}}


def invalid(message: str) -> GcsError:
    """A request that makes no sense: 400."""
    return GcsError(400, "invalid", message)


@dataclass(frozen=True, slots=True)
class Stored:
    """An object: one generation of its data, with its metadata. `fields` are those that clients write, by their names in JSON."""

    bucket: str
    name: str
    file: str
    size: int
    crc32c: str
    md5: str | None  # composite objects have none
    generation: int
    created: float
    updated: float
    fields: dict[str, Any]
    metageneration: int = 1
    components: int | None = None


@dataclass(frozen=True, slots=True)
class Conditions:
    """The preconditions of one request, https://cloud.google.com/storage/docs/request-preconditions. What is absent has generation 0."""

    generation: int | None = None
    not_generation: int | None = None
    metageneration: int | None = None
    not_metageneration: int | None = None

    @classmethod
    def of(cls, query: Mapping[str, str], infix: str = "") -> Self:
        """Those of a query: ifGenerationMatch and so on, or ifSourceGenerationMatch with the infix "Source"."""
        names = ("GenerationMatch", "GenerationNotMatch", "MetagenerationMatch", "MetagenerationNotMatch")
        given = (query.get(f"if{infix}{name}") for name in names)
        return cls(*(None if value is None else integer(value) for value in given))

    def check(self, current: Stored | None) -> None:
        """Raise 412 where something should match and does not, 304 where something should not match and does."""
        generation, metageneration = (current.generation, current.metageneration) if current else (0, 0)
        unmet = "At least one of the pre-conditions you specified did not hold."
        if self.generation not in (None, generation) or self.metageneration not in (None, metageneration):
            raise GcsError(412, "conditionNotMet", unmet)
        absent = current is None and self.not_generation is not None  # "if no live object exists, the precondition fails"
        if absent or self.not_generation == generation or self.not_metageneration == metageneration:
            raise GcsError(304, "notModified", unmet)


class Spool:
    """A file that grows while bytes arrive, and their checksums. An existing file is continued. `md5=False` saves that one."""

    def __init__(self, path: Path, *, md5: bool = True) -> None:
        self.path = path
        self.size = 0
        self._crc = 0
        self._md5 = hashlib.md5(usedforsecurity=False) if md5 else None
        self._file = path.open("a+b", buffering=0)
        self._file.seek(0)
        while piece := self._file.read(2**20):
            self._count(piece)

    def write(self, piece: bytes) -> None:
        """Add bytes at the end."""
        view = memoryview(piece)
        while view:
            view = view[self._file.write(view) :]
        self._count(piece)

    def cut(self, size: int) -> Spool:
        """A spool of the first `size` bytes, in place of this one."""
        self._file.close()
        os.truncate(self.path, size)
        return Spool(self.path)

    def crc32c(self) -> str:
        """As Google writes it: big-endian, in base64."""
        return base64.b64encode(self._crc.to_bytes(4, "big")).decode()

    def md5(self) -> str | None:
        """In base64; None if it was not wanted."""
        return base64.b64encode(self._md5.digest()).decode() if self._md5 else None

    def check(self, *, crc32c: str | None, md5: str | None) -> None:
        """Raise 400 unless the bytes are those whose checksums the client has sent."""
        for name, sent, right in (("CRC32C", crc32c, self.crc32c()), ("MD5", md5, self.md5())):
            if sent is not None and sent != right:
                raise invalid(f'Provided {name} hash "{sent}" doesn\'t match calculated {name} hash "{right}".')

    def close(self) -> None:
        """Keep the file, in its folder."""
        self._file.close()

    def discard(self) -> None:
        """Remove the file."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _count(self, piece: bytes) -> None:
        self.size += len(piece)
        self._crc = google_crc32c.extend(self._crc, piece)
        if self._md5:
            self._md5.update(piece)


@dataclass(slots=True)
class Session:
    """A resumable upload. Its bytes are in `file` until it is done; `query` is that of the request that has begun it."""

    id: str
    bucket: str
    name: str
    file: str
    fields: dict[str, Any]
    query: dict[str, str]
    checksums: dict[str, str | None]  # what the client has said that crc32c and md5 will be
    length: int | None  # what X-Upload-Content-Length has said
    done: dict[str, Any] | None = None  # the object that has come of it: a Stored


class Store:
    """Buckets, objects and sessions of one folder, which only one process may use.

    Between two changes of one name must be `interval` seconds; the second is refused with 429.
    """

    def __init__(self, folder: Path, interval: float = 0) -> None:
        self._interval = interval
        self._changed: dict[tuple[str, str], float] = {}  # names, and when they changed; kept only where there is an interval
        self._files = folder / "files"
        self._files.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(folder / "state.sqlite", isolation_level=None)
        self._db.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;"  # ours may be killed, but the machine goes on
            "CREATE TABLE IF NOT EXISTS buckets (name TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;"
            "CREATE TABLE IF NOT EXISTS objects (bucket TEXT, name TEXT, file TEXT, generation INTEGER, state TEXT NOT NULL,"
            " PRIMARY KEY (bucket, name)) WITHOUT ROWID;"
            "CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, file TEXT, state TEXT NOT NULL) WITHOUT ROWID;"
        )
        kept = {row[0] for row in self._db.execute("SELECT file FROM objects UNION ALL SELECT file FROM sessions")}
        for path in self._files.iterdir():
            if path.name not in kept:
                path.unlink()
        self._newest: int = self._db.execute("SELECT max(generation) FROM objects").fetchone()[0] or 0

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def spool(self, file: str | None = None, *, md5: bool = True) -> Spool:
        """For bytes that arrive: a new file, or that of a session."""
        return Spool(self._files / (file or uuid.uuid4().hex), md5=md5)

    def path(self, stored: Stored) -> Path:
        """Where an object's bytes are. The file is never changed, and removed with its generation."""
        return self._files / stored.file

    # buckets

    def create_bucket(self, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A new bucket; 409 if there is one of this name."""
        if (
            not 3 <= len(name) <= 222
            or not name.replace("-", "").replace("_", "").replace(".", "").isalnum()
            or name != name.lower()
        ):
            raise invalid(f"Invalid bucket name: '{name}'")
        state = {"storageClass": "STANDARD", "location": "US", "created": time.time()} | dict(fields)
        try:
            self._db.execute("INSERT INTO buckets VALUES (?, ?)", (name, json.dumps(state)))
        except sqlite3.IntegrityError:
            raise GcsError(
                409, "conflict", "Your previous request to create the named bucket succeeded and you already own it."
            ) from None
        return self.bucket(name)

    def bucket(self, name: str) -> dict[str, Any]:
        """What a bucket was made with; 404 if there is none."""
        row = self._db.execute("SELECT state FROM buckets WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise GcsError(404, "notFound", "The specified bucket does not exist.")
        state: dict[str, Any] = json.loads(row[0])
        return state

    def delete_bucket(self, name: str) -> None:
        """Remove an empty bucket; 409 if it is not."""
        self.bucket(name)
        if next(self.names(name, ""), None) is not None:
            raise GcsError(409, "conflict", "The bucket you tried to delete is not empty.")
        self._db.execute("DELETE FROM buckets WHERE name = ?", (name,))

    # objects

    def find(self, bucket: str, name: str) -> Stored | None:
        """The live generation of an object, or None; 404 if the bucket does not exist."""
        row = self._db.execute("SELECT state FROM objects WHERE bucket = ? AND name = ?", (bucket, name)).fetchone()
        if row is None:
            self.bucket(bucket)
            return None
        return Stored(**json.loads(row[0]))

    def get(self, bucket: str, name: str, generation: str | None = None) -> Stored:
        """The live generation of an object; 404 if there is none or it is another one than the request names."""
        found = self.find(bucket, name)
        if found is None or generation not in (None, str(found.generation)):
            raise GcsError(404, "notFound", f"No such object: {bucket}/{name}")
        return found

    def names(self, bucket: str, start: str) -> Iterator[tuple[str, Stored]]:
        """The objects of a bucket from this name on, in the order of their names' UTF-8 bytes."""
        rows = self._db.execute("SELECT name, state FROM objects WHERE bucket = ? AND name >= ? ORDER BY name", (bucket, start))
        for name, state in rows:
            yield name, Stored(**json.loads(state))

    def put(
        self,
        bucket: str,
        name: str,
        spool: Spool,
        fields: Mapping[str, Any],
        conditions: Conditions,
        *,
        components: int | None = None,
        session: Session | None = None,
    ) -> Stored:
        """Make what has arrived an object's new generation, if the conditions hold; else the spool stays open.

        `components` are those of a composite object. With a session, this is what has come of it.
        """
        state = self.bucket(bucket)
        check_name(name)
        current = self.find(bucket, name)
        conditions.check(current)
        self._limit(bucket, name)
        self._newest = max(self._newest + 1, time.time_ns() // 1000)
        now = time.time()
        stored = Stored(
            bucket,
            name,
            spool.path.name,
            spool.size,
            spool.crc32c(),
            spool.md5(),
            self._newest,
            now,
            now,
            {"storageClass": state["storageClass"], **fields},
            components=components,
        )
        spool.close()
        self._db.execute("BEGIN")
        self._save(stored)
        if session is not None:
            self.save_session(replace(session, done=asdict(stored)))
        self._db.execute("COMMIT")
        if current is not None:
            self.path(current).unlink()
        return stored

    def patch(self, stored: Stored, changes: Mapping[str, Any], *, whole: bool) -> Stored:
        """Change metadata: fields that are null are removed, and with `whole` also those that are not named."""
        fields = {} if whole else {key: value for key, value in stored.fields.items() if key in WRITABLE}
        if isinstance(changes.get("metadata"), dict) and not whole:  # a patch reaches into the custom metadata
            changes = {**changes, "metadata": {**stored.fields.get("metadata", {}), **changes["metadata"]}}
        fields = checked_fields(fields | {key: value for key, value in changes.items() if key in WRITABLE})
        fields |= {key: value for key, value in stored.fields.items() if key not in WRITABLE}
        changed = replace(stored, fields=fields, metageneration=stored.metageneration + 1, updated=time.time())
        self._limit(stored.bucket, stored.name)
        self._save(changed)
        return changed

    def delete(self, stored: Stored) -> None:
        """Remove an object. Who reads it at the time gets all of it."""
        self._limit(stored.bucket, stored.name)
        self._db.execute("DELETE FROM objects WHERE bucket = ? AND name = ?", (stored.bucket, stored.name))
        self.path(stored).unlink()

    def _limit(self, bucket: str, name: str) -> None:
        now = time.monotonic()
        if now - self._changed.get((bucket, name), -self._interval) < self._interval:
            text = (
                f"The object {bucket}/{name} exceeded the rate limit for object mutation operations (create, update, and delete)."
            )
            raise GcsError(429, "rateLimitExceeded", f"{text} Please reduce your request rate.")
        if self._interval:
            self._changed[bucket, name] = now

    def _save(self, stored: Stored) -> None:
        row = (stored.bucket, stored.name, stored.file, stored.generation, json.dumps(asdict(stored)))
        self._db.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)", row)

    # sessions

    def save_session(self, session: Session) -> None:
        """Keep a session, new or changed."""
        row = (session.id, session.file, json.dumps(asdict(session)))
        self._db.execute("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?)", row)

    def session(self, id: str) -> Session:
        """404 for one that never was, or was cancelled."""
        row = self._db.execute("SELECT state FROM sessions WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise GcsError(404, "notFound", "Upload session not found.")
        return Session(**json.loads(row[0]))

    def delete_session(self, session: Session) -> None:
        """Forget a session, and its bytes unless they have become an object."""
        self._db.execute("DELETE FROM sessions WHERE id = ?", (session.id,))
        if session.done is None:
            (self._files / session.file).unlink(missing_ok=True)


def integer(value: object, *, least: int = 0) -> int:
    """A number that a client has sent; 400 if it is none, or less than that."""
    try:
        number = int(str(value))
    except ValueError:
        number = least - 1
    if number < least:
        raise invalid(f"Invalid integer value: {value!r}")
    return number


def check_name(name: str) -> None:
    """400 unless an object may have this name, https://cloud.google.com/storage/docs/objects#naming."""
    if not 1 <= len(name.encode()) <= 1024 or name in (".", "..") or "\r" in name or "\n" in name:
        raise invalid(f"Invalid object name: {name!r}")


def checked_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are not null; 400 where one is not text, or the custom metadata is more than Google keeps."""
    kept = {key: value for key, value in fields.items() if value is not None}
    metadata = kept.get("metadata", {})
    if not isinstance(metadata, dict):
        raise invalid("Invalid value for metadata: an object is expected")
    texts = {key: value for key, value in kept.items() if key != "metadata"}
    metadata = {key: value for key, value in metadata.items() if value is not None}
    for name, value in [*texts.items(), *metadata.items()]:
        if not isinstance(value, str):
            raise invalid(f"Invalid value for {name}: a string is expected")
    for name, value in texts.items():
        if not value.isprintable():  # they become headers
            raise invalid(f"Invalid value for {name}: {value!r}")
    if sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items()) > METADATA_LIMIT:
        raise invalid(f"The total size of metadata keys and values is over {METADATA_LIMIT} bytes")
    return texts | ({"metadata": metadata} if metadata else {})
