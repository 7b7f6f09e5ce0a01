"""`procline grep`: find processes by their arguments and paths."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from pipeline.cli import common
from pipeline.cli.ask.selecting import is_unknown, needs_exited, searched, select_options
from pipeline.errors import TooOldError
from pipeline.export.json import dumps
from pipeline.screen import processes, times
from pipeline.screen.lineage import NAMED_MAX
from pipeline.screen.lines import ELLIPSIS, Line
from pipeline.screen.styles import Style
from pipeline.screen.terminal import Screen
from pipeline.select.patterns import Bounded, Pattern, SlowPatternError
from pipeline.select.selection import Selection

if TYPE_CHECKING:
    from pipeline import Entry, ProcessTable
    from pipeline.shm.layout.entry_types import EntryFields

_SEARCHED = ("pid", "argv", "path", "script_path", "exit_time_ns")
_SHOWN = (
    "pid", "comm", "path", "script_path", "argv", "is_kworker", "uid", "user", "start_time_ns", "exit_time_ns",
    "exit_code", "exit_cause", "exit_cause_code", "entity_id", "is_exited",
)  # fmt: skip
_ANCESTOR = ("pid", "start_time_ns", "comm", "path", "entity_id")
#: Longer command lines are shortened around the first match: on a terminal to this number of lines, in a pipe to this
#: number of characters.
_LINES_MAX = 4
_PIPED_MAX = 300
#: Parents in JSON: a chain can be so long that those of all its processes are too much.
PARENTS_MAX = 64
#: Text before the first match that is kept.
_BEFORE = 40


@click.command(
    epilog="""\b
Examples:
  procline grep nginx                    live and exited processes with nginx in path or arguments
  procline grep -F -- --config=/etc/x    plain text instead of a regular expression
  procline grep -i 'curl|wget' --failed  only processes that ended with an error
  procline grep '^/tmp/' --live --json   as JSON, for another program
