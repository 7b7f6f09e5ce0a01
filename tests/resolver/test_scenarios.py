"""The scenarios of specification 8, on the real resolvers over real tables, with the invariants after each step.

Each row is a story of steps and what is true after them, in words of scenario_words.py and keyed_world.py. Where the
specification recommends something else than the reference does (section 9), the recommended is expected here;
docs/parity.md lists these. A letter after a number is another story to the same point.
"""

from __future__ import annotations

import os
import re

import keyed_world as keyed
import pytest
from keyed_world import ebpfless
from resolver_world import high
from scenario_steps import Checked, Part, Scenario, given, happens, play, then, when
from scenario_words import (
    OWN,
    PARENT,
    Stars,
    ancestor,
    apply_exit,
    apply_exit_of_unknown,
    args,
    args_chunk,
    args_of_ids,
    argv_scrubbed,
    cache,
    chain,
    change,
    children,
    count,
    credentials,
    cut,
    delete,
    delete_at_exit,
    dequeue_exited,
    ebpf,
    ended,
    ends_at_fork_of,
    ends_with_its_event,
    entry_exec,
    entry_fork,
    envp,
    envs,
    equal,
    error,
    exec_,
    exit_,
    fetch_aws,
    file,
    flush_tick,
    fork,
    fork_of_exactly,
    free,
    from_cache,
    from_maps,
    from_procfs,
    from_procfs_to,
    has,
    has_ended,
    head,
    imds,
    in_procfs,
    in_procfs_below,
    inherits,
    interpreter,
    kernel_maps,
    lineage,
    no_entry,
    path_error,
    paths_fail,
    ppid,
    procfs_ppids,
    procfs_reads,
    put,
    real_proc,
    refused,
    reparent_children,
    reparent_from_kernel,
    reparent_from_procfs,
    resolve,
    resolver,
    result,
    same,
    scrub,
    set_args,
    set_exec_parent,
    set_fork_parent,
    set_symlink,
    shares_scrubbed_argv,
    snapshotted,
    stored_nowhere,
    take_args,
    time_passes,
    told,
    uncounted,
    update,
)

from pipeline.errors import InvariantError
from pipeline.resolver.entry_rows import row_of
from pipeline.resolver.model import (
    CGroupContext,
    ContainerContext,
    Credentials,
    FileEvent,
    InvalidKeyPathError,
    PathKey,
    PathResolutionError,
    ProcessIncompleteLineageError,
    ProcessMissingParentNodeError,
    ProcessWrongParentNodeError,
    ResolverError,
    Source,
    SSHSessionContext,
    UserSessionContext,
)
from pipeline.resolver.opts import ResolverOpts
from pipeline.resolver.stats import DO_EXIT, KERNEL_PPID, SET_PROCESS_CONTEXT

#: Of most stories, by the names that the specification uses.
P, C, X = fork("P", 0, 3, 123), fork("C", 3, 4, 123), exec_("X", 3, 4, 456)

#: Of the lost execs.
AGENT, EXPECTED = fork("P", 0, 3, 123, base="agent"), fork("C", 3, 4, 123, expected=123)

INIT = fork("I", 0, 1, 100)

#: Environments are resolved, and A is shown with its value.
SHOWING_A = ResolverOpts().with_envs_resolution_enabled().with_envs_value(["A"])

CREDENTIALS = Credentials(uid=1, gid=1, auid=5, cap_effective=3)

