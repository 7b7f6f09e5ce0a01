"""Invariants 14 to 18 of validate.py: the writer's private state against the tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pipeline.records.limits import LINEAGE_CHECKED
from pipeline.shm.check.state import STRONG_LINKS, Tables, Violation, resolve_links, walk_blocks
from pipeline.shm.layout import layout
from pipeline.shm.writer.declared import (
    LINEAGE_COMPLETE,
    LINEAGE_DECIDED,
    LINEAGE_EPOCH,
    LINEAGE_IMAGES,
    LINEAGE_INIT,
    STATUS_DIGEST,
    STATUS_EXITED,
    STATUS_LINEAGE,
    STATUS_LIVE,
    STATUS_PARKED,
    STATUS_QUEUED,
    STATUS_TTY_GIVEN,
    STATUS_USED,
)

if TYPE_CHECKING:
    from pipeline.shm.writer._writer import TableWriter

#: Bits of a status that do not say whether the process lives.
_OTHER_BITS = STATUS_QUEUED | STATUS_PARKED | STATUS_DIGEST | STATUS_TTY_GIVEN | STATUS_LINEAGE


def check_writer(tables: Tables, writer: TableWriter) -> Iterator[Violation]:
    """Yield the violations of these invariants; no row may be open except the writer's torn ones."""
    yield from _check_counts(tables, writer)
    yield from _check_refs(tables, writer)
    yield from _check_lists(tables, writer)
    yield from _check_children(tables, writer)
    yield from _check_lineages(tables, writer)


def _check_counts(tables: Tables, writer: TableWriter) -> Iterator[Violation]:
    hot, used = tables.hot, tables.used
    is_head = used & (hot["flags"] & layout.ROW_HEAD != 0)
    expected = {
        "rows_used": int(used.sum()),
        "heads_live": int((is_head & (hot["exit_boot_ns"] == 0)).sum()),
        "heads_exited": int((is_head & (hot["exit_boot_ns"] != 0)).sum()),
    }
    for name, count in expected.items():
        if getattr(writer, name) != count:
            yield Violation("14 counts", None, f"{name} is {getattr(writer, name)}, the rows say {count}")
    for name, memory in tables.arenas.items():
        arena = getattr(writer, name)
        blocks, _ = walk_blocks(memory[: arena.frontier_bytes])
        size = sum(units * 16 for _, units, _, refcount in blocks if refcount)
        if arena.used_bytes != size:
            yield Violation("14 counts", None, f"{name}: used_bytes is {arena.used_bytes}, the blocks say {size}")
        free = sorted(ref for refs in arena.free_blocks().values() for ref in refs)
        if free != [ref for ref, _, _, refcount in blocks if not refcount]:
            yield Violation("14 counts", None, f"{name}: the free lists are not the blocks without holders")


def _check_refs(tables: Tables, writer: TableWriter) -> Iterator[Violation]:
    counts = np.zeros(len(tables.hot), np.int64)
    for name in STRONG_LINKS:
        counts += np.bincount(resolve_links(tables, tables.hot[name])[tables.used], minlength=len(counts))
    counts[0] = 0
    refs = writer.private_view("refs")
    for row in np.flatnonzero((refs != counts) & tables.used):
        yield Violation("15 refs", int(row), f"row {row}: refs is {refs[row]}, {counts[row]} links name it")


