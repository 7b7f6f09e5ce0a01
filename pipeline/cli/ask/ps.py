"""`procline ps`: a list of processes, with columns and conditions."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli import common
from pipeline.cli.ask.selecting import (
    ended_before,
    is_unknown,
    needs_exited,
    searched,
    select_options,
    since_option,
    since_time_ns,
)
from pipeline.export.json import dumps
from pipeline.export.text import printable
from pipeline.screen import columns as screen_columns
from pipeline.screen.columns import Shown
from pipeline.screen.tables import Column, plain_table, table
from pipeline.screen.terminal import Screen
from pipeline.select.selection import Selection
from pipeline.select.where import Condition, Fact, WhereError, parse
from pipeline.software.container_files import Containers

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields

_LIVE = ("pid", "ppid", "user", "age", "command")
_EXITED = ("pid", "ppid", "user", "age", "duration", "ended", "command")


@click.command(
    epilog="""\b
Examples:
  procline ps --user www-data                     the live processes of a user
  procline ps --under sshd --since 1m             what ran under sshd in the last minute
  procline ps --failed --sort -started            failures, newest first
  procline ps -o +unit,container --unit 'nginx*'  with two more columns
  procline ps --where "uid == 0 and age < 5m and path ~ '^/tmp/'"
  procline ps --exited -o pid,argv,exit_code --format csv
  procline ps -o +container_name --where "container_image ~ 'nginx'"