#: Specification 8.2: those of the reference's tests.
OF_THE_RESOLVER = {
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
        given(real_proc(), kernel_maps()),
        when(from_procfs_to("E", OWN, inode=222, depth=1)),
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

#: What descendants have from an ancestor.
HERITAGE = {
    "cgroup": CGroupContext("/docker/abc", PathKey(10, 2)), "container": ContainerContext("abc"), "mnt_ns": 1234,
    "net_ns": 5678, "user_session": UserSessionContext(ssh=SSHSessionContext(9876, "alice")),
    "credentials": Credentials(auid=1234),
}  # fmt: skip

#: E5 of two entries without anything.
EQUALITY = [
    then(equal("A", "B")),
    when(change("A", file_event=FileEvent(inode=33)), change("B", file_event=FileEvent(inode=44))),
    then(equal("A", "B", False)),
    when(change("B", file_event=FileEvent(inode=33, pathname="/another/name"))), then(equal("A", "B")),
    when(change("B", args=["aaa"])), then(equal("A", "B", False)),
    when(change("A", cut_args=["aaa"])), then(equal("A", "B")),
    when(change("B", envs=["A=1"])), then(equal("A", "B", False)),
    when(change("A", envs=["A=1"])), then(equal("A", "B")),
    when(change("B", credentials=Credentials(cap_effective=1))), then(equal("A", "B", False)),
    when(change("A", credentials=Credentials(cap_effective=1, auid=7, user="x"))), then(equal("A", "B")),
]  # fmt: skip

#: Specification 8.3: those of the reference's tests of entries. Of entries in no table, and of rows.
OF_ENTRIES = {
    "E1 lineage valid": ebpf(
        when(free("A", 1), free("B", 2, above="A"), free("C", 3, above="B")), then(lineage("C", None)),
    ),
    "E1b lineage valid, rows": ebpf(
        when(put("A", 0, 1), put("B", 1, 2, above="A"), put("C", 2, 3, above="B")), then(lineage("C", None)),
    ),
    "E2 pid 1 missing": ebpf(
        when(free("B", 2), free("C", 3, above="B")), then(lineage("C", ProcessIncompleteLineageError)),
    ),
    "E2b pid 1 missing, rows": ebpf(
        when(put("B", 0, 2), put("C", 2, 3, above="B")), then(lineage("C", ProcessIncompleteLineageError)),
    ),
    # Of rows an exec of pid 1, which is valid.
    "E3 two pid 1": ebpf(
        when(free("A", 1), free("B", 1, above="A"), free("C", 3, above="B")),
        then(lineage("C", ProcessWrongParentNodeError)),
    ),
    "E4 parent missing": ebpf(
        when(free("A", 1), free("B", 2, above="A", is_parent_missing=True), free("C", 3, above="B")),
        then(lineage("C", ProcessMissingParentNodeError)),
    ),
    "E4b parent missing, rows": ebpf(
        when(put("A", 0, 1), put("B", 1, 2, above="A", is_parent_missing=True), put("C", 2, 3, above="B")),
        then(lineage("C", ProcessMissingParentNodeError)),
    ),
    "E5 Equals": ebpf(given(free("A", 2), free("B", 3)), *EQUALITY),
    "E5b Equals, rows": ebpf(given(put("A", 0, 2), put("B", 0, 3)), *EQUALITY),
    "E6 inheritance by Fork": ebpf(
        given(free("P", 1, **HERITAGE), free("C", 2)),
        when(entry_fork("P", "C")), then(ancestor("C", "P"), inherits("C", "P")),
    ),
    "E6b inheritance by Fork, rows": ebpf(
        given(put("P", 0, 1, **HERITAGE), put("C", 0, 2)),
        when(entry_fork("P", "C")), then(ancestor("C", "P"), inherits("C", "P"), children("P", "C")),
    ),
    "E7 inheritance by Exec": ebpf(
        given(free("P", 1, **HERITAGE), free("C", 2)),
        when(entry_exec("P", "C")), then(ancestor("C", "P"), inherits("C", "P")),
    ),
    "E7b inheritance by Exec, rows": ebpf(
        given(put("P", 0, 1, **HERITAGE), put("C", 0, 2)),
        when(entry_exec("P", "C")), then(ancestor("C", "P"), inherits("C", "P"), children("P", "C")),
    ),
    "E8 inheritance by SetForkParent": ebpf(
        given(free("P", 1, **HERITAGE), free("C", 2)),
        when(set_fork_parent("C", "P")), then(ancestor("C", "P"), inherits("C", "P")),
    ),
    "E8b inheritance by SetForkParent, rows": ebpf(
        given(put("P", 0, 1, **HERITAGE), put("C", 0, 2)),
        when(set_fork_parent("C", "P")), then(ancestor("C", "P"), inherits("C", "P"), children("P", "C")),
    ),
    # A container is known by its cgroup: in another cgroup it would be a guess. That root logged in is known.
    "E8c inheritance fills gaps only": ebpf(
        given(
            free("P", 1, **HERITAGE),
            free("C", 2, cgroup=CGroupContext("/other", PathKey(11)), mnt_ns=9, credentials=Credentials(auid=0)),
        ),
        when(set_fork_parent("C", "P")),
        then(
            has("C", cgroup=CGroupContext("/other", PathKey(11)), container=ContainerContext(), mnt_ns=9, net_ns=5678),
            credentials("C", auid=0),
        ),
    ),
    "E9 inheritance by SetExecParent": ebpf(
        given(free("P", 1, **HERITAGE), free("C", 2)),
        when(set_exec_parent("C", "P")), then(ancestor("C", "P"), inherits("C", "P")),
    ),
    "E9b inheritance by SetExecParent, rows": ebpf(
        given(put("P", 0, 1, **HERITAGE), put("C", 0, 2)),
        when(set_exec_parent("C", "P")), then(ancestor("C", "P"), inherits("C", "P"), children("P", "C")),
    ),
}  # fmt: skip

#: Specification 8.4: those that follow from its sections 3 to 5.
DERIVED = {
    "D1 only the cache is asked while snapshotting": ebpf(
        given(in_procfs(9, 0), kernel_maps((9, 99, 10))),
        when(resolve("E", 9)), then(result("E", None), uncounted(), procfs_reads(), cache()),
    ),
    "D2 procfs is asked once in 30 seconds": ebpf(
        given(snapshotted()),
        when(resolve("E", 9)), then(result("E", None), count("miss", 1), procfs_reads(9)),
        when(resolve("E", 9)),
        then(result("E", None), count("miss", 2), count("limiter_drop", 1), procfs_reads(9)),
        when(time_passes(31), resolve("E", 9)),
        then(result("E", None), count("miss", 3), count("limiter_drop", 1), procfs_reads(9, 9)),
    ),
    "D3 without procfs the limiter is left alone": ebpf(
        given(snapshotted()),
        when(resolve("E", 9, use_procfs=False)),
        then(result("E", None), count("miss", 1), count("limiter_drop", 0), procfs_reads()),
        when(resolve("E", 9)), then(result("E", None), count("limiter_drop", 0), procfs_reads(9)),
    ),
    "D4 the inode must be the expected one": ebpf(
        given(fork("P", 0, 3, 10)),
        when(from_cache("E1", 3, inode=11, tid=78)), then(result("E1", None), has("P", tid=high(3))),
        when(from_cache("E2", 3, inode=0, tid=77)), then(same("E2", "P"), has("P", tid=77)),
        when(from_cache("E3", 3, inode=10, tid=79)), then(same("E3", "P"), has("P", tid=79)),
    ),
    "D5 kernel maps, the inode is the expected one": ebpf(
        given(kernel_maps((7, 99, 10))),
        when(from_maps("E", 7, inode=10)),
        then(
            head(7, "E"), told("E"), has("E", source=Source.MAP, cookie=99, comm="x", is_exec=False),
            file("E", inode=10, pathname="/bin/x"), credentials("E", uid=1000), count("added", 1, "kernel_maps"),
            count("added", 0, "event"),
        ),
    ),
    "D5b kernel maps, another inode is expected": ebpf(
        given(kernel_maps((7, 99, 10))),
        when(from_maps("E", 7, inode=11)), then(result("E", None), told(), cache(), uncounted()),
    ),
    # Any is accepted (9.3.2).
    "D5c kernel maps, no inode is expected": ebpf(
        given(kernel_maps((7, 99, 10))),
        when(from_maps("E", 7, inode=0)),
        then(
            head(7, "E"), told("E"), has("E", source=Source.MAP, cookie=99, comm="x", is_exec=False),
            file("E", inode=10, pathname="/bin/x"), credentials("E", uid=1000), count("added", 1, "kernel_maps"),
            count("added", 0, "event"),
        ),
    ),
    "D6 chunks of arguments": ebpf(
        given(args_chunk(5, b"a", b"b"), args_chunk(5, b"c" * 252)),
        when(exec_("X", 0, 3, 10, args_id=5)),
        then(
            args("X", ["a", "b", "c" * 252 + "..."]), has("X", args_truncated=True), count("args_truncated", 1),
            count("args_size", 3),
        ),
        when(take_args("left", 5)), then(result("left", None)),
    ),
    "D7 the oldest arguments leave": ebpf(
        given(args_of_ids(1, 513), free("E1", args_id=1), free("E2", args_id=2)),
        when(set_args("E1")), then(args("E1", None), count("args_size", 0)),
        when(set_args("E2")), then(args("E2", ["a"]), count("args_size", 1)),
    ),
    # In a list of their own (9.3.5).
    "D8 scrubbed arguments are shared": ebpf(
        given(resolver(scrubber=Stars()), free("P", 5, args=["x", "--key=secret"]), free("C", 6), entry_fork("P", "C")),
        when(scrub("C")),
        then(argv_scrubbed("C", "***"), argv_scrubbed("P", "***"), shares_scrubbed_argv("P", "C")),
    ),
    "D8b the tables hold what was scrubbed": ebpf(
        given(resolver(scrubber=Stars())),
        when(exec_("X", 0, 3, 10, args=["x", "--key=secret"])),
        then(head(3, "X"), args("X", ["x", "***"]), stored_nowhere(b"secret")),
    ),
    "D9 shown variables": ebpf(
        given(resolver(opts=SHOWING_A)),
        when(free("E", envs=["A=1", "B=2", "C"])),
        then(envs("E", ["A=1", "B", "C"]), envp("E", ["A=1", "B=2", "C"])),
    ),
    "D10 environments are off": ebpf(
        given(args_chunk(6, b"A=1")),
        when(exec_("X", 0, 3, 10, envs_id=6)),
        then(has("X", envs_entry=None), envs("X", None), count("envs_size", 0)),
    ),
    "D11 kernel threads and pid 0 are refused": ebpf(
        when(refused(fork_of_exactly("E1", 2, 7))), then(error(ResolverError), cache()),
        when(refused(fork_of_exactly("E2", 1, 2))), then(error(ResolverError), cache()),
        when(refused(fork_of_exactly("E3", 1, 0))), then(error(ResolverError), cache(), uncounted()),
    ),
    "D12 an exec whose path is unknown is reported and changes nothing": ebpf(
        given(fork("P", 0, 3, 10), paths_fail(True)),
        when(refused(exec_("X", 0, 3, 11))),
        then(error(PathResolutionError), path_error("X", "no path today"), head(3, "P"), count("path_error", 1)),
        when(paths_fail(False), refused(exec_("X2", 0, 3, 0))),
        then(
            error(PathResolutionError, InvalidKeyPathError), path_error("X2", "no inode"), head(3, "P"),
            count("path_error", 2), count("added", 1, "event"),
        ),
    ),
    "D13 an old process that procfs does not list is flushed": ebpf(
        given(fork("F", 0, 3, 10, ago=600), exec_("X", 0, 3, 11, ago=30)),
        when(flush_tick("queued")), then(result("queued", 1), head(3, "X"), has("X", exit_time=None)),
        when(dequeue_exited()), then(cache(), count("flushed", 1), has_ended("X")),
    ),
    "D14 a young one is kept and queued again": ebpf(
        given(fork("F", 0, 3, 10, ago=31), exec_("X", 0, 3, 11, ago=30)),
        when(flush_tick("queued"), dequeue_exited()), then(result("queued", 1), head(3, "X"), count("flushed", 0)),
        # The queue is empty, so age alone deletes nobody.
        when(dequeue_exited(), time_passes(60), dequeue_exited()), then(head(3, "X"), count("flushed", 0)),
        when(flush_tick("again"), dequeue_exited()), then(result("again", 1), cache(), count("flushed", 1)),
    ),
    # The pid was used again, or the listing raced with the fork (9.3.14).
    "D14b a queued pid that lives again is kept": ebpf(
        given(fork("F", 0, 3, 10, ago=600), exec_("X", 0, 3, 11, ago=300)),
        when(flush_tick("queued"), fork("Y", 0, 3, 10), dequeue_exited()), then(head(3, "Y"), count("flushed", 0)),
        when(time_passes(90), flush_tick("again"), in_procfs(3, 0, same_as="Y"), dequeue_exited()),
        then(head(3, "Y"), count("flushed", 0)),
    ),
    "D15 a thread does not change its process": ebpf(
        given(fork("P", 0, 3, 10, credentials=CREDENTIALS)),
        when(
            update("uid", 3, tid=4, uid=7), update("gid", 3, tid=4, gid=7), update("capset", 3, tid=4, cap_effective=7),
            update("login_uid", 3, tid=4, auid=7),
        ),
        then(has("P", credentials=CREDENTIALS)),
        when(update("uid", 99, tid=99, uid=7)), then(cache(3), has("P", credentials=CREDENTIALS)),
    ),
    # The known key is refreshed (9.3.17).
    "D16 a known access key is refreshed": ebpf(
        given(fork("P", 0, 3, 10)),
        when(imds(3, "A", 1000), imds(3, "A", 2000), fetch_aws("found", 3)), then(result("found", [("A", 2000)])),
        when(imds(3, "", 3000), fetch_aws("found", 3)), then(result("found", [("A", 2000)])),
    ),
    "D17 expired credentials are gone for good": ebpf(
        given(fork("P", 0, 3, 10), imds(3, "A", 1000), imds(3, "B", -1)),
        when(fetch_aws("found", 3)), then(result("found", [("A", 1000)])),
        when(fetch_aws("found", 3, at_ns=1)), then(result("found", [("A", 1000)])),
        when(fetch_aws("found", 77)), then(result("found", [])),
    ),
    "D18 a reused pid ends its former owner": ebpf(
        given(fork("A", 0, 3, 10), fork("B", 0, 4, 10), fork("old", 3, 5, 10)), then(children("A", "old")),
        when(fork("new", 4, 5, 10)),
        then(
            ends_at_fork_of("old", "new"), children("A"), children("B", "new"), head(5, "new"), chain("new", "B"),
            chain("old", "A"),
        ),
    ),
    "D19 an executable that may not be looked at": ebpf(
        given(
            in_procfs(1, 0, exe=b"/sbin/init", exe_inode=7),
            in_procfs(8, 1, exe=b"/secret/tool", exe_inode=0, mount_id=0),
        ),
        when(from_procfs("E", 8)),
        then(head(8, "E"), file("E", pathname="/secret/tool", inode=0, mode=0, mtime=0), lineage("E", None)),
    ),
    "D20 the interpreter of a script": ebpf(
        given(
            in_procfs(8, 0, exe=b"/usr/bin/python3.13", exe_inode=77, comm=b"x.py", argv=b"/usr/bin/python3\0./x.py\0"),
            in_procfs(9, 0, exe=b"/usr/bin/x.py", exe_inode=78, comm=b"x.py", argv=b"/usr/bin/x.py\0a\0"),
        ),
        when(from_procfs("E", 8)),
        then(has("E", has_interpreter=True), interpreter("E", inode=77), file("E", inode=77)),
        when(from_procfs("N", 9)),
        then(has("N", has_interpreter=False), interpreter("N", is_pathname_resolved=True, pathname="")),
    ),
    "D21 names of a symlink": ebpf(
        given(free("E", file_event=FileEvent(pathname="/bin/busybox"), args=["/bin/ls"])),
        when(set_symlink("E")), then(has("E", symlink_paths=("/bin/ls", "/usr/bin/ls"), symlink_basename="ls")),
    ),
    "D21b names of a symlink only where one was followed": ebpf(
        given(free("E", file_event=FileEvent(pathname="/bin/bash"), args=["/bin/sh"])),
        when(set_symlink("E")), then(has("E", symlink_paths=(), symlink_basename="")),
        when(change("E", is_through_symlink=True), set_symlink("E")), then(has("E", symlink_basename="sh")),
    ),
    "D21c names of a symlink in the tables": ebpf(
        when(
            exec_(
                "X", 0, 3, 10, args=["/bin/ls"], is_through_symlink=True,
                file_event=FileEvent(inode=10, mount_id=1, pathname="/opt/tool"),
            ),
        ),
        then(head(3, "X"), has("X", symlink_basename="ls", is_through_symlink=True)),
    ),
    "D22 a pid is of its namespace": ebpfless(
        when(keyed.fork("A", (7, 1), 1, ts=10), keyed.fork("B", (7, 2), 1, ts=11)),
        then(
            keyed.cache((7, 1), (7, 2)), keyed.head((7, 1), "A"), keyed.head((7, 2), "B"), keyed.head((7, 3), None),
            has("A", nsid=1, fork_time=10), has("B", nsid=2, fork_time=11),
        ),
        when(keyed.delete((7, 1), ts=20)),
        then(has("A", exit_time=20), has("B", exit_time=None), keyed.head((7, 1), None), keyed.cache((7, 2))),
        when(keyed.delete((7, 1), ts=21)), then(has("A", exit_time=20), keyed.head((7, 2), "B"), keyed.cache((7, 2))),
    ),
    "D23 an exec keeps parent and credentials": ebpfless(
        given(keyed.fork("F", (7, 1), 3, ts=10), change("F", credentials=Credentials(uid=1000))),
        when(keyed.exec_("X", (7, 1), 0, ts=50)),
        then(
            keyed.head((7, 1), "X"), has("X", ppid=3, is_exec=True, is_exec_exec=False), credentials("X", uid=1000),
            chain("X", "F"), has("F", exit_time=50),
        ),
        # No exec-bomb test: the same again is a new image.
        when(keyed.exec_("Y", (7, 1), 0, ts=51)), then(chain("Y", "X", "F"), has("Y", is_exec_exec=True)),
        # Without an image before: below its parent, and marked.
        when(keyed.exec_("Z", (8, 1), 7, ts=60)),
        then(
            chain("Z", "Y", "X", "F"), has("Z", is_exec=True, is_parent_missing=True), children("Y", "Z"),
            keyed.cache((7, 1), (8, 1)),
        ),
    ),
    "D24 an id of -1 is unchanged": ebpfless(
        given(keyed.fork("F", (7, 1), 3, ts=10), change("F", credentials=Credentials(uid=5, user="five", gid=6))),
        when(keyed.update_user((7, 1), -1, 0, "ignored", "root")),
        then(credentials("F", uid=5, user="five", euid=0, euser="root", gid=6)),
        when(keyed.update_group((7, 1), 9, -1, "nine", "ignored")),
        then(credentials("F", gid=9, group="nine", egid=0, egroup="", uid=5)),
        when(keyed.update_user((7, 1), -2, -1, "nobody", "")),
        then(credentials("F", uid=0xFFFFFFFE, user="nobody", euid=0, euser="root", fsuid=0)),
        when(keyed.update_group((99, 1), 1, 1, "", "")), then(keyed.cache((7, 1)), credentials("F", gid=9)),
    ),
    "D25 a memfd has no path": ebpfless(
        when(keyed.new_entry("E", (7, 1), "memfd:x")),
        then(file("E", pathname="", basename="memfd:x"), has("E", comm=""), keyed.argv0("E", ""), keyed.cache()),
    ),
    "D26 the exit of an unknown process": ebpf(
        when(apply_exit_of_unknown("E", 9)), then(result("E", False), no_entry("E"), cache()),
    ),
    # It stays cached until it is deleted, so that its exit event can be looked at.
    "D27 children of an exited process": ebpf(
        given(
            INIT, fork("P", 1, 3, 100), fork("C1", 3, 4, 100), fork("C2", 3, 5, 100), in_procfs_below(4, 1),
        ),
        when(apply_exit("P")),
        then(
            result("P", True), chain("C1", "I"), ppid("C1", 1), chain("C2", "P", "I"), cache(1, 3, 4, 5), head(3, "P"),
            ends_with_its_event("P"), count("reparent_success", 1, DO_EXIT), count("reparent_failed", 0, DO_EXIT),
        ),
        when(delete_at_exit("P")), then(cache(1, 4, 5), chain("C2", "P", "I"), ends_with_its_event("P")),
    ),
}  # fmt: skip

SCENARIOS = OF_THE_RESOLVER | OF_ENTRIES | DERIVED

#: The specification's.
IDS = [f"R{n}" for n in range(1, 24)] + [f"E{n}" for n in range(1, 10)] + [f"D{n}" for n in range(1, 28)]


def id_of(name: str) -> str:
    """R20 of "R20b kernel ppid moves the fork root"."""
    found = re.match(r"[RED]\d+(?=[b-z]? )", name)
    assert found is not None, name
    return found[0]


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str) -> None:
    play(SCENARIOS[name])


