"""Invariants 1 to 13 of validate.py: the tables themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pipeline.shm.layout import layout

if TYPE_CHECKING:
    pass
from pipeline.shm.check.state import (
    ARENA_FIELDS,
    STRONG_LINKS,
    Tables,
    Violation,
    resolve_links,
    walk_blocks,
)


def check_tables(tables: Tables) -> Iterator[Violation]:
    """Yield the violations of these invariants."""
    yield from _check_index(tables)
    yield from _check_links(tables)
    yield from _check_arenas(tables)
    yield from _check_rows(tables)
    yield from _check_commit(tables)


def _check_index(tables: Tables) -> Iterator[Violation]:
    hot, used = tables.hot, tables.used
    pids = layout.used_positions(tables.index)
    rows = tables.index[pids]
    for pid in pids[rows >= len(hot)]:
        yield Violation("1 index", int(pid), f"pid {pid}: row {tables.index[pid]} is beyond the frontier")
    pids, rows = pids[rows < len(hot)], rows[rows < len(hot)]
    tgids, is_newest = hot["tgid"], hot["flags"] & (layout.ROW_HEAD | layout.ROW_REPLACED) == layout.ROW_HEAD
    # Few pids are wrong, and numpy needs much more time for each single row than for one of a column.
    wrong = ~used[rows] | (tgids[rows] != pids) | (tables.stable[rows] & ~is_newest[rows])
    for pid, row in zip(pids[wrong], rows[wrong], strict=True):
        if not used[row]:
            yield Violation("1 index", int(pid), f"pid {pid}: row {row} is free")
        elif tgids[row] != pid:
            yield Violation("1 index", int(pid), f"pid {pid}: row {row} belongs to pid {tgids[row]}")
        else:
            yield Violation("2 head", int(row), f"pid {pid}: row {row} is not the newest image")
    live = np.flatnonzero(tables.stable & (hot["flags"] & layout.ROW_HEAD != 0) & (hot["exit_boot_ns"] == 0))
    live = live[tgids[live] < len(tables.index)]
    for row in live[tables.index[tgids[live]] != live]:
        tgid = int(tgids[row])
        yield Violation("3 live", int(row), f"row {row} lives as pid {tgid}, the index has {tables.index[tgid]}")
    replaced = tables.stable & (hot["flags"] & layout.ROW_REPLACED != 0)
    for row in np.flatnonzero(replaced & ((hot["exit_boot_ns"] == 0) | (hot["flags"] & layout.ROW_HEAD != 0))):
        yield Violation("4 ended", int(row), f"row {row} is replaced, but has not ended or is a head")


def _check_links(tables: Tables) -> Iterator[Violation]:
    hot = tables.hot
    own = np.arange(len(hot))
    for name in (*STRONG_LINKS, "previous_owner"):
        links = tables.cold[name] if name == "previous_owner" else hot[name]
        numbers = (links & np.uint64(0xFFFFFFFF)).astype(np.int64)
        target = resolve_links(tables, links)
        bad = tables.stable & ((numbers >= len(hot)) | ((target == own) & (target != 0)))
        bad |= tables.stable & (target != 0) & ~tables.used[target]
        for row in np.flatnonzero(bad):
            yield Violation("5 links", int(row), f"row {row}: {name} {int(links[row]):#x} leads nowhere")
    # Pointer doubling: after k rounds `reach` is 2**k links away, so only rows on cycles still reach a row.
    reach = np.where(tables.stable, resolve_links(tables, hot["ancestor"]), 0)
    for _ in range(max(len(hot) - 1, 1).bit_length() + 1):
        reach = reach[reach]
    for row in np.flatnonzero(reach):
        yield Violation("6 chains", int(row), f"row {row}: its ancestors form a ring")


def _check_arenas(tables: Tables) -> Iterator[Violation]:
    for name, memory in tables.arenas.items():
        blocks, wrong = walk_blocks(memory)
        if wrong:
            yield Violation("7 blocks", None, f"{name}: {wrong}")
            continue
        refcounts = {ref: refcount for ref, _, length, refcount in blocks if length != layout.ARENA_FREE_UNIT}
        held: dict[int, int] = {}
        for column in ARENA_FIELDS[name]:
            values = (tables.cold if column in (layout.COLD.names or ()) else tables.hot)[column]
            refs, counts = np.unique(values[tables.unchanged & (values != 0)], return_counts=True)
            for ref, count in zip(refs.tolist(), counts.tolist(), strict=True):
                held[ref] = held.get(ref, 0) + count
                if ref not in refcounts:
                    row = int(np.flatnonzero(tables.unchanged & (values == ref))[0])
                    yield Violation("8 strings", row, f"row {row}: no block of {name} begins at {column} {ref}")
        exact = tables.writer is not None
        for ref, refcount in refcounts.items():
            count = held.get(ref, 0)
            if refcount < count or (exact and refcount != count):
                yield Violation("9 holders", ref, f"{name} {ref}: refcount {refcount}, {count} rows refer to it")
        seen: dict[bytes, int] = {}
        for ref, _, length, refcount in blocks:
            if refcount:
                data = memory[ref * 16 + 16 : ref * 16 + 16 + length].tobytes()
                if data in seen:
                    yield Violation("10 interned", ref, f"{name}: {seen[data]} and {ref} hold the same {length} bytes")
                seen[data] = ref


def _check_rows(tables: Tables) -> Iterator[Violation]:
    from pipeline.shm.writer._writer import row_check

    hot = tables.hot
    if tables.control["checked"]:
        unknown = np.zeros(1, layout.COSTS)[0]
        has_cost, checks = hot["known"] & layout.KNOWN_COST != 0, hot["check"]
        for row in np.flatnonzero(tables.stable):
            costs = tables.costs[row] if has_cost[row] else unknown
            if row_check(hot[row], tables.cold[row], costs) != checks[row]:
                yield Violation("11 checksum", int(row), f"row {row}: its checksum is not that of its contents")
    below = (hot["generation"] != 0) & ~tables.used
    for row in np.flatnonzero(below & (hot["row_seq"] % 2 == 0)):
        if row:
            yield Violation("12 free", int(row), f"row {row} is free but its row_seq is even")


def _check_commit(tables: Tables) -> Iterator[Violation]:
    valid = int(tables.control["commit_index"])
    if valid > 1 or tables.commits[valid]["number"] == 0:
        yield Violation("13 commit", None, f"commit slot {valid} is not complete")
        return
    ahead = tables.acks["applied_pos"] > tables.commit_rings[valid]["applied_pos"]
    for ring in np.flatnonzero(ahead):
        yield Violation("13 commit", int(ring), f"ring {ring} is acknowledged beyond what is committed")
