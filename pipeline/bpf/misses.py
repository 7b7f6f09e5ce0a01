"""Events for which the kernel did not run a program, counted as lost.

The kernel does not run a program that is already running on the same CPU. Since Linux v7.0 a program on a tracepoint
can be preempted; a program of `fentry` could before, with `preempt=full` or PREEMPT_RT. Fork on CPU 0, its program is
preempted, the next process forks on CPU 0 too: that fork is not recorded. The kernel counts these events by program,
and they start a repair as any other loss does. A program cannot prevent this: if it disables preemption it is preempted
when it enables it again, and it is still running then.

Programs on tracepoints of system calls can be preempted since v7.0, too. Until such a program continues, the kernel
runs none of them on that CPU, and in a storm on v7.2, most changes were skipped.

This module needs only descriptors, and no numpy, because the supervisor runs it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable

from pipeline.bpf import syscall, words
from pipeline.records.declared import (
    KIND_CAPS,
    KIND_CGROUP,
    KIND_COMM,
    KIND_CRED,
    KIND_EXEC,
    KIND_EXIT,
    KIND_FORK,
    KIND_SID,
)  # fmt: skip

#: Kind of the records that a program makes, by its name. Programs that are not listed run for events of which few make
#: a record (signals, wake-ups, writes), or record calls, which are no records of a ring. Their skipped runs are counted
#: together, as `runs_skipped`: docs/sources.md.
KINDS = {
    "pl_on_fork": KIND_FORK, "pl_on_exec": KIND_EXEC, "pl_on_exit": KIND_EXIT, "pl_commit_creds": KIND_CRED,
    "pl_set_loginuid": KIND_CRED, "pl_on_rename": KIND_COMM, "pl_on_cgroup": KIND_CGROUP, "pl_on_mkdir": KIND_CGROUP,
    "pl_change_pid": KIND_SID, "pl_clear_tty": KIND_SID, "pl_tty_ioctl": KIND_SID, "pl_tty_open": KIND_SID,
    "pl_tty_hangup": KIND_SID, "pl_switch_ns": KIND_SID, "pl_on_capable": KIND_CAPS,
    # After single system calls, cred_syscalls.bpf.c. Only a call that fails makes no record.
    **dict.fromkeys(
        (
            "pl_setuid", "pl_setgid", "pl_setreuid", "pl_setregid", "pl_setresuid", "pl_setresgid", "pl_setfsuid",
            "pl_setfsgid", "pl_capset", "pl_unshare", "pl_setns",
        ),
        KIND_CRED,
    ),
    "pl_setsid": KIND_SID, "pl_setpgid": KIND_SID,
}  # fmt: skip

# struct bpf_prog_info of include/uapi/linux/bpf.h: bytes to read; offsets of id, name, recursion_misses.
_INFO_BYTES = 232
_ID, _NAME, _MISSES = 4, slice(64, 80), 208


class Misses:
    """Missed runs of the programs of a capture; the one writer of the last element of `pl_shared`.

    Args:
        program_fds: descriptors of the programs; several may be of the same program.
        shared_fd: descriptor of `pl_shared`.
        info: returns the kernel's information about a program.
    """

    def __init__(
        self, program_fds: Iterable[int], shared_fd: int, *, info: Callable[[int, int], bytes] = syscall.info
    ) -> None:
        self._info = info
        self._lost, self._skipped = words.missed_words(shared_fd)
        programs: dict[int, tuple[int, int | None]] = {}
        for fd in program_fds:
            data = info(fd, _INFO_BYTES)
            kind = KINDS.get(data[_NAME].split(b"\0")[0].decode())
            programs[struct.unpack_from("<I", data, _ID)[0]] = fd, kind
        self._programs = list(programs.values())

    def update(self) -> None:
        """Update the counts; this takes some microseconds."""
        sums = [0] * len(self._lost)
        skipped = 0
        for fd, kind in self._programs:
            count = struct.unpack_from("<Q", self._info(fd, _INFO_BYTES), _MISSES)[0]
            if kind is None:
                skipped += count
            else:
                sums[kind] += count
        for kind, count in enumerate(sums):
            if self._lost[kind] != count:
                self._lost[kind] = count
        if self._skipped[0] != skipped:
            self._skipped[0] = skipped
