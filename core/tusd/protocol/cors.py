"""Which CORS headers an answer gets (https://fetch.spec.whatwg.org/#http-cors-protocol)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from ..errors import OriginNotAllowed
from .messages import Head, HeaderList

METHODS = ("POST", "PUT", "HEAD", "PATCH", "OPTIONS", "GET", "DELETE")
ALLOW_HEADERS = (
    "Authorization",
    "Content-Type",
    "Origin",
    "X-Requested-With",
    "X-Request-ID",
    "X-HTTP-Method-Override",
    "Tus-Resumable",
    "Upload-Length",
    "Upload-Offset",
    "Upload-Metadata",
    "Upload-Defer-Length",
    "Upload-Concat",
    "Upload-Checksum",
    "Upload-Incomplete",
    "Upload-Complete",
    "Upload-Draft-Interop-Version",
    "Content-Disposition",
    "Content-Digest",
    "Repr-Digest",
    "Want-Repr-Digest",
)
EXPOSE_HEADERS = (
    "Location",
    "Upload-Offset",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Defer-Length",
    "Upload-Concat",
    "Upload-Expires",
    "Upload-Incomplete",
    "Upload-Complete",
    "Upload-Limit",
    "Upload-Draft-Interop-Version",
    "Repr-Digest",
    "Tus-Version",
    "Tus-Resumable",
    "Tus-Max-Size",
    "Tus-Extension",
    "Tus-Checksum-Algorithm",
    "Retry-After",
    "X-Request-ID",
)


@dataclass(frozen=True)
class Cors:
    """What browsers on other sites may do. Lists are added to the built-in ones."""

    enabled: bool = True
    allow_origins: tuple[str, ...] = (".*",)
    """Regular expressions, each for the whole `Origin`: `https://example\\.com` does not match https://example.com.evil.test."""
    allow_credentials: bool = False
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: int = 86400
    """Seconds for which a browser may remember a preflight."""

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], ...]:
        return tuple(re.compile(text) for text in self.allow_origins)

    @cached_property
    def _expose(self) -> str:
        return ", ".join((*EXPOSE_HEADERS, *self.expose_headers))

    def headers(self, head: Head) -> HeaderList:
        """The headers for the answer to this request, whatever the answer is. Raises `OriginNotAllowed`."""
        if not self.enabled:
            return []
        origin = head.headers.get("Origin")
        if origin is None:  # a cache must not give a download without these headers to a page that needs them
            return [("Vary", "Origin")] if head.method == "GET" else []
        sendable = origin.isascii() and origin.isprintable()
        if not sendable or not any(pattern.fullmatch(origin) for pattern in self._patterns):
            raise OriginNotAllowed()
        found = [("Access-Control-Allow-Origin", origin), ("Vary", "Origin")]
        if self.allow_credentials:
            found.append(("Access-Control-Allow-Credentials", "true"))
        if head.method == "OPTIONS":
            found += [
                ("Access-Control-Allow-Methods", ", ".join((*METHODS, *self.allow_methods))),
                ("Access-Control-Allow-Headers", ", ".join((*ALLOW_HEADERS, *self.allow_headers))),
                ("Access-Control-Max-Age", str(self.max_age)),
            ]
        found.append(("Access-Control-Expose-Headers", self._expose))
        return found
