"""Generated storms of processes, as frames: for tests that need more events than a machine generates.

A storm is a forest of processes with consistent identities: every fork contains a living parent, a pid is reused only
after its owner has ended, a child begins after its parent's last exec, and an orphan's exit contains the reaper. The
same arguments always produce the same bytes. numpy generates a storm in about a microsecond for each event; only the
strings of exec records are assembled one by one.

Limits of the model: the times are regular, no event is lost, and there are no threads or credential changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.bus.frames.frame import FrameEncoder, record_ends
from pipeline.records import declared, dtypes
from pipeline.sources.recording.replay import WATERMARK_END_NS
from tests.synthetic.commands import Command, make_commands

#: Parent of the storm's first process, and reaper of its orphans.
INIT_TGID = 1
INIT_START_BOOT_NS = 1_000_000
#: The storm's first processes live until its end and fork most of the others.
SERVICE_TGID_BASE = 2
TGID_BASE = 1000

BOOT_ID = bytes.fromhex("5e7ec7ed000040008000000000000001")


@dataclass(frozen=True)
class Storm:
    """A storm before it is divided into frames: its records ring by ring, in the order of each ring.

    Attributes:
        header, task: shape (n,), `dtypes.HEADER` and `dtypes.TASK`, sorted by ring and place in it.
        fork, exec, exit: bodies in the same order.
        strings: the strings of each exec body; they refer to a small number of different objects.
        ring_first: shape (rings + 1,), index of each ring's first record.
        parent: index of each process's parent, -1 for the first process.
        tgid, start_boot_ns, exit_boot_ns: shape (processes,); exit 0: the process does not end.
    """

    header: npt.NDArray[np.void]
    task: npt.NDArray[np.void]
    fork: npt.NDArray[np.void]
    exec: npt.NDArray[np.void]
    exit: npt.NDArray[np.void]
    strings: list[bytes]
    ring_first: npt.NDArray[np.int64]
    parent: npt.NDArray[np.int64]
    tgid: npt.NDArray[np.uint32]
    start_boot_ns: npt.NDArray[np.uint64]
    exit_boot_ns: npt.NDArray[np.uint64]

    def frames(self, *, frame_records: int = 2048, boot_id: bytes = BOOT_ID, source: str = "synthetic") -> list[bytes]:
        """Return the frames of all rings in the order in which shards would hand them over, with watermarks."""
        encoder = FrameEncoder(boot_id=boot_id, source=source)
        kinds = self.header["kind"]
        before = {kind: np.concatenate(([0], np.cumsum(kinds == kind))) for kind in dtypes.BODIES}
        ends = record_ends(self.header)
        cut: list[tuple[int, int, int, int, int]] = []
        for ring in range(len(self.ring_first) - 1):
            begin, end = int(self.ring_first[ring]), int(self.ring_first[ring + 1])
            watermark = WATERMARK_END_NS
            for first in reversed(range(begin, end, frame_records)):
                last = min(first + frame_records, end)
                oldest = int(self.header["time_boot_ns"][first:last].min())
                cut.append((oldest, ring, first, last, watermark))
                watermark = min(watermark, oldest)
        messages = []
        for seq, (_, ring, first, last, watermark) in enumerate(sorted(cut)):
            fork, exec_, exit_ = (slice(int(before[kind][first]), int(before[kind][last])) for kind in dtypes.BODIES)
            messages.append(
                encoder.encode(
                    ring=ring, seq=seq, count=last - first, lost={}, watermark_boot_ns=watermark,
                    from_pos=int(ends[first - 1]) if first > self.ring_first[ring] else 0, to_pos=int(ends[last - 1]),
                    header=self.header[first:last], task=self.task[first:last], fork=self.fork[fork],
                    exec=self.exec[exec_], exit=self.exit[exit_], blob=b"".join(self.strings[exec_]),
                )
            )  # fmt: skip
        return messages


def make_storm(
    rings: int,
    processes: int,
    seed: int = 1,
    exec_ratio: float = 0.25,
    *,
    frame_records: int = 2048,
    source: str = "synthetic",
    **options: float,
) -> list[bytes]:
    """Return the frames of a storm; `options` are those of `build_storm`."""
    storm = build_storm(rings, processes, seed, exec_ratio, **options)  # type: ignore[arg-type]
    return storm.frames(frame_records=frame_records, source=source)


def build_storm(
    rings: int,
    processes: int,
    seed: int = 1,
    exec_ratio: float = 0.25,
    *,
    alive: int = 200,
    services: int = 16,
    nested_ratio: float = 0.5,
    again_ratio: float = 0.05,
    rate: float = 50_000.0,
    base_boot_ns: int = 10**12,
    tgid_range: int = 4_000_000,
    variants: int = 2048,
    args_bytes: int | None = None,
    envs_bytes: int = 1024,
) -> Storm:
    """Generate a storm.

    Args:
        rings: number of CPUs. A fork is recorded on the parent's CPU, the other events on the child's CPU.
        processes: number of processes, including `services`.
        seed: seed of the random numbers.
        exec_ratio: proportion of the processes that call exec; `again_ratio` of those call it twice.
        alive: approximate number of processes that are alive at a time.
        services: number of processes that live until the end.
        nested_ratio: proportion of the processes that have a parent other than a service.
        rate: forks per second, by the storm's own clock.
        base_boot_ns: boot time at which the storm begins.
        tgid_range: number of processes after which a pid is reused.
        variants: number of different command lines.
        args_bytes: length of each command's arguments in bytes; None for their natural length.
        envs_bytes: approximate length of each environment in bytes.

    Raises:
        ValueError: too many processes would be alive, so a pid would have two owners.
    """
    rng = np.random.default_rng(seed)
    forest = _grow(
        rng, processes, exec_ratio, min(services, processes), alive=alive, nested_ratio=nested_ratio,
        again_ratio=again_ratio, gap_ns=int(1e9 / rate), base_boot_ns=base_boot_ns, tgid_range=tgid_range,
    )  # fmt: skip
    return _record(rng, forest, rings, make_commands(variants, args_bytes, envs_bytes))


@dataclass(frozen=True, slots=True)
class _Forest:
    """The processes, in the order of their forks; times in ns of the boot clock.

    `holder`: the process that created, by its exec, the image that each process has at its end. `inherited`: the same
    for the image at its fork.
    """

    parent: npt.NDArray[np.int64]
    tgid: npt.NDArray[np.uint32]
    start_ns: npt.NDArray[np.int64]
    fork_ns: npt.NDArray[np.int64]
    exec_ns: npt.NDArray[np.int64]
    again_ns: npt.NDArray[np.int64]
    exit_ns: npt.NDArray[np.int64]
    is_service: npt.NDArray[np.bool_]
    has_exec: npt.NDArray[np.bool_]
    has_again: npt.NDArray[np.bool_]
    holder: npt.NDArray[np.int64]
    inherited: npt.NDArray[np.int64]


def _grow(
    rng: np.random.Generator, processes: int, exec_ratio: float, services: int, *, alive: int, nested_ratio: float,
    again_ratio: float, gap_ns: int, base_boot_ns: int, tgid_range: int,
) -> _Forest:  # fmt: skip
    index = np.arange(processes)
    fork_ns = base_boot_ns + (index * gap_ns).astype(np.int64) + rng.integers(0, gap_ns // 4 + 1, processes)
    is_service = index < services

    near = index - rng.geometric(1 / 8, processes)
    parent = np.where(
        (rng.random(processes) < nested_ratio) & (near >= services), near, rng.integers(0, services, processes)
    )
    parent[:services] = 0
    parent[0] = -1

    has_exec = (rng.random(processes) < exec_ratio) | is_service
    has_again = has_exec & (rng.random(processes) < again_ratio)
    # An exec comes before the next fork of any process, so before the first child: children inherit the last image.
    exec_ns = fork_ns + gap_ns * 3 // 8
    again_ns = fork_ns + gap_ns * 5 // 8

    exit_ns = fork_ns + gap_ns * 3 // 4 + (rng.exponential(alive * gap_ns, processes)).astype(np.int64)
    np.maximum.at(exit_ns, parent[1:], fork_ns[1:] + gap_ns // 8)
    exit_ns[is_service] = np.iinfo(np.int64).max

    tgid = np.where(is_service, SERVICE_TGID_BASE + index, TGID_BASE + (index - services) % tgid_range).astype(
        np.uint32
    )
    later = index[services:-tgid_range] if processes > tgid_range else index[:0]
    start_ns = fork_ns - rng.integers(2, max(gap_ns // 8, 3), processes)
    if (exit_ns[later] >= start_ns[later + tgid_range]).any() or services > TGID_BASE - SERVICE_TGID_BASE:
        raise ValueError(f"{tgid_range} pids are too few for {alive} processes at a time")
    # The process that created the image of each process before its own exec: follow parents up to one that called exec.
    # Each step doubles the distance, so there are log2(depth) steps.
    holder = np.where(has_exec, index, np.maximum(parent, 0))
    while (holder != holder[holder]).any():
        holder = holder[holder]
    inherited = holder[np.maximum(parent, 0)]
    return _Forest(
        parent, tgid, start_ns, fork_ns, exec_ns, again_ns, exit_ns, is_service, has_exec, has_again, holder, inherited
    )


@dataclass(frozen=True, slots=True)
class _Events:
    """The events of all processes, sorted by ring and time.

    Attributes:
        process: index of the process.
        kind: KIND_*.
        step: 0 fork, 1 exec, 2 the second exec, 3 exit.
        time_ns: of the boot clock.
        ring: the CPU that records the event.
        ring_first: index of each ring's first event, and the number of events.
        variant, again_variant: of each process, not of each event: the command of its first and of its second exec.
    """

    process: npt.NDArray[np.int64]
    kind: npt.NDArray[np.uint8]
    step: npt.NDArray[np.int64]
    time_ns: npt.NDArray[np.int64]
    ring: npt.NDArray[np.int64]
    ring_first: npt.NDArray[np.int64]
    variant: npt.NDArray[np.int64]
    again_variant: npt.NDArray[np.int64]

    @property
    def used(self) -> npt.NDArray[np.int64]:
        """The command of each event that is an exec."""
        return np.where(self.step == 2, self.again_variant[self.process], self.variant[self.process])


def _record(rng: np.random.Generator, forest: _Forest, rings: int, commands: Sequence[Command]) -> Storm:
    events = _happen(rng, forest, rings, len(commands))
    fork, exec_, exit_ = _bodies(forest, events, commands)
    used = events.used[events.kind == declared.KIND_EXEC]
    return Storm(
        _headers(forest, events, commands), _tasks(forest, events, commands), fork, exec_, exit_,
        [commands[number].strings for number in used.tolist()], events.ring_first, forest.parent, forest.tgid,
        forest.start_ns.astype(np.uint64), np.where(forest.is_service, 0, forest.exit_ns).astype(np.uint64),
    )  # fmt: skip


def _happen(rng: np.random.Generator, forest: _Forest, rings: int, commands: int) -> _Events:
    """Choose commands and CPUs, and sort the events."""
    parent, has_exec, has_again, is_service = forest.parent, forest.has_exec, forest.has_again, forest.is_service
    processes, services = len(parent), int(is_service.sum())
    index = np.arange(processes)
    variant = rng.integers(0, commands, processes)
    again_variant = rng.integers(0, commands, processes)
    process = np.concatenate((index, index[has_exec], index[has_again], index[~is_service]))
    counts = (processes, int(has_exec.sum()), int(has_again.sum()), processes - services)
    kind = np.repeat((declared.KIND_FORK, declared.KIND_EXEC, declared.KIND_EXEC, declared.KIND_EXIT), counts).astype(
        np.uint8
    )
    step = np.repeat((0, 1, 2, 3), counts)
    time_ns = np.concatenate(
        (forest.fork_ns, forest.exec_ns[has_exec], forest.again_ns[has_again], forest.exit_ns[~is_service])
    )
    cpu = rng.integers(0, rings, processes)
    moved = np.where(rng.random(processes) < 0.1, rng.integers(0, rings, processes), cpu)
    ring = np.where(step == 0, cpu[np.maximum(parent[process], 0)], np.where(step == 3, moved[process], cpu[process]))

    order = np.lexsort((step, time_ns, ring))
    ring = ring[order]
    ring_first = np.searchsorted(ring, np.arange(rings + 1)).astype(np.int64)
    return _Events(
        process[order], kind[order], step[order], time_ns[order], ring, ring_first, variant, again_variant
    )  # fmt: skip


def _headers(forest: _Forest, events: _Events, commands: Sequence[Command]) -> npt.NDArray[np.void]:
    """Return the header of each event."""
    process, ring, ring_first, tgid = events.process, events.ring, events.ring_first, forest.tgid
    start_ns = forest.start_ns.astype(np.uint64)
    parent = np.maximum(forest.parent[process], 0)
    is_orphan = (forest.parent[process] < 0) | (forest.exit_ns[parent] <= events.time_ns)
    lengths = np.array([len(command.strings) for command in commands])

    header = np.zeros(len(process), dtypes.HEADER)
    header["time_boot_ns"] = events.time_ns
    header["ring_seq"] = np.arange(len(process)) - ring_first[ring]
    header["tgid"] = header["tid"] = tgid[process]
    header["start_boot_ns"] = start_ns[process]
    header["ppid"] = np.where(is_orphan, INIT_TGID, tgid[parent])
    header["parent_start_boot_ns"] = np.where(is_orphan, INIT_START_BOOT_NS, start_ns[parent])
    header["kind"] = events.kind
    header["cpu"] = ring
    header["var_bytes"] = np.where(events.kind == declared.KIND_EXEC, lengths[events.used], 0)
    body_bytes = np.zeros(declared.KIND_COUNT, np.uint32)
    for number, dtype in dtypes.BODIES.items():
        body_bytes[number] = dtype.itemsize
    header["record_bytes"] = (
        dtypes.HEADER.itemsize + dtypes.TASK.itemsize + body_bytes[events.kind] + header["var_bytes"]
    )
    for number in range(len(ring_first) - 1):
        part = header[ring_first[number] : ring_first[number + 1]]
        part["ring_pos"][1:] = np.cumsum(record_ends(part)[:-1])
    return header


def _tasks(forest: _Forest, events: _Events, commands: Sequence[Command]) -> npt.NDArray[np.void]:
    """Return the task of each event."""
    process, step = events.process, events.step
    # The image in the record: the parent's for a fork, the new one for an exec, the last one for an exit.
    owner = np.where(step == 0, forest.inherited[process], forest.holder[process])
    is_last_again = forest.has_again[owner] & (step != 1)
    last = np.where(is_last_again, events.again_variant[owner], events.variant[owner])
    image = np.where(events.kind == declared.KIND_EXEC, events.used, last)
    task = np.zeros(len(process), dtypes.TASK)
    uid = np.array([0, 1000, 1001, 33])[process % 4]
    for name in ("uid", "euid", "suid", "fsuid", "gid", "egid", "sgid", "fsgid"):
        task[name] = uid
    task["cap_effective"] = task["cap_permitted"] = np.where(uid == 0, (1 << 41) - 1, 0)
    task["auid"] = np.where(uid == 0, 0xFFFF_FFFF, 1000)
    task["audit_session"] = np.where(uid == 0, 0xFFFF_FFFF, 3)
    task["sid"] = task["pgid"] = SERVICE_TGID_BASE
    task["ns_pid"] = forest.tgid[process]
    for place, name in enumerate(("pid_ns", "mnt_ns", "net_ns", "user_ns")):
        task[name] = 4026531835 + place
    task["cgroup_id"] = 2000 + process % 8
    task["comm"] = np.array([command.comm for command in commands])[image]
    task["cookie"] = (owner.astype(np.uint64) + np.uint64(1)) * np.uint64(2) + is_last_again.astype(np.uint64)
    task["exe_inode"] = np.array([command.row["inode"][0] for command in commands])[image]
    task["exe_dev"] = 8 << 20 | 1
    return task


def _bodies(
    forest: _Forest, events: _Events, commands: Sequence[Command]
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.void], npt.NDArray[np.void]]:
    """Return the bodies of the forks, the execs and the exits."""
    forked, executed, ended = (events.process[events.kind == kind] for kind in dtypes.BODIES)
    fork = np.zeros(len(forked), dtypes.FORK)
    creator = forest.parent[forked]
    start_ns = forest.start_ns.astype(np.uint64)[np.maximum(creator, 0)]
    fork["creator_tgid"] = fork["creator_tid"] = np.where(creator < 0, INIT_TGID, forest.tgid[np.maximum(creator, 0)])
    fork["creator_start_boot_ns"] = np.where(creator < 0, INIT_START_BOOT_NS, start_ns)
    fork["clone_flags"] = 0x0120_0000
    # numpy compares the fields of each two arrays that it concatenates, which takes longer than all the rest.
    rows = np.frombuffer(b"".join(command.row.tobytes() for command in commands), dtypes.EXEC)
    exec_ = rows[events.used[events.kind == declared.KIND_EXEC]]
    exec_["exec_tid"] = exec_["prev_tid"] = forest.tgid[executed]
    exit_ = np.zeros(len(ended), dtypes.EXIT)
    exit_["reaper_tgid"], exit_["reaper_start_boot_ns"] = INIT_TGID, INIT_START_BOOT_NS
    exit_["exit_code"] = exit_["leader_exit_code"] = np.where(ended % 16 == 0, 256, 0)
    return fork, exec_, exit_
