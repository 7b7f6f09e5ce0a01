"""The scenarios of specification 8.2 and 8.4, on the real resolver over real tables, with its invariants at each step.

8.2 is a table: each row is a story of steps and what is true after them. Where the specification recommends something
else than the reference does (section 9), the recommended is expected here; docs/parity.md lists these. 8.3 is in
test_cache_entry.py, D22 to D25 are in test_ebpfless.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from resolver_world import World, high, world

from pipeline.resolver.cache_entry import ProcessCacheEntry
from pipeline.resolver.model import Event, FileEvent, PIDContext, Source
from pipeline.resolver.stats import DO_EXIT, KERNEL_PPID, SET_PROCESS_CONTEXT

Step = tuple[Any, ...]


def fork(name: str, ppid: int, pid: int, inode: int, expected: int = 0, base: str = "") -> Step:
    return ("fork", name, ppid, pid, inode, expected, base)


def exec_(name: str, ppid: int, pid: int, inode: int, expected: int = 0, base: str = "") -> Step:
    return ("exec", name, ppid, pid, inode, expected, base)


def exit_(name: str) -> Step:
    return ("exit", name)


def delete(name: str) -> Step:
    return ("delete", name)


def cache(*pids: int) -> Step:
    return ("cache", {high(pid) for pid in pids})


def head(pid: int, name: str) -> Step:
    return ("head", pid, name)


def chain(*names: str) -> Step:
    return ("chain", names)


def flags(name: str, is_exec: bool, is_exec_exec: bool) -> Step:
    return ("flags", name, (is_exec, is_exec_exec))


def missing(name: str, is_missing: bool) -> Step:
    return ("missing", name, is_missing)


def base(name: str, text: str) -> Step:
    return ("base", name, text)


P, C, X = fork("P", 0, 3, 123), fork("C", 3, 4, 123), exec_("X", 3, 4, 456)

SCENARIOS: dict[str, list[Step]] = {
    "R1 Fork1st": [
        P, cache(3), head(3, "P"), C, cache(3, 4), head(4, "C"), chain("C", "P"),
        exit_("C"), cache(3), exit_("P"), cache(),
    ],
    "R2 Fork2nd": [P, C, delete("P"), cache(4), chain("C", "P"), exit_("C"), cache()],
    "R3 ForkExec": [
        P, C, X, cache(3, 4), head(4, "X"), chain("X", "C", "P"), delete("P"), cache(4), chain("X", "C", "P"),
        exit_("C"), cache(),
    ],
    "R5 OrphanExec": [
        P, C, delete("P"), cache(4), chain("C", "P"), X, head(4, "X"), chain("X", "C", "P"), cache(4), exit_("X"),
        cache(),
    ],
    "R6 ForkExecExec": [
        P, C, delete("P"), exec_("X1", 3, 4, 456), exec_("X2", 3, 4, 789), cache(4), head(4, "X2"),
        chain("X2", "X1", "C", "P"), exit_("X2"), cache(),
    ],
    "R7 ForkReuse": [
        fork("P1", 0, 3, 123), fork("C1", 3, 4, 123), delete("P1"), exec_("X1", 3, 4, 456), chain("X1", "C1", "P1"),
        fork("P2", 0, 3, 123), cache(3, 4), head(3, "P2"), chain("X1", "C1", "P1"),
        fork("C2", 3, 5, 123), cache(3, 4, 5), chain("C2", "P2"),
        exit_("X1"), cache(3, 5), delete("P2"), cache(5), chain("C2", "P2"), exit_("C2"), cache(),
    ],
    "R8 ForkForkExec": [
        P, C, fork("G", 4, 5, 123), chain("G", "C", "P"), exec_("CX", 3, 4, 456), cache(3, 4, 5),
        chain("CX", "C", "P"), chain("G", "C", "P"), delete("P"), cache(4, 5), delete("CX"), cache(5), exit_("G"),
        cache(),
    ],
    "R9 ExecBomb": [
        P, C, delete("P"), exec_("X1", 3, 4, 456), chain("X1", "C", "P"), cache(4),
        exec_("X2", 3, 4, 456), head(4, "X1"), cache(4), chain("X1", "C", "P"), ("same", "X2", "X1"),
        exit_("X1"), cache(),
    ],
    "R10 ExecLostFork": [
        fork("P", 0, 3, 123, base="agent"), fork("C", 3, 4, 123, 123), chain("C", "P"), base("C", "agent"),
        missing("C", False), fork("C1", 4, 5, 123, 456, "sh"), base("C1", "agent"), missing("C1", True),
        ("count", "inode_error", "fork_parent_missing", 1),
    ],
    "R11 ExecLostExec": [
        fork("P", 0, 3, 123, base="agent"), fork("C", 3, 4, 123, 123), chain("C", "P"), base("C", "agent"),
        missing("C", False), exec_("X", 3, 4, 456, 456, "sh"), base("X", ""), missing("X", True),
        ("count", "inode_error", "exec_parent_missing", 1),
    ],
    "R12 IsExecExec runtime": [
        P, C, exec_("X2", 3, 4, 456), exec_("X3", 3, 4, 789), exec_("X4", 3, 4, 101112),
        flags("P", False, False), flags("C", False, False), flags("X2", True, False), flags("X3", True, True),
        flags("X4", True, True),
    ],
    "R13 IsExecExec snapshot": [
        ("put", "P", 0, 3, 123, None), ("put", "C", 3, 4, 123, "P"), flags("P", False, False),
        flags("C", False, False), chain("C", "P"), exec_("X2", 3, 4, 456), flags("X2", True, False),
        exec_("X3", 3, 4, 769), flags("X3", True, True), chain("X3", "X2", "C", "P"),
    ],
    "R14 missing ancestor, ppid known": [
        fork("I", 0, 1, 100), fork("P", 1, 3, 100), ("put", "C", 3, 4, 100, None), chain("C"), ("ppid", "C", 3),
        ("procfs", "C"), chain("C", "P", "I"), ("count", "reparent_success", SET_PROCESS_CONTEXT, 1),
    ],
    "R16 missing ancestor, procfs fails": [
        ("put", "C", 0, 99998, 100, None), ("procfs", "C"), chain("C"),
        ("count", "reparent_failed", SET_PROCESS_CONTEXT, 1),
    ],
    "R19 kernel ppid, same": [
        fork("I", 0, 1, 100), fork("P", 1, 5000001, 100), fork("C", 5000001, 5000002, 100),
        ("kernel", "C", 5000001), chain("C", "P", "I"), ("count", "reparent_success", KERNEL_PPID, 0),
        ("count", "reparent_failed", KERNEL_PPID, 0),
    ],
    "R20 kernel ppid, other, cached": [
        fork("I", 0, 1, 100), fork("G", 1, 5000010, 100), fork("P", 5000010, 5000011, 100),
        fork("C", 5000011, 5000012, 100), ("kernel", "C", 5000010), ("ppid", "C", 5000010), chain("C", "G", "I"),
        ("count", "reparent_success", KERNEL_PPID, 1),
    ],
    "R20b kernel ppid moves the fork root": [
        fork("I", 0, 1, 100), fork("G", 1, 5000010, 100), fork("P", 5000010, 5000011, 100),
        fork("C", 5000011, 5000012, 100), exec_("X", 5000011, 5000012, 7), ("kernel", "X", 5000010),
        ("ppid", "X", 5000010), chain("X", "C", "G", "I"), ("count", "reparent_success", KERNEL_PPID, 1),
    ],
    "R21 kernel ppid, other, unknown": [
        fork("I", 0, 1, 100), fork("P", 1, 5000020, 100), fork("C", 5000020, 5000021, 100), ("kernel", "C", 99997),
        ("ppid", "C", 5000020), chain("C", "P", "I"), ("count", "reparent_failed", KERNEL_PPID, 1),
        ("count", "reparent_procfs_fail", "", 1),
    ],
    "R22 kernel ppid, zero": [
        fork("I", 0, 1, 100), fork("P", 1, 5000020, 100), fork("C", 5000020, 5000021, 100), ("kernel", "C", 0),
        chain("C", "P", "I"), ("count", "reparent_success", KERNEL_PPID, 0),
        ("count", "reparent_failed", KERNEL_PPID, 0),
    ],
    "R23 kernel ppid, pid 1": [
        fork("I", 0, 1, 100), ("kernel", "I", 999), chain("I"), ("count", "reparent_success", KERNEL_PPID, 0),
        ("count", "reparent_failed", KERNEL_PPID, 0),
    ],
}  # fmt: skip


def run(w: World, step: Step) -> None:
    kind, *rest = step
    if kind in ("fork", "exec"):
        name, ppid, pid, inode, expected, basename = rest
        event = getattr(w, kind)(ppid, pid, inode, expected, basename)
        w.events[name] = event
        assert event.entry is not None
        w.named[name] = event.entry
    elif kind == "put":
        name, ppid, pid, inode, parent = rest
        entry = ProcessCacheEntry(
            pid=high(pid), tid=high(pid), ppid=high(ppid), file_event=FileEvent(inode=inode, mount_id=1)
        )
        if parent is not None:
            entry.set_fork_parent(w.named[parent])
        source = Source.PROCFS_SNAPSHOT if "R13" in w.name else Source.EVENT
        w.named[name] = w.put(entry, source)
    elif kind == "exit":
        w.exit(w.events[rest[0]])
    elif kind == "delete":
        w.delete(w.named[rest[0]].pid)
    elif kind == "procfs":
        w.resolver.try_reparent_from_procfs(w.named[rest[0]], SET_PROCESS_CONTEXT, None)
    elif kind == "kernel":
        w.resolver.try_reparent_from_kernel_ppid(w.named[rest[0]], high(rest[1]), None)
    elif kind == "cache":
        assert w.cache == rest[0]
    elif kind == "head":
        assert w.resolver.get(high(rest[0])) is w.named[rest[1]]
    elif kind == "same":
        assert w.named[rest[0]] is w.named[rest[1]]
    elif kind == "chain":
        assert list(w.named[rest[0][0]].chain()) == [w.named[name] for name in rest[0]]
    elif kind == "flags":
        entry = w.named[rest[0]]
        assert (entry.is_exec, entry.is_exec_exec) == rest[1]
    elif kind == "missing":
        assert w.named[rest[0]].is_parent_missing is rest[1]
    elif kind == "base":
        assert w.named[rest[0]].file_event.basename == rest[1]
    elif kind == "ppid":
        assert w.named[rest[0]].ppid == high(rest[1])
    elif kind == "count":
        assert w.count(rest[0], rest[1]) == rest[2]
    else:
        raise AssertionError(kind)


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str) -> None:
    with world() as w:
        w.name = name  # type: ignore[attr-defined]
        for step in SCENARIOS[name]:
            run(w, step)
            w.check()


@pytest.fixture
def w() -> Iterator[World]:
    with world(pid_capacity=5_100_000) as made:
        yield made


@pytest.fixture
def real() -> Iterator[World]:
    """/proc is the real one."""
    with world(pid_capacity=5_100_000, real_proc=True) as made:
        yield made


def see(w: World, event: Event) -> ProcessCacheEntry:
    w.check()
    assert event.entry is not None
    return event.entry


# -- 8.2, those that read /proc or need more than a row of the table ---------------------------------------------------


def test_r4_resolve_from_procfs_sanitizes_the_inode(real: World) -> None:
    told: list[ProcessCacheEntry] = []
    with real.resolver.lock:
        entry = real.resolver._from_procfs(os.getpid(), 222, 1, lambda entry, error: told.append(entry))
    assert entry is not None and told == [entry]
    assert entry.file_event.inode == 222 and entry.is_parent_missing
    assert entry.file_event.pathname == os.path.realpath("/proc/self/exe")
    assert real.count("inode_error", "procfs_mismatch") == 1


def test_r15_a_missing_ppid_is_read_from_procfs(real: World) -> None:
    real.fork(0, 1, 100)
    parent = see(real, real.fork(1, os.getppid(), 100))
    child = real.put(ProcessCacheEntry(pid=os.getpid(), tid=os.getpid(), file_event=FileEvent(inode=100)))
    real.resolver.try_reparent_from_procfs(child, SET_PROCESS_CONTEXT, None)
    real.check()
    assert child.ancestor is parent and child.ppid == os.getppid()
    assert real.count("reparent_success", SET_PROCESS_CONTEXT) == 1


def test_r17_four_parents_are_examined_and_no_more(w: World) -> None:
    w.fork(0, 1, 100)
    entries = []
    for number in range(17):
        parent = entries[-1].pid if entries else 1
        entries.append(see(w, w.fork(parent, 5_000_100 + number, 100)))
    last = entries[-1]
    cut = entries[-1 - 14]
    cut.ancestor = None
    for distance in range(1, 17, 2):
        entries[-1 - distance].exit(w.clock() + w.offset)
    asked: list[int] = []
    read = w.proc.read_ppid
    w.proc.read_ppid = lambda pid: asked.append(pid) or read(pid)  # type: ignore[method-assign, func-returns-value]
    w.resolver.try_reparent_from_procfs(last, SET_PROCESS_CONTEXT, None)
    assert cut.ancestor is None and w.count("reparent_success", SET_PROCESS_CONTEXT) == 0
    # The children of the parents at distance 1 and 3 were asked for, nothing further up.
    assert set(asked) == {last.pid, entries[-3].pid}


def test_r18_a_subreaper_takes_the_children(real: World) -> None:
    grand = see(real, real.fork(0, os.getppid(), 100))
    father = see(real, real.fork(os.getppid(), 99999, 100))
    child = see(real, real.fork(99999, os.getpid(), 100))
    assert child.ppid == high(99999) and child.ancestor is father and father.ancestor is grand
    assert len(real.cache) == 3
    with real.resolver.lock:
        real.resolver._reparent_children(father, DO_EXIT, None)
    real.check()
    real.delete(99999)
    real.check()
    assert len(real.cache) == 2 and child.ppid == os.getppid() and child.ancestor is grand
    real.resolver.delete_entry(child.pid, 1)
    real.resolver.delete_entry(grand.pid, 1)
    assert real.cache == set()


def test_r18_under_the_last_design_using_the_child_moves_it(real: World) -> None:
    """After the parent's exit, which named no reaper and found nobody in /proc, a use of the child moves it."""
    grand = see(real, real.fork(0, os.getppid(), 100))
    father = see(real, real.fork(os.getppid(), 99999, 100))
    child = see(real, real.fork(99999, os.getpid(), 100))
    real.delete(99999)
    assert child.ancestor is father
    real.resolver.try_reparent_from_procfs(child, SET_PROCESS_CONTEXT, None)
    real.check()
    assert child.ancestor is grand and child.ppid == os.getppid()


