"""The command line. It names a command and the configuration file; everything else stands in that file.

Commands import what they need when they run: `tusd --version` loads next to nothing, `tusd check` no HTTP server.
"""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from .. import __version__
from ..errors import StartError


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
    """Serve until SIGTERM or Ctrl-C (the default command). SIGHUP reads the configuration file again."""
    from .serving import serve

    sys.exit(serve(path, _say))


@commands.command()
@_config_option
@click.option("--connect", is_flag=True, help="Also open every backend and ask storage and locking whether they work.")
def check(path: Path | None, connect: bool) -> None:
    """Say all that is wrong with a configuration, without serving it. Opens nothing, unless told to --connect."""
    from ..registry import configure

    config, registry = configure(path)
    if config.server.listens_with_tls:
        from .plan import certificates

        certificates(config)
    if connect:
        import asyncio

        from .connecting import connect_all

        asyncio.run(connect_all(registry, config.server.run_directory))
    _say(f"{config.source}: good" + (", and all backends can be used" if connect else ""))


@commands.command()
@_config_option
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def sweep(path: Path | None, dry_run: bool) -> None:
    """Remove the uploads that have expired. A server does so by itself from time to time."""
    import asyncio

    from ..registry import configure
    from .sweeping import sweep

    config, registry = configure(path)
    asyncio.run(sweep(config, registry, config.server.run_directory, _say, dry_run=dry_run))


@commands.group()
def hooks() -> None:
    """Look at the hook events on disk, which wait for their delivery."""


@hooks.command("list")
@_config_option
@click.option("--json", "as_json", is_flag=True, help="As a JSON list.")
def hooks_list(path: Path | None, as_json: bool) -> None:
    """List the events that are not delivered yet, and why."""
    from ..registry import configure
    from .outboxes import show

    show(*configure(path), _say, as_json=as_json)


@hooks.command("retry")
@_config_option
@click.option("--all", "everything", is_flag=True, help="All that wait or are parked.")
@click.argument("ids", nargs=-1, metavar="[ID]...")
def hooks_retry(path: Path | None, everything: bool, ids: tuple[str, ...]) -> None:
    """Deliver events now, also parked ones."""
    from ..registry import configure
    from .outboxes import retry

    retry(configure(path)[1], ids, _say, everything=everything)


@hooks.command("drop")
@_config_option
@click.option("--parked", is_flag=True, help="All that are parked.")
@click.argument("ids", nargs=-1, metavar="[ID]...")
def hooks_drop(path: Path | None, parked: bool, ids: tuple[str, ...]) -> None:
    """Throw events away: nobody will be told of them."""
    from ..registry import configure
    from .outboxes import drop

    drop(configure(path)[1], ids, _say, parked=parked)


@commands.command()
@click.option("--json", "as_json", is_flag=True, help="As a JSON list.")
def plugins(as_json: bool) -> None:
    """List the installed plugins."""
    from ..registry import installed

    listings = installed()
    if as_json:
        _say(json.dumps([asdict(listing) for listing in listings], indent=2))
        return
    rows = [(one.seam, one.name, f"{one.distribution} {one.version}", one.error or one.summary) for one in listings]
    widths = [max(len(row[column]) for row in rows) for column in range(3)] if rows else []
    for row, listing in zip(rows, listings, strict=True):
        start = "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False))
        _say(f"{start}  {'cannot be used: ' if listing.error else ''}{row[3]}")


@commands.group()
def config() -> None:
    """Look at the configuration."""


@config.command()
def schema() -> None:
    """Print a JSON Schema of the configuration. It knows all installed plugins, and lets editors complete options."""
    from ..registry import json_schema

    _say(json.dumps(json_schema(), indent=2))


@config.command()
@_config_option
def show(path: Path | None) -> None:
    """Print the configuration as it takes effect. Defaults and environment are in it, secrets masked."""
    import yaml

    from ..registry import configure
    from .showing import effective

    _say(yaml.safe_dump(effective(*configure(path)), sort_keys=False, allow_unicode=True).rstrip("\n"))


def _say(text: str) -> None:
    """Print a line. A reader that went away is no reason to stop serving."""
    with contextlib.suppress(BrokenPipeError):
        click.echo(text)