def test_the_table_holds_every_scenario_of_the_specification() -> None:
    assert len(SCENARIOS) == len(OF_THE_RESOLVER) + len(OF_ENTRIES) + len(DERIVED)
    assert sorted({id_of(name) for name in SCENARIOS}) == sorted(IDS)
    for wanted in IDS:
        # The first is the specification's own story, others have a letter.
        (own,) = (row for name, row in SCENARIOS.items() if name.startswith(f"{wanted} "))
        assert any(step.is_look for step in own.steps), wanted


def test_every_row_ends_with_what_is_expected() -> None:
    for name, row in SCENARIOS.items():
        assert row.steps[-1].is_look and not row.steps[0].is_look, name


# -- the runner --------------------------------------------------------------------------------------------------------


@happens
def unlist(w: Checked, parent: str, child: str) -> None:
    """The index of children loses one, which keeps its ancestor."""
    w.named[parent].remove_child(w.named[child])


@happens
def list_again(w: Checked, parent: str, child: str) -> None:
    slots = [int(w.named[name].store.hot["tgid"]) for name in (child, parent)]
    w.tables.py_adopt(*slots)


@pytest.mark.parametrize(
    "row",
    [
        ebpf(given(P, C), when(unlist("P", "C"), list_again("P", "C")), then(children("P", "C"))),
        ebpfless(
            given(keyed.fork("P", (7, 1), 0, ts=10), keyed.fork("C", (8, 1), 7, ts=11)),
            when(unlist("P", "C"), list_again("P", "C")), then(children("P", "C")),
        ),
    ],
    ids=["ebpf", "ebpfless"],
)  # fmt: skip
def test_a_step_that_breaks_an_invariant_is_named_even_if_the_next_one_mends_it(row: Scenario) -> None:
    with row.world() as w:
        for step in row.steps:
            step.run(w)
        w.check()
    with pytest.raises(AssertionError, match="is not listed below") as caught:
        play(row)
    assert caught.value.__notes__ == ["at step 3: unlist('P', 'C')"]


