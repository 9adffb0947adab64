"""What an upload's object carries besides its bytes: content type, metadata, how browsers show it, and what the options say."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, urlencode

from tusd import plugin

from .options import Options

METADATA_MOST = 2048
"""Bytes of names and values that S3 takes as an object's metadata."""
MARK = "tusd-upload"
"""In the metadata of an object whose key another upload may have, too, such as one that a hook has chosen: whose it is."""
_MEDIA_TYPE = re.compile(
    r"""[\w!#$%&'*+.^`|~-]+/[\w!#$%&'*+.^`|~-]+([ \t]*;[ \t]*[\w!#$%&'*+.^`|~-]+=("[ !#-\[\]-~]*"|[\w!#$%&'*+.^`|~-]+))*""",
    re.ASCII,
)
_UNKNOWN = "application/octet-stream"
_LONGEST = 255
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_HARMLESS = frozenset(
    "text/plain image/png image/jpeg image/gif image/bmp image/webp audio/wave audio/wav audio/x-wav audio/x-pn-wav "
    "audio/webm audio/ogg audio/mpeg audio/mp4 audio/aac audio/flac video/mp4 video/webm video/ogg application/ogg".split()
)
"""Types that browsers show without running scripts, as in the server's own downloads. No svg, html, xml, pdf on purpose."""


def carried(info: plugin.UploadInfo, options: Options, mark: str | None = None) -> dict[str, Any]:
    """The arguments for PutObject or CreateMultipartUpload of an upload's object. `mark`: whose it is."""
    media_type = _media_type(info.metadata)
    carries: dict[str, Any] = {"ContentType": media_type, **encrypted(options)}
    if media_type.partition(";")[0].strip().lower() not in _HARMLESS:
        carries["ContentDisposition"] = _attachment(info.metadata)
    if metadata := _metadata(info.metadata, {} if mark is None else {MARK: mark}):
        carries["Metadata"] = metadata
    if options.storage_class is not None:
        carries["StorageClass"] = options.storage_class
    if options.acl is not None:
        carries["ACL"] = options.acl
    if options.tags:
        carries["Tagging"] = urlencode(options.tags, quote_via=quote)
    return carries


def encrypted(options: Options) -> dict[str, Any]:
    """The arguments that say how the server encrypts any object."""
    encryption = options.encryption
    if encryption is None:
        return {}
    found: dict[str, Any] = {"ServerSideEncryption": encryption.algorithm}
    if encryption.kms_key is not None:
        found["SSEKMSKeyId"] = encryption.kms_key
    if encryption.bucket_key:
        found["BucketKeyEnabled"] = True
    return found


def _media_type(metadata: plugin.Metadata) -> str:
    for key in ("filetype", "type"):
        if key in metadata:
            text = metadata[key].decode("utf-8", "replace")
            return text if len(text) <= _LONGEST and _MEDIA_TYPE.fullmatch(text) else _UNKNOWN
    return _UNKNOWN


def _attachment(metadata: plugin.Metadata) -> str:
    """`Content-Disposition` with the file's name as RFC 6266 and RFC 8187 say."""
    for key in ("filename", "name"):
        if metadata.get(key):
            name = metadata[key].decode("utf-8", "replace")[:_LONGEST]
            plain = "".join(c if " " <= c <= "~" and c not in '"\\%' else "_" for c in name)
            exact = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
            return f'attachment; filename="{plain}"{exact}'
    return "attachment"


def _metadata(metadata: plugin.Metadata, ours: dict[str, str]) -> dict[str, str]:
    """The upload's metadata as far as it can be headers: in its order, until S3 would take no more. The `.info` object has all."""
    found = dict(ours)
    room = METADATA_MOST - sum(len(name) + len(text) for name, text in ours.items())
    for key, value in metadata.items():
        name, text = key.lower(), _UNPRINTABLE.sub("?", value.decode("utf-8", "replace").replace("\t", " ")).strip()
        if not _NAME.fullmatch(name) or name in found or name == MARK:
            continue
        room -= len(name) + len(text)
        if room < 0:
            break
        found[name] = text
    return found
