"""Shared functions of the subcommands: options, access to an instance, and output as JSON and text.

Names, paths and arguments of processes are untrusted. `pipeline.screen` shows them with escapes for control characters,
so that a terminal does not interpret them.
"""

from __future__ import annotations

import gc
import itertools
import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import click

from pipeline import paths, proc_text
from pipeline.cli import catching_up
from pipeline.errors import BusyError, StaleError, TooOldError, UnsupportedError
from pipeline.records.limits import PID_MAX
from pipeline.shm.reader import control_fields
from pipeline.spelling import did_you_mean

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem
    from typing_extensions import Buffer

    from pipeline import Entry, ProcessTable
    from pipeline.shm.layout.entry_types import EntryFields
    from pipeline.shm.reader.values import Batch

_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., object])

#: How long a command waits for a resolver that is being replaced, or for a row that is being written.
PATIENCE_S = 2.5
#: How long `resolve` waits for a process that was just forked and is not in the tables yet.
FORKED_JUST_NOW_MS = 200


def guess(word: str, known: Collection[str]) -> str:
    """Return the end of a message about an unknown word, which names the most similar one; empty if none is similar."""
    near = did_you_mean(word, known)
    return near and f"; {near}"


class OneOf(click.Choice[str]):
    """One of several words. The message about another word names the most similar one."""

    def get_invalid_choice_message(self, value: object, ctx: click.Context | None) -> str:
        """Return the message about a word that is none of them."""
        return super().get_invalid_choice_message(value, ctx).rstrip(".") + guess(str(value), self.choices)

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:
        """Return what can be given, on one line."""
        return f"Give one of {', '.join(self.choices)}"


class Pid(click.ParamType[int]):
    """A process id."""

    name = "pid"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the pid, or fail if it is out of range."""
        try:
            number = int(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a pid: use a number from 1 to {PID_MAX}", param, ctx)
        if not 1 <= number <= PID_MAX:
            self.fail(f"{number} is not a pid: use a number from 1 to {PID_MAX}", param, ctx)
        return number

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the live processes of the instance, newest first, with their command lines."""
        from pipeline.cli.completing import processes

        return processes(ctx, incomplete)


class Process(click.ParamType[int | str]):
    """A process: its pid, or the name of its program."""

    name = "process"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return the pid, or the name of a program."""
        text = str(value)
        if isinstance(value, int) or text.lstrip("-+").isdigit():
            return PID.convert(value, param, ctx)
        if not text.strip() or text.startswith("-"):
            self.fail(f"{text!r} is neither a pid nor the name of a program", param, ctx)
        return text

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the live processes of the instance and their programs."""
        from pipeline.cli.completing import processes

        return processes(ctx, incomplete, with_names=True)


class Time(click.ParamType[int]):
    """A point in time, as `pipeline.select.times.time_ns` reads it; the value is in ns since the Unix epoch."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the time, or fail with the forms that are possible."""
        from pipeline.select.times import time_ns

        try:
            # --name is eager, so it is known here.
            name = "" if ctx is None else ctx.params.get("name", "")
            return value if isinstance(value, int) else time_ns(str(value), control_fields.now_ns(name))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class InstanceName(click.ParamType[str]):
    """The name of an instance; `pipeline.paths` checks it."""

    name = "name"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name."""
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the running instances."""
        from pipeline.cli.completing import instances

        return instances(incomplete)


class Topic(click.ParamType[str]):
    """The name of a command, or of something else that `procline help` explains."""

    name = "topic"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name."""
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the commands; when something has been typed, also fields, settings and counters."""
        from pipeline.cli.completing import commands, explained

        return commands(incomplete) + (explained(incomplete) if incomplete else [])


class Change(click.ParamType[str]):
    """A setting and its value, as KEY=VALUE; `pipeline.config.loading` checks it."""

    name = "change"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text."""
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names of the settings, each with an equals sign."""
        from pipeline.cli.completing import settings

        return settings(incomplete)


PID = Pid()