# -- 8.4 ---------------------------------------------------------------------------------------------------------------


def test_d1_snapshotting_resolves_from_the_cache_only(w: World) -> None:
    before = w.resolver.stats.all()
    assert w.resolver.resolve(high(9), high(9), 0, True, None) is None
    assert w.resolver.stats.all() == before and w.proc.reads == []


def test_d2_procfs_is_asked_once_in_thirty_seconds(w: World) -> None:
    w.resolver.set_state(1)
    for _ in range(2):
        assert w.resolver.resolve(high(9), high(9), 0, True, None) is None
    assert (w.count("miss"), w.count("limiter_drop"), w.proc.reads) == (2, 1, [high(9)])
    w.clock.now += 31_000_000_000
    w.resolver.resolve(high(9), high(9), 0, True, None)
    assert (w.count("miss"), w.count("limiter_drop"), len(w.proc.reads)) == (3, 1, 2)


def test_d3_without_procfs_the_limiter_is_left_alone(w: World) -> None:
    w.resolver.set_state(1)
    assert w.resolver.resolve(high(9), high(9), 0, False, None) is None
    assert w.count("miss") == 1 and w.count("limiter_drop") == 0 and w.proc.reads == []
    assert w.resolver.resolve(high(9), high(9), 0, True, None) is None
    assert w.proc.reads == [high(9)]


