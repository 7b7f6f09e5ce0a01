"""`procline config`: settings, as they are or could be."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli import common
from pipeline.cli.run import daemon_parts


@click.command(
    epilog="""\b
Examples:
  procline config --example > procline.toml     all settings, explained
  procline config --config procline.toml        what these settings come to
  procline config --config procline.toml --check && systemctl restart procline
"""
)
@click.option("--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="A TOML file.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="One setting, over the file.")
@click.option("--example", is_flag=True, help="Print every setting with its description and default.")
@click.option("--check", is_flag=True, help="Print nothing if the settings are good.")
@common.json_option
def command(file: Path | None, changes: tuple[str, ...], example: bool, check: bool, as_json: bool) -> int:
    """Print the settings that `procline run` would use, and where each that is no default was set.

    Ends with 2 and one line if a setting is wrong. What only a start can tell, such as whether an address is free or
    the kernel has a feature, is not checked; for the latter see `procline doctor`.
    """
    with daemon_parts():
        from pipeline.cli.settings import load
        from pipeline.config import rendering

    if example:
        click.echo(rendering.example(), nl=False)
        return 0
    merged, origins = load(file, changes)
    if check:
        return 0
    if as_json:
        click.echo(merged.to_json())
    else:
        click.echo(rendering.as_toml(merged, origins), nl=False)
    return 0