class Namespace(click.ParamType[int]):
    """A pid namespace, given by its inode: a number, or ``pid:[NUMBER]`` as in ``/proc/PID/ns``."""

    name = "inode"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the inode, or fail if it is not a number in range."""
        digits = str(value).removeprefix("pid:[").removesuffix("]")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 10) or not 0 < int(digits) < 1 << 32:
            self.fail(f"{value!r} is not a pid namespace: use the inode of one, see `lsns -t pid`", param, ctx)
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
            self.fail(f"{value!r} is not a number of seconds: use a number such as 10 or 0.5", param, ctx)
        return number


def at_option(function: _F) -> _F:
    """Add ``--at``."""
    return click.option(
        "--at", type=Time(), metavar="TIME",
        help="The process that had the pid at this time: now, -5m, 13:05 (local), an ISO time, or ns since the "
        "Unix epoch.",
    )(function)  # fmt: skip


def verbose_option(function: _F) -> _F:
    """Add ``--verbose``."""
    return click.option("-v", "--verbose", "is_verbose", is_flag=True, help="Show everything.")(function)


def pid_ns_option(function: _F) -> _F:
    """Add ``--pid-ns``."""
    return click.option(
        "--pid-ns",
        type=Namespace(),
        metavar="INODE",
        help="Pid namespace to which PID belongs.  [default: the daemon's]",
    )(function)


def name_option(function: _F) -> _F:
    """Add ``--name``."""
    return click.option(
        "--name", default=paths.DEFAULT_INSTANCE, type=InstanceName(), metavar="NAME", is_eager=True,
        envvar=paths.INSTANCE_VARIABLE, help=f"Instance.  [${paths.INSTANCE_VARIABLE} or {paths.DEFAULT_INSTANCE}]",
    )(function)  # fmt: skip


def json_option(function: _F) -> _F:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def config_options(function: _F) -> _F:
    """Add ``--config`` and ``--set``."""
    function = click.option(
        "--set", "changes", multiple=True, type=Change(), metavar="KEY=VALUE",
        help="Change one setting; overrides the file. See `procline config --example`.",
    )(function)  # fmt: skip
    return click.option(
        "--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="TOML file with settings."
    )(function)


@contextmanager
def optional_imports(not_installed: Callable[[str], UnsupportedError]) -> Iterator[None]:
    """If the body imports a package that is not installed, raise the error that `not_installed` makes of its name."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("pipeline"):
            raise
        raise not_installed(error.name or "") from None


@contextmanager
def attached(name: str, *, shows_arguments: bool = True) -> Iterator[ProcessTable]:
    """Open the tables of an instance for reading.

    Prints a warning if the pids of the instance differ from the caller's, and if the caller may not read the arguments.
    In the latter case `fields_of` completes the caller's own processes from /proc.

    Args:
        name: of the instance.
        shows_arguments: whether the command shows arguments, so that their absence must be explained.
    """
    from pipeline import ProcessTable

    with ProcessTable.attach(name) as table:
        catching_up.wait(table, name)
        warn_about_namespace(name)
        if shows_arguments and (reason := hidden_arguments(name)):
            click.echo(f"procline: arguments hidden: {reason}; only those of your own processes are shown", err=True)
            _rights.reads_own = table.view.pids_are_ours
        try:
            yield table
        finally:
            _rights.reads_own = False


class _Rights:
    """Whether arguments of the caller's own processes are read from /proc, because the tables are closed to it."""

    reads_own = False


_rights = _Rights()


def hidden_arguments(name: str) -> str | None:
    """Return what the caller must do to read the arguments of an instance; None: it may read them already."""
    file = paths.instance_dir(name) / paths.ARGS
    try:
        status = file.stat()
    except OSError:
        return None
    if os.access(file, os.R_OK, effective_ids=True):
        return None
    if not status.st_mode & 0o040:
        return "only root may read them (access.args_mode)"
    if status.st_gid == 0:
        return "only the group root may read them (access.group)"
    try:
        import grp

        group = grp.getgrgid(status.st_gid).gr_name
    except (ImportError, KeyError):
        group = str(status.st_gid)
    return f"join group {group}"


def own_arguments(entry: Entry) -> list[str] | None:
    """Return the arguments of a live process of the caller, from /proc; None for all others."""
    from pipeline.host.processes import arguments

    if entry.uid != os.getuid() or entry.exit_time_ns is not None or entry.is_foreign:
        return None
    return arguments(entry.pid, entry.start_boot_ns)


def keep_objects() -> None:
    """Switch the cyclic garbage collector off until the end of a command that keeps what it has read.

    With thousands of processes the collector would search the same objects again and again, for a fifth of the time.
    """
    gc.disable()
    click.get_current_context().call_on_close(gc.enable)


def now_ns() -> int:
    """Return the present time as the instance of ``--name`` counts it; see `control_fields.now_ns`."""
    return control_fields.now_ns(click.get_current_context().params["name"])


