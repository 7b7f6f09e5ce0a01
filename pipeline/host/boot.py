"""This boot of the kernel: its id, its clocks, and the identities of its processes.

Covers the boot id, the conversion between the boot clock and Unix time, clock ticks as in ``/proc/PID/stat``,
``pid_max``, and the two text identities of a process, `entity_id` and `cpid`. Which process has which identity is not
known here; the tables record it. The module uses the standard library only, because every reader imports it.

All times are stored as boot-clock time and converted to Unix time only for output. The boot clock never steps, includes
suspend, and is the clock of ``task->start_boottime``. One offset, read once, is used for every conversion, so two
events keep their order when the wall clock is set.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import NamedTuple

NANOS = 1_000_000_000

#: ``USER_HZ``: the unit of times in ``/proc/PID/stat``; 100 on every architecture that Linux still supports.
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
#: Nanoseconds per clock tick.
TICK_NS = NANOS // CLOCK_TICKS

_BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id"
_PID_MAX_FILE = "/proc/sys/kernel/pid_max"

_CPID_INPUT = struct.Struct("=16sQQq")


def boot_id() -> bytes:
    """Return the kernel's boot id: 16 bytes, in the order of its text form (RFC 9562)."""
    return bytes.fromhex(Path(_BOOT_ID_FILE).read_bytes().decode().strip().replace("-", ""))


def pid_max() -> int:
    """Return the current ``pid_max``, one more than the largest pid; an administrator may raise it later."""
    return int(Path(_PID_MAX_FILE).read_text(encoding="ascii"))


def now_boot_ns() -> int:
    """Return the boot clock in ns: the clock of every ``*_boot_ns`` field."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class BootClock(NamedTuple):
    """Conversion between boot-clock time and Unix time, by an offset that is read once.

    Attributes:
        offset_ns: Unix time minus boot-clock time, ns.
    """

    offset_ns: int

    @classmethod
    def read(cls, samples: int = 16) -> BootClock:
        """Sample both clocks and keep the sample with the shortest window.

        The wall clock is read between two readings of the boot clock. An interrupt or a migration in between makes the
        window longer, so the sample with the shortest window was disturbed least.
        """
        best_window = 1 << 62
        best_offset = 0
        for _ in range(samples):
            before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            unix = time.clock_gettime_ns(time.CLOCK_REALTIME)
            after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            if after - before < best_window:
                best_window = after - before
                best_offset = unix - (before + after) // 2
        return cls(best_offset)

    def to_unix_ns(self, boot_ns: int) -> int:
        """Return the Unix time of a boot-clock time; 0 (unset) stays 0."""
        return boot_ns + self.offset_ns if boot_ns else 0

    def to_boot_ns(self, unix_ns: int) -> int:
        """Return the boot-clock time of a Unix time; 0 (unset) stays 0. A time before the boot is negative."""
        return unix_ns - self.offset_ns if unix_ns else 0


def ticks_of(boot_ns: int) -> int:
    """Convert boot-clock ns to clock ticks, rounded down as the kernel does (``nsec_to_clock_t``)."""
    return boot_ns // TICK_NS


def is_same_start(exact_boot_ns: int, ticks: int) -> bool:
    """Return whether a start time in ns and one in ticks from ``/proc`` can belong to the same process."""
    return exact_boot_ns // TICK_NS == ticks


def entity_id(boot: bytes, tgid: int, start_boot_ns: int, pid_ns: int = 0) -> str:
    """Return the identity of a process as text: boot id, tgid and start time in ns, in hexadecimal, joined by dashes.

    The text contains the identity itself, not a hash of it. So there are no collisions, and an id
    from a log gives pid and start time of its process without an index.

    Args:
        boot: boot id, 16 bytes.
        tgid: the process.
        start_boot_ns: its start time.
        pid_ns: for a process that is identified by its pid in a pid namespace, the inode of the namespace; it precedes
            the pid, followed by a dot. 0: the tgid is one of the initial namespace.
    """
    return f"{boot.hex()}-{f'{pid_ns:x}.' if pid_ns else ''}{tgid:x}-{start_boot_ns:x}"


def cpid(boot: bytes, pid_ns: int, start_ticks: int, ns_pid: int) -> str:
    """Return OCSF's Common Process Identifier, which is the same for every tool and in every pid namespace.

    It consists of the first 16 bytes of a SHA-256, with the version and variant bits of a UUIDv8. The hash is over the
    boot id (16 bytes) and three numbers of 8 bytes each in native order: the inode of the pid namespace of the process,
    its start time in clock ticks, and its pid in that (innermost) namespace. The clock is coarse: two processes that
    get the same pid within one tick have the same identifier, so Procline never uses it as a key.

    Source: "Common Process Identifier (CPID)", section Linux, of the OCSF project.
    """
    from pipeline.host.digest import sha256  # deferred: most readers never need a CPID

    digits = sha256(_CPID_INPUT.pack(boot, pid_ns, start_ticks, ns_pid)).hexdigest()
    variant = "89ab"[int(digits[16], 16) & 0b11]
    return f"{digits[:8]}-{digits[8:12]}-8{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"
