"""R1 to R23: the scenarios of specification 8.2, from the reference's tests of its resolver."""

from __future__ import annotations

import os

from pipeline.resolver.api.stats import KERNEL_PPID, SET_PROCESS_CONTEXT
from pipeline.resolver.entries.model import Source
from tests.resolver.api.scenario_checks import (
    ancestor,
    cache,
    chain,
    count,
    file,
    has,
    head,
    ppid,
    procfs_ppids,
    same,
    told,
)
from tests.resolver.api.scenario_happens import (
    cut,
    delete,
    ebpf,
    ended,
    exec_,
    exit_,
    fork,
    from_procfs_to,
    kernel_maps,
    put,
    real_proc,
    reparent_children,
    reparent_from_kernel,
    reparent_from_procfs,
)
from tests.resolver.api.scenario_steps import given, then, when
from tests.resolver.resolver_world import OWN, PARENT

#: Entries that most stories use, by the names in the specification.
P, C, X = fork("P", 0, 3, 123), fork("C", 3, 4, 123), exec_("X", 3, 4, 456)

#: Entries of the stories about lost execs.
AGENT, EXPECTED = fork("P", 0, 3, 123, base="agent"), fork("C", 3, 4, 123, expected=123)

INIT = fork("I", 0, 1, 100)

OF_RESOLVER = {
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
    # An entry's name is the number of forks up to the last one. The test asks for the children of the parents at 1 and
    # 3, so the parents of the processes at 0 and 2 are resolved, and nothing further up.
    "R17 max fork depth": ebpf(
        given(
            INIT, fork("16", 1, 100, 100),
            *[fork(str(n), 116 - n - 1, 116 - n, 100) for n in range(15, -1, -1)],
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
    # The last design: if an exit named no reaper and /proc showed no parent, the child moves when it is next used.
    "R18b subreaper reparenting, the child is used": ebpf(
        given(real_proc(), fork("G", 0, PARENT, 100), fork("F", PARENT, 99999, 100), fork("C", 99999, OWN, 100)),
        when(delete("F")), then(cache(PARENT, OWN), chain("C", "F", "G")),
        when(reparent_from_procfs("C")), then(ancestor("C", "G"), ppid("C", PARENT)),
    ),
    "R19 kernel ppid, same": ebpf(
        given(INIT, fork("P", 1, 31, 100), fork("C", 31, 32, 100)),
        when(reparent_from_kernel("C", 31)),
        then(
            chain("C", "P", "I"), ppid("C", 31), count("reparent_success", 0, KERNEL_PPID),
            count("reparent_failed", 0, KERNEL_PPID),
        ),
    ),
    "R20 kernel ppid, other, cached": ebpf(
        given(
            INIT, fork("G", 1, 10, 100), fork("P", 10, 11, 100), fork("C", 11, 12, 100),
        ),
        when(reparent_from_kernel("C", 10)),
        then(ppid("C", 10), chain("C", "G", "I"), count("reparent_success", 1, KERNEL_PPID)),
    ),
    "R20b kernel ppid moves the fork root": ebpf(
        given(
            INIT, fork("G", 1, 10, 100), fork("P", 10, 11, 100), fork("C", 11, 12, 100),
            exec_("X", 11, 12, 7),
        ),
        when(reparent_from_kernel("X", 10)),
        then(ppid("X", 10), chain("X", "C", "G", "I"), count("reparent_success", 1, KERNEL_PPID)),
    ),
    "R21 kernel ppid, other, unknown": ebpf(
        given(INIT, fork("P", 1, 20, 100), fork("C", 20, 21, 100)),
        when(reparent_from_kernel("C", 99997)),
        then(
            ppid("C", 20), chain("C", "P", "I"), count("reparent_failed", 1, KERNEL_PPID),
            count("reparent_procfs_fail", 1),
        ),
    ),
    "R22 kernel ppid, zero": ebpf(
        given(INIT, fork("P", 1, 20, 100), fork("C", 20, 21, 100)),
        when(reparent_from_kernel("C", 0)),
        then(
            chain("C", "P", "I"), ppid("C", 20), count("reparent_success", 0, KERNEL_PPID),
            count("reparent_failed", 0, KERNEL_PPID),
        ),
    ),
    "R23 kernel ppid, pid 1": ebpf(
        given(INIT),
        when(reparent_from_kernel("I", 999)),
        then(chain("I"), count("reparent_success", 0, KERNEL_PPID), count("reparent_failed", 0, KERNEL_PPID)),
    ),
}  # fmt: skip
