"""Whether this process, the kernel's events and ``/proc`` number processes alike.

BPF programs and the proc connector report pids of the initial pid namespace. A capture completes them from ``/proc``,
which shows the pids of the namespace that it was mounted for. In a container the two differ: each process would appear
twice, and a pid of one numbering would be taken for another process of the other. So a capture needs the initial pid
namespace and a ``/proc`` that was mounted for it. Sources that do not combine the two (tracer, replay) need neither.

Readers and `procline doctor` import this module, so it takes nothing but the standard library.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pipeline.errors import UnsupportedError

#: PROC_PID_INIT_INO of include/linux/proc_ns.h: the inode of the initial pid namespace, in every kernel.
INITIAL = 0xEFFFFFFC

#: Sources that report pids of the initial namespace.
CAPTURES = frozenset({"ebpf", "proc-connector"})

_LINK = re.compile(r"pid:\[(\d+)\]")


def fault(proc: Path = Path("/proc")) -> tuple[str, str] | None:
    """Return what makes a capture impossible here and what to do about it; None: nothing.

    Raises:
        UnsupportedError: it cannot be told, since ``/proc`` may not be read.
    """
    try:
        # A mount of another namespace does not have this process, or has it under another number.
        own = (proc / "self").readlink().name
        found = _LINK.fullmatch(str((proc / own / "ns" / "pid").readlink()))
    except FileNotFoundError:
        return _FOREIGN_PROC if (proc / "uptime").exists() else _NO_PROC
    except OSError as error:
        raise UnsupportedError(
            f"the pid namespace of this process cannot be read: {error}", feature="pid namespace"
        ) from None
    if found is None or int(found[1]) != INITIAL:
        return _INNER_NAMESPACE
    return None if own == str(os.getpid()) else _FOREIGN_PROC


def require_initial(source: str) -> None:
    """Check that a capture by `source` would see processes by one number each.

    Raises:
        UnsupportedError: it would not; the message says what to do.
    """
    if source not in CAPTURES:
        return
    found = fault()
    if found is not None:
        raise UnsupportedError(
            f"source {source!r} cannot run here: {found[0]}",
            feature="pid namespace",
            needs="the initial pid namespace and its /proc",
            hint=found[1],
        )


_INNER_NAMESPACE = (
    "this is not the initial pid namespace, so the pids that the kernel reports are not those of this container",
    "run it in the host's pid namespace (containers: --pid=host), or use --source tracer",
)
_NO_PROC = ("nothing is mounted on /proc", "run `mount -t proc proc /proc`")
_FOREIGN_PROC = (
    "/proc was mounted for another pid namespace, so its pids are not those that the kernel reports",
    "mount the host's /proc here (`mount -t proc proc /proc`)",
)
