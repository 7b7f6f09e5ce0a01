"""Check that an instance's tables are what the writer promises. Used by the tests and by `procline doctor`.

`validate_tables` takes the writer itself, whose private state is then checked as well, or an instance's directory, read
through its files. Numbered invariants; a violation names its number:

    Tables
     1 index      an entry is 0, or names a row in use whose tgid is the entry's pid
     2 head       the image that the index names is flagged ROW_HEAD and not ROW_REPLACED
     3 live       the index names every newest image of a live process, and no process is there twice
     4 ended      a replaced image has ended and is no head
     5 links      a link names a row below the frontier; if alive, a row in use and not its own
     6 chains     following `ancestor` ends
     7 blocks     an arena's blocks lie end to end from the first unit to the frontier
     8 strings    a row's arena reference is where a block begins
     9 holders    a block has as many holders as rows refer to it (by directory: at least as many)
    10 interned   no two blocks in use hold the same bytes
    11 checksum   a row's checksum is right (tables made with `checked`)
    12 free       a row below the frontier that has no flags, and so is free, has an odd row_seq
    13 commit     commit_index is 0 or 1 and its slot complete; no ring is acknowledged beyond it
    Writer
    14 counts     heads_live, heads_exited, rows_used and the arenas' sizes are what the rows say
    15 refs       a row's count is the number of ancestor, parent and creator links to it
    16 lists      every row is in use or in the free list; ended images are queued, or are ancestors that something
                  refers to; newest images of live processes are in no list
    17 children   child lists are sound, and hold live processes whose ppid is the list's pid

Of a live instance the files change while they are read: what is found then is looked at again, and only what is found
each time is reported. Rows being written are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.errors import InvariantError
from pipeline.shm.layout import tables as layout

if TYPE_CHECKING:
    from pipeline.shm.writer._writer import TableWriter

ARENAS = ("names", "args", "envs")
ARENA_FIELDS = {
    "names": ("file_ref", "name_ref", "cgroup_ref", "container_ref"),
    "args": ("args_ref", "extra_ref"),
    "envs": ("envs_ref",),
}
STRONG_LINKS = ("ancestor", "parent", "creator")
MARK_USED, MARK_LIVE, MARK_EXITED, MARK_QUEUED, MARK_PARKED, MARK_DIGEST, MARK_TTY_GIVEN = 1, 2, 4, 8, 16, 32, 64
_FREE_UNIT = 0xFFFFFFFF
_LOOKS = 3


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule that does not hold: `rule` is "number name"; `row` is a row, a pid or a reference, by the rule."""

    rule: str
    row: int | None
    text: str


@dataclass(slots=True)
class Tables:
    """The segments as arrays, up to the frontier; `writer` is None when they are read from files."""

    control: np.void
    hot: npt.NDArray[np.void]
    cold: npt.NDArray[np.void]
    index: npt.NDArray[np.uint32]
    arenas: dict[str, npt.NDArray[np.uint8]]
    commits: list[npt.NDArray[np.void]]
    acks: npt.NDArray[np.void]
    commit_rings: list[npt.NDArray[np.void]]
    writer: TableWriter | None = None
    used: npt.NDArray[np.bool_] = field(init=False)
    stable: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        even = self.hot["row_seq"] % 2 == 0
        self.stable = even & (self.hot["generation"] != 0)
        # A published row is a head or replaced, so it has flags; one that is odd as well is in the hand of its writer
        # or was left so by one that was killed.
        self.used = (self.hot["generation"] != 0) & (self.hot["flags"] != 0)
        if len(self.used):
            self.used[0] = self.stable[0] = False


def validate_tables(source: TableWriter | Path) -> None:
    """Raise for the first invariant that does not hold.

    Args:
        source: the writer (no row may be open but its `torn_rows`), or an instance's directory.

    Raises:
        InvariantError: `.rule` and `.row` as in Violation.
    """
    found = violations(source)
    if found:
        first = found[0]
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise InvariantError(f"invariant {first.rule}: {first.text}{more}", rule=first.rule, row=first.row)


