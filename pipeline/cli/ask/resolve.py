"""`procline resolve`: show one process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli import common
from pipeline.screen.card import INDENT, card
from pipeline.screen.lines import Line
from pipeline.screen.processes import ending
from pipeline.screen.styles import Style
from pipeline.screen.terminal import Screen
from pipeline.screen.times import moment

if TYPE_CHECKING:
    from pipeline import Entry, ProcessTable
    from pipeline.shm.layout.entry_types import EntryFields

#: Fields that are shown first, in this order. The other fields follow in the order of the entry.
_FIRST = (
    "pid", "ppid", "comm", "path", "script_path", "uid", "gid", "cgroup", "container_id",
    "container_trust", "tty",
)  # fmt: skip
#: Fields that are shown only as JSON: internals of the table, and fields that the text shows in another form. Also
#: `is_thread`, which would mislead readers: it is the specification's name for a process that has called no exec.
_HIDDEN = {
    "pid", "argv", "row", "generation", "flags", "file", "interpreter", "cookie", "fork_flags", "is_head", "images",
    "caps_attempted", "caps_used", "exit_cause", "exit_cause_code", "is_thread",
}  # fmt: skip
_TIMES = ("start_time_ns", "fork_time_ns", "exec_time_ns", "exit_time_ns", "created_at_ns")
_CAPABILITIES = ("cap_effective", "cap_permitted")
#: Width of the names of fields.
_FIELD_WIDTH = 18
#: Lines of a terminal that a command line may take without `--verbose`.
_COMMAND_LINES = 2


@click.command(
    epilog="""\b
Examples:
  procline resolve 4711                       the process with pid 4711
  procline resolve bash                       the processes that run bash
  procline resolve 4711 -v                    with every field
  procline resolve 4711 --json | jq .argv     its arguments
  procline resolve 4711 --at -5m              the process that had the pid five minutes ago
  procline resolve 7 --pid-ns 4026532208      pid 7 of a container's pid namespace
  procline resolve 4711 --ask                 let the daemon search for a missing process
  procline resolve 4711 --fresh               the process as it is now, not some milliseconds ago
