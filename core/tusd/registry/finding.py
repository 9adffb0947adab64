"""Which code? A name in the configuration -> the plugin's class. The only file that talks to stevedore."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from stevedore.driver import DriverManager

from .one_file import is_file, load_file

OFFICIAL = {
    "s3": "tusd-plugin-s3",
    "gcs": "tusd-plugin-gcs",
    "azure": "tusd-plugin-azure",
    "redis": "tusd-plugin-redis",
    "etcd": "tusd-plugin-etcd",
    "dynamodb": "tusd-plugin-dynamodb",
    "grpc": "tusd-plugin-grpc-hooks",
}
"""Names that have an official distribution which need not be installed."""


class NotUsable(Exception):
    """A plugin that cannot be found, imported or used; `str()` says why, and the cure."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a name stands for, imported."""

    target: object
    distribution: str
    """The name of the distribution, or the path of a one-file plugin."""
    version: str


class _Driver(DriverManager):  # type: ignore[type-arg]  # subscripting it fails with older stevedores
    """stevedore's loader of one name. It reads the installed distributions themselves: stevedore's own list is kept in
    `~/.cache` and for the life of the process, and does not say which distribution an entry comes from."""

    def list_entry_points(self) -> list[EntryPoint]:
        return offered(self.namespace.removeprefix("tusd."))


def offered(seam: str) -> list[EntryPoint]:
    """All entry points for a seam, none imported, sorted by name and distribution."""
    return sorted(entry_points(group=f"tusd.{seam}"), key=lambda entry: (entry.name, distribution(entry)))


def distribution(entry: EntryPoint) -> str:
    """The name of the distribution that offers an entry point."""
    return entry.dist.name if entry.dist else "an unknown distribution"


def find(seam: str, use: str, base: Path) -> Found:
    """Import the plugin that `use` names for a seam, and nothing else. A path is relative to `base`. Raises `NotUsable`."""
    if is_file(use):
        return _found_file(use, base)
    entries = [entry for entry in offered(seam) if entry.name == use]
    if not entries:
        raise NotUsable(_unknown(seam, use))
    if len(entries) > 1:
        names = " and ".join(dict.fromkeys(_versioned(entry) for entry in entries))
        raise NotUsable(f'"{use}" is offered by {names}; uninstall all but one')
    entry = entries[0]
    try:
        target: object = _Driver(namespace=f"tusd.{seam}", name=use).driver
    except Exception as error:
        raise NotUsable(
            f'"{use}" of {_versioned(entry)} cannot be imported: {type(error).__name__}: {one_line(error)}'
        ) from error
    return Found(target, distribution(entry), _version(entry))


def name_of(seam: str, target: type) -> str:
    """The name under which an installed distribution offers a class. Raises `NotUsable`."""
    for entry in offered(seam):
        if entry.attr.rpartition(".")[2] == target.__name__ and entry.load() is target:
            return entry.name
    raise NotUsable(f'no installed distribution offers {target.__qualname__} under [project.entry-points."tusd.{seam}"]')


def one_line(error: BaseException) -> str:
    """An error's text without line breaks."""
    return " ".join(str(error).split())


def _found_file(use: str, base: Path) -> Found:
    try:
        path, target = load_file(use, base)
    except Exception as error:
        kind = "" if isinstance(error, ImportError) and error.name is None else f"{type(error).__name__}: "
        raise NotUsable(f"{use} cannot be used: {kind}{one_line(error)}") from error
    return Found(target, str(path), "")


def _unknown(seam: str, use: str) -> str:
    names = list(dict.fromkeys(entry.name for entry in offered(seam)))
    close = get_close_matches(use.lower(), names, n=1)
    text = f'no plugin "{use}"' + (f' (did you mean "{close[0]}"?)' if close else "")
    text += f"; installed: {', '.join(names) or 'none'}"
    return text + (f"; try: pip install {OFFICIAL[use]}" if use in OFFICIAL else "")


def _version(entry: EntryPoint) -> str:
    return entry.dist.version if entry.dist else ""


def _versioned(entry: EntryPoint) -> str:
    return f"{distribution(entry)} {_version(entry)}".strip()
