"""Read a process and everything that led to it from the tables of an instance. The work is bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from pipeline.errors import TooOldError
from pipeline.host import tiers
from pipeline.shm.layout.declared import CONTROL_LAYOUT
from pipeline.why.facts import Facts, Link, Process

if TYPE_CHECKING:
    from pipeline.shm.layout.entry_types import EntryFields
    from pipeline.shm.reader.table import Entry, ProcessTable

#: At most this many processes of a lineage are read, and this many images of each.
PROCESSES_MAX = 512
IMAGES_MAX = 64


#: Characters that are kept of the arguments of an image, except the one in question: they are shown in one line.
ARGV_CHARACTERS = 2000


def fields_of(entry: Entry) -> EntryFields:
    """Return the JSON form of an entry."""
    return cast("EntryFields", entry.to_dict())


def read(
    table: ProcessTable, pid: int, *, at_ns: int | None = None, pid_ns: int | None = None, wait_ms: int = 0,
    fields: Callable[[Entry], EntryFields] = fields_of,
) -> Facts | None:  # fmt: skip
    """Return what the tables hold about a process and its lineage.

    Args:
        table: the tables.
        pid: as in `ProcessTable.resolve`.
        at_ns: as in `ProcessTable.resolve`.
        pid_ns: as in `ProcessTable.resolve`.
        wait_ms: as in `ProcessTable.resolve`.
        fields: returns the JSON form of an entry.

    Returns:
        None if there is no such process.

    Raises:
        TooOldError: the process is no longer retained. Other errors as in `ProcessTable.resolve`.
    """
    entry = table.resolve(pid, at_ns, pid_ns=pid_ns, wait_ms=wait_ms)
    if entry is None:
        return None
    facts = Facts(
        _process(table, entry, None, fields), at_ns=at_ns, now_ns=table.view.now_unix_ns(),
        capture_began_ns=_capture_began_ns(table),
        sees_each_change=tiers.sees_each_change(tiers.read(table.directory)) or False,
    )  # fmt: skip
    init = table.resolve(1)
    facts.init = None if init is None else fields(init)
    facts.is_cut = _add_lineage(table, entry, facts.lineage, fields)
    if facts.subject.image.get("is_adopted"):
        parent = entry.parent
        facts.adopter = None if parent is None else fields(parent)
    return facts


def _process(table: ProcessTable, entry: Entry, link: Link | None, fields: Callable[[Entry], EntryFields]) -> Process:
    """Return a process with the images up to `entry`."""
    images = [fields(entry) if link is None else _brief(fields(entry))]
    for earlier in table.ancestors(entry, limit=IMAGES_MAX):
        if not _is_same(earlier, entry):
            break
        try:
            images.append(_brief(fields(earlier)))
        except TooOldError:
            break
    head: EntryFields | None = images[0]
    if not images[0].get("is_head", True):
        newest = None if images[0].get("is_exited") else table.resolve(entry.pid)
        head = _brief(fields(newest)) if newest is not None and _is_same(newest, entry) else None
    return Process(images, link, head)


def _brief(entry: EntryFields) -> EntryFields:
    """Return an entry without what no statement needs: 32,768 images can have 64 KiB of text each."""
    cast("dict[str, object]", entry).pop("envs", None)
    argv, room = entry.get("argv"), ARGV_CHARACTERS
    if argv and sum(len(word) + 1 for word in argv) > room:
        kept: list[str] = []
        for word in argv:
            if room <= 0:
                break
            kept.append(word[:room])
            room -= len(word) + 1
        entry["argv"], entry["args_truncated"] = kept, True
    return entry


def _is_same(one: Entry, other: Entry) -> bool:
    return one.pid == other.pid and one.start_time_ns == other.start_time_ns


def _add_lineage(
    table: ProcessTable, entry: Entry, lineage: list[Process], fields: Callable[[Entry], EntryFields]
) -> bool:
    """Append the creators of a process. Return whether there are more than PROCESSES_MAX."""
    seen = {entry.entity_id}
    while True:
        # The creator is unknown if the process began before the capture, or if the creator is not retained.
        link = Link.CREATOR
        above = entry.creator
        if above is None and entry.creator_pid is None:
            link = Link.PARENT
            above = entry.parent
        if above is None or above.entity_id in seen:
            return False
        if len(lineage) == PROCESSES_MAX:
            return True
        entry = above
        seen.add(entry.entity_id)
        try:
            lineage.append(_process(table, entry, link, fields))
        except TooOldError:
            return False


def _capture_began_ns(table: ProcessTable) -> int | None:
    """Return when the first table of this capture was complete; None after a take-over, which has an earlier start."""
    header = table.view.header()
    if CONTROL_LAYOUT.struct("takeovers").unpack_from(header)[0]:
        return None
    ready = int(CONTROL_LAYOUT.struct("ready_boot_ns").unpack_from(header)[0])
    return ready + table.boot_unix_ns if ready else None