@happens
def scribble(w: Checked, name: str) -> None:
    """A row changes without its checksum."""
    w.tables.hot_view()[row_of(w.named[name])]["inode"] += 1


@pytest.mark.parametrize(
    "row",
    [
        ebpf(given(P), when(scribble("P")), then(head(3, "P"))),
        ebpfless(given(keyed.fork("P", (7, 1), 0, ts=10)), when(scribble("P")), then(keyed.head((7, 1), "P"))),
    ],
    ids=["ebpf", "ebpfless"],
)
def test_a_step_that_breaks_the_tables_is_named(row: Scenario) -> None:
    with pytest.raises(InvariantError, match="checksum") as caught:
        play(row)
    assert caught.value.__notes__ == ["at step 2: scribble('P')"]


@pytest.mark.parametrize(
    "parts",
    [
        [given(P)], [given(P), then(cache(3))], [when(P)], [then(cache()), when(P), then(cache(3))],
        [when(P), given(C), then(cache(3, 4))], [when(P), when(C), then(cache(3, 4))], [when(P), then()],
        [when(P, cache(3)), then(cache(3))], [when(P), then(C)],
    ],
)  # fmt: skip
def test_a_row_without_given_when_then_is_refused(parts: list[Part]) -> None:
    with pytest.raises(ValueError):
        ebpf(*parts)


def test_a_step_with_other_arguments_than_its_word_has_is_refused() -> None:
    with pytest.raises(TypeError):
        fork("P", 0)  # type: ignore[call-arg]
