"""`procline children`: the children of a process."""

from __future__ import annotations

import click

from pipeline.cli import common


@click.command(
    epilog="""\b
Examples:
  procline children 1                          the children of pid 1
  procline children $$ --json | jq length      the number of this shell's children
"""
)
@click.argument("pid", type=common.Pid())
@common.pid_ns_option
@common.name_option
@common.json_option
def command(pid: int, pid_ns: int | None, name: str, as_json: bool) -> int:
    """Show the live children of PID.

    Exits with 0 if PID is known, otherwise with 1.
    """
    return common.show_relatives(pid, pid_ns, name, as_json, lambda table: table.children(pid, pid_ns=pid_ns))