def test_d4_the_inode_must_be_the_expected_one(w: World) -> None:
    entry = see(w, w.fork(0, 3, 10))
    resolver = w.resolver
    assert resolver.resolve_from_cache(high(3), 78, 11) is None and entry.tid == high(3)
    assert resolver.resolve_from_cache(high(3), 77, 0) is entry and entry.tid == 77
    assert resolver.resolve_from_cache(high(3), 79, 10) is entry and entry.tid == 79
    w.check()


def test_d11_kernel_threads_and_pid_0_are_refused(w: World) -> None:
    from pipeline.resolver.model import ResolverError

    for ppid, pid in ((2, 7), (1, 2), (1, 0)):
        context = PIDContext(pid=pid, tid=pid, ppid=ppid)
        event = Event(pid_context=context, entry=w.resolver.new_process_cache_entry(context))
        with pytest.raises(ResolverError):
            w.resolver.add_fork_entry(event, w.dummy_cgroup(), None)
        assert w.cache == set()


def test_d12_an_exec_whose_path_is_unknown_is_reported_and_changes_nothing(w: World) -> None:
    from pipeline.resolver.model import PathResolutionError

    fork_ = see(w, w.fork(0, 3, 10))
    w.paths.fails = True
    event = w.event(0, 3, 11)
    with pytest.raises(PathResolutionError) as caught:
        w.resolver.add_exec_entry(event, w.dummy_cgroup())
    assert event.error is caught.value and event.exec_entry is event.entry
    assert event.entry is not None and "no path today" in event.entry.file_event.path_resolution_error
    assert w.resolver.get(high(3)) is fork_ and w.count("path_error") == 1
    # An inode of 0 names no file.
    w.paths.fails = False
    with pytest.raises(PathResolutionError):
        w.resolver.add_exec_entry(w.event(0, 3, 0), w.dummy_cgroup())
    assert w.count("path_error") == 2


