"""All shapes, by what they are about."""

from __future__ import annotations

from .framing import SMUGGLING
from .heads import BOMBS, CODINGS, EXPECTATIONS, HOSTS, METHODS, NO_HTTP, UPGRADES
from .shape import Shape
from .values import BAD_NUMBERS, CONTRADICTIONS, ECHOES, INTEROP, TRAVERSALS, UNFINISHED

TABLE: dict[str, dict[str, Shape]] = {
    "smuggling": SMUGGLING,
    "no http": NO_HTTP,
    "methods": METHODS,
    "hosts": HOSTS,
    "expectations": EXPECTATIONS,
    "codings": CODINGS,
    "upgrades": UPGRADES,
    "bombs": BOMBS,
    "numbers": BAD_NUMBERS,
    "traversals": TRAVERSALS,
    "echoes": ECHOES,
    "contradictions": CONTRADICTIONS,
    "interop": INTEROP,
    "unfinished": UNFINISHED,
}
