"""Load the tables as arrays, from the writer or from an instance's files, and represent violations."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.shm.layout import layout

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.shm.writer._writer import TableWriter

ARENAS = ("names", "args", "envs")
ARENA_FIELDS = {
    "names": ("file_ref", "name_ref", "cgroup_ref", "container_ref"),
    "args": ("args_ref", "extra_ref"),
    "envs": ("envs_ref",),
}
STRONG_LINKS = ("ancestor", "parent", "creator")


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule that does not hold.

    Attributes:
        rule: "number name".
        row: a row, a pid or a reference, depending on the rule.
    """

    rule: str
    row: int | None
    text: str


@dataclass(slots=True)
class Tables:
    """The segments as arrays, up to the frontier; `writer` is None if they are read from files.

    Attributes:
        used: rows that are not free.
        stable: rows that were not being written.
        costs: read only rows with KNOWN_COST; with a writer, an access to others allocates memory for them.
        unchanged: rows in use that did not change while the arenas were read, so their strings were there meanwhile.
    """

    control: np.void
    hot: npt.NDArray[np.void]
    cold: npt.NDArray[np.void]
    costs: npt.NDArray[np.void]
    index: npt.NDArray[np.uint32]
    arenas: dict[str, npt.NDArray[np.uint8]]
    commits: list[npt.NDArray[np.void]]
    acks: npt.NDArray[np.void]
    commit_rings: list[npt.NDArray[np.void]]
    writer: TableWriter | None = None
    seqs_after: npt.NDArray[np.uint64] | None = None  #: `row_seq` after the arenas were read
    used: npt.NDArray[np.bool_] = field(init=False)
    stable: npt.NDArray[np.bool_] = field(init=False)
    unchanged: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        even = self.hot["row_seq"] % 2 == 0
        self.stable = even & (self.hot["generation"] != 0)
        # An inserted row is a head or replaced, so it has flags. If it is also odd, its writer is changing it, or was
        # killed while changing it.
        self.used = (self.hot["generation"] != 0) & (self.hot["flags"] != 0)
        if len(self.used):
            self.used[0] = self.stable[0] = False
        self.unchanged = self.used
        if self.seqs_after is not None:
            self.unchanged = self.used & self.stable & (self.hot["row_seq"] == self.seqs_after)


def from_writer(writer: TableWriter) -> Tables:
    """Return the tables of a writer, as views of its memory."""
    frontier = writer.rows_frontier
    control = writer.control_view()[0]
    rings = int(control["ring_count"])
    memory = np.frombuffer(writer.control_memory(), np.uint8)
    return Tables(
        control=control,
        hot=writer.hot_view()[:frontier],
        cold=writer.cold_view()[:frontier],
        costs=writer.costs_view()[:frontier],
        index=writer.index_view(),
        arenas={name: np.frombuffer(getattr(writer, name).view(), np.uint8) for name in ARENAS},
        commits=[writer.commit_view(slot)[0] for slot in (0, 1)],
        acks=writer.ring_ack_view(),
        commit_rings=[_rings(memory, control, slot, rings) for slot in (0, 1)],
        writer=writer,
    )


def from_files(directory: Path) -> Tables:
    """Return the tables of an instance's directory, as copies; arenas without read permission are left out."""

    def read(name: str, size: int | None = None) -> npt.NDArray[np.uint8]:
        with (directory / name).open("rb") as file:
            return np.frombuffer(file.read() if size is None else file.read(size), np.uint8)

    memory = read("control")
    control = memory[: layout.CONTROL.itemsize].view(layout.CONTROL)[0]
    allocated = int(control["rows_allocated"])
    hot = read("hot", allocated * layout.HOT.itemsize).view(layout.HOT)
    cold = read("cold", allocated * layout.COLD.itemsize).view(layout.COLD)
    costs = read("costs", allocated * layout.COSTS.itemsize).view(layout.COSTS)
    used = np.flatnonzero(hot["generation"])
    frontier = int(used[-1]) + 1 if len(used) else 1
    arenas = {}
    for name in ARENAS:
        try:
            arenas[name] = read(name, int(control[f"{name}_allocated_bytes"]))
        except PermissionError:  # args and envs have stricter modes: check what is readable
            continue
    after = read("hot", frontier * layout.HOT.itemsize).view(layout.HOT)
    rings = int(control["ring_count"])
    ring_offset = int(control["ring_offset"])
    slots = [int(control["commit_offset"]) + slot * int(control["commit_bytes"]) for slot in (0, 1)]
    return Tables(
        control=control,
        hot=hot[:frontier],
        cold=cold[:frontier],
        costs=costs[:frontier],
        index=read("index")[: (int(control["pid_capacity"]) + int(control["key_capacity"])) * 4].view(np.uint32),
        arenas=arenas,
        commits=[memory[at : at + layout.COMMIT.itemsize].view(layout.COMMIT)[0] for at in slots],
        acks=memory[ring_offset : ring_offset + rings * layout.RING_ACK.itemsize].view(layout.RING_ACK),
        commit_rings=[_rings(memory, control, slot, rings) for slot in (0, 1)],
        seqs_after=after["row_seq"],
    )


def _rings(memory: npt.NDArray[np.uint8], control: np.void, slot: int, rings: int) -> npt.NDArray[np.void]:
    begin = int(control["commit_offset"]) + slot * int(control["commit_bytes"]) + layout.COMMIT.itemsize
    return memory[begin : begin + rings * layout.COMMIT_RING.itemsize].view(layout.COMMIT_RING)


def resolve_links(tables: Tables, links: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return the rows that `links` name, 0 for no link or an invalid one."""
    rows = (links & np.uint64(0xFFFFFFFF)).astype(np.int64)
    generations = (links >> np.uint64(32)).astype(np.uint32)
    inside = rows < len(tables.hot)
    rows = np.where(inside, rows, 0)
    return np.where(inside & (rows != 0) & (tables.hot["generation"][rows] == generations), rows, 0)


def walk_blocks(memory: npt.NDArray[np.uint8]) -> tuple[list[tuple[int, int, int, int]], str]:
    """Walk an arena; return [(reference, units, length, refcount)] and what is wrong, or ""."""
    words = memory[: len(memory) // 16 * 16].view(np.uint32).reshape(-1, 4)
    blocks: list[tuple[int, int, int, int]] = []
    unit = 1
    while unit < len(words):
        refcount, length = int(words[unit, 0]), int(words[unit, 1])
        if length == 0:
            break
        if length != layout.ARENA_FREE_UNIT and length > (1 << 20) - 16:
            return blocks, f"no block begins at unit {unit}"
        units = 1 if length == layout.ARENA_FREE_UNIT else _class_units(1 + -(-length // 16))
        blocks.append((unit, units, length, refcount))
        unit += units
    return blocks, "" if unit <= len(words) else f"the last block ends at unit {unit} of {len(words)}"


def _class_units(units: int) -> int:
    """Return the size of arena.h's smallest class that holds `units`."""
    if units <= 16:
        return units
    step = 1 << ((units - 1).bit_length() - 3)
    return -(-units // step) * step
