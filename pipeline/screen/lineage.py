"""A lineage as one line: the names and pids of the ancestors, nearest first."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from pipeline.screen.lines import Line
from pipeline.screen.styles import OF_KIND, Style
from pipeline.select.programs import program_of

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields

#: Ancestors that are named; of a longer chain the nearest ones and the last.
NAMED_MAX = 8


def chain(images: Iterable[Mapping[str, Any]], own: int | None, *, named_max: int = NAMED_MAX) -> Line:
    """Return a lineage as ``bash(400) < sshd(12) < systemd(1)``; empty if it is unknown.

    Args:
        images: as in an event or from `ProcessTable.ancestors`, nearest first. One process can occur several times,
            with an image each; the text names it once, by the newest.
        own: pid of the process itself, which may be the first of the images; it is not named.
        named_max: of more ancestors, only the nearest and the last are named.
    """
    processes: list[tuple[int | None, tuple[str, Style]]] = []
    last = own
    for image in images:
        pid = image.get("pid")
        if pid != last:
            processes.append((pid, _named(image)))
        last = pid
    return _joined(processes, named_max)


def _joined(processes: list[tuple[int | None, tuple[str, Style]]], named_max: int = NAMED_MAX) -> Line:
    skipped = len(processes) - named_max
    if skipped > 0:
        del processes[named_max - 1 : -1]
    line, between = Line(), ""
    for number, (pid, named) in enumerate(processes):
        if between:
            line.add(between, Style.FAINT)
        line.add(*named)
        between = f"({pid}) < "
        if skipped > 0 and number == named_max - 2:
            between += f"{skipped} more < "
    return line.add(between[:-3], Style.FAINT)


def above(event: Mapping[str, Any]) -> Line:
    """Return the lineage in an event as `chain` does, with a sign before it; only for `Line.join`.

    Most events of a moment have the same ancestors, so the lines are kept.
    """
    images = event.get("lineage") or ()
    own, begin = event.get("pid"), 0
    while begin < len(images) and images[begin].get("pid") == own:
        begin += 1
    return _above(tuple([(image.get("pid"), image.get("comm"), image.get("path")) for image in images[begin:]]))


@functools.lru_cache(maxsize=1024)
def _above(images: tuple[tuple[int | None, str | None, str | None], ...]) -> Line:
    processes = [
        (pid, _name_of(comm, path)) for (pid, comm, path), before in zip(images, (None, *images), strict=False)
        if before is None or before[0] != pid
    ]  # fmt: skip
    return Line((" < ", Style.FAINT)).join(_joined(processes)) if processes else Line()


def name(image: Mapping[str, Any]) -> Line:
    """Return the name of a program, in the colour of its kind."""
    return Line(_named(image))


def _named(image: Mapping[str, Any]) -> tuple[str, Style]:
    if "argv" not in image:
        return _name_of(image.get("comm"), image.get("path"))
    program = program_of(cast("EntryFields", image))
    return program.name, OF_KIND[program.kind]


@functools.lru_cache(maxsize=4096)
def _name_of(comm: str | None, path: str | None) -> tuple[str, Style]:
    """Return the name of an image in an event. It has no arguments, so a script is known by its comm only."""
    program = program_of({"comm": comm, "path": path})
    return comm or program.name, OF_KIND[program.kind]
