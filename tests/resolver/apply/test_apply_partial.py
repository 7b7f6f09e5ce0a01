"""Applying records of a source without eBPF: start times rounded to the tick, and facts that may be missing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from pipeline.records import declared, dtypes
from pipeline.resolver.apply._applier import Applier
from pipeline.shm.layout import layout
from pipeline.sources.proc_connector import proc_records
from pipeline.sources.proc_connector.proc_records import About
from tests.record_sizes import HEADER_BYTES, PLAIN_BYTES, TASK_BYTES
from tests.resolver.story import Reading, checked, instance, make_tables

TICK = 10_000_000
ROOT_NS, INIT, PARENT, CHILD = 4026531836, 1, 30, 40


class World:
    def __init__(self, directory) -> None:
        self.tables = make_tables(directory)
        self.applier = Applier(self.tables)
        self.read = Reading(self.tables)
        self.enter(INIT, 0, TICK)
        self.enter(PARENT, INIT, 100 * TICK)

    def enter(self, tgid: int, ppid: int, start: int) -> None:
        """Add a process that the snapshot found: root's, in the outermost namespaces, in cgroup 11."""
        header, task, body = np.zeros(1, dtypes.HEADER), np.zeros(1, dtypes.TASK), np.zeros(1, dtypes.EXEC)
        header["tgid"] = header["tid"] = task["ns_pid"] = task["sid"] = tgid
        header["ppid"], header["start_boot_ns"], header["time_boot_ns"] = ppid, start, 200 * TICK
        task["comm"], task["pid_ns"], task["mnt_ns"], task["cgroup_id"] = b"init", ROOT_NS, 1, 11
        task["cap_effective"] = 7
        body["inode"], body["path_bytes"] = 5, 5
        known = layout.KNOWN_CREDS | layout.KNOWN_CAPS | layout.KNOWN_SID | layout.KNOWN_COMM | layout.KNOWN_NS
        self.applier.insert_from_proc(
            header, task, body, b"/init", known=known | layout.KNOWN_CGROUP, start_ticks=True, flags=0
        )

    def put(self, record: bytes) -> int:
        """Apply one record; return the row of its process."""
        header, task = record[:HEADER_BYTES], record[HEADER_BYTES:PLAIN_BYTES] or None
        length = {declared.KIND_FORK: 32, declared.KIND_EXEC: 128, declared.KIND_EXIT: 32}.get(header[36], 0)
        body = record[PLAIN_BYTES : PLAIN_BYTES + length] or None
        return self.applier.apply_records(header, task, body, record[PLAIN_BYTES + length :])

    def fork(self, time: int, child: int = CHILD, parent: int = PARENT) -> int:
        return self.put(proc_records.fork(About(time, child, child, time, ppid=parent)))

    def exit(self, time: int, start: int, tgid: int = CHILD) -> int:
        return self.put(proc_records.exit_(About(time, tgid, tgid, start), 0))

    def proc(self, tgid: int):
        return self.read.present(tgid)


@pytest.fixture
def w() -> Iterator[World]:
    with instance() as directory, checked(World(directory)) as world:
        yield world


def test_a_child_copies_its_parent(w: World) -> None:
    w.fork(300 * TICK + 5)
    child = w.proc(CHILD)
    assert (child.uid, child.cap_effective, child.cgroup_id, child.comm) == (0, 7, 11, b"init")
    assert child.ppid == PARENT
    assert child.known & layout.KNOWN_CREDS
    assert child.ns_pid == CHILD, "in the outermost namespace the number is the same"


def test_known_groups_may_be_zero(w: World) -> None:
    """Root's ids are zero: a flag of the record says that it has them."""
    start = 300 * TICK + 5
    w.fork(start)
    about = About(start + 1, CHILD, CHILD, start)
    task = bytearray(TASK_BYTES)
    task[0:4] = (33).to_bytes(4, "little")
    w.put(proc_records._record(about, declared.KIND_CRED, proc_records._with_known(task, layout.KNOWN_CREDS)))
    assert w.proc(CHILD).uid == 33
    about.time_boot_ns += 1
    w.put(
        proc_records._record(about, declared.KIND_CRED, proc_records._with_known(bytes(TASK_BYTES), layout.KNOWN_CREDS))
    )
    assert w.proc(CHILD).uid == 0 and w.proc(CHILD).cap_effective == 7


@pytest.mark.parametrize(
    ("field", "group"),
    [
        *((field, "CREDS") for field in ("uid", "gid", "euid", "egid", "fsuid", "fsgid")),
        ("cap_effective", "CAPS"), ("cap_permitted", "CAPS"), ("auid", "AUID"), ("audit_session", "AUID"),
    ],
)  # fmt: skip
def test_one_value_of_a_group_is_enough_for_the_whole_group(w: World, field: str, group: str) -> None:
    """A record that does not say which groups it has."""
    start = 300 * TICK + 5
    w.fork(start)
    before = w.proc(CHILD)
    task = np.zeros(1, dtypes.TASK)
    task[field] = 33
    w.put(proc_records._record(About(start + 1, CHILD, CHILD, start), declared.KIND_CRED, task.tobytes()))
    after = w.proc(CHILD)
    assert getattr(after, field) == 33 and after.known == before.known | getattr(layout, f"KNOWN_{group}")
    assert (after.comm, after.cgroup_id, after.sid, after.pid_ns) == (b"init", 11, before.sid, ROOT_NS)


