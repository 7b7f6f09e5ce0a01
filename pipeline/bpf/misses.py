"""Events for which the kernel did not run a program, counted as lost.

The kernel does not run a program that is already running on the same CPU. Since Linux v7.0 a program on a tracepoint
can be preempted; a program of `fentry` could before, with `preempt=full`, `preempt=lazy` or PREEMPT_RT. Fork on CPU 0,
its program is preempted, the next process forks on CPU 0 too: that fork is not recorded. The kernel counts these events
by program, and they start a repair as any other loss does. A program cannot prevent this: if it disables preemption it
is preempted when it enables it again, and it is still running then.

Programs on tracepoints of system calls can be preempted since v7.0, too. Until such a program continues, the kernel
runs none of them on that CPU, and in a storm on v7.2, most changes were skipped.

A kprobe can be missed, too. The kernel has room for the returns of a limited number of threads from each function (10,
or twice the number of CPUs if that is more). A thread that finds no room returns without the program of a kretprobe.
The link counts that since Linux v6.7; older kernels show it nowhere.

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
#: a record (signals, wake-ups, writes; exits, for the release of a terminal), or record calls, which are no records of
#: a ring. Their skipped runs are counted together, as `runs_skipped`: docs/sources.md.
KINDS = {
    "pl_on_fork": KIND_FORK, "pl_on_exec": KIND_EXEC, "pl_on_exit": KIND_EXIT, "pl_commit_creds": KIND_CRED,
    "pl_set_loginuid": KIND_CRED, "pl_on_rename": KIND_COMM, "pl_on_cgroup": KIND_CGROUP, "pl_on_mkdir": KIND_CGROUP,
    "pl_change_pid": KIND_SID, "pl_move_pid": KIND_SID, "pl_clear_tty": KIND_SID,
    "pl_tty_set": KIND_SID, "pl_tty_hangup": KIND_SID, "pl_switch_ns": KIND_SID,
    "pl_on_capable": KIND_CAPS,
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
#: Its least size in kernels that count skipped runs.
COUNTING_INFO_BYTES = _MISSES + 8

# struct bpf_link_info, there too: bytes to read; offsets of type, prog_id, perf_event.type, perf_event.kprobe.missed.
# Kernels before v6.6 fill in the first two only, others without the last one leave it 0.
_LINK_BYTES = 64
_LINK_TYPE, _LINK_PROGRAM, _PERF_TYPE, _LINK_MISSED = 0, 8, 16, 48
#: The least size of its description in kernels that count what a kprobe missed.
_COUNTING_LINK_BYTES = _LINK_MISSED + 8
_BPF_LINK_TYPE_PERF_EVENT = 7
_BPF_PERF_EVENT_KPROBE, _BPF_PERF_EVENT_KRETPROBE = 3, 4


class Misses:
    """Missed runs of the programs of a capture; the one writer of the last element of `pl_shared`.

    Args:
        program_fds: descriptors of the programs; several may be of the same program.
        link_fds: descriptors of the links that attach them.
        shared_fd: descriptor of `pl_shared`.
        info: returns the kernel's information about a program or link.
    """

    def __init__(
        self,
        program_fds: Iterable[int],
        link_fds: Iterable[int],
        shared_fd: int,
        *,
        info: Callable[[int, int], bytes] = syscall.info,
    ) -> None:
        self._info = info
        self._lost, self._skipped = words.missed_words(shared_fd)
        programs: dict[int, tuple[int, int | None]] = {}
        for fd in program_fds:
            data = info(fd, _INFO_BYTES)
            kind = KINDS.get(data[_NAME].split(b"\0")[0].decode())
            programs[_word(data, _ID)] = fd, kind
        self._programs = list(programs.values())
        self._probes = [
            (fd, programs[_word(data, _LINK_PROGRAM)][1])
            for fd, data in ((fd, info(fd, _LINK_BYTES)) for fd in link_fds)
            if _is_kprobe(data)
        ]

    def update(self) -> None:
        """Update the counts; this takes some microseconds."""
        sums = [0] * len(self._lost)
        skipped = 0
        for objects, length, at in ((self._programs, _INFO_BYTES, _MISSES), (self._probes, _LINK_BYTES, _LINK_MISSED)):
            for fd, kind in objects:
                count = struct.unpack_from("<Q", self._info(fd, length), at)[0]
                if kind is None:
                    skipped += count
                else:
                    sums[kind] += count
        for kind, count in enumerate(sums):
            if self._lost[kind] != count:
                self._lost[kind] = count
        if self._skipped[0] != skipped:
            self._skipped[0] = skipped


def are_counted(link_fd: int) -> bool:
    """Return whether this kernel counts all runs of kprobes and tracepoints that it skips (Linux v6.7).

    Args:
        link_fd: descriptor of any link.
    """
    try:
        return syscall.info_bytes(link_fd) >= _COUNTING_LINK_BYTES
    except OSError:  # before v5.15, a perf event is the link
        return False


def _is_kprobe(link: bytes) -> bool:
    return _word(link, _LINK_TYPE) == _BPF_LINK_TYPE_PERF_EVENT and _word(link, _PERF_TYPE) in (
        _BPF_PERF_EVENT_KPROBE,
        _BPF_PERF_EVENT_KRETPROBE,
    )


def _word(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])
