"""How fast a body comes, measured over the time that is spent waiting for it."""

from __future__ import annotations


class Rate:
    """Bytes a second, averaged over windows of `window` seconds; it is looked at once in a while."""

    def __init__(self, least: int, window: float) -> None:
        self.least = least
        self._window = window
        self._waited = 0.0
        self._size = 0

    def count(self, waited: float, size: int) -> None:
        """So many bytes came after so many seconds."""
        self._waited += waited
        self._size += size

    def too_low(self, waited: float) -> bool:
        """Whether too few bytes came in the window that ends now; `waited`: seconds since the last ones. A window of which most was
        spent on something else than waiting for the client goes on."""
        self._waited += waited
        if self._waited < self._window / 2:
            self._waited -= waited
            return False
        low = self._size < self.least * self._waited
        self._waited, self._size = -waited, 0  # the wait that is running is counted when it ends
        return low
