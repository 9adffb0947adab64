"""What the object of a complete upload carries for those who download it: its type, how to show it, and the upload's metadata."""

from __future__ import annotations

import hashlib
import re
from typing import Any
from urllib.parse import quote

from tusd.plugin import UploadInfo

from .keys import safe_filename

METADATA_LIMIT = 6144
"""Bytes of keys and values. Cloud Storage takes 8 KiB; the rest is for what we note ourselves."""
UPLOAD, RUN = "tusd-upload", "tusd-run"
"""In an object's metadata: which upload it is, or belongs to (`owner`), and its run."""
_KEY = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_TYPE = re.compile(
    r"[A-Za-z0-9!#$&^_.+-]{1,64}/[A-Za-z0-9!#$&^_.+-]{1,64}([ \t]*;[ \t]*[A-Za-z0-9!#$&^_.+-]+=[A-Za-z0-9!#$&^_.+\"-]+)*"
)
_RUNS_SCRIPTS = re.compile(
    r"text/(html|xml|xsl|javascript|ecmascript|cache-manifest)|application/(xml|javascript|ecmascript|x-shockwave-flash)|.*\+xml|multipart/.*|message/.*"
)
"""Types that a browser shows as a page, or runs, in the name of the site that they come from."""


def object_fields(info: UploadInfo, run: str) -> dict[str, Any]:
    """The fields of the object resource (https://cloud.google.com/storage/docs/json_api/v1/objects)."""
    text = info.metadata.text()
    kind = text.get("filetype", "").strip()
    if not _TYPE.fullmatch(kind) or len(kind) > 255:
        kind = "application/octet-stream"
    fields: dict[str, Any] = {"contentType": kind, "metadata": {**_metadata(text), UPLOAD: owner(info.id), RUN: run}}
    if _RUNS_SCRIPTS.fullmatch(kind.partition(";")[0].strip().lower()):
        fields["contentDisposition"] = _attachment(text.get("filename") or text.get("name") or "")
    return fields


def owner(upload_id: str) -> str:
    """What stands for an id where everybody may see it who may read the object: the id itself is a secret."""
    return hashlib.sha256(upload_id.encode()).hexdigest()[:32]


def _metadata(text: dict[str, str]) -> dict[str, str]:
    """What fits, in order; `.info` has all."""
    kept: dict[str, str] = {}
    size = 0
    for key, value in text.items():
        if not _KEY.fullmatch(key) or key.lower().startswith(("goog", "tusd-")):
            continue
        shown = "".join(char if char == "\t" or " " <= char <= "~" else "?" for char in value)
        size += len(key) + len(shown)
        if size > METADATA_LIMIT:
            break
        kept[key] = shown
    return kept


def _attachment(name: str) -> str:
    if not name:
        return "attachment"
    name = safe_filename(name)
    plain = "".join(char if " " <= char <= "~" and char not in '"\\%' else "_" for char in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
