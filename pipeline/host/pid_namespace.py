"""Check that this process, the kernel's events and ``/proc`` use the same pids.

BPF programs and the proc connector report pids of the initial pid namespace. A capture adds facts from ``/proc``, which
shows pids of the namespace for which it was mounted. In a container the two differ: each process would appear twice,
and a pid of one namespace would be mistaken for another process of the other. Therefore a capture needs the initial pid
namespace and a ``/proc`` that was mounted for it. Sources that do not combine the two (tracer, replay) need neither.

Readers and `procline doctor` import this module, so it uses the standard library only.
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
    """Return why a capture is impossible here and what to do about it; None: it is possible.

    Raises:
        UnsupportedError: the pid namespace is unknown, because ``/proc`` cannot be read.
    """
    try:
        # A /proc of another namespace does not show this process, or shows it with another pid.
        own = (proc / "self").readlink().name
        found = _LINK.fullmatch(str((proc / own / "ns" / "pid").readlink()))
    except FileNotFoundError:
        return _FOREIGN_PROC if (proc / "uptime").exists() else _NO_PROC
    except OSError as error:
        raise UnsupportedError(
            f"the pid namespace of this process cannot be read: {error}", feature="pid namespace", hint="run as root"
        ) from None
    if found is None or int(found[1]) != INITIAL:
        return _INNER_NAMESPACE
    return None if own == str(os.getpid()) else _FOREIGN_PROC


def require_initial(source: str) -> None:
    """Check that a capture by `source` sees each process under one pid.

    Raises:
        UnsupportedError: it does not; the message says what to do.
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
    "this is not the initial pid namespace, so the kernel reports other pids than this container uses",
    "run the daemon in the host's pid namespace (containers: --pid=host), or use --source tracer",
)
_NO_PROC = ("nothing is mounted on /proc", "run `mount -t proc proc /proc`")
_FOREIGN_PROC = (
    "/proc was mounted for another pid namespace, so it shows other pids than the kernel reports",
    "mount the host's /proc here (`mount -t proc proc /proc`)",
)
