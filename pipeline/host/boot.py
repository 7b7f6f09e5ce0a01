"""This boot of the kernel: its id, its clocks, and the identities of its processes.

Covers the boot id, the boot clock against Unix time, clock ticks as ``/proc/PID/stat`` counts them, ``pid_max``, and
the two text identities of a process, `entity_id` and `cpid`. Leaves out which process has which identity: that is the
table's. A leaf module of the standard library only, because every reader imports it.

Why boot-clock time is kept everywhere and Unix time is made from it at the edge: the boot clock never steps, counts
suspend, and is the clock of ``task->start_boottime``. One offset, read once, turns all of it into Unix time, so two
events keep their order when somebody sets the wall clock.
"""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

NANOS = 1_000_000_000

#: ``USER_HZ``: the unit of times in ``/proc/PID/stat``, 100 on every architecture that Linux still supports.
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
#: Nanoseconds of one such tick.
TICK_NS = NANOS // CLOCK_TICKS

#: Largest ``pid_max`` that a kernel allows (``PID_MAX_LIMIT``, 64 bit).
PID_MAX_LIMIT = 4 * 1024 * 1024

_BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id"
_PID_MAX_FILE = "/proc/sys/kernel/pid_max"

_CPID_INPUT = struct.Struct("=16sQQq")


def boot_id(path: str = _BOOT_ID_FILE) -> bytes:
    """The kernel's boot id: 16 bytes, in the order in which its text form is written (RFC 9562)."""
    return bytes.fromhex(Path(path).read_text(encoding="ascii").strip().replace("-", ""))


def boot_id_text(raw: bytes) -> str:
    """Text form of a boot id, as the kernel shows it."""
    return _uuid_text(int.from_bytes(raw))


def pid_max(path: str = _PID_MAX_FILE) -> int:
    """One more than the largest pid that the kernel gives out now; an administrator may raise it later."""
    return int(Path(path).read_text(encoding="ascii"))


def now_boot_ns() -> int:
    """The boot clock now, in ns: the clock of every ``*_boot_ns`` field."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class BootClock:
    """Boot-clock time to Unix time and back, by an offset that is read once.

    Attributes:
        offset_ns: Unix time minus boot-clock time, ns.
        error_ns: the offset is off by at most this much (half of the shortest sampling window seen).
    """

    offset_ns: int
    error_ns: int = 0

    @classmethod
    def read(cls, samples: int = 16) -> BootClock:
        """Sample both clocks and keep the tightest pair.

        The wall clock is read between two readings of the boot clock; the attempt with the shortest window was
        disturbed least (an interrupt or a migration in between makes it longer, never shorter).
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
        return cls(best_offset, (best_window + 1) // 2)

    def to_unix_ns(self, boot_ns: int) -> int:
        """Unix time of a boot-clock time; 0 (unset) stays 0."""
        return boot_ns + self.offset_ns if boot_ns else 0

    def to_boot_ns(self, unix_ns: int) -> int:
        """Boot-clock time of a Unix time; 0 (unset) stays 0, and a time before the boot is negative."""
        return unix_ns - self.offset_ns if unix_ns else 0


def ticks_of(boot_ns: int) -> int:
    """Boot-clock ns to clock ticks, rounded down as the kernel does (``nsec_to_clock_t``)."""
    return boot_ns // TICK_NS


def boot_ns_of(ticks: int) -> int:
    """The first ns of a clock tick. A start time made so is up to one tick (10 ms) early."""
    return ticks * TICK_NS


def is_same_start(exact_boot_ns: int, ticks: int) -> bool:
    """Whether a start time in ns and one from ``/proc`` can be of the same process."""
    return exact_boot_ns // TICK_NS == ticks


def _uuid_text(number: int) -> str:
    digits = f"{number:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def entity_id(boot: bytes, tgid: int, start_boot_ns: int, pid_ns: int = 0) -> str:
    """The identity of a process as text: boot id, tgid and start time in ns, in hexadecimal, joined by dashes.

    It holds the identity itself, not a hash of it: nothing can collide, and `parse_entity_id` gives pid and start back,
    so an id from a log leads to its process without an index.

    Args:
        boot: 16 bytes. tgid, start_boot_ns: the identity.
        pid_ns: of a process that is known by its number in a pid namespace: its inode, which then stands before the
            pid, with a dot between them.
    """
    return f"{boot.hex()}-{f'{pid_ns:x}.' if pid_ns else ''}{tgid:x}-{start_boot_ns:x}"


class EntityKey(NamedTuple):
    """What an entity id holds: the boot id (16 bytes), the tgid and the start time in boot ns; where the tgid is a
    number of a pid namespace that a tracer named, that one's inode, else 0."""

    boot: bytes
    tgid: int
    start_boot_ns: int
    pid_ns: int = 0


def parse_entity_id(text: str) -> EntityKey:
    """Take an entity id apart.

    Raises:
        ValueError: not an entity id.
    """
    parts = text.split("-")
    try:
        namespace, _, number = parts[1].rpartition(".")
        boot, tgid, start = bytes.fromhex(parts[0]), int(number, 16), int(parts[2], 16)
        pid_ns = int(namespace, 16) if namespace else 0
    except (ValueError, IndexError):
        boot, tgid, start, pid_ns = b"", 0, 0, 0
    if len(parts) != 3 or entity_id(boot, tgid, start, pid_ns) != text or len(boot) != 16:
        raise ValueError(f"not an entity id: {text!r}")
    return EntityKey(boot, tgid, start, pid_ns)


def cpid(boot: bytes, pid_ns: int, start_ticks: int, ns_pid: int) -> str:
    """OCSF's Common Process Identifier: equal for every tool that computes it, from any pid namespace.

    The first 16 bytes of the SHA-256 over the boot id (16 bytes), the inode of the process' pid namespace, its start
    time in clock ticks and its pid in that (innermost) namespace, each 8 bytes in native order; then version and
    variant bits of a UUIDv8. Its clock is coarse: two processes that get the same pid within one tick share it, so
    nothing in Procline is keyed on it.

    Source: "Common Process Identifier (CPID)", section Linux, of the OCSF project.
    """
    # Deferred: most readers never ask for a CPID, and hashlib pulls in OpenSSL.
    from hashlib import sha256

    digest = int.from_bytes(sha256(_CPID_INPUT.pack(boot, pid_ns, start_ticks, ns_pid)).digest()[:16])
    return _uuid_text(digest & ~(0xF << 76) & ~(0b11 << 62) | 0x8 << 76 | 0b10 << 62)