def aged(w: World, pid: int, *, fork_ago: float, exec_ago: float) -> ProcessCacheEntry:
    w.fork(0, pid, 10, fork_time=w.clock.ago(fork_ago))
    return see(w, w.exec(0, pid, 11, exec_time=w.clock.ago(exec_ago)))


def test_d13_an_old_process_that_procfs_does_not_list_is_flushed(w: World) -> None:
    entry = aged(w, 3, fork_ago=600, exec_ago=30)
    w.resolver.flush_tick()
    w.resolver.dequeue_exited()
    w.check()
    assert w.cache == set() and w.count("flushed") == 1
    assert entry.exit_time is not None


def test_children_of_a_flushed_process_go_to_whom_procfs_names(w: World) -> None:
    init = see(w, w.fork(0, 1, 10, fork_time=w.clock.ago(900)))
    gone = aged(w, 3, fork_ago=600, exec_ago=300)
    moved, stays, ended = (see(w, w.fork(3, pid, 11, fork_time=w.clock.ago(200))) for pid in (4, 5, 6))
    w.proc.listed = [high(1), high(4), high(5)]
    w.proc.ppids = {high(4): high(1), high(5): high(3)}  # the kernel has not relinked the second one yet
    w.resolver.flush_tick()
    w.resolver.dequeue_exited()
    w.check()
    assert gone.exit_time is not None and ended.exit_time is not None and w.count("flushed") == 2
    assert (moved.ppid, moved.ancestor) == (high(1), init)
    assert (stays.ppid, stays.ancestor) == (high(3), gone)
    assert w.count("reparent_success", "dequeue_exited") == w.count("reparent_failed", "dequeue_exited") == 1


