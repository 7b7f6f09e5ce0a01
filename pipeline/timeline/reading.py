"""Collect the processes of a timeline from the tables: which ones, and their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np

from pipeline.errors import TooOldError
from pipeline.screen.processes import CONTAINER_NEEDS
from pipeline.screen.progress import Show
from pipeline.select.selection import Selection
from pipeline.shm.layout.declared import ROW_BEFORE_CAPTURE, ROW_KTHREAD, ROW_START_TICKS
from pipeline.timeline.columns import COSTS, Image, Process

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.shm.layout.entry_types import EntryFields
    from pipeline.shm.reader.table import Entry, ProcessTable

#: Progress is reported once for each group of this many processes.
_STEP = 500
#: Fields of an earlier image, and of the newest one.
_OF_IMAGE = ("path", "comm", "argv", "script_path", "is_kworker", "start_time_ns", "exec_time_ns", "is_exec")
_OF_PROCESS = (
    "pid", "ppid", "entity_id", "parent_entity_id", "creator_pid", "creator_entity_id", "exit_time_ns", "exit_code",
    "exit_cause", "exit_cause_code", "is_exited", *_OF_IMAGE, "uid", "user", "cgroup", *CONTAINER_NEEDS, "marks",
    *COSTS,
)  # fmt: skip


@dataclass
class Found:
    """The processes of a timeline.

    Attributes:
        processes: at most as many as were asked for.
        left_out: processes that belong to the timeline, but are too many.
        from_ns, to_ns: the period of the timeline, ns since the Unix epoch.
    """

    processes: list[Process] = field(default_factory=list)
    left_out: int = 0
    from_ns: int = 0
    to_ns: int = 0


class Heads:
    """The newest image of every process in a table, as columns: one row for each process.

    Attributes:
        links: of the images, as `TableReader.image` takes them, shape (n,), uint64.
        rows: the images, shape (n,), dtype HOT.
        above: place of the creator, or of the parent if the creator is not in the table; -1: neither is. Shape (n,).
    """

    def __init__(self, numbers: npt.NDArray[np.uint32], rows: npt.NDArray[np.void]) -> None:
        # The image with the highest number counts, not the one that is marked as the newest: a process that calls exec
        # while the rows are read has no marked image, or two of them.
        order = np.lexsort((rows["images"], rows["start_boot_ns"], rows["tgid"]))
        ordered = rows[order]
        is_last = np.ones(len(ordered), bool)
        same = (ordered["tgid"][1:] == ordered["tgid"][:-1]) & (
            ordered["start_boot_ns"][1:] == ordered["start_boot_ns"][:-1]
        )
        is_last[:-1] = ~same
        process_of = np.empty(len(rows), np.int64)
        process_of[order] = np.concatenate([[0], np.cumsum(~same)]) if len(rows) else []
        links = numbers.astype(np.uint64) | rows["generation"].astype(np.uint64) << np.uint64(32)
        self.links = links[order][is_last]
        self.rows = ordered[is_last]
        by_link = dict(zip(links.tolist(), process_of.tolist(), strict=True))
        self.above = np.array([
            next((by_link[link] for link in pair if link in by_link), -1)
            for pair in zip(self.rows["creator"].tolist(), self.rows["parent"].tolist(), strict=True)
        ], np.int64)  # fmt: skip


class _Arguments:
    """Arguments, each list and each word once: thousands of processes can have the same 32 KiB from their creator."""

    def __init__(self) -> None:
        self._words: dict[str, str] = {}
        self._lists: dict[tuple[str, ...], list[str]] = {}

    def share(self, entry: EntryFields) -> None:
        """Replace the arguments of an entry by equal ones that were read before."""
        argv = entry.get("argv")
        if argv:
            words = tuple(self._words.setdefault(word, word) for word in argv)
            entry["argv"] = self._lists.setdefault(words, list(words))


def newest(
    starts: npt.NDArray[np.uint64], above: npt.NDArray[np.int64], is_wanted: npt.NDArray[np.bool_], limit: int
) -> list[int]:
    """Return the places of at most `limit` wanted processes: the newest, and those that they descend from.

    A shell or a `make` is the oldest process of its subtree. Without it, the processes that it started would be shown
    without a parent.

    Args:
        starts: times of the processes.
        above: the process from which each descends; -1: none.
        is_wanted: processes that may be returned.
        limit: the most that are returned.
    """
    wanted = np.flatnonzero(is_wanted)
    if len(wanted) <= limit:
        return [int(place) for place in wanted]
    kept: dict[int, None] = {}
    for place in wanted[np.argsort(starts[wanted], kind="stable")[::-1]].tolist():
        # If the process does not fit with its ancestors, the ones left out are the oldest, so nothing newer is lost.
        room = limit - len(kept)
        chain: dict[int, None] = {}
        at = place
        while len(chain) < room and at >= 0 and is_wanted[at] and at not in kept and at not in chain:
            chain[at] = None
            at = int(above[at])
        kept.update(chain)
        if len(kept) >= limit:
            break
    return list(kept)


def read(
    table: ProcessTable, selection: Selection, *, since_ns: int | None, now_ns: int, limit: int, progress: Show
) -> Found:
    """Collect the processes of a table.

    Kernel threads are left out, unless their subtree is asked for.

    Args:
        table: an open table.
        selection: which processes.
        since_ns: begin of the timeline, ns since the Unix epoch: what had ended by then is left out. None: as far as
            the capture goes back.
        now_ns: end of the timeline if processes run.
        limit: the most processes that are read completely.
        progress: is called with a line about what happens.
    """
    progress("reading the tables")
    heads = Heads(*table.images())
    rows = heads.rows
    is_wanted = np.ones(len(rows), bool)
    if not selection.under:
        is_wanted &= rows["flags"] & ROW_KTHREAD == 0
    entries: dict[int, EntryFields] = {}
    if selection:
        places = {}
        needed = tuple(dict.fromkeys(("pid", "entity_id", *selection.fields)))
        for place, link in enumerate(heads.links.tolist()):
            if place % _STEP == 0:
                progress(f"choosing processes: {place:,} of {len(rows):,}")
            entry = _entry(table, link, needed)
            if entry is not None:
                entries[place] = entry
                places[id(entry)] = place
        is_wanted[:] = False
        is_wanted[[places[id(entry)] for entry in selection.of(entries.values())]] = True
    boot_ns = table.boot_unix_ns
    if since_ns is not None:
        is_wanted &= (rows["exit_boot_ns"] == 0) | (rows["exit_boot_ns"].astype(np.int64) + boot_ns > since_ns)
    kept = newest(rows["start_boot_ns"], heads.above, is_wanted, limit)
    found = Found(left_out=int(is_wanted.sum()) - len(kept))
    arguments = _Arguments()
    for done, place in enumerate(kept):
        if done % _STEP == 0:
            progress(f"reading processes: {done:,} of {len(kept):,}")
        process = _process(table, int(heads.links[place]))
        if process is not None:
            for image in process.images:
                arguments.share(image.fields)
            found.processes.append(process)
    if kept:
        chosen = rows[kept]
        ends = chosen["exit_boot_ns"]
        found.to_ns = now_ns if (ends == 0).any() else int(ends.max()) + boot_ns
        captured = chosen[chosen["flags"] & (ROW_BEFORE_CAPTURE | ROW_START_TICKS) == 0]
        begin = int((captured if len(captured) else chosen)["start_boot_ns"].min()) + boot_ns
        found.from_ns = min(begin if since_ns is None else since_ns, found.to_ns)
    return found


def _fields(image: Entry, names: Sequence[str]) -> EntryFields:
    entry = cast("EntryFields", image.to_dict(names))
    if entry.get("is_exited") is False:
        entry["exit_time_ns"] = None  # that of an image that was replaced meanwhile
    return entry


def _entry(table: ProcessTable, link: int, names: Sequence[str]) -> EntryFields | None:
    """Return fields of an image; None: it is not retained any more."""
    image = table.image(link)
    try:
        return None if image is None else _fields(image, names)
    except TooOldError:
        return None


def _process(table: ProcessTable, link: int) -> Process | None:
    """Return a process by the link of its newest image; None: it is not retained any more."""
    image = table.image(link)
    if image is None:
        return None
    try:
        entry = _fields(image, _OF_PROCESS)
    except TooOldError:
        return None
    images = [Image(_loaded_ns(entry), entry)]
    count = image.image_number
    try:
        for earlier in table.ancestors(image, by="ancestor", limit=count - 1) if count > 1 else ():
            if earlier.entity_id != entry["entity_id"]:
                break
            fields = _fields(earlier, _OF_IMAGE)
            images.append(Image(_loaded_ns(fields), fields))
    except TooOldError:
        pass  # evicted meanwhile: the later images are here
    images.reverse()
    return Process(entry, images)


def _loaded_ns(fields: EntryFields) -> int | None:
    """Return when a process began to run an image: at its exec, or, for the image of a fork, at the start."""
    start, loaded = fields.get("start_time_ns"), fields.get("exec_time_ns")
    return start if loaded is None or not fields.get("is_exec") else loaded
