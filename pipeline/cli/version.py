"""`procline version`: the versions of Procline, Python and the kernel."""

from __future__ import annotations

import platform

import click

from pipeline.cli import common
from pipeline.version import __version__


@click.command(
    epilog="""\b
Examples:
  procline version --json      for a bug report
"""
)
@common.json_option
def command(as_json: bool) -> None:
    """Show the versions of Procline, Python and the kernel."""
    facts = {"procline": __version__, "python": platform.python_version(), "kernel": platform.release()}
    if as_json:
        from pipeline.export.json import dumps

        click.echo(dumps(facts))
    else:
        click.echo(", ".join(f"{key} {value}" for key, value in facts.items()))
