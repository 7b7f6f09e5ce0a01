"""`procline ancestors`: where a process came from."""

from __future__ import annotations

import click

from pipeline.cli import common


@click.command(
    epilog="""\b
Examples:
  procline ancestors 4711
  procline ancestors $$ --json | jq -r '.[].comm'
"""
)
@click.argument("pid", type=common.Pid())
@common.pid_ns_option
@common.name_option
@common.json_option
def command(pid: int, pid_ns: int | None, name: str, as_json: bool) -> int:
    """Show the earlier images of PID and its parents, nearest first, without PID as it is now."""
    return common.show_relatives(pid, pid_ns, name, as_json, lambda table: table.ancestors(pid, pid_ns=pid_ns))
