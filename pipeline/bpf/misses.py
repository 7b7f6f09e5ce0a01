"""Events for which the kernel did not run a program, counted as lost.

The kernel does not run a program that is already running on the same CPU. Since Linux v7.0 a program on a tracepoint
can be preempted; on preemptible kernels a program on a function always could. Fork on CPU 0, its program is preempted,
the next process forks on CPU 0 too: that fork is not recorded. The kernel counts these events by program, and they
start a repair as any other loss does. A program cannot prevent this: if it disables preemption it is preempted when it
enables it again, and it is still running then.

This module needs only descriptors, and no numpy, because the supervisor runs it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable

from pipeline.bpf import syscall, words

#: Kind of the records of each program, by its name: the numbers of pipeline/records/kinds.py. A missed run of another
#: program (signals, calls that may have changed something) loses nothing, or the program cannot be preempted.
KINDS = {
    "pl_on_fork": 1, "pl_on_exec": 2, "pl_on_exit": 3, "pl_commit_creds": 4, "pl_set_loginuid": 4, "pl_on_rename": 5,
    "pl_on_cgroup": 6, "pl_on_mkdir": 6, "pl_change_pid": 7, "pl_clear_tty": 7, "pl_tty_ioctl": 7, "pl_tty_open": 7,
    "pl_switch_ns": 7, "pl_on_capable": 8,
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
        self._lost = words.missed_words(shared_fd)
        programs: dict[int, tuple[int, int]] = {}
        for fd in program_fds:
            data = info(fd, _INFO_BYTES)
            kind = KINDS.get(data[_NAME].split(b"\0")[0].decode())
            if kind is not None:
                programs[struct.unpack_from("<I", data, _ID)[0]] = fd, kind
        self._programs = list(programs.values())

    def update(self) -> None:
        """Update the counts; this takes some microseconds."""
        sums = [0] * len(self._lost)
        for fd, kind in self._programs:
            sums[kind] += struct.unpack_from("<Q", self._info(fd, _INFO_BYTES), _MISSES)[0]
        for kind, count in enumerate(sums):
            if self._lost[kind] != count:
                self._lost[kind] = count