def _check_lists(tables: Tables, writer: TableWriter) -> Iterator[Violation]:
    hot, used = tables.hot, tables.used
    status = writer.private_view("status")
    refs = writer.private_view("refs")
    free, queue, ancestors = (writer.listed_rows(name) for name in ("free", "queue", "ancestors"))
    if sorted(free) != [row for row in np.flatnonzero(~used).tolist() if row]:
        yield Violation("16 lists", None, "the free list is not the rows that are not in use")
    for rows, bit in ((queue, STATUS_QUEUED), (ancestors, STATUS_PARKED)):
        if sorted(rows) != np.flatnonzero(status & bit).tolist():
            yield Violation("16 lists", None, f"list and status {bit} differ")
    for row in ancestors:
        if not refs[row]:
            yield Violation("16 lists", row, f"row {row} is in the ancestor list, but nothing refers to it")
    ended, listed = hot["exit_boot_ns"] != 0, status & (STATUS_QUEUED | STATUS_PARKED) != 0
    for row in np.flatnonzero(used & (ended != listed)).tolist():
        yield Violation("16 lists", row, f"row {row}: ended is {ended[row]}, listed is {listed[row]}")
    wanted = STATUS_USED | np.where(hot["flags"] & layout.ROW_HEAD, np.where(ended, STATUS_EXITED, STATUS_LIVE), 0)
    for row in np.flatnonzero(used & (status & ~np.uint8(_OTHER_BITS) != wanted)).tolist():
        yield Violation("16 lists", row, f"row {row}: status is {status[row]}, expected {wanted[row]}")


def _check_children(tables: Tables, writer: TableWriter) -> Iterator[Violation]:
    parents = writer.private_view("parent")
    first, following, before = (
        writer.private_view("first_child"), writer.private_view("next_child"), writer.private_view("prev_child"),
    )  # fmt: skip
    seen = 0
    for parent in layout.used_positions(first):
        previous, child = 0, int(first[parent])
        while child:
            seen += 1
            if before[child] != previous or parents[child] != parent or seen > len(parents):
                yield Violation("17 children", child, f"pid {child} is not soundly in the list of pid {parent}")
                return
            row = int(tables.index[child])
            if not row or tables.hot["exit_boot_ns"][row] or tables.hot["ppid"][row] != parent:
                yield Violation(
                    "17 children", child, f"pid {child} is listed below {parent}, but is not its live child"
                )
            previous, child = child, int(following[child])
    if seen != np.count_nonzero(parents):
        yield Violation("17 children", None, f"{np.count_nonzero(parents)} pids have a parent, {seen} are in lists")


def _check_lineages(tables: Tables, writer: TableWriter) -> Iterator[Violation]:
    words = writer.private_view("lineages")
    is_known = (writer.private_view("status") & STATUS_LINEAGE != 0) & (
        words // LINEAGE_EPOCH == writer.lineage_epoch // LINEAGE_EPOCH
    )
    known = np.flatnonzero(is_known & tables.used).tolist()
    if not known:
        return
    hot = tables.hot
    flags = hot["flags"].tolist()
    ancestors = resolve_links(tables, hot["ancestor"]).tolist()
    is_init = (np.where(hot["flags"] & layout.ROW_FOREIGN != 0, tables.cold["ns_pid"], hot["tgid"]) == 1).tolist()
    found: dict[int, tuple[int, bool]] = {}  # images that decide the lineage of a row, and whether it is complete
    for row in known:
        chain = [row]
        while (last := chain[-1]) not in found:
            ancestor = ancestors[last]
            if flags[last] & layout.ROW_PARENT_MISSING:
                found[last] = 1, False
            elif not ancestor:
                found[last] = 1, is_init[last]
            elif is_init[last] and not (is_init[ancestor] and flags[last] & layout.ROW_IS_EXEC):
                found[last] = 2, False
            else:
                chain.append(ancestor)
            if len(chain) > len(ancestors):
                yield Violation("18 lineages", row, f"row {row}: its ancestors are a ring")
                return
        for below, above in zip(chain[-2::-1], chain[:0:-1], strict=True):
            found[below] = found[above][0] + 1, found[above][1]
        images, is_complete = found[row]
        word = int(words[row])
        fits = bool(word & LINEAGE_INIT) == is_init[row] and (
            (word & LINEAGE_IMAGES, bool(word & LINEAGE_COMPLETE)) == (images, is_complete)
            if word & LINEAGE_DECIDED
            else word & LINEAGE_IMAGES <= min(images, LINEAGE_CHECKED + 1)
        )
        if not fits:
            text = f"the word is {word % LINEAGE_EPOCH:#x}; {images} images decide it, complete: {is_complete}"
            yield Violation("18 lineages", row, f"row {row}: {text}")
