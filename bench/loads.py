"""Synthetic events for the replaying benches: forks, execs and exits in time order, in the messages of a shard.

A `Load` is a sequence of events. The parents of its processes exist before it, or are from an earlier load. replay.py
processes the messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import common  # noqa: F401  (finds the package)
import numpy as np

from pipeline import proc_text
from pipeline.bus.frames.frame import FrameEncoder
from pipeline.records import declared, dtypes
from pipeline.records import declared as records

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

Actions = tuple[list[int], list[int]]
Strings = tuple[bytes, bytes, bytes, bytes]

BOOT = bytes(range(16))
FIRST_PID = 1000
PID_RANGE = 30_000
LIVE = 1500  # children that are alive at any time
ROUND_EVENTS = 2048  # in one message
_KINDS = {declared.KIND_FORK: dtypes.FORK, declared.KIND_EXEC: dtypes.EXEC, declared.KIND_EXIT: dtypes.EXIT}
COST = np.array([(900_000, 400_000, 0, 6 << 20, 8192, 4096, 310, 0, 3, 1)], dtypes.COST)  # of each process
PID_NS = proc_text.own_pid_ns()


@dataclass(frozen=True, slots=True)
class Processes:
    """Identities: pids and start times (ns, boot clock), arrays of the same length."""

    tgid: Array
    start_boot_ns: Array

    @classmethod
    def row(cls, first_pid: int, count: int) -> Processes:
        """Return `count` processes with consecutive pids that are older than every load."""
        numbers = np.arange(count, dtype=np.uint64)
        return cls((first_pid + numbers).astype(np.uint32), 1_000_000_000 + numbers)


#: The default parents of a load; `Resolver.enter` adds them to the tables.
PARENTS = Processes.row(2, 200)


def lives(processes: int, live: int, does_exec: Callable[[int], bool]) -> Actions:
    """Return the kinds and process numbers of the events of `processes` that fork, exec and exit.

    A process calls exec halfway through its life if `does_exec` is true for its number. `live` processes are alive at
    any time. All have exited at the end, so the load can be repeated (`Load.stream`).
    """
    kinds, actor = [], []
    for i in range(processes + live):
        for kind, number in (
            (declared.KIND_FORK, i), (declared.KIND_EXEC, i - live // 2), (declared.KIND_EXIT, i - live),
        ):  # fmt: skip
            if 0 <= number < processes and (kind != declared.KIND_EXEC or does_exec(number)):
                kinds.append(kind)
                actor.append(number)
    return kinds, actor


def storm(count: int) -> Actions:
    """Return about `count` forks and exits."""
    return lives(count // 2, min(LIVE, count // 8), lambda i: False)


def build(count: int) -> Actions:
    """Return about `count` events of a build: two of three processes call exec, so two of eight events are execs."""
    return lives(count * 3 // 8, min(LIVE, count // 8), lambda i: bool(i % 3))


def forks(count: int) -> Actions:
    """Return `count` forks of processes that do not exit."""
    return [declared.KIND_FORK] * count, list(range(count))


def compiler_runs() -> list[Strings]:
    """Return (path, name, args, envs) of 4,096 compiler runs with distinct arguments."""
    rng = np.random.default_rng(1)
    programs = [b"/usr/bin/x86_64-linux-gnu-gcc-14", b"/usr/libexec/gcc/x86_64-linux-gnu/14/cc1", b"/usr/bin/dash",
                b"/usr/bin/x86_64-linux-gnu-as", b"/usr/bin/make", b"/usr/bin/sed"]  # fmt: skip
    environments = []
    for i in range(8):
        names = [b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", b"MAKELEVEL=%d" % i]
        names += [b"VARIABLE_%d=%s" % (j, b"v" * int(rng.integers(8, 60))) for j in range(30)]
        environments.append(b"".join(n + b"\0" for n in names))
    found = []
    for i in range(4096):
        path = programs[int(rng.integers(len(programs)))]
        args = [path.rsplit(b"/", 1)[-1], b"-O2", b"-Wall", b"-I.", b"-Iinclude/generated", b"-D_GNU_SOURCE",
                b"-c", b"-o", b"build/objects/part_%d.o" % i, b"source/part_%d.c" % i]  # fmt: skip
        found.append((path, path, b"".join(a + b"\0" for a in args), environments[i % len(environments)]))
    return found


class Messages(list[bytes]):
    """Messages, and for each the time of its youngest event, which is the host's clock when the message arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.youngest_ns: list[int] = []