"""
)
@click.argument("text", metavar="PATTERN")
@click.option("--live", is_flag=True, help="Only live processes.")
@click.option("-F", "--fixed", "is_plain", is_flag=True, help="PATTERN is plain text, not a regular expression.")
@click.option("-i", "--ignore-case", "ignores_case", is_flag=True, help="Treat upper and lower case as the same.")
@click.option("-v", "--wide", "is_wide", is_flag=True, help="Print whole command lines, also in a pipe.")
@select_options("user", "unit", "container", "under", "failed")
@common.name_option
@common.json_option
def command(
    text: str, live: bool, is_plain: bool, ignores_case: bool, is_wide: bool, selection: Selection, name: str,
    as_json: bool,
) -> int:  # fmt: skip
    """Find processes by their arguments and paths: live ones, and exited ones that are retained.

    PATTERN is a regular expression as in Python. The command searches the path of the executable, the path of the
    script, and the arguments, joined with spaces. It omits itself. Each line ends with the parents, nearest first.

    Exits with 1 if nothing matches, and with 2 if a process could not be compared.
    """
    if not text:
        raise click.UsageError("PATTERN is empty: `procline ps` lists all processes", click.get_current_context())
    try:
        pattern = Pattern(text, is_plain=is_plain, ignores_case=ignores_case)
    except ValueError as error:
        raise click.UsageError(str(error), click.get_current_context()) from None
    common.keep_objects()
    fields = tuple(dict.fromkeys([*_SEARCHED, *selection.fields]))
    with common.attached(name) as table:
        read, entries = common.batch(table, fields, running=live and not needs_exited(selection))
        places = {id(entry): place for place, entry in enumerate(entries)}
        own = _own(table)
        candidates = selection.of(entries) if selection else entries
        if not candidates and is_unknown(table, selection, name):
            return 1
        if live:
            candidates = [entry for entry in candidates if not entry["exit_time_ns"]]
        is_match = _matcher(pattern)
        found, is_complete = searched(candidates, lambda entry: entry["pid"] not in own and is_match(entry))
        matches = [match for entry in found if (match := _complete(table, read.entry(places[id(entry)]), as_json))]
    matches.sort(key=lambda match: match[0].get("start_time_ns") or 0)
    if as_json:
        click.echo(dumps([entry | {"lineage": lineage} for entry, lineage in matches]))
    else:
        _print(matches, pattern, is_wide)
    return 2 if not is_complete else 0 if matches else 1


def _matcher(pattern: Pattern) -> Callable[[EntryFields], bool]:
    """Return a function that says whether a pattern is in the texts of an entry. It searches each path only once."""
    paths: dict[str | None, bool] = {None: False}

    def is_match(entry: EntryFields) -> bool:
        argv = entry.get("argv")
        if argv and pattern.search_any((" ".join(argv),)):
            return True
        for path in (entry.get("path"), entry.get("script_path")):
            found = paths.get(path)
            if found is None:
                found = paths[path] = bool(path) and pattern.search_any((path or "",))
            if found:
                return True
        return False

    return is_match


def _own(table: ProcessTable) -> frozenset[int]:
    """Return the pids of this command, and of its parents that have its whole command line, as sudo does."""
    if not table.view.pids_are_ours:
        return frozenset()
    tail = sys.argv[1:]
    chain = [entry for entry in table.ancestors(os.getpid(), by="parent") if (entry.argv or [])[-len(tail) :] == tail]
    return frozenset({os.getpid(), *(entry.pid for entry in chain)})


def _complete(table: ProcessTable, entry: Entry, is_whole: bool) -> tuple[EntryFields, list[EntryFields]] | None:
    """Return a process with what is shown of it, and its parents, nearest first; None: it is not retained any more."""
    try:
        shown = common.fields_of(entry, None if is_whole else _SHOWN)
        above = table.ancestors(entry, by="parent", limit=PARENTS_MAX if is_whole else NAMED_MAX + 1)
    except TooOldError:
        return None
    if not is_whole and shown.get("is_exited") is False:
        shown["exit_time_ns"] = None  # that of an image that was replaced meanwhile; the process runs
    return shown, list(common.retained(above, _ANCESTOR))


def _print(matches: list[tuple[EntryFields, list[EntryFields]]], pattern: Pattern, is_wide: bool) -> None:
    now_ns = common.now_ns()
    screen = Screen()
    heads = [
        (Line((str(entry["pid"]), Style.PID)), _when(entry, now_ns), processes.user(entry)) for entry, _ in matches
    ]
    widths = [max((head[number].width for head in heads), default=0) for number in range(3)]
    for (pid, when, user), (entry, lineage) in zip(heads, matches, strict=True):
        line = Line(" " * (widths[0] - pid.width)).join(pid).add("  ")
        line.join(when.pad(widths[1])).add("  ").join(user.pad(widths[2])).add("  ")
        indent = line.width
        if screen.width is not None:
            indent = min(indent, screen.width // 5)  # a narrow screen has no room for a wide margin
        room = None if is_wide else _PIPED_MAX if screen.width is None else (screen.width - indent) * _LINES_MAX
        line.join(_marked(entry, pattern, room))
        parents = " ← ".join(f"{each.get('comm') or '?'} {each['pid']}" for each in lineage[:NAMED_MAX])
        parents += f" ← {ELLIPSIS}" if len(lineage) > NAMED_MAX else ""
        if parents:
            line.add(f"  ← {parents}", Style.FAINT)
        screen.wrap([line], indent)


def _when(entry: EntryFields, now_ns: int) -> Line:
    """Return the age of a live process, or how another one ended."""
    ended_ns, start_ns = entry.get("exit_time_ns"), entry.get("start_time_ns")
    if ended_ns:
        how = processes.ending(entry) if entry.get("exit_code") else ""
        text = f"exited {times.age(now_ns - ended_ns)} ago" + (f", {how}" if how else "")
        return Line((text, processes.ending_style(entry)))
    return Line((times.age(now_ns - start_ns) if start_ns else "-", Style.TIME))


def _marked(entry: EntryFields, pattern: Pattern, room: int | None) -> Line:
    """Return the command line with the matches marked, and the path if only that matches."""
    text = processes.command_line(entry)
    spans = _spans(pattern, text)
    line = Line()
    style = Style.EXITED if entry.get("exit_time_ns") else Style.PLAIN
    begin, end = 0, len(text)
    if room is not None and len(text) > room:
        first = spans[0][0] if spans else 0
        begin = max(0, min(first - min(_BEFORE, room // 4), len(text) - room))
        end = begin + room
    if begin:
        line.add(ELLIPSIS, Style.FAINT)
    _add(line, text, spans, begin, end, style)
    if end < len(text):
        line.add(ELLIPSIS, Style.FAINT)
    if not spans:
        for path in (entry.get("path"), entry.get("script_path")):
            found = _spans(pattern, path) if path and path != text else []
            if path and found:
                line.add("  (", Style.FAINT)
                _add(line, path, found, 0, len(path), Style.PATH)
                line.add(")", Style.FAINT)
    return line


def _spans(pattern: Pattern, text: str) -> list[tuple[int, int]]:
    try:
        with Bounded():
            return pattern.spans(text)
    except SlowPatternError:
        return []


def _add(line: Line, text: str, spans: list[tuple[int, int]], begin: int, end: int, style: Style) -> None:
    """Append a part of a text, with the spans marked."""
    at = begin
    for first, last in spans:
        first, last = max(first, at), min(last, end)
        if first < last:
            line.add(text[at:first], style).add(text[first:last], Style.MATCH)
            at = last
    line.add(text[at:end], style)
