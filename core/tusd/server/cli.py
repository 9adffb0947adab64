"""The command line. It names a command and the configuration file; everything else stands in that file.

Commands import what they need when they run: `tusd --version` loads next to nothing, `tusd check` no HTTP server.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from .. import __version__
from ..errors import StartError, TusError


class _Commands(click.Group):
    """A group whose default command is `serve`: `tusd` and `tusd -c FILE` serve."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ("--help", "--version")):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


def main() -> None:
    """The command `tusd`. What is wrong at the start is told on stderr, one line each; the exit status is 2 then."""
    try:
        commands()
    except StartError as error:
        click.echo(error, err=True)
        sys.exit(2)


_config_option = click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The configuration file. Without one uploads go to ./data and the server listens on port 1080.",
)


@click.group(cls=_Commands)
@click.version_option(__version__, message="tusd %(version)s")
def commands() -> None:
    """A server for resumable uploads (https://tus.io). Without a command it serves."""


@commands.command()
@_config_option
def serve(path: Path | None) -> None:
    """Serve until SIGTERM or Ctrl-C (the default command)."""
    from ..config import Config, load_config
    from ..registry import Registry
    from .listening import listening

    config: Config = load_config(path)
    registry = Registry(config)
    count = config.server.processes
    if count > 1 and not hasattr(os, "fork"):
        raise StartError(f"server.workers: {count} workers need os.fork, which {sys.platform} lacks; write 1")
    logger = _set_up_logs(config)
    with listening(config.server.listen) as sockets:
        ready = partial(_announce, sockets, config.server, config.storage.use)
        if count == 1:
            from .worker import run_worker

            status = run_worker(config, registry, sockets, logger=logger, ready=ready)
        else:
            from .supervisor import Supervisor

            def work(number: int, supervisor: int, ready: Callable[[], None]) -> int:
                _set_up_logs(config, number)
                from .worker import run_worker

                try:
                    return run_worker(
                        config, registry, sockets, logger=logger, ready=ready, number=number, supervisor=supervisor
                    )
                except StartError as error:
                    click.echo(error, err=True)
                    return 2

            status = Supervisor(
                work, count, shutdown_timeout=config.server.shutdown_timeout, ready=ready, logger=logger
            ).run()
    sys.exit(status)
