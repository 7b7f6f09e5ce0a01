"""`procline version`: the versions of Procline, Python and the kernel."""

from __future__ import annotations

import json
import platform
from importlib import metadata

import click

from pipeline.cli import common


def version() -> str:
    """Return the version of the installed distribution."""
    try:
        return metadata.version("procline")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "0+unknown"


@click.command(
    epilog="""\b
Examples:
  procline version --json      for a bug report
"""
)
@common.json_option
def command(as_json: bool) -> None:
    """Show the versions of Procline, Python and the kernel."""
    facts = {"procline": version(), "python": platform.python_version(), "kernel": platform.release()}
    if as_json:
        click.echo(json.dumps(facts))
    else:
        click.echo(", ".join(f"{key} {value}" for key, value in facts.items()))
