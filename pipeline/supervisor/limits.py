"""Check the resource limits (getrlimit(2)) before a start: a worker that reached one would die again and again.

A soft limit is raised as far as the hard limit allows. The check uses an estimate of what a daemon needs at its start,
with a reserve. It does not cover a host that is short of memory (see `tables` in the settings).

RLIMIT_MEMLOCK is not checked here: the memory of BPF maps counts against it before Linux 5.11 only, and there libbpf
makes it unlimited, which needs CAP_SYS_RESOURCE unless the hard limit is unlimited (`procline doctor` tries both).
RLIMIT_NPROC does not bind root (copy_process in kernel/fork.c).
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from pipeline.config.schema import Config
from pipeline.errors import UnsupportedError
from pipeline.shm.layout import control_header

#: Descriptors of one process. With any source, it has the sockets and their clients: three for each of 128 subscribers,
#: and two for each of 96 over TCP. With eBPF, it also has the loader's programs, links and maps, and some for the ring
#: of each CPU.
_FILES = 896
_FILES_EBPF = 1152
_FILES_A_CPU = 4

#: Address space of an interpreter with its libraries and the stacks of its threads, in bytes.
_BASE_BYTES = 448 << 20
#: Private memory of the resolver for each row and each pid, in bytes: of the writer's tables, and of the applier.
_PRIVATE_ROW_BYTES = 28
_PRIVATE_PID_BYTES = 56
#: An arena's buckets are at most half as large as the arena.
_ARENA_SHARE = 1.5

#: Processes, and threads of each: the main thread, two of ZeroMQ, one for names, one for subscribers.
_PROCESSES = 3
_THREADS = 5


def check(config: Config, cpus: int, pid_max: int) -> None:
    """Raise soft limits that are too low, and fail if a hard limit is too low.

    Args:
        config: all settings.
        cpus: number of CPUs that this host can have.
        pid_max: entries of the pid index if the settings do not set them.

    Raises:
        UnsupportedError: a hard limit is too low.
    """
    for number, name, option, unit, needed in _needs(config, cpus, pid_max):
        soft, hard = resource.getrlimit(number)
        if hard != resource.RLIM_INFINITY and hard < needed:
            unit_option = f"{name.replace('RLIMIT_', 'Limit')}= of the systemd unit"
            raise UnsupportedError(
                f"the hard limit {name} is {hard}, but a daemon with these settings needs {needed} {unit}",
                feature="resource limits",
                needs=f"{name} of {needed} {unit} or more",
                hint=f"raise it (ulimit {option}, prlimit(1), or {unit_option})",
            )
        if soft != resource.RLIM_INFINITY and soft < needed:
            resource.setrlimit(number, (needed, hard))


def _needs(config: Config, cpus: int, pid_max: int) -> Iterator[tuple[int, str, str, str, int]]:
    """Yield (number, name, option of `ulimit`, unit, needed value) of each limit."""
    tables = config.tables
    is_ebpf = config.source == "ebpf"
    files = _FILES_EBPF + _FILES_A_CPU * cpus if is_ebpf else _FILES
    yield resource.RLIMIT_NOFILE, "RLIMIT_NOFILE", "-n", "descriptors", files
    count = cpus if is_ebpf else 1
    rings = config.capture.bytes_of_a_ring(count) * count
    arenas = tables.names_bytes + tables.args_bytes + tables.envs_bytes
    rows = tables.max_entries * (control_header.ROW_BYTES + control_header.COSTS_BYTES + _PRIVATE_ROW_BYTES)
    pids = (tables.pid_capacity or pid_max) * _PRIVATE_PID_BYTES
    # The shard maps the data of a ring twice in a row (kernel/bpf/ringbuf.c).
    space = _BASE_BYTES + max(2 * rings, int(arenas * _ARENA_SHARE) + rows + pids)
    yield resource.RLIMIT_AS, "RLIMIT_AS", "-v (in KiB)", "bytes", space
    largest = max(
        tables.names_bytes, tables.args_bytes, tables.envs_bytes, tables.max_entries * control_header.COLD_BYTES
    )
    yield resource.RLIMIT_FSIZE, "RLIMIT_FSIZE", "-f (in KiB)", "bytes", largest
    if os.geteuid() != 0 and resource.getrlimit(resource.RLIMIT_NPROC)[1] != resource.RLIM_INFINITY:
        threads = _threads_of(os.geteuid()) + _PROCESSES * _THREADS
        yield resource.RLIMIT_NPROC, "RLIMIT_NPROC", "-u", "processes and threads of this user", threads


def _threads_of(uid: int) -> int:
    """Return the number of threads that a user has now."""
    threads = 0
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if process.stat().st_uid == uid:
                    threads += len(list((process / "task").iterdir()))
            except OSError:
                continue
    return threads
