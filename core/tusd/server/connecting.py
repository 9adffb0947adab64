"""Whether all backends can be used, tried from the command line."""

from __future__ import annotations

import logging
from pathlib import Path

from ..config import StartErrors
from ..errors import StartError, TusError
from ..registry import Registry


async def connect_all(registry: Registry, run_directory: Path) -> None:
    """Open every backend as a worker would, ask storage and locking, close them. Raises `StartError` for what cannot be used."""
    problems = []
    async with registry.open(run_directory, 0, logging.getLogger("tusd")) as backends:
        for seam, ask in (("storage", backends.store.check), ("locking", backends.locker.check)):
            try:
                await ask()
            except TusError as error:
                problems.append(StartError(f"{seam}: cannot be used: {error}"))
    if problems:
        raise StartErrors(problems)
