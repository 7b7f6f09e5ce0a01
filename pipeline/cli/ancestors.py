"""`procline ancestors`: the chain of parents of a process."""

from __future__ import annotations

import click

from pipeline.cli import common


@click.command(
    epilog="""\b
Examples:
  procline ancestors 4711                              the parents of process 4711
  procline ancestors $$ --json | jq -r '.[].comm'      the names of this shell's parents
"""
)
@click.argument("pid", type=common.Pid())
@common.pid_ns_option
@common.name_option
@common.json_option
def command(pid: int, pid_ns: int | None, name: str, as_json: bool) -> int:
    """Show the parents of PID and their earlier images, nearest first.

    The list begins with the earlier images of PID itself; its current image is not included. Exits with 0 if PID is
    known, otherwise with 1.
    """
    return common.show_relatives(pid, pid_ns, name, as_json, lambda table: table.ancestors(pid, pid_ns=pid_ns))