def test_d14_a_young_one_is_kept_and_queued_again(w: World) -> None:
    entry = aged(w, 3, fork_ago=31, exec_ago=30)
    assert w.resolver.flush_tick() == 1
    w.resolver.dequeue_exited()
    assert w.resolver.get(high(3)) is entry and w.count("flushed") == 0
    w.resolver.dequeue_exited()  # the queue is empty
    w.clock.now += 60_000_000_000
    w.resolver.dequeue_exited()
    assert w.count("flushed") == 0
    assert w.resolver.flush_tick() == 1
    w.resolver.dequeue_exited()
    assert w.count("flushed") == 1 and w.cache == set()


def test_a_queued_pid_that_lives_again_is_not_flushed(w: World) -> None:
    """Specification 9.3.14: the pid was reused, or the listing raced with the fork."""
    aged(w, 3, fork_ago=600, exec_ago=300)
    w.resolver.flush_tick()
    young = see(w, w.fork(0, 3, 10))
    w.resolver.dequeue_exited()
    assert w.resolver.get(high(3)) is young and w.count("flushed") == 0
    w.clock.now += 90_000_000_000
    w.resolver.flush_tick()
    w.proc.add(high(3), 0, start_boot_ns=young.start_boot_ns)
    w.resolver.dequeue_exited()
    assert w.resolver.get(high(3)) is young and w.count("flushed") == 0


