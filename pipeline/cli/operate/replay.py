"""`procline replay`: start an instance from a recording."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli import common
from pipeline.cli.operate import run


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
@common.config_options
@common.name_option
def command(file: Path, config_file: Path | None, changes: tuple[str, ...], name: str) -> int:
    """Start an instance with the processes of the recording FILE.

    This is the same as `procline run --source replay:FILE`. The instance is ready when the whole recording is replayed,
    and runs until SIGTERM or Ctrl-C. All commands work with it. Times are those of the recording, exited processes are
    retained, and the processes of this host do not appear.
    """
    result = click.get_current_context().invoke(
        run.command, file=config_file, source=f"replay:{file}", shards=None, changes=changes, name=name
    )
    assert isinstance(result, int)
    return result
