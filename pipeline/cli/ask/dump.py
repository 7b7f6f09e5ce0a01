"""`procline dump`: all entries of the table."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from pipeline.cli import common
from pipeline.screen.progress import Progress
from pipeline.shm.layout.entry_fields import ENTRY_FIELDS

if TYPE_CHECKING:
    from pipeline.shm.reader.values import Batch


@click.command(
    epilog="""\b
Examples:
  procline dump > table.json                       the whole table
  procline dump | jq -r '.entries[] | select(.exit_time_ns == null) | .path'
  procline dump --dot | dot -Tsvg -o table.svg     a drawing (needs Graphviz)
"""
)
@click.option("--dot", "as_dot", is_flag=True, help="Print a graph in the DOT language of Graphviz.")
@common.name_option
@common.json_option
def command(name: str, as_json: bool, as_dot: bool) -> int:
    """Print the newest entry of each pid, for live and for exited processes.

    The output is JSON with one entry a line, unless --dot is given. To find an earlier process with the same pid, use
    `procline resolve PID --at TIME`.
    """
    if as_json and as_dot:
        raise click.UsageError("choose one of --json and --dot", click.get_current_context())
    with common.attached(name) as table, Progress("reading the table", is_beside_output=True) as progress:
        if not as_dot:
            from pipeline.export.json import document

            batches = _counted(common.begun(lambda: table.batches(ENTRY_FIELDS)), progress)
            for piece in document(batches, instance=name):
                sys.stdout.buffer.write(piece)
        else:
            from pipeline.export.dot import FIELDS, graph

            _, entries = common.batch(table, FIELDS, running=False)
            for line in graph(entries, title=name):
                click.echo(line)
    return 0


def _counted(batches: Iterable[Batch], progress: Progress) -> Iterator[Batch]:
    count = 0
    for batch in batches:
        progress.show(f"{count:,} processes")
        count += len(batch)
        yield batch
