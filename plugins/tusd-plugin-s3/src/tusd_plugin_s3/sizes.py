"""How large parts are: large enough that their numbers last, small enough for the memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tusd import plugin

from .options import Options
from .profiles import Profile


class Cut(NamedTuple):
    """The size of the next piece of a body."""

    floor: int
    """Bytes that it has at least, unless the body ends."""
    target: int
    """Bytes that it has at most."""
    short: int
    """From so many bytes on it may be a part although the body has ended; fewer wait in a tail for more."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The rules of one store."""

    least: int
    """Bytes of every part but the last."""
    preferred: int
    largest: int
    """Bytes of any part."""
    numbers: int
    """The highest number of a part."""
    object: int
    """Bytes of an upload at most."""
    held: int
    """Bytes of one piece at most, where that can be chosen."""
    equal: bool = False
    """All parts of an upload but the last have one size."""

    @property
    def claimed(self) -> int:
        """How many part numbers are claimed at once. A crash costs so many."""
        return max(1, self.numbers // 100)

    def uniform(self, length: int | None) -> int | None:
        """The size of all parts of an upload but its last, where they must have one. A tenth of the numbers is left for crashes."""
        if not self.equal:
            return None
        needed = 0 if length is None else _ceil(length, max(1, self.numbers * 9 // 10))
        return max(self.least, needed, min(self.preferred, self.held))

    def cut(self, begin: int, length: int | None, number: int, uniform: int | None = None) -> Cut:
        """How to cut the piece that begins at the offset `begin` and may become part `number`, up to `numbers`."""
        if uniform is not None:
            floor = target = short = uniform
        elif length is None:
            # As if the parts before had been as large: so that the last one ends behind the largest object.
            floor = max(self.least, min(_ceil(number * 2 * self.object, self.numbers**2), self.largest, self.held))
            target, short = max(self._usual, floor), min(floor, self._short(number))
        else:
            following, left = self.numbers - number, length - begin
            floor = max(self.least, _ceil(left, following + 1))
            target = max(self._usual, floor)
            short = self.least if following * self._usual >= left - self.least else floor
        if length is not None:
            # No memory for bytes that cannot come. One more than can: such a piece ends with its body, and is never taken for full before.
            most = length - begin + 1
            floor, target = min(floor, most), min(target, most)
        return Cut(floor, target, short)

    @property
    def _usual(self) -> int:
        return min(self.preferred, self.held)

    def _short(self, number: int) -> int:
        """While half of the numbers are left any part will do; then short ones grow up to the usual size."""
        half = self.numbers // 2
        return max(self.least, self._usual * (number - half) // (self.numbers - half))

    def check(self, length: int | None) -> str | None:
        """Why an upload of this length cannot be stored, and what helps; None: it can."""
        if length is None:
            return None
        if length > self.object:
            return f"the server takes {self.object} bytes at most"
        needed = _ceil(length, self.numbers)
        if needed > self.largest:
            return f"it needs parts of {needed} bytes, and the server takes {self.largest} at most"
        if needed > self.held:
            return (
                f"it needs parts of {needed} bytes, and only {self.held} are held; set a larger storage.buffer, or storage.spill"
            )
        return None


def sizes(options: Options, rules: Profile, memory: plugin.Memory) -> Sizes:
    """The rules that follow from the options, the kind of server and the memory."""
    return Sizes(
        least=options.min_part_size,
        preferred=options.part_size,
        largest=rules.largest_part,
        numbers=rules.most_parts,
        object=rules.largest_object,
        held=rules.largest_part if options.spill is not None else memory.limit,
        equal=rules.uniform_parts,
    )


def _ceil(a: int, b: int) -> int:
    return -(-a // b)
