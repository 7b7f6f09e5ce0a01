"""The facts of an image that reading `/proc` may change, and how an unreported exec is noticed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pipeline.records import declared, dtypes
from pipeline.resolver.apply import _applier
from pipeline.secrets.argsenvs import ArgsEntry, EnvsEntry
from pipeline.shm.check.validate import validate_tables
from pipeline.shm.layout import layout
from tests.resolver.resolver_world import check_children_of
from tests.resolver.story import Event, head_only, instance, task_of
from tests.resolver.story_world import StoryWorld


class World(StoryWorld):
    """A story, its tables, and reads through `/proc` (stat's inodes) or the task iterator (the kernel's inodes)."""

    def survey(
        self, tgid: int, path: bytes, args: list[bytes] | None = None, *, stat_inode: int = 0, full: int = 0,
        envs: bytes = b"", time: int = 0, **more: Any,
    ) -> int:  # fmt: skip
        """`stat_inode`: the inode number that a read of `/proc` shows; with 0 the task iterator reads the process."""
        process = self.story.processes[tgid]
        header, body, task = np.zeros(1, dtypes.HEADER), np.zeros(1, dtypes.EXEC), task_of(process)
        header["tgid"] = header["tid"] = tgid
        header["start_boot_ns"], header["time_boot_ns"] = process.start, time or self.story.tick()
        if process.parent is not None:
            header["ppid"], header["parent_start_boot_ns"] = process.parent.tgid, process.parent.start
        body["inode"] = process.inode
        if stat_inode:
            header["flags"] = declared.FLAG_PARTIAL
            body["inode"] = task["exe_inode"] = stat_inode
        text = b"".join(arg + b"\0" for arg in args or [path])
        body["path_bytes"], body["args_bytes"], body["argc"] = len(path), len(text), len(args or [path])
        body["args_full_bytes"], body["envs_bytes"] = full or len(text), len(envs)
        body["envs_full_bytes"], body["envc"] = len(envs), envs.count(0)
        more.setdefault("known", self.applier_groups())
        return self.applier.insert_from_proc(header, task, body, path + text + envs, **more)

    @staticmethod
    def applier_groups() -> int:
        return layout.KNOWN_CREDS | layout.KNOWN_CAPS | layout.KNOWN_SID | layout.KNOWN_COMM | layout.KNOWN_CGROUP

    def has(self, row, flag: str) -> bool:
        return bool(row.flags & getattr(layout, "ROW_" + flag))


@pytest.fixture
def w() -> Iterator[World]:
    with instance() as directory:
        world = World(directory)
        world.story.begin(1, inode=10)
        world.survey(1, b"/sbin/init")
        yield world
        validate_tables(world.tables)
        check_children_of(world.applier)
        world.tables.close()


# -- arguments ---------------------------------------------------------------------------------------------------------


def test_a_process_does_not_choose_its_recorded_arguments(w: World) -> None:
    w.do(w.story.fork(1, 3))
    w.do(w.story.exec(3, b"/bin/a", args=[b"a", b"--real"]))
    w.do(w.story.fork(3, 4))
    row = w.head(3)
    assert w.survey(3, b"/bin/a", [b"sshd:", b"root"], source=layout.SOURCE_PROCFS) == _applier.SAME
    assert w.survey(4, b"/bin/a", [b"sshd:", b"root"], source=layout.SOURCE_PROCFS) == _applier.SAME
    for tgid in (3, 4):
        assert (w.args(w.head(tgid)), w.head(tgid).argc) == (b"a\0--real\0", 2)
    assert not w.has(w.head(3), "GAP") and w.head(3).row == row.row


def test_a_cut_list_keeps_its_whole_length_and_count(w: World) -> None:
    w.do(w.story.fork(1, 3))
    told = w.story.exec(3, b"/bin/a", args=[b"a", b"b"], flags=declared.EXEC_ARGS_TRUNCATED)
    told.body["args_full_bytes"], told.body["argc"] = 100_000, 20_000
    w.do(told)
    assert w.survey(3, b"/bin/a", [b"a", b"b", b"c"], full=6, source=layout.SOURCE_PROCFS) == _applier.SAME
    row = w.head(3)
    assert (row.argc, int.from_bytes(w.tables.args.py_bytes(row.args_ref)[:4], "little")) == (20_000, 100_000)
    assert w.has(row, "ARGS_TRUNCATED") and w.args(row) == b"a\0b\0"


def test_unknown_facts_are_completed_and_the_others_stay(w: World) -> None:
    w.do(w.story.fork(1, 3))
    told = w.story.exec(3, b"/bin/a", args=[b"real"], inode=7)
    told.body["exec_flags"] |= declared.EXEC_ENVS_UNREADABLE
    told.body["path_bytes"] = told.body["inode"] = 0
    told.strings = told.strings[len(b"/bin/a") :]
    told.header["var_bytes"] = len(told.strings)
    w.do(told)
    assert w.head(3).path is None and w.args(w.head(3)) == b"real\0"
    assert w.survey(3, b"/bin/a", [b"chosen"], envs=b"A=1\0") == _applier.COMPLETED
    row = w.head(3)
    assert (row.path, w.args(row), row.images, row.inode) == (b"/bin/a", b"real\0", 2, 7)
    assert w.tables.envs.py_bytes(row.envs_ref)[4:] == b"A=1\0"


def test_an_exec_of_the_same_file_shows_by_its_cookie(w: World) -> None:
    """A program that executes itself with other arguments: busybox, a shell. Only the kernel's maps show that."""
    w.do(w.story.fork(1, 3))
    w.do(w.story.exec(3, b"/bin/busybox", inode=7, args=[b"sh"]))
    lost = w.story.exec(3, b"/bin/busybox", inode=7, args=[b"ls"])
    assert w.survey(3, b"/bin/busybox", [b"ls"]) == _applier.SAME, "the cookie alone may come from maps that are new"
    w.story.exec(3, b"/bin/busybox", inode=7, args=[b"cat"])
    assert w.survey(3, b"/bin/busybox", [b"cat"], exec_boot_ns=lost.time) == _applier.CHANGED
    row = w.head(3)
    assert (w.args(row), row.images, w.has(row, "GAP")) == (b"cat\0", 3, True)
    assert w.args(w.read.follow(row.ancestor)) == b"sh\0"
    assert w.survey(3, b"/bin/busybox", [b"fake"], exec_boot_ns=lost.time) == _applier.SAME