"""
)
@click.argument("process", metavar="PID|NAME", type=common.Process())
@common.at_option
@click.option(
    "--ask", "is_asked", is_flag=True,
    help="If the process is not in the table, let the daemon search the kernel's maps and /proc.",
)  # fmt: skip
@click.option(
    "--fresh", "is_fresh", is_flag=True,
    help="Let the daemon bring the table up to date first. It may be behind by capture.freshness_ms.",
)  # fmt: skip
@common.verbose_option
@common.pid_ns_option
@common.name_option
@common.json_option
def command(
    process: int | str,
    at: int | None,
    is_asked: bool,
    is_fresh: bool,
    is_verbose: bool,
    pid_ns: int | None,
    name: str,
    as_json: bool,
) -> int:
    """Show the process PID and its lineage, or the live processes with the program NAME.

    NAME is the name of a script or executable, or the process's own name (comm). Several processes are listed, newest
    first; JSON is then an array.

    Exits with 0 if a process is known, also if it has exited and is retained, otherwise with 1.
    """
    _check_options(process, at=at, is_asked=is_asked, is_fresh=is_fresh, pid_ns=pid_ns)
    with common.attached(name) as table:
        if isinstance(process, str):
            from pipeline.cli.ask import naming  # deferred: a pid needs none of it

            found = naming.find(table, process)
            if as_json:
                _print_json(found)
                return 0 if found else 1
            if len(found) != 1:
                return naming.show(found, process, name)
            process = found[0]["pid"]
        pid = process
        if is_fresh:
            # A pid of another namespace is also good enough: the answer comes when the whole table is up to date.
            _ask(table, pid, fresh=True)
        found = _lineage(table, pid, at, pid_ns, is_alone=as_json)
        if not found and is_asked and _ask(table, pid):
            found = _lineage(table, pid, at, pid_ns, is_alone=as_json)
        if not found:
            return common.not_found(pid, name, pid_ns)
    entry, *lineage = found
    if as_json:
        _print_json(entry)
    else:
        show(entry, lineage, is_verbose=is_verbose)
    return 0


def _check_options(process: int | str, *, at: int | None, is_asked: bool, is_fresh: bool, pid_ns: int | None) -> None:
    if is_asked and at is not None:
        raise click.UsageError("--ask searches for live processes: omit --at")
    if is_asked and pid_ns is not None:
        raise click.UsageError("--ask accepts only pids of the daemon's pid namespace: omit --pid-ns")
    if is_fresh and at is not None:
        raise click.UsageError("--fresh shows the process as it is now: omit --at")
    if isinstance(process, str) and (is_asked or is_fresh or pid_ns is not None or at is not None):
        raise click.UsageError("--ask, --fresh, --at and --pid-ns need a pid: a name is searched among live processes")


def _lineage(table: ProcessTable, pid: int, at: int | None, pid_ns: int | None, *, is_alone: bool) -> list[EntryFields]:
    """Return the entry of a process, and with `is_alone` off those of its ancestors; none if it is unknown."""

    def read() -> list[Entry]:
        # Wait only for a current process, because its fork may not be applied yet.
        wait_ms = 0 if at is not None else common.FORKED_JUST_NOW_MS
        entry = table.resolve(pid, at, pid_ns=pid_ns, wait_ms=wait_ms)
        if entry is None:
            return []
        return [entry] if is_alone else [entry, *table.ancestors(entry)]

    try:
        return common.facts(read)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _print_json(found: EntryFields | list[EntryFields]) -> None:
    from pipeline.export.json import dumps

    click.echo(dumps(found))


def _ask(table: ProcessTable, pid: int, *, fresh: bool = False) -> bool:
    # Deferred: this needs msgpack, which a successful look-up does not.
    from pipeline.bus.requests import LIMITED
    from pipeline.client.ask import ask

    answer = common.patiently(lambda: ask(Path(table.directory), pid, fresh=fresh))
    if answer.reason == LIMITED and not fresh:
        click.echo("procline: /proc was read for this pid less than 30 s ago: try again later", err=True)
    return answer.found


def show(entry: EntryFields, lineage: Sequence[EntryFields], *, is_verbose: bool) -> None:
    """Print what is known of a process."""
    screen = Screen()
    first, *rest = card(entry, lineage, common.now_ns(), _container_names(entry))
    if screen.width is not None and not is_verbose:
        first = first.cut(_COMMAND_LINES * screen.width - 2 * INDENT)
    screen.wrap([first, *rest], INDENT)
    if is_verbose:
        screen.wrap([Line(), *fields(entry)], _FIELD_WIDTH + 3)


def _container_names(entry: EntryFields) -> str:
    if not entry.get("container_id"):
        return ""
    # Deferred: most processes are in no container.
    from pipeline.select import container_names
    from pipeline.software.container_files import Containers

    found = container_names.names_of(entry, Containers())
    return "" if found is None else container_names.text_of(found)


def fields(entry: EntryFields) -> Iterator[Line]:
    """Yield every known field of an entry as a line."""
    for key in [*_FIRST, *(key for key in entry if key not in _FIRST)]:
        value = entry.get(key)
        if value is None or value == [] or key in _HIDDEN:
            continue
        if key in _TIMES and isinstance(value, int):
            key, value = key.removesuffix("_ns"), moment(value)
        elif key == "exit_code":  # the wait status
            key, value = "exit", ending(entry) or value
        elif key in _CAPABILITIES:
            value = f"{value:#x}"
        elif isinstance(value, list):
            value = " ".join(map(str, value))
        elif isinstance(value, bool):
            if not value:
                continue
            value = "yes"
        yield Line((f"  {key:{_FIELD_WIDTH}} ", Style.FAINT), str(value))
