"""Measurements of a load test and the benches: CPU time of an instance, its position, the fill of its rings, the host.

Everything is read from outside of the instance: from `/proc`, from its tables, and from the rings of the kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
import statistics
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import proc_text
from pipeline.host import processes
from pipeline.host.boot import CLOCK_TICKS, TICK_NS, now_boot_ns

if TYPE_CHECKING:
    from pipeline.shm.reader.statistics import Stats
    from pipeline.shm.reader.table import ProcessTable

_PIDFD_GETFD = 438
_MAP_TYPE_RINGBUF = b"27"


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU time of an instance's processes so far: ns by role; the sums `user_s` and `system_s` in ticks of 10 ms."""

    ns: dict[str, int]
    user_s: float
    system_s: float

    def since(self, before: Usage) -> Usage:
        """Return the CPU time used since `before`."""
        ns = {role: value - before.ns.get(role, 0) for role, value in self.ns.items()}
        return Usage(ns, self.user_s - before.user_s, self.system_s - before.system_s)


def cpu_ns(pid: int) -> int:
    """Return the CPU time of a process with all its threads, in ns, as the scheduler counts it (schedstat)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += proc_text.schedstat((task / "schedstat").read_bytes())[0]
        except (OSError, ValueError):
            # This kernel has no schedstat; use ticks.
            total += proc_text.cpu_ticks(proc_text.stat_fields((task / "stat").read_bytes())) * TICK_NS
    return total


def usage(directory: Path) -> Usage:
    """Return the CPU time of all processes of the instance in `directory`."""
    ns: dict[str, int] = {}
    user = system = 0.0
    for process in processes.measure(directory):
        ns[process["role"]] = cpu_ns(process["pid"])
        fields = proc_text.stat_fields(Path(f"/proc/{process['pid']}/stat").read_bytes())
        user += int(fields[proc_text.USER_TICKS]) / CLOCK_TICKS
        system += int(fields[proc_text.SYSTEM_TICKS]) / CLOCK_TICKS
    return Usage(ns, user, system)


def caught_up(table: ProcessTable, timeout_s: float = 10.0) -> Stats:
    """Wait until the tables contain all events from before the call; return the statistics after that.

    Raises:
        TimeoutError: they were still behind after `timeout_s`.
    """
    called = now_boot_ns()
    deadline = time.monotonic() + timeout_s
    # Read the statistics afterwards, because their watermark and their counters are not from the same moment.
    while table.watermark_boot_ns <= called + 1_000_000:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the tables were still behind after {timeout_s} s: is the machine overloaded?")
        time.sleep(0.01)
    return table.stats()


def kernel_forks() -> int:
    """Return the kernel's count of forks and new threads since boot (`processes` in /proc/stat)."""
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        if line.startswith("processes "):
            return int(line.split()[1])
    return 0


def processor() -> str:
    """Return the name of the processor."""
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def at_part(ordered: Sequence[float], part: float) -> float:
    """Return the value below which `part` of an ordered sample lies, without interpolation."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


class Rings:
    """The kernel's ring buffers of an instance, mapped for reading; empty if the caller may not, or if it has none.

    Args:
        directory: of the instance.
    """

    def __init__(self, directory: Path) -> None:
        self._pages: list[tuple[mmap.mmap, mmap.mmap]] = []
        #: Size of the largest ring; 0 if there is none.
        self.size_bytes = 0
        for process in processes.measure(directory):
            if process["role"] == "supervisor":
                with contextlib.suppress(OSError):
                    self._open(process["pid"])

    def _open(self, pid: int) -> None:
        pidfd = os.pidfd_open(pid)
        try:
            for number, size in _ring_fds(pid):
                fd = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, pidfd, number, 0)
                if fd < 0:
                    continue
                try:
                    # Two pages: the consumer's position and the producer's.
                    consumer = mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ)
                    producer = mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ, offset=mmap.PAGESIZE)
                finally:
                    os.close(fd)
                self._pages.append((consumer, producer))
                self.size_bytes = max(self.size_bytes, size)
        finally:
            os.close(pidfd)

    def __len__(self) -> int:
        return len(self._pages)

    def fill_bytes(self) -> int | None:
        """Return the bytes in the fullest ring that are not released yet; None if there is no ring."""
        fills = [_position(producer) - _position(consumer) for consumer, producer in self._pages]
        return max(0, *fills) if fills else None

    def close(self) -> None:
        """Unmap the rings."""
        for pages in self._pages:
            for page in pages:
                page.close()
        self._pages.clear()


def _position(page: mmap.mmap) -> int:
    return int(struct.unpack_from("=Q", page)[0])


def _ring_fds(pid: int) -> Iterator[tuple[int, int]]:
    """Yield number and size of each descriptor of a process that is a ring buffer."""
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            shown = info.read_bytes()
        except OSError:
            continue  # closed meanwhile
        if proc_text.status_value(shown, b"map_type") == _MAP_TYPE_RINGBUF:
            yield int(info.name), int(proc_text.status_value(shown, b"max_entries"))


def host() -> dict[str, Any]:
    """Return the facts about this host that are needed to interpret and to compare figures."""
    return {
        "name": platform.node(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "processor": processor(),
        "cpu_count": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }
