"""The options that choose processes. Every command with such options has them from here, with one meaning."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline.cli import common
from pipeline.cli.ask import naming
from pipeline.cli.common import Process
from pipeline.export.text import printable
from pipeline.host import retention
from pipeline.paths import DEFAULT_INSTANCE, instance_dir
from pipeline.select.patterns import LIMIT_S, Bounded, SlowPatternError
from pipeline.select.selection import Selection, uid_of
from pipeline.select.times import SINCE_FORMS, since_ns

if TYPE_CHECKING:
    from pipeline import ProcessTable

_T = TypeVar("_T", bound=Any)
_F = TypeVar("_F", bound=Callable[..., object])

#: The command ends after this many processes in which the search takes too long.
_SLOW_MAX = 10


class Word(click.ParamType[str]):
    """Text that is not empty."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text, or fail if there is none."""
        text = str(value)
        if not text.strip():
            self.fail(f"it is empty: use a {self.name}", param, ctx)
        return text


_OPTIONS = {
    "user": click.option(
        "--user", "users", multiple=True, type=Word("user"), metavar="USER",
        help="Only processes of this user (name or number).",
    ),
    "unit": click.option(
        "--unit", "units", multiple=True, type=Word("unit"), metavar="UNIT",
        help="Only this unit, or /CGROUP and below (or pattern).",
    ),
    "container": click.option(
        "--container", "containers", multiple=True, type=Word("container"), metavar="ID",
        help="Only processes with this container id (or its start).",
    ),
    "path": click.option(
        "--path", "paths", multiple=True, type=Word("pattern"), metavar="GLOB",
        help="Only processes with this executable or script (pattern for its name or path).",
    ),
    "under": click.option(
        "--under", "under", multiple=True, type=Process(), metavar="PID|NAME",
        help="Only this process and its descendants.",
    ),
    "failed": click.option(
        "--failed", "is_failed", is_flag=True,
        help="Only processes that ended with an error or by a signal.",
    ),
}  # fmt: skip
_PARAMETERS = {
    "user": "users", "unit": "units", "container": "containers", "path": "paths", "under": "under",
    "failed": "is_failed",
}  # fmt: skip


def select_options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds options and passes their values to the command as `selection`, a `Selection`.

    If an option is given several times, one of its values must match; all options that are given must match.

    Args:
        names: of the options, without dashes; none: all.

    Example:
        >>> @click.command()
        ... @select_options("user", "under")
        ... def command(selection): ...
    """
    chosen = names or tuple(_OPTIONS)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def called(*arguments: Any, **values: Any) -> Any:
            given = {_PARAMETERS[name]: values.pop(_PARAMETERS[name]) for name in chosen}
            instance, is_replay = values.get("name", DEFAULT_INSTANCE), bool(values.get("recording"))
            if "under" in given:
                given["under"] = _pids(given["under"], instance, is_replay=is_replay)
            if names := [user for user in given.get("users", ()) if not user.isdigit()]:
                _explain_names(names, instance, is_replay=is_replay)
            try:
                selection = Selection(**given)
            except ValueError as error:
                raise click.UsageError(str(error), click.get_current_context()) from None
            return function(*arguments, selection=selection, **values)

        for name in reversed(chosen):
            called = _OPTIONS[name](called)
        return called

    return decorate


def _explain_names(users: Iterable[str], instance: str, *, is_replay: bool) -> None:
    """Print what the names of users mean in a recording, which has only their numbers.

    Raises:
        UsageError: this host does not know such a name either.
    """
    if not is_replay and not retention.is_of_recording(instance_dir(instance)):
        return
    for user in users:
        uid = uid_of(user)
        if uid is None:
            text = (
                f"--user {printable(user)}: a recording has no names of users, and this host has no user of that name"
            )
            raise click.UsageError(f"{text}: use the number", click.get_current_context())
        text = f"procline: a recording has no names of users: {printable(user)} is uid {uid}, as on this host"
        click.echo(text, err=True)


def _pids(under: Iterable[int | str], instance: str, *, is_replay: bool) -> tuple[int, ...]:
    """Return the pids of ``--under``; a name stands for all live processes that have it.

    Raises:
        UsageError: the processes are those of a recording.
        Exit: no process has a name.
    """
    given = list(under)
    if all(isinstance(each, int) for each in given):
        return tuple(each for each in given if isinstance(each, int))
    if is_replay:
        text = "--under needs a pid: names are searched among live processes, not in a recording"
        raise click.UsageError(text, click.get_current_context())
    with common.attached(instance, shows_arguments=False) as table:
        named = [[each] if isinstance(each, int) else naming.every(table, each, instance) for each in given]
    if not all(named):
        raise click.exceptions.Exit(1)
    return tuple(pid for pids in named for pid in pids)


def is_unknown(table: ProcessTable, selection: Selection, instance: str) -> bool:
    """Whether a process of ``--under`` is unknown; print which one. For commands that have found nothing."""
    unknown = [pid for pid in selection.under if common.patiently(lambda pid=pid: table.resolve(pid)) is None]  # type: ignore[misc]
    for pid in unknown:
        common.not_found(pid, instance)
    return bool(unknown)


def needs_exited(selection: Selection) -> bool:
    """Whether exited processes must be read even if only live ones are shown.

    A daemon descends from the shell that started it through a process that has ended.
    """
    return bool(selection.under)


def searched(entries: Iterable[_T], is_match: Callable[[_T], bool]) -> tuple[list[_T], bool]:
    """Return the entries that match, and whether all could be compared.

    A process can choose its arguments so that a search takes forever. Such a search is ended and reported, so that the
    process does not go unnoticed.

    Raises:
        UsageError: this happened for several processes, so the pattern is at fault.
    """
    found, slow = [], 0
    with Bounded():
        for entry in entries:
            try:
                if is_match(entry):
                    found.append(entry)
            except SlowPatternError:
                slow += 1
                text = f"procline: pid {entry['pid']} was not compared: the search took more than {LIMIT_S:g} s"
                click.echo(text, err=True)
                if slow >= _SLOW_MAX:
                    raise click.UsageError(
                        "the pattern takes too long: write it without repetitions within repetitions",
                        click.get_current_context(),
                    ) from None
    return found, not slow


def since_option(text: str) -> Callable[[_F], _F]:
    """Return a decorator that adds ``--since``; `text` says what it selects."""
    return click.option("--since", metavar="TIME", help=f"{text}: {SINCE_FORMS}.")


def since_time_ns(since: str | None, now_ns: int) -> int | None:
    """Return the time of ``--since``, in ns since the Unix epoch; None: it was not given.

    Raises:
        click.UsageError: the text is not a time.
    """
    try:
        return None if since is None else since_ns(since, now_ns)
    except ValueError as error:
        raise click.UsageError(f"--since: {error}", click.get_current_context()) from None


def ended_before(table: ProcessTable, since_ns: int | None) -> str:
    """Return which processes that ran after a time are not in the tables, and why; empty: all are there.

    Args:
        table: the tables.
        since_ns: the time; None: the start of the host.
    """
    from pipeline.cli.horizon import sentence
    from pipeline.shm.reader.horizon import horizon

    at = horizon(table.directory)
    if at is None or (since_ns is not None and since_ns >= at.time_ns):
        return ""
    return sentence(at, common.patiently(table.stats)["memory"])
