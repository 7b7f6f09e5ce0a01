"""The processes of a timeline as columns of numbers and one table of strings, which a page contains as JSON.

Times are µs after `from_ns`, so that they are short. Text is cut, so that a page has a bounded size: the more
processes, the shorter their command lines.

COLUMNS, one value for each process:

    name          type   unit  meaning
    pid           int    -
    start         int    µs    start of the process
    end           int?   µs    end of the process; null: it ran when the timeline was made
    creator       int    -     place of the process that forked it in these columns; -1: not among them
    parent        int    -     place of its current or last parent
    user          int    -     string: name of its user
    unit          int    -     string: systemd unit; -1: none, or unknown
    container     int    -     string: the first characters of its container's id; -1: none
    ending        int    -     string: how it ended, as in "code 1"; -1: it runs, or that is unknown
    failed        0, 1   -     it ended with another code than 0, or by a signal
    notes         int    -     string: what is uncertain; -1: nothing
    images        int    -     number of its images that follow in IMAGES
    images_left   int    -     earlier images that are not in IMAGES

IMAGES, the images of all processes in their order, oldest first:

    image_start   int    µs    when it was loaded; of the first one, the start of the process
    image_path    int    -     string: its executable; -1: unknown
    image_name    int    -     string: the program, which for a script is the script
    image_command int    -     string: the command line

Each field of COSTS is a column too, if any process has a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from pipeline.export.text import printable
from pipeline.screen.lines import ELLIPSIS
from pipeline.screen.processes import command_line, container_text, ending
from pipeline.select.programs import program_of
from pipeline.select.units import readable, unit_of, user_unit_of
from pipeline.shm.layout.entry_types import EntryFields

#: What a process cost until its end, as far as entries have it.
COSTS = (
    "cpu_user_ns", "cpu_system_ns", "max_rss_bytes", "minor_faults", "major_faults", "voluntary_switches",
    "involuntary_switches", "read_bytes", "write_bytes",
)  # fmt: skip
#: Images of one process that are kept: the first and the latest ones.
IMAGES_MAX = 32
#: Characters of a string, longest first. The first with which all strings are short enough is used.
_LENGTHS = (2000, 1000, 500, 300, 200, 140, 100, 70, 50, 35, 20)
#: Bytes that all strings may have together.
STRINGS_BYTES_MAX = 2_000_000
#: What a mark of an entry means to a reader of the page.
_NOTES = {
    "before_capture": "it began before the capture",
    "exit_unseen": "its end was not seen: it had ended by then",
    "gap": "events were lost around here",
    "start_ticks": "its start is known to 10 ms",
    "elided": "earlier images are not retained",
    "adopted": "it was adopted: its parent is not its creator",
}


@dataclass
class Image:
    """An image of a process.

    Attributes:
        start_ns: when it was loaded, ns since the Unix epoch; None: unknown.
        fields: its entry, of which only the program and the command line are read.
    """

    start_ns: int | None
    fields: EntryFields


@dataclass
class Process:
    """A process: the entry of its newest image, and its images, oldest first, the newest among them."""

    entry: EntryFields
    images: list[Image] = field(default_factory=list)


class _Strings:
    """Strings, each once, with their numbers."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, text: str | None) -> int:
        if not text:
            return -1
        text = text[: _LENGTHS[0] + 1]  # `cut` shows no more, and a command line can have 200,000 characters
        found = self._numbers.get(text)
        if found is None:
            found = self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return found

    def cut(self) -> list[str]:
        """Return the strings, cut so that they are short enough together."""
        for length in _LENGTHS:
            if sum(min(len(text), length) for text in self.texts) <= STRINGS_BYTES_MAX:
                break
        return [text if len(text) <= length else text[: length - 1] + ELLIPSIS for text in self.texts]


def columns(processes: Sequence[Process], from_ns: int, to_ns: int) -> dict[str, Any]:
    """Return the columns of processes.

    Args:
        processes: one for each process.
        from_ns: begin of the timeline, ns since the Unix epoch; processes may have started before.
        to_ns: its end.
    """
    ordered = sorted(processes, key=lambda process: (process.entry.get("start_time_ns") or 0, process.entry["pid"]))
    entries = [process.entry for process in ordered]
    places = {entry["entity_id"]: place for place, entry in enumerate(entries) if entry.get("entity_id")}
    strings = _Strings()
    made: dict[str, list[int | None]] = {name: [] for name in _NAMES}

    def time_us(time_ns: int | None) -> int | None:
        return None if time_ns is None else (time_ns - from_ns) // 1000

    for process in ordered:
        entry = process.entry
        start = time_us(entry.get("start_time_ns"))
        start = 0 if start is None else start
        kept = process.images[-IMAGES_MAX:]
        if len(process.images) > IMAGES_MAX:
            kept[0] = process.images[0]
        for number, image in enumerate(kept):
            began = time_us(image.start_ns)
            made["image_start"].append(start if number == 0 or began is None else max(start, began))
            made["image_path"].append(strings.number(printable(image.fields.get("path") or "")))
            made["image_name"].append(strings.number(printable(program_of(image.fields).name)))
            made["image_command"].append(strings.number(command_line(image.fields)))
        row: Mapping[str, int | None] = {
            "pid": entry["pid"],
            "start": start,
            "end": time_us(entry.get("exit_time_ns")),
            "user": strings.number(_user(entry)),
            "unit": strings.number(_unit(entry)),
            "container": strings.number(printable(container_text(entry) or "")),
            "ending": strings.number(ending(entry)),
            "failed": int(bool(entry.get("exit_code"))),
            "notes": strings.number("; ".join(_NOTES[mark] for mark in entry.get("marks") or () if mark in _NOTES)),
            "images": len(kept),
            "images_left": len(process.images) - len(kept),
        }
        for name, value in row.items():
            made[name].append(value)
        for name in COSTS:
            made[name].append(cast("Mapping[str, int | None]", entry).get(name))
    made["creator"] = _above(entries, places, "creator_entity_id")
    made["parent"] = _above(entries, places, "parent_entity_id")
    for name in COSTS:
        if all(value is None for value in made[name]):
            del made[name]
    return {"from_ns": str(from_ns), "duration": (to_ns - from_ns) // 1000, "strings": strings.cut(), **made}


_NAMES = (
    "pid", "start", "end", "creator", "parent", "user", "unit", "container", "ending", "failed", "notes", "images",
    "images_left", "image_start", "image_path", "image_name", "image_command", *COSTS,
)  # fmt: skip


def _above(entries: Sequence[EntryFields], places: Mapping[str | None, int], key: str) -> list[int | None]:
    """Return the place of the process that `key` names, for each entry; -1: it is not here.

    Entries that were read at different moments can name each other; such a cycle is cut at its first process.
    """
    above = []
    for place, entry in enumerate(entries):
        found = places.get(cast("Mapping[str, str | None]", entry).get(key), -1)
        above.append(-1 if found == place else found)
    settled = [False] * len(above)
    for place in range(len(above)):
        path: dict[int, None] = {}
        at = place
        while at >= 0 and not settled[at]:
            if at in path:
                above[min(list(path)[list(path).index(at) :])] = -1
                break
            path[at] = None
            at = above[at]
        for each in path:
            settled[each] = True
    return list(above)


def _user(entry: EntryFields) -> str:
    uid = entry.get("uid")
    return printable(entry.get("user") or ("" if uid is None else uid))


def _unit(entry: EntryFields) -> str:
    names: Iterable[str | None] = (unit_of(entry.get("cgroup")), user_unit_of(entry.get("cgroup")))
    return printable(" / ".join(readable(name) for name in names if name))
