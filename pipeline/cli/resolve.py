"""`procline resolve`: show one process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli import common
from pipeline.export.json import dumps

if TYPE_CHECKING:
    from pipeline import ProcessTable
    from pipeline.export.entry_fields import EntryFields

#: Fields that are shown first, in this order. The other fields follow in the order of the entry.
_FIRST = ("pid", "ppid", "comm", "path", "script_path", "uid", "gid", "cgroup", "container_id", "tty")
#: Fields that are shown only as JSON: internals of the table, fields that the text shows in another form, and
#: `is_thread`, a name of the specification for a process that has called no exec, which would mislead readers.
_HIDDEN = {
    "pid", "argv", "row", "generation", "flags", "file", "interpreter", "cookie", "fork_flags", "is_head", "images",
    "caps_attempted", "caps_used", "exit_cause", "exit_cause_code", "is_thread",
}  # fmt: skip
_TIMES = ("start_time_ns", "fork_time_ns", "exec_time_ns", "exit_time_ns", "created_at_ns")
_CAPABILITIES = ("cap_effective", "cap_permitted")


@click.command(
    epilog="""\b
Examples:
  procline resolve 4711                         the process with pid 4711
  procline resolve 4711 --json | jq .argv       its arguments
  procline resolve 4711 --at "$(date +%s%N)"    the process that had the pid at that time
  procline resolve 7 --pid-ns 4026532208        pid 7 of a container's pid namespace
  procline resolve 4711 --ask                   let the daemon search for a missing process
  procline resolve 4711 --fresh                 the process as it is now, not some milliseconds ago
"""
)
@click.argument("pid", type=common.Pid())
@click.option(
    "--at", type=common.TIME_NS, metavar="TIME_NS",
    help="Show the process that had the pid at this time (ns since the Unix epoch).",
)  # fmt: skip
@click.option(
    "--ask", "is_asked", is_flag=True,
    help="If the process is not in the table, let the daemon search the kernel's maps and /proc.",
)  # fmt: skip
@click.option(
    "--fresh", "is_fresh", is_flag=True,
    help="Let the daemon bring the table up to date first. It may be behind by capture.freshness_ms.",
)  # fmt: skip
@common.pid_ns_option
@common.name_option
@common.json_option
def command(
    pid: int, at: int | None, is_asked: bool, is_fresh: bool, pid_ns: int | None, name: str, as_json: bool
) -> int:
    """Show the process PID and its lineage.

    Exits with 0 if the process is known, also if it has exited and is retained, otherwise with 1.
    """
    if is_asked and at is not None:
        raise click.UsageError("--ask searches for live processes: omit --at")
    if is_asked and pid_ns is not None:
        raise click.UsageError("--ask accepts only pids of the daemon's pid namespace: omit --pid-ns")
    if is_fresh and at is not None:
        raise click.UsageError("--fresh shows the process as it is now: omit --at")
    with common.attached(name) as table:
        if is_fresh:
            # A pid of another namespace is also good enough: the answer comes when the whole table is up to date.
            _ask(table, pid, fresh=True)
        # Wait only for a current process, because its fork may not be applied yet.
        wait_ms = 0 if at is not None else common.FORKED_JUST_NOW_MS
        try:
            found = common.facts(lambda: filter(None, [table.resolve(pid, at, pid_ns=pid_ns, wait_ms=wait_ms)]))
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        if not found and is_asked:
            found = _ask(table, pid)
        if not found:
            return common.not_found(pid, name, pid_ns)
        if as_json:
            click.echo(dumps(found[0]))
            return 0
        lineage = common.facts(lambda: table.ancestors(pid, pid_ns=pid_ns)) if at is None else []
    common.echo_lines(describe(found[0], lineage))
    return 0


def _ask(table: ProcessTable, pid: int, *, fresh: bool = False) -> list[EntryFields]:
    # Deferred: this needs msgpack, which a successful look-up does not.
    from pipeline.bus.requests import LIMITED
    from pipeline.client.ask import ask

    answer = common.patiently(lambda: ask(Path(table.directory), pid, fresh=fresh))
    if answer.reason == LIMITED and not fresh:
        click.echo("procline: /proc was read for this pid less than 30 s ago: try again later", err=True)
    return common.facts(lambda: filter(None, [table.resolve(pid)])) if answer.found else []


def describe(entry: EntryFields, lineage: Sequence[EntryFields]) -> Iterator[str]:
    """Yield the known fields of an entry as lines of text."""
    yield f"{entry['pid']}  {common.command_line(entry)}"
    if lineage:
        chain = " < ".join(f"{common.printable(each.get('comm') or '?')}({each['pid']})" for each in lineage)
        yield f"  {'from':18} {chain}"
    for key in [*_FIRST, *(key for key in entry if key not in _FIRST)]:
        value = entry.get(key)
        if value is None or value == [] or key in _HIDDEN:
            continue
        if key in _TIMES and isinstance(value, int):
            key, value = key.removesuffix("_ns"), common.moment(value)
        elif key == "exit_code":  # the wait status
            key, value = "exit", common.ending(entry) or value
        elif key in _CAPABILITIES:
            value = f"{value:#x}"
        elif isinstance(value, list):
            value = " ".join(map(str, value))
        elif isinstance(value, bool):
            if not value:
                continue
            value = "yes"
        yield f"  {key:18} {common.printable(value)}"