@pytest.mark.parametrize(
    ("parents", "childs", "is_exec"),
    [
        ((b"", 5), (b"", 9), False),  # of both only the lengths are known
        ((b"", 5), (b"a\0", 2), True), ((b"a\0", 2), (b"", 5), True),
        ((b"a\0", 2), (b"a\0", 2), False), ((b"a\0", 2), (b"b\0", 2), True),
        ((b"a\0", 5), (b"b\0", 5), True),  # both are cut, behind different beginnings
    ],
)  # fmt: skip
@pytest.mark.parametrize("which", ["args", "envs"])
def test_a_child_with_other_strings_than_its_parent_has_executed(
    w: World, which: str, parents: tuple[bytes, int], childs: tuple[bytes, int], is_exec: bool
) -> None:
    """In a snapshot. Strings that were not captured are equal, whatever their lengths are."""
    for tgid, up, (text, full) in ((3, 1, parents), (4, 3, childs)):
        w.story.begin(tgid, inode=77).parent = w.story.processes[up]
        process = w.story.processes[tgid]
        header, body, task = np.zeros(1, dtypes.HEADER), np.zeros(1, dtypes.EXEC), task_of(process)
        header["tgid"], header["start_boot_ns"], header["time_boot_ns"] = tgid, process.start, w.story.tick()
        header["ppid"], header["parent_start_boot_ns"] = up, w.story.processes[up].start
        body["inode"], body["path_bytes"], body[f"{which}_bytes"] = 77, 6, len(text)
        body[f"{which}_full_bytes"] = full
        if len(text) < full:
            body["exec_flags"] = getattr(declared, f"EXEC_{which.upper()}_TRUNCATED")
        assert w.applier.insert_from_proc(header, task, body, b"/bin/a" + text) == _applier.ADDED
    assert w.has(w.head(4), "IS_EXEC") is is_exec


@pytest.mark.parametrize(("is_cut", "is_exec"), [(True, False), (False, True)])
def test_strings_of_which_nothing_is_left_are_unknown_and_empty_ones_are_not(
    w: World, is_cut: bool, is_exec: bool
) -> None:
    w.do(w.story.fork(1, 3))
    w.entry(3).set(args_entry=ArgsEntry([], is_cut), envs_entry=EnvsEntry([], is_cut))
    w.story.begin(4, inode=10).parent = w.story.processes[3]
    header, body, task = np.zeros(1, dtypes.HEADER), np.zeros(1, dtypes.EXEC), task_of(w.story.processes[4])
    header["tgid"], header["start_boot_ns"], header["time_boot_ns"] = 4, w.story.processes[4].start, w.story.tick()
    header["ppid"], header["parent_start_boot_ns"] = 3, w.story.processes[3].start
    body["inode"], body["path_bytes"] = 10, len(b"/sbin/init")
    body["exec_flags"] = declared.EXEC_ARGS_UNREADABLE | declared.EXEC_ENVS_UNREADABLE
    assert w.applier.insert_from_proc(header, task, body, b"/sbin/init") == _applier.ADDED
    assert w.has(w.head(4), "IS_EXEC") is is_exec