"""
)
@click.option(
    "-o", "names", multiple=True, metavar="COLUMNS",
    help="Columns, separated by commas; +NAME adds one to the usual ones; `-o help` lists all, `-o all` shows all "
    "fields.",
)  # fmt: skip
@click.option("--exited", is_flag=True, help="Also list exited processes that are retained.")
@since_option("Only processes that ran after this time, also exited ones")
@select_options()
@click.option("--where", "text", metavar="EXPR", help="Only processes that meet this condition; see the examples.")
@click.option("--sort", "order", metavar="COLUMNS", help="Sort by columns; -NAME: largest first.  [default: pid]")
@click.option(
    "--format", "form", type=common.OneOf(["table", "json", "csv"]), default="table", metavar="FORMAT",
    help="table, json or csv.",
)  # fmt: skip
@common.name_option
@common.json_option
def command(
    names: tuple[str, ...],
    exited: bool,
    since: str | None,
    selection: Selection,
    text: str | None,
    order: str | None,
    form: str,
    name: str,
    as_json: bool,
) -> int:
    """List processes, with the columns and conditions that you choose.

    A condition compares columns, for example age > 5m. It can use and, or, not, in, and ~ for regular expressions.

    Exits with 1 if no process matches.
    """
    if as_json and form == "csv":
        raise click.UsageError("use only one of --json and --format csv")
    common.keep_objects()
    now_ns = common.now_ns()
    begun_ns = since_time_ns(since, now_ns)
    exited = exited or selection.is_failed or begun_ns is not None
    containers = Containers()
    facts = screen_columns.facts(now_ns, containers)
    if "help" in names:
        return _list_columns(facts)
    shown = _columns(names, exited, facts)
    condition = _condition(text, facts)
    keys = _keys(order, facts)
    needs = ["pid", "exit_time_ns", *selection.fields, *condition.fields]
    needs += [need for fact, _ in keys for need in fact.needs]
    fields = screen_columns.needed(shown, needs)
    with common.attached(name, shows_arguments="argv" in fields) as tables:
        reads_exited = exited or needs_exited(selection)
        _, entries = common.batch(tables, fields, running=not reads_exited)
        if selection.under and not selection.of(entries) and is_unknown(tables, selection, name):
            return 1
        missing = "" if begun_ns is None else ended_before(tables, begun_ns)
    candidates = selection.of(entries) if selection else entries
    if begun_ns is not None:
        candidates = [entry for entry in candidates if (entry["exit_time_ns"] or now_ns) > begun_ns]
    if reads_exited and not exited:
        candidates = [entry for entry in candidates if not entry["exit_time_ns"]]
    found, is_complete = searched(candidates, condition.matches)
    _write(_sorted(found, keys), shown, "json" if as_json else form)
    _warn_of_missing(missing, has_found=bool(found), is_denied=containers.is_denied)
    return 2 if not is_complete else 0 if found else 1


def _sorted(entries: Sequence[EntryFields], keys: Sequence[tuple[Fact, bool]]) -> Sequence[EntryFields]:
    """Return entries in the order of their keys, the first of which decides; unknown values come last."""
    for fact, is_downward in reversed(keys):
        known = [entry for entry in entries if fact.value(entry) is not None]
        known.sort(key=lambda entry: _sortable(fact.value(entry)), reverse=is_downward)
        entries = known + [entry for entry in entries if fact.value(entry) is None]
    return entries


def _warn_of_missing(missing: str, *, has_found: bool, is_denied: bool) -> None:
    """Print what the list may lack, or that nothing was found."""
    if is_denied:
        click.echo("procline: names of containers are missing: only root may read the files of runtimes", err=True)
    if not has_found:
        common.no_match(missing)
    elif missing:
        click.echo(f"procline: {missing}", err=True)


def _columns(names: Sequence[str], exited: bool, facts: dict[str, Fact]) -> list[Shown]:
    usual = _EXITED if exited else _LIVE
    chosen: list[str] = []
    words = [word.strip() for each in names for word in each.split(",") if word.strip()]
    if words and any(word.startswith("+") for word in words):
        chosen += usual[:-1]
    for word in words:
        if word == "all":
            from pipeline.shm.layout.entry_fields import ENTRY_FIELDS

            chosen += ENTRY_FIELDS
        else:
            chosen.append(word.removeprefix("+"))
    if words and words[0].startswith("+"):
        chosen.append(usual[-1])
    try:
        return screen_columns.chosen(dict.fromkeys(chosen or usual), facts)
    except screen_columns.UnknownColumnError as error:
        raise click.UsageError(f"-o: {error}", click.get_current_context()) from None


def _condition(text: str | None, facts: dict[str, Fact]) -> Condition:
    if text is None:
        return Condition((), lambda entry: True)
    try:
        return parse(text, facts)
    except WhereError as error:
        raise click.UsageError(f"--where: {error}", click.get_current_context()) from None


def _keys(order: str | None, facts: dict[str, Fact]) -> list[tuple[Fact, bool]]:
    """Return the value of each column to sort by, and whether it sorts downwards."""
    keys = []
    for word in (order or "").split(","):
        column = word.strip().removeprefix("-")
        if not column:
            continue
        if column not in facts:
            raise click.UsageError(f"--sort: {screen_columns.unknown(column, facts)}", click.get_current_context())
        keys.append((facts[column], word.strip().startswith("-")))
    return keys


def _sortable(value: Any) -> Any:
    return str(value) if isinstance(value, dict) else value


def _write(entries: Sequence[EntryFields], shown: Sequence[Shown], form: str) -> None:
    if form == "json":
        click.echo(dumps([{each.name: each.fact.value(entry) for each in shown} for entry in entries]))
    elif form == "csv":
        _write_csv(entries, shown)
    elif entries:
        screen = Screen()
        made = [Column(each.title, each.is_right, each.width_max if screen.is_terminal else None) for each in shown]
        if screen.is_plain:
            screen.write(plain_table(made, [each.plain(entries) for each in shown]))
        else:
            screen.cut(table(made, [[each.cell(entry) for each in shown] for entry in entries]))


def _write_csv(entries: Iterable[EntryFields], shown: Sequence[Shown]) -> None:
    """Write a line for each entry. Control characters are escaped, so a line stays one line."""
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([each.name for each in shown])
    for entry in entries:
        values = (each.fact.value(entry) for each in shown)
        writer.writerow(
            "" if value is None else dumps(value) if isinstance(value, list | dict | bool) else printable(value)
            for value in values
        )


def _list_columns(facts: dict[str, Fact]) -> int:
    computed = [name for name, fact in facts.items() if fact.needs != (name,)]
    click.echo("Computed: " + " ".join(sorted(computed)))
    click.echo("Fields: " + " ".join(name for name in facts if name not in computed))
    click.echo("`procline help FIELD` explains a field.")
    return 0
