"""Several processes as a table: a line for each, and its earlier images below it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.screen.lines import Line
from pipeline.screen.processes import command, container, container_key, ending, ending_style, user
from pipeline.screen.styles import Style
from pipeline.screen.tables import Column, table
from pipeline.screen.times import age, duration

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields

_COLUMNS = (Column("PID", is_right=True), Column("USER", width_max=12), Column("AGE", is_right=True), Column("COMMAND"))
_INDENT = 2


def grouped(images: Iterable[EntryFields]) -> list[list[EntryFields]]:
    """Return neighbouring images of one process as a list each, in their order."""
    groups: list[list[EntryFields]] = []
    for image in images:
        if groups and groups[-1][0]["pid"] == image["pid"]:
            groups[-1].append(image)
        else:
            groups.append([image])
    return groups


def ancestry(images: Iterable[EntryFields], now_ns: int) -> Iterator[Line]:
    """Yield a table of a process and its ancestors, nearest first.

    The user is named at the nearest process, and again wherever it changes on the way up. Earlier images of a process
    stand below it, with the time for which each of them ran, and the user if an image changed it.

    Args:
        images: newest first: the process, its earlier images, its parent, and so on.
        now_ns: the present time, to which ages refer, ns since the Unix epoch.
    """
    groups = grouped(images)
    rows = []
    for number, group in enumerate(groups):
        newest = group[0]
        below = groups[number - 1][0] if number else None
        above = groups[number + 1][0] if number + 1 < len(groups) else None
        is_same = below is not None and _users(below) == _users(newest)
        rows.append(_row(newest, now_ns, Line() if is_same else user(newest), above))
    heading, *lines = table(_COLUMNS, rows)
    yield heading
    margin = heading.width - len(_COLUMNS[-1].title) + _INDENT
    for line, group in zip(lines, groups, strict=True):
        yield line
        for newer, image in itertools.pairwise(group):
            yield Line(" " * margin, ("was ", Style.FAINT)).join(_former(image, newer))


def siblings(
    entries: Sequence[EntryFields], now_ns: int, parents: Sequence[EntryFields | None] | None = None
) -> Iterator[Line]:
    """Yield a table of processes, with the user of each, and its parent if `parents` has one for each process."""
    rows = [_row(entry, now_ns, user(entry), None) for entry in entries]
    if parents is None:
        yield from table(_COLUMNS, rows)
        return
    for row, parent in zip(rows, parents, strict=True):
        row.insert(-1, Line("?" if parent is None else f"{parent.get('comm') or '?'} {parent['pid']}"))
    yield from table((*_COLUMNS[:-1], Column("PARENT"), _COLUMNS[-1]), rows)


def _users(entry: Mapping[str, object]) -> object:
    return entry.get("uid"), entry.get("user")


def _row(entry: EntryFields, now_ns: int, name: Line, above: EntryFields | None) -> list[Line | str]:
    start_ns = entry.get("start_time_ns")
    line = Line().join(command(entry))
    marks = Line()
    inside = container(entry)
    if inside is not None and above is not None and container_key(above) != container_key(entry):
        marks.add("in container ", Style.FAINT).join(inside)
    if entry.get("exit_time_ns") and entry.get("is_exited", True):
        marks.add(", " if marks.pieces else "").add("exited", Style.EXITED)
        if how := ending(entry):
            marks.add(": ", Style.EXITED).add(how, ending_style(entry))
    # The marks stand before the command, which may be long and is cut.
    shown = Line(("[", Style.FAINT)).join(marks).add("] ", Style.FAINT).join(line) if marks.pieces else line
    return [
        Line((str(entry["pid"]), Style.PID)),
        name,
        Line(("?" if start_ns is None else age(now_ns - start_ns), Style.TIME)),
        shown,
    ]


def _former(image: EntryFields, newer: EntryFields) -> Line:
    """Return an earlier image: how long it ran, its user if that is another than the next image's, and its command."""
    begun_ns = image.get("exec_time_ns") or image.get("start_time_ns")
    ended_ns = image.get("exit_time_ns")
    facts = Line()
    if begun_ns and ended_ns:
        facts.add(duration(max(0, ended_ns - begun_ns)), Style.TIME)
    if _users(image) != _users(newer):
        facts.add(", " if facts.pieces else "", Style.FAINT).join(user(image))
    line = Line(("(", Style.FAINT)).join(facts).add(") ", Style.FAINT) if facts.pieces else Line()
    return line.join(command(image).restyled(Style.EXITED))
