"""CRC32C (Castagnoli) of bytes that are put together, from those of the pieces: Cloud Storage says no other checksum of what it has composed.

A CRC is a polynomial over GF(2), here with its bits reversed. Behind `n` more bytes a CRC `a` counts `a * x**(8n)`, modulo the
polynomial of CRC32C, and the CRC of those bytes is added (RFC 3720, appendix B.4, has the polynomial).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from functools import lru_cache

_POLYNOMIAL = 0x82F63B78
_ONE = 1 << 31


def combined(pieces: Iterable[tuple[int, int]]) -> int:
    """The CRC32C of pieces in order, each given by its size in bytes and its CRC32C."""
    whole = 0
    for size, crc in pieces:
        whole = _times(whole, _shift(size)) ^ crc
    return whole


def encoded(crc: int) -> str:
    """As the API says it: base64 of the bytes, the highest first."""
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def decoded(text: str) -> int:
    """What `encoded` made. Raises `ValueError`."""
    return int.from_bytes(base64.b64decode(text, validate=True), "big")


def _times(a: int, b: int) -> int:
    """The product of two polynomials, modulo that of CRC32C."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


@lru_cache(maxsize=1024)
def _shift(size: int) -> int:
    """x**(8 * size)."""
    power, result = _ONE >> 8, _ONE  # x**8
    while size:
        if size & 1:
            result = _times(result, power)
        power = _times(power, power)
        size >>= 1
    return result