# -- executables -------------------------------------------------------------------------------------------------------


def snapshotted(w: World, tgid: int, *, stat_inode: int = 0) -> None:
    w.story.begin(tgid, inode=123).parent = w.story.processes[1]
    w.story.processes[tgid].cookie = 500 + tgid
    assert w.survey(tgid, b"/bin/agent", [b"agent"], stat_inode=stat_inode) == _applier.ADDED


@pytest.mark.parametrize("stat_inode", [0, 123, 9999], ids=["iterator", "proc", "overlay"])
def test_a_fork_after_a_lost_exec_is_marked_for_any_source_of_the_image(w: World, stat_inode: int) -> None:
    snapshotted(w, 4, stat_inode=stat_inode)
    w.do(w.story.fork(4, 5))
    row = w.head(5)
    assert (row.path, row.inode, w.has(row, "PARENT_MISSING")) == (b"/bin/agent", 123, False)
    w.applier.take_wanted()
    w.story.exec(4, b"/bin/lost", inode=456)
    w.do(w.story.fork(4, 6))
    row = w.head(6)
    assert w.has(row, "PARENT_MISSING") and w.has(row, "GAP") and row.inode != 456, "no new inode with the old path"
    assert w.read.counter("inode_error_fork_parent_missing") == 1
    assert {tgid for tgid, _ in w.applier.take_wanted()} == {4, 6}
    # The mark is inherited: the image of the fork's fork is unknown too.
    w.do(w.story.change(6, declared.KIND_COMM, comm=b"x"))
    w.do(w.story.fork(6, 7))
    assert w.has(w.head(7), "PARENT_MISSING") and w.head(7).inode != 456
    # A repair shows the program that both run.
    assert w.survey(6, b"/bin/lost", source=layout.SOURCE_PROCFS) == _applier.CHANGED
    assert w.survey(4, b"/bin/lost", source=layout.SOURCE_PROCFS) == _applier.CHANGED
    assert w.head(6).path == w.head(4).path == b"/bin/lost"
    w.do(w.story.fork(6, 8))
    assert (w.head(8).path, w.has(w.head(8), "PARENT_MISSING")) == (b"/bin/lost", False)


def test_a_fork_of_which_only_the_header_was_recorded_shows_no_lost_exec(w: World) -> None:
    """A header does not say which program forked. Only the child is read, and the next whole fork shows the loss."""
    snapshotted(w, 4)
    w.story.exec(4, b"/bin/lost", inode=456)
    w.do(head_only(w.story.fork(4, 5)))
    row = w.head(5)
    assert w.has(row, "HEAD_ONLY") and row.path is None, "the parent's path may be wrong"
    assert not row.known & layout.KNOWN_CREATOR
    assert [tgid for tgid, _ in w.applier.take_wanted()] == [5]
    assert w.survey(5, b"/bin/lost", source=layout.SOURCE_PROCFS) == _applier.COMPLETED
    assert (w.head(5).path, w.head(4).path) == (b"/bin/lost", b"/bin/agent")
    assert w.read.counter("inode_error_fork_parent_missing") == 0
    w.do(w.story.fork(4, 6))
    assert w.has(w.head(6), "PARENT_MISSING") and w.head(6).known & layout.KNOWN_CREATOR
    assert {tgid for tgid, _ in w.applier.take_wanted()} == {4, 6}
    assert w.read.counter("inode_error_fork_parent_missing") == 1


@pytest.mark.parametrize("stat_inode", [0, 123, 9999], ids=["iterator", "proc", "overlay"])
def test_an_exec_after_a_lost_exec_is_marked_for_any_source_of_the_image(w: World, stat_inode: int) -> None:
    snapshotted(w, 4, stat_inode=stat_inode)
    snapshotted(w, 5, stat_inode=stat_inode)
    w.do(w.story.exec(5, b"/bin/sh", inode=789))
    assert not w.has(w.head(5), "PARENT_MISSING"), "nothing was lost"
    w.story.exec(4, b"/bin/lost", inode=456)
    w.do(w.story.exec(4, b"/bin/sh", inode=789))
    row = w.head(4)
    assert row.path == b"/bin/sh" and w.has(row, "PARENT_MISSING") and w.has(row, "GAP")
    assert w.read.counter("inode_error_exec_parent_missing") == 1