def violations(source: TableWriter | Path) -> list[Violation]:
    """Return everything that does not hold; of a directory, what did not hold in each of three looks."""
    if not isinstance(source, Path):
        return list(_check(_from_writer(source)))
    found = list(_check(_from_files(source)))
    for _ in range(_LOOKS - 1):
        if not found:
            break
        again = {(violation.rule, violation.row) for violation in _check(_from_files(source))}
        found = [violation for violation in found if (violation.rule, violation.row) in again]
    return found


def _check(tables: Tables) -> Iterator[Violation]:
    yield from _check_index(tables)
    yield from _check_links(tables)
    yield from _check_arenas(tables)
    yield from _check_rows(tables)
    yield from _check_commit(tables)
    if tables.writer is not None:
        from pipeline.shm.check import writer as validate_writer

        yield from validate_writer.check(tables, tables.writer)


def _check_index(tables: Tables) -> Iterator[Violation]:
    hot, used = tables.hot, tables.used
    pids = np.flatnonzero(tables.index)
    rows = tables.index[pids]
    for pid in pids[rows >= len(hot)]:
        yield Violation("1 index", int(pid), f"pid {pid}: row {tables.index[pid]} is beyond the frontier")
    pids, rows = pids[rows < len(hot)], rows[rows < len(hot)]
    for pid, row in zip(pids, rows, strict=True):
        if not used[row]:
            yield Violation("1 index", int(pid), f"pid {pid}: row {row} is free")
        elif hot["tgid"][row] != pid:
            yield Violation("1 index", int(pid), f"pid {pid}: row {row} belongs to pid {hot['tgid'][row]}")
        elif tables.stable[row] and (
            not hot["flags"][row] & layout.ROW_HEAD or hot["flags"][row] & layout.ROW_REPLACED
        ):
            yield Violation("2 head", int(row), f"pid {pid}: row {row} is not the newest image")
    live = np.flatnonzero(tables.stable & (hot["flags"] & layout.ROW_HEAD != 0) & (hot["exit_boot_ns"] == 0))
    for row in live:
        tgid = int(hot["tgid"][row])
        if tgid < len(tables.index) and tables.index[tgid] != row:
            yield Violation("3 live", int(row), f"row {row} lives as pid {tgid}, the index has {tables.index[tgid]}")
    replaced = tables.stable & (hot["flags"] & layout.ROW_REPLACED != 0)
    for row in np.flatnonzero(replaced & ((hot["exit_boot_ns"] == 0) | (hot["flags"] & layout.ROW_HEAD != 0))):
        yield Violation("4 ended", int(row), f"row {row} is replaced, but has not ended or is a head")


