"""What all dialects have in common: which method is meant, how large a body is, what a hook may change of an answer."""

from __future__ import annotations

from ..model import Answer
from . import headers as h
from .messages import Head, Response

_RESERVED = ("upload-", "tus-", "access-control-")
_RESERVED_NAMES = frozenset(
    "location content-length transfer-encoding connection keep-alive upgrade trailer te date server x-content-type-options".split()
)

_UNSTORED = ("Cache-Control", "no-store")
"""An offset from a cache would be wrong (tus 1.0.0, HEAD)."""


def method_meant(head: Head) -> str:
    """What the client means; X-HTTP-Method-Override counts in a POST only, because a GET must stay safe (RFC 9110 section 9.2.1)."""
    override = head.headers.get("X-HTTP-Method-Override") if head.method == "POST" else None
    return head.method if override is None else override.strip(" \t").upper()


def body_size(head: Head) -> int | None:
    """Content-Length; 0 without a body; None for chunked transfer encoding."""
    if "Transfer-Encoding" in head.headers:
        return None
    return h.parse_number(head.headers.get("Content-Length") or "0")


def merged(response: Response, answer: Answer | None) -> Response:
    """Let a hook's answer change the response, except for the headers that are the protocol's own."""
    if answer is None:
        return response
    reserved = _RESERVED_NAMES | {"cache-control"} if _UNSTORED in response.headers else _RESERVED_NAMES
    given = {
        name: value
        for name, value in answer.headers.items()
        if name.lower() not in reserved and not name.lower().startswith(_RESERVED)
    }
    replaced = {name.lower() for name in given}
    response.headers = [(n, v) for n, v in response.headers if n.lower() not in replaced] + list(given.items())
    if answer.status:
        response.status = answer.status
    if answer.body:
        response.body = answer.body.encode("utf-8", "replace")
        if not any(name.lower() == "content-type" for name, _ in response.headers):
            response.headers.append(("Content-Type", "text/plain; charset=utf-8"))
        if response.status == 204 and not answer.status:
            response.status = 200  # a 204 has no body
    return response
