"""Every recorded fact is true, unknown, or marked, whatever is lost.

Events are lost, arenas are full, processes overwrite their arguments, and repairs read processes in between. The
kernel is `story.Story`, which has the true facts of its processes at any time. A lost event is one that is not
applied. A repair reads either the task iterator (the kernel's inodes) or `/proc` alone (stat's numbers), and sees
the arguments as the process has overwritten them.
"""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.records import declared, dtypes
from pipeline.resolver.apply import _applier
from pipeline.resolver.apply._applier import Applier
from pipeline.shm.check.validate import validate_tables
from pipeline.shm.layout import layout
from pipeline.shm.writer._writer import TableWriter
from tests.resolver.apply.full_arenas import full
from tests.resolver.apply.model import limits_in
from tests.resolver.random_story import STEP_NS, tell
from tests.resolver.resolver_world import check_children_of
from tests.resolver.story import Event, Process, Reading, Story, enter_init, instance, make_tables, task_of
from tests.sampling import examples

STAT = 1 << 20  # stat() shows another inode number, as on overlayfs
STEPS = st.lists(
    st.tuples(
        st.sampled_from("fffffeeebbxxcmgsurkkhLLPW"), st.integers(0, 1 << 16), st.integers(0, 1 << 16),
        st.booleans(), st.sets(st.sampled_from(["names", "args", "envs"]), max_size=2),
    ),
    max_size=50,
)  # fmt: skip
COMMON = settings(deadline=None, max_examples=examples(150), suppress_health_check=[HealthCheck.too_slow])
GROUPS = layout.KNOWN_CREDS | layout.KNOWN_CAPS | layout.KNOWN_SID | layout.KNOWN_COMM | layout.KNOWN_CGROUP


class World:
    def __init__(self, directory) -> None:
        sizes = {"names_bytes": 1 << 16, "args_bytes": 1 << 16, "envs_bytes": 1 << 16}
        self.tables: TableWriter = make_tables(directory, **sizes)
        self.applier = Applier(self.tables)
        self.read = Reading(self.tables)
        self.story = Story(step=STEP_NS)
        self.story.begin(1, inode=10)
        self.exec_times: dict[int, int] = {}  # as in the kernel's maps, by cookie
        self.execs: dict[int, tuple[bytes, bytes]] = {}  # path and arguments of each exec, by its time
        self.shown: dict[tuple[int, int], bytes] = {}  # arguments as processes have overwritten them
        enter_init(self.tables, self.applier, self.story)

    def run(self, op: str, a: int, b: int, is_lost: bool, without_room: set[str]) -> None:
        live = [p for t, p in sorted(self.story.processes.items()) if p.alive and t != 1]
        arenas = [getattr(self.tables, name) for name in sorted(without_room)]
        if op in "LP":
            with full(*arenas):
                for process in live if b % 3 else live[a % 4 :: 4]:
                    self.survey(process, is_proc=op == "P")
            return
        if op == "W":
            if live:
                process = live[a % len(live)]
                self.shown[process.tgid, process.start] = b"sshd: root\0"
            return
        before = len(self.story.events)
        tell([(op, a, b)], self.story)
        for event in self.story.events[before:]:
            self.note(event)
            if not is_lost:
                with full(*arenas):
                    event.apply(self.applier)

    def note(self, event: Event) -> None:
        if event.kind == declared.KIND_EXEC:
            body, task = event.body[0], event.task[0]
            self.exec_times[int(task["cookie"])] = event.time
            path = event.strings[: body["path_bytes"]]
            rest = event.strings[body["path_bytes"] + body["name_bytes"] :]
            self.execs[event.time] = path, rest[: body["args_bytes"]]
            self.shown.pop((int(event.header["tgid"][0]), int(event.header["start_boot_ns"][0])), None)
        elif event.kind == declared.KIND_FORK:
            creator = int(event.body[0]["creator_tgid"]), int(event.body[0]["creator_start_boot_ns"])
            child = int(event.header["tgid"][0]), int(event.header["start_boot_ns"][0])
            process, maker = self.story.processes[child[0]], self.story.processes[creator[0]]
            process.started = maker.started[-1:]
            if creator in self.shown:
                self.shown[child] = self.shown[creator]

    def survey(self, process: Process, *, is_proc: bool) -> int:
        header, task, body = np.zeros(1, dtypes.HEADER), task_of(process), np.zeros(1, dtypes.EXEC)
        header["tgid"] = header["tid"] = process.tgid
        header["start_boot_ns"], header["time_boot_ns"] = process.start, self.story.tick()
        if process.parent is not None:
            header["ppid"], header["parent_start_boot_ns"] = process.parent.tgid, process.parent.start
        path, args = process.started[-1] if process.started else (b"/sbin/init", b"init\0")
        args = self.shown.get((process.tgid, process.start), args)
        if is_proc:
            header["flags"] = declared.FLAG_PARTIAL
        body["inode"] = process.inode + STAT * is_proc
        task["exe_inode"] = body["inode"]
        body["path_bytes"], body["args_bytes"], body["args_full_bytes"] = len(path), len(args), len(args)
        body["argc"] = args.count(0)
        row = self.applier.py_find(process.tgid, process.start)
        known = int(self.tables.cold_view()["cookie"][row]) if row else 0
        unseen = self.exec_times.get(process.cookie, 0) if known not in (0, process.cookie) else 0
        result: int = self.applier.insert_from_proc(
            header, task, body, path + args, source=layout.SOURCE_PROCFS, known=GROUPS, exec_boot_ns=unseen
        )
        return result

    def args(self, row) -> bytes | None:
        return self.tables.args.py_bytes(row.args_ref)[4:] if row.args_ref else None


