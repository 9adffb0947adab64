"""One sweep from the command line: what has expired, and away with it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from ..config import Config
from ..engine.sweep import Doomed
from ..errors import StartError
from ..model import utcnow
from ..plugin import Listable, Scope, Terminable
from ..registry import Registry
from ..web.configured import engine_of
from .logs import SHORT_ID


async def sweep(config: Config, registry: Registry, run_directory: Path, say: Callable[[str], None], *, dry_run: bool) -> None:
    """Remove all that has expired, or only say what would go. It may run beside a server: both take the same locks.

    Raises `StartError` where that is not so, or the storage cannot list its uploads."""
    locking = next(loaded for loaded in registry.loaded if loaded.seam == "locking")
    if not dry_run and getattr(locking.plugin, "scope", Scope.PROCESS) is Scope.PROCESS:
        raise StartError(
            f"locking: `{locking.use}` guards one process, and a server may be at work in another; use --dry-run, or another locking"
        )
    async with registry.open(run_directory, 0, logging.getLogger("tusd")) as backends:
        missing = {Listable, Terminable} - backends.store.capabilities
        if missing:
            raise StartError("storage: this storage cannot list or remove uploads")
        engine = engine_of(config, backends)
        count = 0
        try:
            sweeper = engine.sweeper()
            async for doomed in sweeper.doomed():
                if dry_run or await sweeper.removed(doomed):
                    count += 1
                    say(_line(doomed, full=config.logging.full_upload_ids))
        finally:
            await engine.close()
    what = "would be removed" if dry_run else "removed"
    say(f"{count} upload{'' if count == 1 else 's'} {what}")


def _line(doomed: Doomed, *, full: bool) -> str:
    info = doomed.info
    idle = (utcnow() - info.modified).total_seconds()
    return f"{info.id if full else info.id[:SHORT_ID]}  {doomed.reason}  {info.offset} bytes  idle for {idle:.0f} s"