def test_d18_a_reused_pid_ends_its_former_owner(w: World) -> None:
    a, b = see(w, w.fork(0, 3, 10)), see(w, w.fork(0, 4, 10))
    old = see(w, w.fork(3, 5, 10))
    assert a.children == [old]
    new = see(w, w.fork(4, 5, 10))
    assert old.exit_time == new.fork_time
    assert a.children == [] and b.children == [new]
    assert w.resolver.get(high(5)) is new and new.ancestor is b and old.ancestor is a


def test_d19_an_executable_that_may_not_be_looked_at(w: World) -> None:
    w.proc.add(1, 0, exe=b"/sbin/init", exe_inode=7)
    w.proc.add(high(8), 1, exe=b"/secret/tool", exe_inode=0, mount_id=0)
    entry = w.resolver.resolve_from_procfs(high(8), 0, None)
    w.check()
    assert entry is not None and entry.file_event.pathname == "/secret/tool"
    assert (entry.file_event.inode, entry.file_event.mode, entry.file_event.mtime) == (0, 0, 0)
    assert entry.has_valid_lineage() == (True, None)


def test_d20_the_interpreter_of_a_script(w: World) -> None:
    w.proc.add(
        high(8), 0, exe=b"/usr/bin/python3.13", exe_inode=77, comm=b"x.py", argv=b"/usr/bin/python3\0./x.py\0",
    )  # fmt: skip
    entry = w.resolver.resolve_from_procfs(high(8), 0, None)
    assert entry is not None and entry.has_interpreter
    assert entry.interpreter.inode == entry.file_event.inode == 77
    w.proc.add(high(9), 0, exe=b"/usr/bin/x.py", exe_inode=78, comm=b"x.py", argv=b"/usr/bin/x.py\0a\0")
    other = w.resolver.resolve_from_procfs(high(9), 0, None)
    assert other is not None and not other.has_interpreter and other.interpreter.is_pathname_resolved


def test_d26_the_exit_of_an_unknown_process(w: World) -> None:
    event = w.event(0, 9, 0)
    assert not w.resolver.apply_exit_entry(event, None)
    assert event.entry is None and w.cache == set()


def test_d27_children_of_an_exited_process(w: World) -> None:
    init = see(w, w.fork(0, 1, 100))
    event = w.fork(1, 3, 100)
    parent = see(w, event)
    alive, gone = see(w, w.fork(3, 4, 100)), see(w, w.fork(3, 5, 100))
    w.proc.ppids[alive.pid] = 1
    event.timestamp_ns = w.clock()
    assert w.resolver.apply_exit_entry(event, None)
    w.check()
    assert alive.ancestor is init and alive.ppid == 1 and gone.ancestor is parent
    assert w.count("reparent_success", DO_EXIT) == 1 and w.count("reparent_failed", DO_EXIT) == 0
    # It stays cached until it is deleted, so that its exit event can be looked at.
    assert w.resolver.get(high(3)) is parent and event.exit_entry is parent
    assert parent.exit_time == event.timestamp_ns + w.offset
    w.resolver.delete_entry(high(3), event.timestamp_ns + w.offset)
    w.check()
    assert w.resolver.get(high(3)) is None and gone.ancestor is parent
