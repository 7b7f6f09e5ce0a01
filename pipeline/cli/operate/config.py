"""`procline config`: show, check and explain settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pipeline.cli import common
from pipeline.cli.operate.run import daemon_parts

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    epilog="""\b
Examples:
  procline config --example > procline.toml     a file with all settings and their descriptions
  procline config --config procline.toml        the resulting settings
  procline config --config procline.toml --check && systemctl restart procline
"""
)
@common.config_options
@click.option("--example", is_flag=True, help="Print every setting with its description and default.")
@click.option("--check", is_flag=True, help="Only check the settings; print nothing if they are valid.")
@common.json_option
def command(config_file: Path | None, changes: tuple[str, ...], example: bool, check: bool, as_json: bool) -> int:
    """Print the settings that `procline run` would use.

    For each setting that is not a default, the output shows where it was set. If a setting is wrong, the command prints
    one line and exits with 2. `procline help SETTING` explains one setting.

    The command cannot check what is known only when an instance starts, for example whether an address is free.
    `procline doctor` checks the features of the kernel.
    """
    with daemon_parts():
        from pipeline.cli.operate.settings import load
        from pipeline.config import rendering

    if example:
        click.echo(rendering.example(), nl=False)
        return 0
    merged, origins = load(config_file, changes)
    if check:
        return 0
    if as_json:
        click.echo(merged.to_json())
    else:
        click.echo(rendering.as_toml(merged, origins), nl=False)
    return 0
