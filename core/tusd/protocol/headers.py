"""One pure parse/format pair per header. Parsers raise a `RequestError`; formatters never produce anything that needs escaping."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.message import Message
from email.utils import collapse_rfc2231_value, format_datetime, parsedate_to_datetime
from typing import get_args
from urllib.parse import quote

from ..errors import InvalidChecksum, InvalidConcat, InvalidMetadata, InvalidRequest, UnsupportedChecksum
from ..model import Metadata
from .messages import Algorithm, Checksum, Headers

OFFSET_OCTET_STREAM = "application/offset+octet-stream"
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
_DIGEST_SIZES: Mapping[Algorithm, int] = {"md5": 16, "sha1": 20, "sha256": 32, "sha512": 64, "crc32": 4}
MAX_NUMBER = 2**63 - 1
_DISPOSITION_SIZE = 4096
_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)
_METADATA_KEY = re.compile(r"[\x21-\x2b\x2d-\x7e]+")
_SENDABLE = re.compile(r"[\t\x20-\x7e]+")
_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})", re.ASCII | re.IGNORECASE)
_MEDIA_TYPE = re.compile(
    r"""[\w!#$%&'*+.^`|~-]+/[\w!#$%&'*+.^`|~-]+([ \t]*;[ \t]*[\w!#$%&'*+.^`|~-]+=("[ !#-\[\]-~]*"|[\w!#$%&'*+.^`|~-]+))*""",
    re.ASCII,
)
_INLINE = frozenset(
    "text/plain image/png image/jpeg image/gif image/bmp image/webp audio/wave audio/wav audio/x-wav audio/x-pn-wav "
    "audio/webm audio/ogg audio/mpeg audio/mp4 video/mp4 video/webm video/ogg application/ogg".split()
)
"""Types that browsers show without running scripts: everything else is offered as a file. No svg, html, xml, pdf on purpose."""


def single(headers: Headers, name: str) -> str | None:
    """The value of a header that must not be repeated; None when absent. Raises `InvalidRequest` when it is sent twice."""
    values = headers.getall(name, [])
    if not values:
        return None
    if len(values) > 1:
        raise InvalidRequest(f"the header {name} is sent more than once")
    return values[0].strip(" \t")


def parse_number(text: str) -> int | None:
    """A non-negative decimal number below 2**63, in ASCII digits; None for anything else."""
    if not _NUMBER.fullmatch(text):
        return None
    number = int(text)
    return number if number <= MAX_NUMBER else None


def parse_metadata(headers: Headers, max_size: int) -> Metadata:
    """`Upload-Metadata` (tus 1.0.0, Creation): `key base64,key base64,key`.

    Lenient where clients need it: an empty header, empty elements, keys without a value, spaces around commas. Raises
    `InvalidMetadata` for duplicate keys, values that are not base64, and more than `max_size` characters.
    """
    lines = headers.getall("Upload-Metadata", [])
    if not lines:
        return Metadata()
    header = ",".join(lines).strip(" \t")
    if len(header) > max_size:
        raise InvalidMetadata(f"the Upload-Metadata header is longer than {max_size} characters")
    values: dict[str, bytes] = {}
    for element in header.split(","):
        key, _, encoded = element.strip(" \t").partition(" ")
        if not key and not encoded:
            continue
        if not _METADATA_KEY.fullmatch(key):
            raise InvalidMetadata("a key in the Upload-Metadata header is not printable ASCII")
        if key in values:
            raise InvalidMetadata(f'the Upload-Metadata header has the key "{key}" twice')
        try:
            values[key] = base64.b64decode(encoded.strip(" \t").encode("ascii"), validate=True)
        except (binascii.Error, UnicodeEncodeError):
            raise InvalidMetadata(f'the value of "{key}" in the Upload-Metadata header is not base64') from None
    return Metadata(values, header)


def format_metadata(values: Mapping[str, bytes]) -> str:
    """The `Upload-Metadata` header for these values, in their order; without those whose key cannot stand in it."""
    return ",".join(
        f"{key} {base64.b64encode(value).decode('ascii')}" if value else key
        for key, value in values.items()
        if _METADATA_KEY.fullmatch(key)
    )


