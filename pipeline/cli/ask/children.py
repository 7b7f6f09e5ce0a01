"""`procline children`: the children of a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pipeline.cli import common
from pipeline.cli.ask import naming
from pipeline.export.json import dumps
from pipeline.screen.relatives import siblings
from pipeline.screen.terminal import Screen

if TYPE_CHECKING:
    from pipeline import Entry


@click.command(
    epilog="""\b
Examples:
  procline children 1                          the children of pid 1
  procline children nginx                      of the only process that runs nginx
  procline children $$ --json | jq length      the number of this shell's children
"""
)
@click.argument("process", metavar="PID|NAME", type=common.Process())
@common.pid_ns_option
@common.name_option
@common.json_option
def command(process: int | str, pid_ns: int | None, name: str, as_json: bool) -> int:
    """Show the live children of a process.

    Exits with 0 if the process is known, even if it has no children, otherwise with 1.
    """
    if isinstance(process, str) and pid_ns is not None:
        raise click.UsageError("--pid-ns needs a pid: a name is searched among live processes")
    with common.attached(name) as table:
        pid = naming.one(table, process, name) if isinstance(process, str) else process
        if pid is None:
            return 1
        if common.patiently(lambda: table.resolve(pid, pid_ns=pid_ns, wait_ms=common.FORKED_JUST_NOW_MS)) is None:
            return common.not_found(pid, name, pid_ns)

        def read() -> list[Entry]:
            return table.children(pid, pid_ns=pid_ns)

        found = common.facts(read)
    if as_json:
        click.echo(dumps(found))
    elif found:
        Screen().cut(siblings(found, common.now_ns()))
    else:
        click.echo(f"procline: process {pid} has no live children", err=True)
    return 0
