"""Structured fields (RFC 9651) as the IETF draft uses them. A field that is not what it should be counts as absent: that is what
the draft says, also of one that is sent twice."""

from __future__ import annotations

from collections.abc import Mapping

import http_sf

from .messages import Algorithm, Checksum, Headers

_DIGEST_SIZES: Mapping[Algorithm, int] = {"sha512": 64, "sha256": 32}


def _parsed(headers: Headers, name: str, kind: str) -> object:
    lines = headers.getall(name, [])
    if not lines:
        return None
    try:
        return http_sf.parse(", ".join(lines).encode("ascii"), tltype=kind)
    except (ValueError, UnicodeEncodeError):
        return None


def _item(headers: Headers, name: str) -> object:
    found = _parsed(headers, name, "item")
    return found[0] if isinstance(found, tuple) else None


def boolean(headers: Headers, name: str) -> bool | None:
    """A boolean item."""
    value = _item(headers, name)
    return value if isinstance(value, bool) else None


def integer(headers: Headers, name: str) -> int | None:
    """A non-negative integer item."""
    value = _item(headers, name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def digest(headers: Headers, name: str, names: Mapping[str, Algorithm]) -> Checksum | None:
    """A digest (RFC 9530 section 2) with the first of `names` that is there; None for algorithms that nobody here knows."""
    found = _parsed(headers, name, "dictionary")
    for text, algorithm in names.items():
        value = found.get(text) if isinstance(found, dict) else None
        raw = value[0] if isinstance(value, tuple) else None
        if isinstance(raw, bytes) and len(raw) == _DIGEST_SIZES[algorithm]:
            return Checksum(algorithm, raw)
    return None


def wanted(headers: Headers, name: str, names: Mapping[str, Algorithm]) -> Algorithm | None:
    """The algorithm that a preference (RFC 9530 section 4) likes best of `names`; a weight of 0 means never."""
    found = _parsed(headers, name, "dictionary")
    if not isinstance(found, dict):
        return None
    weights = {text: value[0] for text, value in found.items() if text in names and isinstance(value, tuple)}
    liked = [text for text, weight in weights.items() if isinstance(weight, int) and not isinstance(weight, bool) and weight > 0]
    return names[max(liked, key=lambda text: weights[text])] if liked else None


def dictionary(members: Mapping[str, int | bytes]) -> str:
    """A dictionary of integers or byte sequences as a header's value."""
    return http_sf.ser(dict(members))