def warn_about_namespace(name: str) -> None:
    """Print a warning on standard error if this process is in another pid namespace than the instance."""
    found = control_fields.fields(paths.instance_dir(name), "pid_ns")
    if found is None or not found["pid_ns"]:
        return
    with suppress(OSError):
        if found["pid_ns"] == proc_text.own_pid_ns():
            return
        click.echo(
            "procline: you are in another pid namespace than the instance: pids are those of the instance, not yours",
            err=True,
        )


def warn_about_delay(name: str, behind_ns: int) -> None:
    """Print a warning on standard error that an instance is running but its data is old."""
    click.echo(f"procline: instance {name!r} is running, behind by {behind_ns / 1e9:.1f} s", err=True)


def patiently(read: Callable[[], _T]) -> _T:
    """Call `read`; repeat it for up to PATIENCE_S while the tables are stale or the row is busy."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return read()
        except (StaleError, BusyError):
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.01)


def fields_of(entry: Entry, fields: Collection[str] | None = None) -> EntryFields:
    """Return the JSON form of an entry, or only the fields that are named.

    Raises:
        TooOldError: the entry is no longer retained.
    """
    found = cast("EntryFields", entry.to_dict(fields))
    if _rights.reads_own and "argv" in found and found["argv"] is None:
        found["argv"] = own_arguments(entry)
    return found


def batch(
    table: ProcessTable, fields: Sequence[str], *, running: bool = False, links: Buffer | None = None
) -> tuple[Batch, list[EntryFields]]:
    """Read fields of all processes at once, as `fields_of` does for each; the tables are read as by `patiently`.

    Args:
        table: the tables.
        fields: names of fields.
        running: as in `ProcessTable.batch`.
        links: as in `ProcessTable.batch`.

    Returns:
        What was read, which has an entry for each process, and the fields of each, in the same order.
    """
    from pipeline.screen.progress import Progress

    with Progress("reading the tables", ticks=True):
        read = patiently(lambda: table.batch(fields, running=running, links=links))
        found = cast("list[EntryFields]", read.dicts())
    if _rights.reads_own and "argv" in fields:
        for place, entry in enumerate(found):
            if entry["argv"] is None:
                entry["argv"] = own_arguments(read.entry(place))
    return read, found


def facts(read: Callable[[], Iterable[Entry]], fields: Collection[str] | None = None) -> list[EntryFields]:
    """Return the entries that `read` returns, as `fields_of` does; `read` is called as by `patiently`.

    An entry is read in two steps and can be evicted between them. All entries are then looked up again.
    """

    def complete() -> list[EntryFields]:
        for _ in range(8):
            try:
                return [fields_of(entry, fields) for entry in read()]
            except TooOldError:
                continue
        return [fields_of(entry, fields) for entry in read()]

    return patiently(complete)


def begun(read: Callable[[], Iterable[_T]]) -> Iterator[_T]:
    """Iterate over what `read` returns; the first is read as by `patiently`, so that errors precede all output."""

    def begin() -> tuple[list[_T], Iterator[_T]]:
        entries = iter(read())
        return list(itertools.islice(entries, 1)), entries

    first, rest = patiently(begin)
    return itertools.chain(first, rest)


def retained(entries: Iterable[Entry], fields: Collection[str] | None = None) -> Iterator[EntryFields]:
    """Yield entries as `fields_of` does; entries that are evicted in the meantime are omitted."""
    for entry in entries:
        try:
            yield fields_of(entry, fields)
        except TooOldError:
            continue


def no_match(missing: str = "") -> int:
    """Print that no process matches, and return the exit code.

    Args:
        missing: which processes are not in the tables; see `pipeline.cli.horizon`.
    """
    click.echo("procline: no process matches" + (f"; {missing}" if missing else ""), err=True)
    return 1


def not_found(pid: int, instance: str, pid_ns: int | None = None) -> int:
    """Print that a pid is unknown, and return the exit code."""
    text = f"procline: instance {instance!r} knows no process {pid}"
    if pid_ns is not None:
        text += f" in pid namespace {pid_ns}"
    elif _is_traced(instance):
        text += ": the source of this instance is a tracer, so --pid-ns is needed as well as the pid"
    else:
        from pipeline.cli.horizon import ending

        text += ending(instance)
    click.echo(text, err=True)
    return 1


def _is_traced(instance: str) -> bool:
    """Whether tracers are the source of an instance."""
    from pipeline.host import tiers

    return "tracer" in tiers.read(paths.instance_dir(instance))
