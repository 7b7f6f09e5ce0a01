"""Find processes by the name of their program."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click

from pipeline.cli import common
from pipeline.errors import TooOldError
from pipeline.export.text import printable
from pipeline.screen.relatives import siblings
from pipeline.screen.terminal import Screen
from pipeline.select.programs import NAMED_BY, names_of

if TYPE_CHECKING:
    from pipeline import ProcessTable
    from pipeline.shm.layout.entry_types import EntryFields


#: How many processes with one name are listed.
LISTED_MAX = 20


def find(processes: ProcessTable, name: str) -> list[EntryFields]:
    """Return the live processes with this program, newest first.

    The name of the script, of the executable or the process's own (comm) counts. Processes choose the first and the
    last of these, so this is for people only.
    """
    found = []
    for entry in common.begun(lambda: processes.walk(exited=False)):
        # An entry that is evicted meanwhile has ended.
        with contextlib.suppress(TooOldError):
            brief = common.fields_of(entry, ("exit_time_ns", *NAMED_BY))
            if not brief.get("exit_time_ns") and name in names_of(brief):
                found.append(common.fields_of(entry))
    return sorted(found, key=lambda entry: entry.get("start_time_ns") or 0, reverse=True)


def _parent(processes: ProcessTable, entry: EntryFields) -> EntryFields | None:
    ppid = entry.get("ppid")
    found = processes.resolve(ppid) if ppid else None
    try:
        return None if found is None else common.fields_of(found, ("pid", "comm"))
    except TooOldError:
        return None


def show(found: list[EntryFields], name: str, instance: str) -> int:
    """List processes that have a name, and return the exit code: 1 if there are none."""
    if not found:
        text = f"instance {instance!r} knows no live process called {printable(name)!r}"
        click.echo(f"procline: {text}; `procline ps --path NAME --exited` lists ended ones", err=True)
        return 1
    Screen().cut(siblings(found, common.now_ns()))
    return 0


def one(processes: ProcessTable, name: str, instance: str) -> int | None:
    """Return the pid of the only live process with a name; otherwise print why there is none.

    Raises:
        UsageError: several processes have the name; they are listed on standard error, newest first.
    """
    found = find(processes, name)
    if len(found) > 1:
        shown = found[:LISTED_MAX]
        Screen(sys.stderr).cut(siblings(shown, common.now_ns(), [_parent(processes, entry) for entry in shown]))
        more = f", and {len(found) - len(shown)} more" if len(found) > len(shown) else ""
        raise click.UsageError(
            f"{len(found)} processes are called {printable(name)!r}: use one of the pids above{more}",
            click.get_current_context(),
        )
    if not found:
        show(found, name, instance)
        return None
    return found[0]["pid"]


def every(processes: ProcessTable, name: str, instance: str) -> list[int]:
    """Return the pids of the live processes with a name, newest first; if there are none, print that."""
    found = find(processes, name)
    if not found:
        show(found, name, instance)
    return [entry["pid"] for entry in found]