def test_states_are_stored_where_a_record_reports_them_and_a_child_copies_its_parents(w: World) -> None:
    """Each is one more than its value; 0: the record does not report it."""
    mask = layout.ROW_NO_NEW_PRIVS | layout.ROW_SECCOMP_STRICT | layout.ROW_SECCOMP_FILTER
    known = layout.KNOWN_NO_NEW_PRIVS | layout.KNOWN_SECCOMP

    def change(no_new_privs: int, seccomp_mode: int) -> None:
        task = np.zeros(1, dtypes.TASK)
        task["no_new_privs"], task["seccomp_mode"], task["comm"] = no_new_privs, seccomp_mode, b"x"
        about = About(300 * TICK, PARENT, PARENT, w.proc(PARENT).start_boot_ns)
        w.put(proc_records._record(about, declared.KIND_CRED, task.tobytes()))

    assert not w.proc(PARENT).known & known
    change(2, 3)
    parent = w.proc(PARENT)
    assert parent.known & known == known and parent.flags & mask == layout.ROW_NO_NEW_PRIVS | layout.ROW_SECCOMP_FILTER
    change(0, 2)
    assert w.proc(PARENT).flags & mask == layout.ROW_NO_NEW_PRIVS | layout.ROW_SECCOMP_STRICT
    w.fork(400 * TICK)
    child = w.proc(CHILD)
    assert child.known & known == known and child.flags & mask == w.proc(PARENT).flags & mask


def test_a_pid_twice_within_a_tick_is_two_processes(w: World) -> None:
    first, second = 300 * TICK + 1000, 300 * TICK + 5000
    w.fork(first)
    w.exit(first + 1000, first)
    one = w.proc(CHILD)
    row = w.fork(second)
    other = w.proc(CHILD)
    assert (one.start_boot_ns, other.start_boot_ns) == (first, second)
    assert other.exit_boot_ns == 0
    # Apply both again, as a successor does: nothing changes.
    w.fork(first)
    w.exit(first + 1000, first)
    assert w.fork(second) == row and w.proc(CHILD).exit_boot_ns == 0
    w.exit(second + 1000, second)
    assert w.proc(CHILD).exit_boot_ns == second + 1000


def test_the_end_of_the_process_that_has_the_pid(w: World) -> None:
    """The source started between the process's start and its end, so it does not know the start time."""
    w.exit(300 * TICK, 0, PARENT)
    assert w.proc(PARENT).exit_boot_ns == 300 * TICK


def test_an_end_that_is_older_than_the_owner_of_the_pid_is_not_its_end(w: World) -> None:
    w.exit(50 * TICK, 0, PARENT)
    assert w.proc(PARENT).exit_boot_ns == 0
    assert w.exit(300 * TICK, 0, CHILD) == 0, "no process has the pid"


@pytest.mark.parametrize("is_repeated", [False, True])
def test_an_exec_without_a_start_belongs_to_the_owner_of_the_pid(w: World, is_repeated: bool) -> None:
    """The source began between the fork and the exec, and the process had ended before it was read."""
    start = 300 * TICK + 5
    w.fork(start)
    execed = proc_records.unknown(About(start + 9, CHILD, CHILD, 0), declared.KIND_EXEC)
    w.put(execed)
    w.exit(start + 20, 0)
    if is_repeated:  # by a resolver that took over
        w.put(execed)
        w.exit(start + 20, 0)
    image, forked = w.read.chain(CHILD)[:2]
    assert (image.start_boot_ns, image.exec_boot_ns, image.exit_boot_ns) == (start, start + 9, start + 20)
    assert image.flags & layout.ROW_HEAD_ONLY and forked.exit_boot_ns == start + 9
    assert w.read.counter("exec_unknown") == w.read.counter("exit_unknown") == 0


@pytest.mark.parametrize("after_exit", [False, True])
def test_an_exec_without_a_start_and_without_an_owner_is_counted(w: World, after_exit: bool) -> None:
    start = 300 * TICK + 5
    w.fork(start)
    if after_exit:
        w.exit(start + 5, start)
    execed_at = start + 9 if after_exit else start - 9
    w.put(proc_records.unknown(About(execed_at, CHILD, CHILD, 0), declared.KIND_EXEC))
    assert w.read.counter("exec_unknown") == 1
    assert len([one for one in w.read.chain(CHILD) if one.tgid == CHILD]) == 1


def test_an_exec_of_an_ended_process_leaves_the_image_unknown(w: World) -> None:
    start = 300 * TICK + 5
    w.fork(start)
    assert w.proc(CHILD).known & layout.KNOWN_FILE
    w.put(proc_records.unknown(About(start + 9, CHILD, CHILD, start), declared.KIND_EXEC))
    image = w.proc(CHILD)
    assert image.flags & layout.ROW_IS_EXEC and image.flags & layout.ROW_GAP
    assert not image.known & (layout.KNOWN_FILE | layout.KNOWN_CREDS)
    assert image.ppid == PARENT and image.start_boot_ns == start


def test_a_child_without_a_known_parent_is_asked_for(w: World) -> None:
    w.fork(300 * TICK + 5, parent=77)
    wanted = [tgid for tgid, _ in w.applier.take_wanted()]
    assert CHILD in wanted and 77 in wanted
