"""Events that the kernel did not give to a program, counted among the lost ones.

The kernel lets no program run while it is already running on the same CPU. Since Linux v7.0 one at a tracepoint can be
preempted (one at a function could before, where the kernel is preemptible): fork on CPU 0, its program is preempted,
the next process forks there too, and nobody records it. The kernel counts that by program, and what was counted
starts a repair as any loss does. No program can keep it from happening: one that switches preemption off is preempted
when it switches it on again, and is still running then.

Works with the descriptors alone, without numpy: it is the supervisor that looks.
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

#: Kind of the records that a program makes, by its name. Programs that are not listed report signals, or calls that may
#: have changed something: no record is lost when one of them is skipped, or they cannot be preempted.
KINDS = {
    "pl_on_fork": KIND_FORK, "pl_on_exec": KIND_EXEC, "pl_on_exit": KIND_EXIT, "pl_commit_creds": KIND_CRED,
    "pl_set_loginuid": KIND_CRED, "pl_on_rename": KIND_COMM, "pl_on_cgroup": KIND_CGROUP, "pl_on_mkdir": KIND_CGROUP,
    "pl_change_pid": KIND_SID, "pl_clear_tty": KIND_SID, "pl_tty_ioctl": KIND_SID, "pl_tty_open": KIND_SID,
    "pl_switch_ns": KIND_SID, "pl_on_capable": KIND_CAPS,
}  # fmt: skip

# struct bpf_prog_info of include/uapi/linux/bpf.h: how much of it is asked for; id, name, recursion_misses in it.
_INFO_BYTES = 232
_ID, _NAME, _MISSES = 4, slice(64, 80), 208


class Misses:
    """What the programs of a capture have missed; the one writer of the last element of `pl_shared`.

    Args:
        program_fds: descriptors of the programs; others of the same one may be among them.
        shared_fd: descriptor of `pl_shared`.
        info: reads what the kernel says of a program; tests give their own.
    """

    def __init__(
        self, program_fds: Iterable[int], shared_fd: int, *, info: Callable[[int, int], bytes] = syscall.info
    ) -> None:
        self._info = info
        self._lost = words.missed_words(shared_fd)
        programs: dict[int, tuple[int, int]] = {}
        for fd in program_fds:
            data = info(fd, _INFO_BYTES)
            kind = KINDS.get(data[_NAME].split(b"\0")[0].decode())
            if kind is not None:
                programs[struct.unpack_from("<I", data, _ID)[0]] = fd, kind
        self._programs = list(programs.values())

    def look(self) -> None:
        """Bring the counts up to date: some microseconds."""
        sums = [0] * len(self._lost)
        for fd, kind in self._programs:
            sums[kind] += struct.unpack_from("<Q", self._info(fd, _INFO_BYTES), _MISSES)[0]
        for kind, count in enumerate(sums):
            if self._lost[kind] != count:
                self._lost[kind] = count
