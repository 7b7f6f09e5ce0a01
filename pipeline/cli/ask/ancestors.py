"""`procline ancestors`: the chain of parents of a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pipeline.cli import common
from pipeline.cli.ask import naming
from pipeline.export.json import dumps
from pipeline.screen.relatives import ancestry
from pipeline.screen.terminal import Screen

if TYPE_CHECKING:
    from pipeline import Entry, ProcessTable


@click.command(
    epilog="""\b
Examples:
  procline ancestors 4711                              process 4711 and its parents
  procline ancestors nginx                             of the only process that runs nginx
  procline ancestors nginx --by creator                the shell that started it, also if it has ended
  procline ancestors 4711 --at 13:05                   of the process that had the pid then
  procline ancestors $$ --json | jq -r '.[].comm'      the names of this shell's parents
"""
)
@click.argument("process", metavar="PID|NAME", type=common.Process())
@click.option(
    "--by", type=common.OneOf(["parent", "creator"]), default="parent", show_default=True,
    help="Follow the current parents, or the creators: the processes that forked.",
)  # fmt: skip
@common.at_option
@common.pid_ns_option
@common.name_option
@common.json_option
def command(process: int | str, by: str, at: int | None, pid_ns: int | None, name: str, as_json: bool) -> int:
    """Show a process and its parents, nearest first, each with the programs that it ran earlier (its images).

    The user is shown where it changes. The parents are those of now: if the process that started it has ended, the
    parent is the process that adopted it, often pid 1. With --by creator, the list follows the processes that forked.
    It then leads from a daemon to the shell that started it, even if the shell has ended. Where the creator is unknown,
    because the process is older than the instance, the list continues with the parent.

    JSON begins with the earlier images of the process; its current image is not included. Exits with 0 if the process
    is known, otherwise with 1.
    """
    if isinstance(process, str) and (pid_ns is not None or at is not None):
        raise click.UsageError("--at and --pid-ns need a pid: a name is searched among live processes")
    with common.attached(name) as table:
        pid = naming.one(table, process, name) if isinstance(process, str) else process
        if pid is None:
            return 1

        def read() -> list[Entry]:
            wait_ms = 0 if at is not None else common.FORKED_JUST_NOW_MS
            entry = table.resolve(pid, at, pid_ns=pid_ns, wait_ms=wait_ms)
            return [] if entry is None else _chain(table, entry, by_creator=by == "creator")

        try:
            found = common.facts(read)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        if not found:
            return common.not_found(pid, name, pid_ns)
    if as_json:
        click.echo(dumps(found[1:]))
    else:
        Screen().cut(ancestry(found, common.now_ns()))
    return 0


def _chain(table: ProcessTable, entry: Entry, *, by_creator: bool) -> list[Entry]:
    """Return an entry and its ancestors, nearest first."""
    found = [entry]
    if by_creator:
        found += table.ancestors(entry, by="creator")
    # From the first process with an unknown creator on, the parents are what is known.
    return found + table.ancestors(found[-1])
