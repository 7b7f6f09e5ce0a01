"""`procline replay`: an instance from a recording."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline import paths
from pipeline.cli.run import command as run_command


@click.command(
    epilog="""\b
Examples:
  procline record storm.rec --seconds 10
  procline replay storm.rec --name then &
  procline wait --name then
  procline tree --name then --exited
"""
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="A TOML file.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Any other setting; see `procline config`.")
@click.option("--name", default=paths.DEFAULT_INSTANCE, show_default=True, help="Name of the instance.")
def command(file: Path, config_file: Path | None, changes: tuple[str, ...], name: str) -> int:
    """Start an instance that shows what a recording holds: the same as `procline run --source replay:FILE`.

    It is ready when all is replayed, and stays until SIGTERM or Ctrl-C, to be asked like any other. Times are those of
    the recording; what has ended is kept. The processes of this host do not occur in it.
    """
    result = click.get_current_context().invoke(
        run_command, file=config_file, source=f"replay:{file}", shards=None, changes=changes, name=name
    )
    assert isinstance(result, int)
    return result
