"""Which dialect a request speaks. Its headers say so; all of them speak of the same uploads at the same URLs."""

from __future__ import annotations

from . import fields
from .ietf import INTEROP, NEWEST, VERSIONS, Ietf
from .messages import Dialect, Head
from .rules import Policy
from .tus1 import Tus1
from .urls import Origins


class Dialects:
    """All that a server speaks."""

    def __init__(self, policy: Policy, origins: Origins, *, informational: bool = True) -> None:
        self.tus1 = Tus1(policy, origins)
        self._ietf = {
            number: Ietf(policy, origins, version, informational=informational)
            for number, version in VERSIONS.items()
            if policy.ietf
        }

    def of(self, head: Head) -> Dialect:
        """The dialect of a request. One that does not say is of the finished standard, which asks and cancels without a header of
        its own, or else of tus 1.0."""
        headers = head.headers
        if "Tus-Resumable" in headers or not self._ietf:
            return self.tus1
        if INTEROP in headers:  # of a version that nobody here speaks, the newest says so
            return self._ietf.get(fields.integer(headers, INTEROP) or 0, self._ietf[NEWEST.number])
        plain = head.method in ("HEAD", "DELETE") or NEWEST.completeness in headers
        return self._ietf[NEWEST.number] if plain else self.tus1
