"""Shared functions of the subcommands: options, access to an instance, and output as JSON and text.

Names, paths and arguments of processes are untrusted. `printable` escapes control characters, so that a terminal does
not interpret them.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shlex
import shutil
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from pipeline import paths, trust
from pipeline.errors import BusyError, StaleError, TooOldError
from pipeline.export.text import printable as printable
from pipeline.shm.layout.declared import CONTROL_LAYOUT

if TYPE_CHECKING:
    from pipeline import Entry, ProcessTable
    from pipeline.export.entry_fields import Command, EntryFields


#: How long a command waits for a resolver that is being replaced, or for a row that is being written.
PATIENCE_S = 2.5
#: How long `resolve` waits for a process that was just forked and is not in the tables yet.
FORKED_JUST_NOW_MS = 200

PID_MAX = 1 << 22


class Pid(click.ParamType[int]):
    """A process id."""

    name = "pid"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the pid, or fail if it is out of range."""
        try:
            number = int(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a pid: give a number from 1 to {PID_MAX}", param, ctx)
        if not 1 <= number <= PID_MAX:
            self.fail(f"{number} is not a pid: give a number from 1 to {PID_MAX}", param, ctx)
        return number


class Namespace(click.ParamType[int]):
    """A pid namespace, given by its inode: a number, or ``pid:[NUMBER]`` as in ``/proc/PID/ns``."""

    name = "inode"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the inode, or fail if it is not a number in range."""
        digits = str(value).removeprefix("pid:[").removesuffix("]")
        if not digits.isdigit() or not 0 < int(digits) < 1 << 32:
            self.fail(f"{value!r} is not a pid namespace: give its inode, see `lsns -t pid`", param, ctx)
        return int(digits)


class Seconds(click.ParamType[float]):
    """A duration in seconds; ``inf`` is unlimited."""

    name = "seconds"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number of seconds, or fail if it is negative or not a number."""
        try:
            number = float(str(value))
        except ValueError:
            number = math.nan
        if not number >= 0:  # also true for nan, with which a timeout would never expire
            self.fail(f"{value!r} is not a number of seconds: give a number such as 10 or 0.5", param, ctx)
        return number


#: A time in ns since the Unix epoch.
TIME_NS = click.IntRange(0, (1 << 63) - 1)


def pid_ns_option[F: Callable[..., object]](function: F) -> F:
    """Add ``--pid-ns``."""
    return click.option(
        "--pid-ns",
        type=Namespace(),
        metavar="INODE",
        help="Pid namespace to which PID belongs.  [default: the daemon's]",
    )(function)


def name_option[F: Callable[..., object]](function: F) -> F:
    """Add ``--name``."""
    return click.option(
        "--name", default=paths.DEFAULT_INSTANCE, metavar="NAME", show_default=True, help="Name of the instance."
    )(function)


def json_option[F: Callable[..., object]](function: F) -> F:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def config_options[F: Callable[..., object]](function: F) -> F:
    """Add ``--config`` and ``--set``."""
    function = click.option(
        "--set", "changes", multiple=True, metavar="KEY=VALUE",
        help="Change one setting; overrides the file. See `procline config --example`.",
    )(function)  # fmt: skip
    return click.option(
        "--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="TOML file with settings."
    )(function)


@contextmanager
def attached(name: str) -> Iterator[ProcessTable]:
    """Open the tables of an instance for reading, and print a warning if its pids differ from the caller's."""
    from pipeline import ProcessTable

    with ProcessTable.attach(name) as table:
        warn_about_namespace(name)
        yield table


def warn_about_namespace(name: str) -> None:
    """Print a warning on standard error if this process is in another pid namespace than the instance."""
    try:
        with os.fdopen(trust.open_file(paths.instance_dir(name) / paths.CONTROL), "rb") as control:
            theirs = CONTROL_LAYOUT.struct("pid_ns").unpack_from(control.read(CONTROL_LAYOUT.size))[0]
        ours = Path("/proc/self/ns/pid").stat().st_ino
    except (OSError, struct.error):
        return
    if theirs and theirs != ours:
        click.echo(
            "procline: you are in another pid namespace than the instance: pids are those of the instance, not yours",
            err=True,
        )


def warn_about_delay(name: str, behind_ns: int) -> None:
    """Print a warning on standard error that an instance is running but its data is old."""
    click.echo(f"procline: instance {name!r} is running, behind by {behind_ns / 1e9:.1f} s", err=True)


def patiently[T](read: Callable[[], T]) -> T:
    """Call `read`; repeat it for up to PATIENCE_S while the tables are stale or the row is busy."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return read()
        except (StaleError, BusyError):
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.01)


def fields_of(entry: Entry) -> EntryFields:
    """Return the JSON form of an entry.

    Raises:
        TooOldError: the entry is no longer retained.
    """
    return cast("EntryFields", entry.to_dict())


def facts(read: Callable[[], Iterable[Entry]]) -> list[EntryFields]:
    """Return the JSON form of the entries that `read` returns; `read` is called as by `patiently`.

    An entry is read in two steps and can be evicted between them. All entries are then looked up again.
    """

    def complete() -> list[EntryFields]:
        for _ in range(8):
            try:
                return [fields_of(entry) for entry in read()]
            except TooOldError:
                continue
        return [fields_of(entry) for entry in read()]

    return patiently(complete)


def begun(read: Callable[[], Iterable[Entry]]) -> Iterator[Entry]:
    """Iterate over the entries of `read`; the first is read as by `patiently`, so that errors precede all output."""

    def begin() -> tuple[list[Entry], Iterator[Entry]]:
        entries = iter(read())
        return list(itertools.islice(entries, 1)), entries

    first, rest = patiently(begin)
    return itertools.chain(first, rest)


def retained(entries: Iterable[Entry]) -> Iterator[EntryFields]:
    """Yield the JSON form of entries; entries that are evicted in the meantime are omitted."""
    for entry in entries:
        try:
            yield fields_of(entry)
        except TooOldError:
            continue


def not_found(pid: int, instance: str, pid_ns: int | None = None) -> int:
    """Print that a pid is unknown, and return the exit code."""
    text = f"procline: instance {instance!r} knows no process {pid}"
    if pid_ns is not None:
        text += f" in pid namespace {pid_ns}"
    elif _is_traced(instance):
        text += ": the source of this instance is a tracer, so --pid-ns is needed as well as the pid"
    click.echo(text, err=True)
    return 1


def _is_traced(instance: str) -> bool:
    """Whether tracers are the source of an instance."""
    try:
        return "tracer" in json.loads(trust.read(paths.instance_dir(instance) / paths.TIERS))
    except (OSError, ValueError):
        return False


def command_line(entry: Command) -> str:
    """Return the command line of a process as for a shell, or its path; like ps(1), ``[comm]`` if neither is known."""
    argv = entry.get("argv")
    if argv:
        return printable(shlex.join(argv))
    return printable(entry.get("path") or f"[{entry.get('comm') or '?'}]")


def moment(time_ns: int | None) -> str:
    """Return a time as text, in UTC with microseconds; `time_ns` counts from the Unix epoch."""
    if time_ns is None:
        return "-"
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S") + (
        f".{time_ns // 1000 % 1_000_000:06d}Z"
    )


def duration(ns: int) -> str:
    """Return a duration as text: below a minute three digits and a unit, otherwise two units, as in ``1 h 5 min``."""
    seconds = ns // 1_000_000_000
    for unit, size, smaller, part in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // part} {smaller}"
    for unit, size_ns in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= size_ns:
            return f"{ns / size_ns:.3g} {unit}" if ns < 999.5 * size_ns else f"{ns / size_ns:.0f} {unit}"
    return f"{ns} ns"


def ending(entry: EntryFields) -> str:
    """Return a description of how a process ended; empty if unknown."""
    cause, number = entry.get("exit_cause"), entry.get("exit_cause_code")
    if cause is None or number is None:
        return ""
    if cause == "exited":
        return f"code {number}"
    try:
        name = f" ({signal.Signals(number).name})"
    except ValueError:  # a real-time signal has no name
        name = ""
    return f"signal {number}{name}" + (", core dumped" if cause == "coredumped" else "")


def echo_lines(lines: Iterable[str]) -> None:
    """Print lines; on a terminal, lines that do not fit are truncated."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for line in lines:
        click.echo(line if not width or len(line) <= width else line[: width - 1] + "…")


def rows(entries: Iterable[EntryFields]) -> Iterator[str]:
    """Yield a table: a heading, and a line for each entry."""
    yield f"{'PID':>8} {'PPID':>8}  {'STARTED':27}  COMMAND"
    for entry in entries:
        ended = entry.get("exit_time_ns")
        note = "" if not ended else " (exited)" if entry.get("is_exited", True) else " (earlier image)"
        ppid = entry.get("ppid")
        yield (
            f"{entry['pid']:>8} {'-' if ppid is None else ppid:>8}  {moment(entry.get('start_time_ns')):27}  "
            f"{command_line(entry)}{note}"
        )


def show_relatives(
    pid: int, pid_ns: int | None, name: str, as_json: bool, relatives: Callable[[ProcessTable], Iterable[Entry]]
) -> int:
    """Print the entries that `relatives` returns for the table, if `pid` is known; returns the exit code."""
    with attached(name) as table:
        if patiently(lambda: table.resolve(pid, pid_ns=pid_ns, wait_ms=FORKED_JUST_NOW_MS)) is None:
            return not_found(pid, name, pid_ns)
        found = facts(lambda: relatives(table))
    if as_json:
        from pipeline.export.json import dumps

        click.echo(dumps(found))
    else:
        echo_lines(rows(found))
    return 0