def resolve_links(tables: Tables, links: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Rows that `links` name, 0 where none or dead."""
    rows = (links & np.uint64(0xFFFFFFFF)).astype(np.int64)
    generations = (links >> np.uint64(32)).astype(np.uint32)
    inside = rows < len(tables.hot)
    rows = np.where(inside, rows, 0)
    return np.where(inside & (rows != 0) & (tables.hot["generation"][rows] == generations), rows, 0)


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
    # Pointer doubling: after k rounds `reach` is 2**k links away, so only rings are left with something to reach.
    reach = np.where(tables.stable, resolve_links(tables, hot["ancestor"]), 0)
    for _ in range(max(len(hot) - 1, 1).bit_length() + 1):
        reach = reach[reach]
    for row in np.flatnonzero(reach):
        yield Violation("6 chains", int(row), f"row {row}: its ancestors form a ring")


def walk_blocks(memory: npt.NDArray[np.uint8]) -> tuple[list[tuple[int, int, int, int]], str]:
    """Walk an arena: ([(reference, units, length, refcount)], what is wrong or "")."""
    words = memory[: len(memory) // 16 * 16].view(np.uint32).reshape(-1, 4)
    blocks: list[tuple[int, int, int, int]] = []
    unit = 1
    while unit < len(words):
        refcount, length = int(words[unit, 0]), int(words[unit, 1])
        if length == 0:
            break
        if length != _FREE_UNIT and length > (1 << 20) - 16:
            return blocks, f"no block begins at unit {unit}"
        units = 1 if length == _FREE_UNIT else _class_units(1 + -(-length // 16))
        blocks.append((unit, units, length, refcount))
        unit += units
    return blocks, "" if unit <= len(words) else f"the last block ends at unit {unit} of {len(words)}"


def _class_units(units: int) -> int:
    """Size class of arena.h that holds `units`."""
    if units <= 16:
        return units
    step = 1 << ((units - 1).bit_length() - 3)
    return -(-units // step) * step


def _check_arenas(tables: Tables) -> Iterator[Violation]:
    for name, memory in tables.arenas.items():
        blocks, wrong = walk_blocks(memory)
        if wrong:
            yield Violation("7 blocks", None, f"{name}: {wrong}")
            continue
        refcounts = {ref: refcount for ref, _, length, refcount in blocks if length != _FREE_UNIT}
        held: dict[int, int] = {}
        for column in ARENA_FIELDS[name]:
            values = (tables.cold if column in (layout.COLD.names or ()) else tables.hot)[column]
            refs, counts = np.unique(values[tables.used & (values != 0)], return_counts=True)
            for ref, count in zip(refs.tolist(), counts.tolist(), strict=True):
                held[ref] = held.get(ref, 0) + count
                if ref not in refcounts:
                    row = int(np.flatnonzero(tables.used & (values == ref))[0])
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
        for row in np.flatnonzero(tables.stable):
            if row_check(hot[row], tables.cold[row]) != hot["check"][row]:
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


def _from_writer(writer: TableWriter) -> Tables:
    frontier = writer.rows_frontier
    control = writer.control_view()[0]
    rings = int(control["ring_count"])
    memory = np.frombuffer(writer.control_memory(), np.uint8)
    return Tables(
        control=control,
        hot=writer.hot_view()[:frontier],
        cold=writer.cold_view()[:frontier],
        index=writer.index_view(),
        arenas={name: np.frombuffer(getattr(writer, name).view(), np.uint8) for name in ARENAS},
        commits=[writer.commit_view(slot)[0] for slot in (0, 1)],
        acks=writer.ring_ack_view(),
        commit_rings=[_rings(memory, control, slot, rings) for slot in (0, 1)],
        writer=writer,
    )


def _from_files(directory: Path) -> Tables:
    def read(name: str, size: int | None = None) -> npt.NDArray[np.uint8]:
        with (directory / name).open("rb") as file:
            return np.frombuffer(file.read() if size is None else file.read(size), np.uint8)

    memory = read("control")
    control = memory[: layout.CONTROL.itemsize].view(layout.CONTROL)[0]
    allocated = int(control["rows_allocated"])
    hot = read("hot", allocated * layout.HOT.itemsize).view(layout.HOT)
    cold = read("cold", allocated * layout.COLD.itemsize).view(layout.COLD)
    used = np.flatnonzero(hot["generation"])
    frontier = int(used[-1]) + 1 if len(used) else 1
    arenas = {}
    for name in ARENAS:
        try:
            arenas[name] = read(name, int(control[f"{name}_allocated_bytes"]))
        except PermissionError:  # args and envs have tighter modes: check what may be read
            continue
    rings = int(control["ring_count"])
    ring_offset = int(control["ring_offset"])
    slots = [int(control["commit_offset"]) + slot * int(control["commit_bytes"]) for slot in (0, 1)]
    return Tables(
        control=control,
        hot=hot[:frontier],
        cold=cold[:frontier],
        index=read("index")[: (int(control["pid_capacity"]) + int(control["key_capacity"])) * 4].view(np.uint32),
        arenas=arenas,
        commits=[memory[at : at + layout.COMMIT.itemsize].view(layout.COMMIT)[0] for at in slots],
        acks=memory[ring_offset : ring_offset + rings * layout.RING_ACK.itemsize].view(layout.RING_ACK),
        commit_rings=[_rings(memory, control, slot, rings) for slot in (0, 1)],
    )


def _rings(memory: npt.NDArray[np.uint8], control: np.void, slot: int, rings: int) -> npt.NDArray[np.void]:
    begin = int(control["commit_offset"]) + slot * int(control["commit_bytes"]) + layout.COMMIT.itemsize
    return memory[begin : begin + rings * layout.COMMIT_RING.itemsize].view(layout.COMMIT_RING)