def test_without_any_source_the_path_is_unknown(w: World) -> None:
    """stat() has another number for the parent's file, and no cookie is known: the child may run any program."""
    snapshotted(w, 4, stat_inode=9999)
    w.story.processes[4].cookie = 0
    w.do(w.story.fork(4, 5))
    row = w.head(5)
    assert (row.path, row.inode, w.args(row)) == (None, 123, None) and w.has(row, "GAP")
    assert not w.has(row, "PARENT_MISSING")
    assert (5, row.start_boot_ns) in w.applier.take_wanted()
    assert w.survey(5, b"/bin/agent", [b"agent"], stat_inode=9999) == _applier.COMPLETED
    assert (w.head(5).path, w.head(5).inode) == (b"/bin/agent", 123)


def test_a_fork_from_before_the_snapshot_has_not_the_image_that_it_showed(w: World) -> None:
    """fork, exec of the parent, snapshot; then the fork is applied: no event was lost."""
    w.story.begin(4, inode=123).parent = w.story.processes[1]
    fork, execed = w.story.fork(4, 5), w.story.exec(4, b"/bin/new", inode=456)
    w.survey(4, b"/bin/new")
    w.do(fork)
    row = w.head(5)
    assert (row.path, row.inode) == (None, 123) and not w.has(row, "PARENT_MISSING")
    assert (5, row.start_boot_ns) in w.applier.take_wanted()
    w.do(execed)
    assert w.head(4).path == b"/bin/new" and not w.has(w.head(4), "PARENT_MISSING")


def test_the_same_path_with_another_file_is_another_image(w: World) -> None:
    """A daemon was upgraded and then executed itself again."""
    w.do(w.story.fork(1, 3))
    w.do(w.story.exec(3, b"/bin/a", inode=5, args=[b"old"]))
    w.story.exec(3, b"/bin/a", inode=6, args=[b"new"])
    assert w.survey(3, b"/bin/a", [b"new"]) == _applier.CHANGED
    assert (w.head(3).images, w.head(3).inode, w.args(w.head(3))) == (3, 6, b"new\0")


def test_proc_of_another_numbering_is_no_other_image(w: World) -> None:
    w.do(w.story.fork(1, 3))
    w.do(w.story.exec(3, b"/bin/a", inode=5, args=[b"a"]))
    assert w.survey(3, b"/bin/a", [b"a"], stat_inode=9999) == _applier.SAME
    assert (w.head(3).images, w.head(3).inode) == (2, 5)


# -- the kernel's maps -------------------------------------------------------------------------------------------------


def mapped(w: World, event: Event) -> None:
    """Apply what the kernel's maps say of an event that is under way: the parent, or the file of the image."""
    header, task, body, path = event.header.copy(), np.zeros(1, dtypes.TASK), event.body, b""
    task["cookie"], task["exe_inode"] = event.task["cookie"], event.task["exe_inode"]
    assert body is not None
    if event.kind == declared.KIND_EXEC:
        path = event.strings[: int(body["path_bytes"][0])]
        body = np.zeros(1, dtypes.EXEC)
        body["inode"], body["prev_inode"], body["path_bytes"] = event.body["inode"], event.body["prev_inode"], len(path)
        body["exec_flags"] = declared.EXEC_ARGS_UNREADABLE | declared.EXEC_ENVS_UNREADABLE
    header["var_bytes"] = len(path)
    w.applier.apply_records(header, task, body, path, known=0, source=layout.SOURCE_MAP)


def test_a_fork_completes_what_the_maps_said_of_its_process(w: World) -> None:
    fork = w.story.fork(1, 3)
    mapped(w, fork)
    row = w.head(3)
    assert (row.ns_pid, row.known & layout.KNOWN_NS) == (0, 0)
    w.do(fork)
    row = w.head(3)
    assert (row.ns_pid, row.known & layout.KNOWN_NS, row.images) == (3, layout.KNOWN_NS, 1)
    assert (row.source, row.path) == (layout.SOURCE_MAP, b"/sbin/init")


def test_an_exec_completes_what_the_maps_said_of_its_image(w: World) -> None:
    w.do(w.story.fork(1, 3))
    exec_ = w.story.exec(3, b"/bin/a", inode=77, args=[b"a", b"-v"], envs=[b"A=1"])
    mapped(w, exec_)
    row = w.head(3)
    assert (row.path, w.args(row), row.images, row.source) == (b"/bin/a", None, 2, layout.SOURCE_MAP)
    w.do(exec_)
    row = w.head(3)
    assert (w.args(row), row.argc, row.envc, row.images) == (b"a\0-v\0", 2, 1, 2)
    assert row.known & layout.KNOWN_ARGS and row.known & layout.KNOWN_ENVS
