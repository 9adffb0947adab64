"""What objects are called.

    <prefix><key>                              a complete upload
    <prefix><id>.info                          all that is remembered of it
    <prefix><id>_<run>_<n>                     a piece of an upload in flight; Go tusd: <prefix><id>_<n>
    <prefix><id>_<run>_tmp_<level>_<n>         what pieces are put together to on the way to the complete object

`run` is random and of one upload alone: no id, however it is chosen, and no earlier upload of the same id shares a name with it.
"""

from __future__ import annotations

import re
import string
import unicodedata
from datetime import datetime

from tusd import plugin
from tusd.plugin import UploadInfo

MOST_BYTES = 1024
"""Of a name, in UTF-8: https://cloud.google.com/storage/docs/objects#naming"""
_LONGEST_SUFFIX = len("_0123456789abcdef_tmp_9_99999999")
_LONGEST_FILENAME = 200
_FIELDS = frozenset({"id", "filename", "date"})
_DEFAULT_DATE = "%Y-%m-%d"


def checked_prefix(text: str) -> str:
    """A prefix that ends in / unless it is empty. Raises `ValueError`."""
    prefix = text if not text or text.endswith("/") else text + "/"
    _check_shape(prefix.rstrip("/"), "prefix") if prefix else None
    if len(prefix.encode()) > MOST_BYTES // 4:
        raise ValueError(f"a prefix of more than {MOST_BYTES // 4} bytes leaves no room for names")
    return prefix


def checked_template(text: str) -> str:
    """A template of keys. Raises `ValueError`."""
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
        sample = _filled(text, "id", "name", datetime(2000, 1, 1))
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise ValueError("not a template; write text with {id}, {filename} and {date:%Y/%m/%d}") from error
    if unknown := [name for name in fields if name not in _FIELDS]:
        raise ValueError(f"{{{unknown[0]}}} is not known; use {{id}}, {{filename}} and {{date:%Y/%m/%d}}")
    if "id" not in fields:
        raise ValueError("must contain {id}, so that no two uploads are the same object")
    _check_shape(sample, "key")
    return text


def new_key(template: str, info: UploadInfo) -> str:
    """The key of a new upload, without the prefix. What the client named is made safe."""
    name = info.metadata.text().get("filename") or info.metadata.text().get("name") or ""
    key = _filled(template, info.id, safe_filename(name), info.created)
    return key + "_" if key.endswith(".info") else key


def chosen_key(key: str) -> str:
    """The key that a pre-create hook has chosen, without the prefix. Raises `HookError`."""
    try:
        _check_shape(key, "storage.Key")
    except ValueError as error:
        raise plugin.HookError(f"pre-create: {error}") from error
    if key.endswith(".info"):
        raise plugin.HookError("pre-create: storage.Key must not end in .info")
    return key


def check_length(prefix: str, upload_id: str, key: str) -> None:
    """Whether all names fit. Raises `HookError`: only a hook chooses ids and keys that long."""
    longest = max(len(f"{prefix}{key}".encode()), len(f"{prefix}{upload_id}".encode()) + _LONGEST_SUFFIX)
    if longest > MOST_BYTES:
        raise plugin.HookError(
            f"pre-create: the id or storage.Key is too long: a name would have {longest} of {MOST_BYTES} bytes"
        )


def safe_filename(name: str) -> str:
    """What may stand for a client's file name within a key: no folders, no control characters, never empty."""
    name = re.split(r"[/\\]", name)[-1].strip()
    name = "".join("_" if unicodedata.category(char)[0] == "C" or char == "\ufffd" else char for char in name)
    while len(name.encode()) > _LONGEST_FILENAME:
        stem, dot, ending = name.rpartition(".")
        name = f"{stem[:-1]}{dot}{ending}" if len(stem) > 1 and len(ending) < 20 else name[:-1]
    return "file" if name in ("", ".", "..") else name


def _filled(template: str, upload_id: str, filename: str, date: datetime) -> str:
    parts = []
    for text, field, spec, conversion in string.Formatter().parse(template):
        parts.append(text)
        if field is None:
            continue
        if conversion or (spec and field != "date"):
            raise ValueError("only a date has a format")
        parts.append(
            date.strftime(spec or _DEFAULT_DATE) if field == "date" else {"id": upload_id, "filename": filename}.get(field, "")
        )
    return "".join(parts)


def _check_shape(name: str, what: str) -> None:
    if not name or name.startswith("/"):
        raise ValueError(f"{what} must not be empty or begin with /")
    if any(segment in ("", ".", "..") for segment in name.split("/")):
        raise ValueError(f"{what} must not have a segment that is empty, . or ..")
    if any(unicodedata.category(char)[0] == "C" for char in name):
        raise ValueError(f"{what} must not have control characters")
    if name.startswith(".well-known/acme-challenge/"):
        raise ValueError(f"{what} must not begin with .well-known/acme-challenge/, which Cloud Storage refuses")
    if len(name.encode()) > MOST_BYTES:
        raise ValueError(f"{what} must not be longer than {MOST_BYTES} bytes")
