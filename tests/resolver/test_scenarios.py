"""The scenarios of specification 8.2 and 8.4, on the real resolver over real tables, with its invariants at each step.

8.2 is a table: each row is a story of steps and what is true after them. Where the specification recommends something
else than the reference does (section 9), the recommended is expected here; docs/parity.md lists these. 8.3 is in
test_cache_entry.py, D22 to D25 are in test_ebpfless.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from resolver_world import World, high, world
from scenario_steps import given, play, then, when
from scenario_words import (
    OWN,
    PARENT,
    ancestor,
    cache,
    chain,
    count,
    cut,
    delete,
    ebpf,
    ended,
    exec_,
    exit_,
    file,
    fork,
    from_procfs,
    has,
    head,
    ppid,
    procfs_ppids,
    put,
    real_proc,
    reparent_children,
    reparent_from_kernel,
    reparent_from_procfs,
    same,
    told,
)

from pipeline.resolver.cache_entry import ProcessCacheEntry
from pipeline.resolver.model import Event, PIDContext, Source
from pipeline.resolver.stats import DO_EXIT, KERNEL_PPID, SET_PROCESS_CONTEXT

#: Of most stories, by the names that the specification uses.
P, C, X = fork("P", 0, 3, 123), fork("C", 3, 4, 123), exec_("X", 3, 4, 456)

#: Of the lost execs.
AGENT, EXPECTED = fork("P", 0, 3, 123, base="agent"), fork("C", 3, 4, 123, expected=123)

INIT = fork("I", 0, 1, 100)

SCENARIOS = {
    "R1 Fork1st": ebpf(
        when(P), then(cache(3), head(3, "P")),
        when(C), then(cache(3, 4), head(4, "C"), chain("C", "P")),
        when(exit_("C")), then(cache(3)),
        when(exit_("P")), then(cache()),
    ),
    "R2 Fork2nd": ebpf(
        when(P, C, delete("P")), then(cache(4), chain("C", "P")),
        when(exit_("C")), then(cache()),
    ),
    "R3 ForkExec": ebpf(
        when(P, C, X), then(cache(3, 4), head(4, "X"), chain("X", "C", "P")),
        when(delete("P")), then(cache(4), chain("X", "C", "P")),
        when(exit_("C")), then(cache()),
    ),
    "R4 ResolveFromProcfs, sanitize-inode": ebpf(
        given(real_proc()),
        when(from_procfs("E", OWN, inode=222, depth=1)),
        then(
            told("E"), has("E", is_parent_missing=True),
            file("E", inode=222, pathname=os.path.realpath("/proc/self/exe")),
            count("inode_error", 1, "procfs_mismatch"),
        ),
    ),
    "R5 OrphanExec": ebpf(
        when(P, C, delete("P")), then(cache(4), chain("C", "P")),
        when(X), then(head(4, "X"), chain("X", "C", "P"), cache(4)),
        when(exit_("X")), then(cache()),
    ),
    "R6 ForkExecExec": ebpf(
        when(P, C, delete("P"), exec_("X1", 3, 4, 456), exec_("X2", 3, 4, 789)),
        then(cache(4), head(4, "X2"), chain("X2", "X1", "C", "P")),
        when(exit_("X2")), then(cache()),
    ),
    "R7 ForkReuse": ebpf(
        when(fork("P1", 0, 3, 123), fork("C1", 3, 4, 123), delete("P1"), exec_("X1", 3, 4, 456)),
        then(chain("X1", "C1", "P1")),
        when(fork("P2", 0, 3, 123)), then(cache(3, 4), head(3, "P2"), chain("X1", "C1", "P1")),
        when(fork("C2", 3, 5, 123)), then(cache(3, 4, 5), chain("C2", "P2")),
        when(exit_("X1")), then(cache(3, 5)),
        when(delete("P2")), then(cache(5), chain("C2", "P2")),
        when(exit_("C2")), then(cache()),
    ),
    "R8 ForkForkExec": ebpf(
        when(P, C, fork("G", 4, 5, 123)), then(chain("G", "C", "P")),
        when(exec_("CX", 3, 4, 456)), then(cache(3, 4, 5), chain("CX", "C", "P"), chain("G", "C", "P")),
        when(delete("P")), then(cache(4, 5)),
        when(delete("CX")), then(cache(5)),
        when(exit_("G")), then(cache()),
    ),
    "R9 ExecBomb": ebpf(
        when(P, C, delete("P"), exec_("X1", 3, 4, 456)), then(chain("X1", "C", "P"), cache(4)),
        when(exec_("X2", 3, 4, 456)), then(head(4, "X1"), cache(4), chain("X1", "C", "P"), same("X2", "X1")),
        when(exit_("X1")), then(cache()),
    ),
    "R10 ExecLostFork": ebpf(
        when(AGENT, EXPECTED), then(chain("C", "P"), file("C", basename="agent"), has("C", is_parent_missing=False)),
        when(fork("C1", 4, 5, 123, expected=456, base="sh")),
        then(
            file("C1", basename="agent"), has("C1", is_parent_missing=True),
            count("inode_error", 1, "fork_parent_missing"),
        ),
    ),
    "R11 ExecLostExec": ebpf(
        when(AGENT, EXPECTED), then(chain("C", "P"), file("C", basename="agent"), has("C", is_parent_missing=False)),
        when(exec_("X", 3, 4, 456, expected=456, base="sh")),
        then(file("X", basename=""), has("X", is_parent_missing=True), count("inode_error", 1, "exec_parent_missing")),
    ),
    "R12 IsExecExec runtime": ebpf(
        when(P, C, exec_("X2", 3, 4, 456), exec_("X3", 3, 4, 789), exec_("X4", 3, 4, 101112)),
        then(
            has("P", is_exec=False, is_exec_exec=False), has("C", is_exec=False, is_exec_exec=False),
            has("X2", is_exec=True, is_exec_exec=False), has("X3", is_exec=True, is_exec_exec=True),
            has("X4", is_exec=True, is_exec_exec=True),
        ),
    ),
    "R13 IsExecExec snapshot": ebpf(
        given(
            put("P", 0, 3, 123, source=Source.PROCFS_SNAPSHOT),
            put("C", 3, 4, 123, above="P", source=Source.PROCFS_SNAPSHOT),
        ),
        then(
            has("P", is_exec=False, is_exec_exec=False), has("C", is_exec=False, is_exec_exec=False), chain("C", "P"),
        ),
        when(exec_("X2", 3, 4, 456)), then(has("X2", is_exec=True, is_exec_exec=False)),
        when(exec_("X3", 3, 4, 769)),
        then(has("X3", is_exec=True, is_exec_exec=True), chain("X3", "X2", "C", "P")),
    ),
    "R14 missing ancestor, ppid known": ebpf(
        given(INIT, fork("P", 1, 3, 100), put("C", 3, 4, 100)), then(chain("C"), ppid("C", 3)),
        when(reparent_from_procfs("C")),
        then(chain("C", "P", "I"), count("reparent_success", 1, SET_PROCESS_CONTEXT)),
    ),
    "R15 missing ancestor, ppid 0, read from procfs": ebpf(
        given(real_proc(), INIT, fork("P", 1, PARENT, 100), put("C", 0, OWN, 100)), then(chain("C"), ppid("C", 0)),
        when(reparent_from_procfs("C")),
        then(chain("C", "P", "I"), ppid("C", PARENT), count("reparent_success", 1, SET_PROCESS_CONTEXT)),
    ),
    "R16 missing ancestor, procfs fails": ebpf(
        given(put("C", 0, 99998, 100)),
        when(reparent_from_procfs("C")), then(chain("C"), count("reparent_failed", 1, SET_PROCESS_CONTEXT)),
    ),
    # Entries have the number of forks to the last one as their name. The children of the parents at 1 and 3 are asked
    # for, so the parents of the processes at 0 and 2, and nothing further up.
    "R17 max fork depth": ebpf(
        given(
            INIT, fork("16", 1, 5000100, 100),
            *[fork(str(n), 5000116 - n - 1, 5000116 - n, 100) for n in range(15, -1, -1)],
            cut("14"), *[ended(str(n)) for n in range(1, 17, 2)],
        ),
        when(reparent_from_procfs("0")),
        then(
            chain(*[str(n) for n in range(15)]), chain("15", "16", "I"),
            count("reparent_success", 0, SET_PROCESS_CONTEXT), procfs_ppids("0", "2"),
        ),
    ),
    "R18 subreaper reparenting": ebpf(
        given(real_proc(), fork("G", 0, PARENT, 100), fork("F", PARENT, 99999, 100), fork("C", 99999, OWN, 100)),
        then(ppid("C", 99999), chain("C", "F", "G"), cache(PARENT, 99999, OWN)),
        when(reparent_children("F"), delete("F")), then(cache(PARENT, OWN), ppid("C", PARENT), chain("C", "G")),
        when(delete("C"), delete("G")), then(cache()),
    ),
    # The last design: after an exit that named no reaper and found nobody in /proc, a use of the child moves it.
    "R18b subreaper reparenting, the child is used": ebpf(
        given(real_proc(), fork("G", 0, PARENT, 100), fork("F", PARENT, 99999, 100), fork("C", 99999, OWN, 100)),
        when(delete("F")), then(cache(PARENT, OWN), chain("C", "F", "G")),
        when(reparent_from_procfs("C")), then(ancestor("C", "G"), ppid("C", PARENT)),
    ),
    "R19 kernel ppid, same": ebpf(
        given(INIT, fork("P", 1, 5000001, 100), fork("C", 5000001, 5000002, 100)),
        when(reparent_from_kernel("C", 5000001)),
        then(
            chain("C", "P", "I"), ppid("C", 5000001), count("reparent_success", 0, KERNEL_PPID),
            count("reparent_failed", 0, KERNEL_PPID),
        ),
    ),
    "R20 kernel ppid, other, cached": ebpf(
        given(
            INIT, fork("G", 1, 5000010, 100), fork("P", 5000010, 5000011, 100), fork("C", 5000011, 5000012, 100),
        ),
        when(reparent_from_kernel("C", 5000010)),
        then(ppid("C", 5000010), chain("C", "G", "I"), count("reparent_success", 1, KERNEL_PPID)),
    ),
    "R20b kernel ppid moves the fork root": ebpf(
        given(
            INIT, fork("G", 1, 5000010, 100), fork("P", 5000010, 5000011, 100), fork("C", 5000011, 5000012, 100),
            exec_("X", 5000011, 5000012, 7),
        ),
        when(reparent_from_kernel("X", 5000010)),
        then(ppid("X", 5000010), chain("X", "C", "G", "I"), count("reparent_success", 1, KERNEL_PPID)),
    ),
    "R21 kernel ppid, other, unknown": ebpf(
        given(INIT, fork("P", 1, 5000020, 100), fork("C", 5000020, 5000021, 100)),
        when(reparent_from_kernel("C", 99997)),
        then(
            ppid("C", 5000020), chain("C", "P", "I"), count("reparent_failed", 1, KERNEL_PPID),
            count("reparent_procfs_fail", 1),
        ),
    ),
    "R22 kernel ppid, zero": ebpf(
        given(INIT, fork("P", 1, 5000020, 100), fork("C", 5000020, 5000021, 100)),
        when(reparent_from_kernel("C", 0)),
        then(
            chain("C", "P", "I"), ppid("C", 5000020), count("reparent_success", 0, KERNEL_PPID),
            count("reparent_failed", 0, KERNEL_PPID),
        ),
    ),
    "R23 kernel ppid, pid 1": ebpf(
        given(INIT),
        when(reparent_from_kernel("I", 999)),
        then(chain("I"), count("reparent_success", 0, KERNEL_PPID), count("reparent_failed", 0, KERNEL_PPID)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str) -> None:
    play(SCENARIOS[name])


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

    for parent, pid in ((2, 7), (1, 2), (1, 0)):
        context = PIDContext(pid=pid, tid=pid, ppid=parent)
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