class Load:
    """Events in time order, as columns.

    Args:
        actions: the kind of each event and the number of its process (from `storm`, `build`, `lives` or `forks`).
        strings: (path, name, args, envs) for the execs, used in turn.
        parents: parents of the processes, chosen at random.
        first_pid: first pid of the processes.
        pid_range: number of pids, which are used in turn.
        begin_boot_ns: time before the first event.
        gaps_ns: shortest and longest time between two events.
        seed: seed of all random choices.

    Attributes:
        count: number of events.
        processes: the processes of the load, in order of their numbers.
        end_boot_ns: time after the last event.
        period_ns: time between the same events of two repetitions (`stream`).
    """

    def __init__(
        self, actions: Actions, *, strings: Sequence[Strings] = (), parents: Processes = PARENTS,
        first_pid: int = FIRST_PID, pid_range: int = PID_RANGE, begin_boot_ns: int = 2_000_000_000, seed: int = 1,
        gaps_ns: tuple[int, int] = (500, 3000),
    ) -> None:  # fmt: skip
        rng = np.random.default_rng(seed)
        self.kind, which = np.array(actions[0], np.uint8), np.array(actions[1], np.int64)
        self.count = n = len(self.kind)
        times = begin_boot_ns + np.cumsum(rng.integers(*gaps_ns, n)).astype(np.uint64)
        self.period_ns = np.uint64(int(times[-1]) + 10_000 - begin_boot_ns)
        self.end_boot_ns = int(times[-1]) + 10_000
        forks = self.kind == declared.KIND_FORK
        starts = np.zeros(int(which.max()) + 1, np.uint64)
        starts[which[forks]] = times[forks] - np.uint64(400)
        pids = (first_pid + np.arange(len(starts)) % pid_range).astype(np.uint32)
        self.processes = Processes(pids, starts)
        parent = rng.integers(0, len(parents.tgid), len(starts))
        self.header, self.task = np.zeros(n, dtypes.HEADER), np.zeros(n, dtypes.TASK)
        self.header["time_boot_ns"], self.header["kind"] = times, self.kind
        self.header["tgid"] = self.header["tid"] = pids[which]
        self.header["start_boot_ns"] = starts[which]
        self.header["ppid"] = parents.tgid[parent[which]]
        self.header["parent_start_boot_ns"] = parents.start_boot_ns[parent[which]]
        for name in ("uid", "gid", "euid", "egid", "suid", "sgid", "fsuid", "fsgid"):
            self.task[name] = 1000
        self.task["auid"], self.task["audit_session"], self.task["sid"] = 1000, 1, 2
        self.task["ns_pid"], self.task["pid_ns"] = self.header["tgid"], PID_NS
        self.task["mnt_ns"], self.task["net_ns"], self.task["user_ns"] = 2, 3, 4
        self.task["cgroup_id"], self.task["comm"], self.task["tty"] = 4711, b"worker", b"pts0"
        self._bodies(strings)

    def _bodies(self, strings: Sequence[Strings]) -> None:
        """Fill `body` by kind, `rank` (the index of an event among those of its kind), and `blobs` by event."""
        self.rank = np.zeros(self.count, np.int64)
        self.body: dict[int, Array] = {}
        for kind, dtype in _KINDS.items():
            at = np.flatnonzero(self.kind == kind)
            self.rank[at] = np.arange(len(at))
            self.body[kind] = np.zeros(len(at), dtype)
        forks = self.kind == declared.KIND_FORK
        self.body[declared.KIND_FORK]["creator_tgid"] = self.header["ppid"][forks]
        self.body[declared.KIND_FORK]["creator_start_boot_ns"] = self.header["parent_start_boot_ns"][forks]
        self.body[declared.KIND_EXIT]["reaper_tgid"] = PARENTS.tgid[0]
        self.body[declared.KIND_EXIT]["reaper_start_boot_ns"] = PARENTS.start_boot_ns[0]
        body = self.body[declared.KIND_EXEC]
        chosen = [strings[i % len(strings)] for i in range(len(body))]
        self.blobs = np.full(self.count, b"", object)
        self.blobs[self.kind == declared.KIND_EXEC] = [b"".join(parts) for parts in chosen]
        self.blobs[self.kind == declared.KIND_EXIT] = COST.tobytes()
        self.body[declared.KIND_EXIT]["exit_flags"] = records.EXIT_COST | records.EXIT_IO
        for i, part in enumerate(("path", "name", "args", "envs")):
            body[part + "_bytes"] = [len(parts[i]) for parts in chosen]
        body["args_full_bytes"], body["envs_full_bytes"] = body["args_bytes"], body["envs_bytes"]
        body["inode"], body["mtime_ns"] = 1 + body["path_bytes"], 5
        sizes = np.zeros(declared.KIND_COUNT, np.uint32)
        for kind, dtype in _KINDS.items():
            sizes[kind] = dtype.itemsize
        self.header["var_bytes"] = [len(blob) for blob in self.blobs]
        self.header["record_bytes"] = 64 + 160 + self.header["var_bytes"] + sizes[self.kind]

    def messages(self, rings: int, round_events: int = ROUND_EVENTS) -> Messages:
        """Return the messages of the load."""
        return next(self.stream(rings, round_events))

    def stream(self, rings: int, round_events: int = ROUND_EVENTS) -> Iterator[Messages]:
        """Yield the messages of the load repeatedly: the same events later, for new processes with the same pids.

        A message contains `round_events` consecutive events, like a message of a shard. Events are assigned to rings at
        random, and the message has one frame for each ring with events.
        """
        ring_of = np.random.default_rng(1).integers(0, rings, self.count)
        encoder = FrameEncoder(boot_id=BOOT, source="replay")
        position, seq, sent = [0] * rings, [0] * rings, [0] * rings
        shift_ns = np.uint64(0)
        while True:
            messages = Messages()
            for begin in range(0, self.count, round_events):
                part = ring_of[begin : begin + round_events]
                order = np.argsort(part, kind="stable")
                ends = np.cumsum(np.bincount(part, minlength=rings))
                for ring in np.unique(part).tolist():
                    rows = begin + order[ends[ring - 1] if ring else 0 : ends[ring]]
                    header = self.header[rows]
                    header["time_boot_ns"] += shift_ns
                    header["start_boot_ns"] += shift_ns
                    spans = 8 + (header["record_bytes"].astype(np.uint64) + 7 & ~np.uint64(7))
                    to = position[ring] + np.cumsum(spans)
                    header["ring_pos"], header["ring_seq"] = to - spans, seq[ring] + np.arange(len(rows))
                    mine = {kind: self.rank[rows[header["kind"] == kind]] for kind in _KINDS}
                    encoder.add(
                        ring=ring, seq=sent[ring], from_pos=position[ring], to_pos=int(to[-1]), count=len(rows),
                        lost={}, header=header.tobytes(), task=self.task[rows].tobytes(),
                        fork=self.body[declared.KIND_FORK][mine[declared.KIND_FORK]].tobytes(),
                        exec=self.body[declared.KIND_EXEC][mine[declared.KIND_EXEC]].tobytes(),
                        exit=self.body[declared.KIND_EXIT][mine[declared.KIND_EXIT]].tobytes(),
                        blob=b"".join(self.blobs[rows]),
                    )  # fmt: skip
                    position[ring], seq[ring], sent[ring] = int(to[-1]), seq[ring] + len(rows), sent[ring] + 1
                messages.append(encoder.take())
                last = min(begin + round_events, self.count) - 1
                messages.youngest_ns.append(int(self.header["time_boot_ns"][last] + shift_ns))
            yield messages
            shift_ns += self.period_ns