def echo_metadata(metadata: Metadata) -> str:
    """The `Upload-Metadata` header for an answer: as it was received, formatted anew when it comes from elsewhere (a hook, another
    server's files) and is missing or cannot be sent. Empty: nothing to send."""
    return metadata.header if _SENDABLE.fullmatch(metadata.header) else format_metadata(metadata)


def parse_concat(text: str) -> list[str] | None:
    """`Upload-Concat`: None for `partial`, the URLs for `final;url url`. Raises `InvalidConcat`."""
    if text == "partial":
        return None
    kind, semicolon, urls = text.partition(";")
    found = urls.split()
    if kind.strip() != "final" or not semicolon or not found:
        raise InvalidConcat('invalid Upload-Concat header; it is "partial", or "final;" and the URLs of the parts')
    return found


def parse_checksum(text: str) -> Checksum:
    """`Upload-Checksum` (tus 1.0.0, Checksum): `sha1 base64`. Raises `InvalidChecksum`, `UnsupportedChecksum`."""
    name, _, encoded = text.partition(" ")
    algorithm = next((a for a in ALGORITHMS if a == name), None)
    if algorithm is None:
        raise UnsupportedChecksum()
    try:
        digest = base64.b64decode(encoded.strip(" \t").encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise InvalidChecksum() from None
    if len(digest) != _DIGEST_SIZES[algorithm]:
        raise InvalidChecksum(f"the digest in the Upload-Checksum header does not have the length of a {algorithm} digest")
    return Checksum(algorithm, digest)


def is_offset_octet_stream(content_type: str | None) -> bool:
    """Whether this is the media type of a tus body; parameters and case do not matter."""
    return content_type is not None and content_type.partition(";")[0].strip().lower() == OFFSET_OCTET_STREAM


def format_date(moment: datetime) -> str:
    """An HTTP date (RFC 9110 section 5.6.7)."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def parse_date(text: str) -> datetime | None:
    """An HTTP date; None for anything else."""
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # OverflowError: a year or zone of very many digits
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def content_type(metadata: Metadata) -> str:
    """The media type for a download: metadata `filetype` (or `type`) if it is one."""
    for key in ("filetype", "type"):
        if key in metadata:
            text = metadata[key].decode("utf-8", "replace")
            return text if _MEDIA_TYPE.fullmatch(text) else "application/octet-stream"
    return "application/octet-stream"


def content_disposition(metadata: Metadata, media_type: str) -> str:
    """`Content-Disposition` for a download: inline only for types that cannot run scripts; the name as RFC 6266 and RFC 8187 say."""
    kind = "inline" if media_type.partition(";")[0].strip().lower() in _INLINE else "attachment"
    for key in ("filename", "name"):
        if metadata.get(key):
            return f"{kind}; {_filename(metadata[key].decode('utf-8', 'replace'))}"
    return kind


def parse_filename(disposition: str) -> str | None:
    """The file name in a `Content-Disposition` (RFC 6266): `filename*` wins over `filename`. None: there is none, or the header is
    longer than any with a name that a file system takes (and the library needs time with the square of its length)."""
    if len(disposition) > _DISPOSITION_SIZE:
        return None
    message = Message()
    message["Content-Disposition"] = disposition
    plain = None
    for name, value in message.get_params([], "Content-Disposition")[1:]:
        if name.lower() == "filename" and isinstance(value, tuple):
            return collapse_rfc2231_value(value)
        if name.lower() == "filename":
            plain = value
    return plain


def _filename(name: str) -> str:
    plain = "".join(c if " " <= c <= "~" and c not in '"\\%' else "_" for c in name)
    if plain == name:
        return f'filename="{plain}"'
    return f"filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """A single byte range (RFC 9110 section 14.1.2) as (start, stop), stop exclusive and cut to `size`.

    None when it is to be ignored: another unit, several ranges, malformed. An unsatisfiable one gives (size, size).
    """
    match = _RANGE.fullmatch(text.strip())
    if not match or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), int(last) + 1 if last else size
        if stop <= start and last:
            return None
    return (start, min(stop, size)) if start < size and start < stop else (size, size)
