"""`procline dump`: all entries of the table."""

from __future__ import annotations

import sys

import click

from pipeline.cli import common


@click.command(
    epilog="""\b
Examples:
  procline dump --json > table.json                the whole table
  procline dump --json | jq -r '.entries[] | select(.exit_time_ns == null) | .path'
  procline dump --dot | dot -Tsvg -o table.svg     a drawing (needs Graphviz)
"""
)
@click.option("--dot", "as_dot", is_flag=True, help="Print a graph in the DOT language of Graphviz.")
@common.name_option
@common.json_option
def command(name: str, as_json: bool, as_dot: bool) -> int:
    """Print the newest entry of each pid, for live and for exited processes.

    Give either --json or --dot. JSON has one entry a line. To find an earlier process with the same pid, use
    `procline resolve PID --at TIME_NS`.
    """
    if as_json == as_dot:
        raise click.UsageError("choose one of --json and --dot", click.get_current_context())
    with common.attached(name) as table:
        if as_json:
            from pipeline.export.json import document

            for piece in document(common.begun(table.walk), instance=name):
                sys.stdout.write(piece)
        else:
            from pipeline.export.dot import graph

            for line in graph(common.retained(common.begun(table.walk)), title=name):
                click.echo(line)
    return 0