def check(w: World) -> None:
    """Check what holds at any time."""
    validate_tables(w.tables)
    check_children_of(w.applier)
    inodes = {path: 1 + sum(path) * 7919 % 100_003 for path, _ in w.execs.values()} | {b"/sbin/init": 10}
    status = w.tables.private_view("status")
    for number in (row for row in range(1, w.tables.rows_frontier) if status[row] & 1):
        row = w.read.row(number)
        if row.path is not None and row.inode:
            assert row.inode in (inodes[row.path], inodes[row.path] + STAT), "an inode with another file's path"
        if limits_in(w.tables.args.py_bytes(row.extra_ref)):
            assert row.flags & layout.ROW_CHANGE_SAMPLED, "limits of a change that is not the last one"
        if row.path is not None and row.inode >= STAT:
            assert row.flags & layout.ROW_STAT_INODE
        is_reported = row.flags & layout.ROW_IS_EXEC and row.known & layout.KNOWN_EXEC_TIME
        if is_reported and row.source == layout.SOURCE_EVENT:
            path, args = w.execs[row.exec_boot_ns]
            assert row.path in (path, None), "not the program that this exec started"
            assert w.args(row) in (args, None), "not the arguments of this exec"
            assert row.argc == args.count(0)
        assert bool(row.known & layout.KNOWN_ARGS) == (row.args_ref != 0)
        assert bool(row.known & layout.KNOWN_FILE) == (row.file_ref != 0)


def check_forks(w: World, event: Event) -> None:
    """A process that was just forked has its creator's image, or is not known to have another."""
    process = w.story.processes[int(event.header["tgid"][0])]
    row = w.read.head(process.tgid)
    if row is None or row.start_boot_ns != process.start or row.flags & layout.ROW_PARENT_MISSING:
        return
    path = process.started[-1][0] if process.started else b"/sbin/init"
    assert row.path in (path, None) and row.inode in (process.inode, 0)


@COMMON
@given(STEPS)
def test_recorded_facts_are_true_or_unknown_or_marked(steps):
    with instance() as directory:
        w = World(directory)
        for op, a, b, is_lost, without_room in steps:
            before = len(w.story.events)
            w.run(op, a, b, is_lost and op not in "LPW", without_room)
            check(w)
            for event in w.story.events[before:]:
                if event.kind == declared.KIND_FORK and not is_lost:
                    check_forks(w, event)
        # A repair with room for everything: every live process is recorded with its true program.
        live = [p for t, p in sorted(w.story.processes.items()) if p.alive and t != 1]
        for process in live:
            w.survey(process, is_proc=False)
        check(w)
        for process in live:
            row = w.read.head(process.tgid)
            path, args = process.started[-1] if process.started else (b"/sbin/init", b"init\0")
            assert row is not None and row.start_boot_ns == process.start and row.exit_boot_ns == 0
            assert row.path == path and row.inode in (process.inode, process.inode + STAT)
            shown = w.shown.get((process.tgid, process.start), args)
            assert w.args(row) in (args, shown) or (w.args(row) is None and row.flags & layout.ROW_ARGS_TRUNCATED)
            # Once everything is known, another repair changes nothing.
            assert w.survey(process, is_proc=False) == _applier.SAME
        w.tables.close()
