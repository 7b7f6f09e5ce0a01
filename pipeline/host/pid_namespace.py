"""Check that this process, the kernel's events and ``/proc`` use the same pids.

BPF programs and the proc connector report pids of the initial pid namespace. A capture adds facts from ``/proc``, which
shows pids of the namespace for which it was mounted. In a container the two differ: each process would appear twice,
and a pid of one namespace would be mistaken for another process of the other. Therefore a capture of the host needs the
initial pid namespace and a ``/proc`` that was mounted for it.

With the scope "namespace", the BPF programs report only processes that are in this process's pid namespace, by their
pids there (scope.bpf.h). Such a capture needs a ``/proc`` that was mounted for that namespace.

Sources that do not combine the two (tracer, replay) need neither.

Readers and `procline doctor` import this module, so it uses the standard library only.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pipeline import proc_text
from pipeline.errors import UnsupportedError

#: PROC_PID_INIT_INO of include/linux/proc_ns.h: the inode of the initial pid namespace, in every kernel.
INITIAL = 0xEFFFFFFC
#: PROC_CGROUP_INIT_INO: the same for cgroup namespaces.
_INITIAL_CGROUP = 0xEFFFFFFB

#: Sources that report pids of the initial namespace.
CAPTURES = frozenset({"ebpf", "proc-connector"})

#: Values of `capture.scope`.
HOST, NAMESPACE = "host", "namespace"


def is_inner() -> bool:
    """Whether this process is in another pid namespace than the initial one; False if that is unknown.

    There, kernel threads have no pids, and pid 2 is an ordinary process.
    """
    try:
        return proc_text.own_pid_ns() != INITIAL
    except OSError:
        return False


def sees_kernel_cgroup_paths() -> bool:
    """Whether cgroup paths in ``/proc`` begin where those of the kernel's events begin, which is at the global root."""
    try:
        return _inode(Path("/proc/self/ns/cgroup")) == _INITIAL_CGROUP
    except OSError:
        return True  # a kernel without cgroup namespaces


def fault(proc: Path = Path("/proc"), scope: str = HOST) -> tuple[str, str] | None:
    """Return why a capture is impossible here and what to do about it; None: it is possible.

    Raises:
        UnsupportedError: the pid namespace is unknown, because ``/proc`` cannot be read.
    """
    try:
        # A /proc of another namespace does not show this process, or shows it with another pid.
        number = (proc / "self").readlink().name
        inode = _inode(proc / number / "ns" / "pid")
        # From the pid namespace of the procfs mount inwards.
        numbers = proc_text.status_value((proc / number / "status").read_bytes(), b"NSpid").split()
    except FileNotFoundError:
        return _FOREIGN_PROC if (proc / "uptime").exists() else _NO_PROC
    except OSError as error:
        raise UnsupportedError(
            f"the pid namespace of this process cannot be read: {error}", feature="pid namespace", hint="run as root"
        ) from None
    if inode != INITIAL and scope == HOST:
        return _INNER_NAMESPACE
    # The pid can be the same by chance. Then the list has several numbers. A kernel without pid namespaces has no list.
    if number != str(os.getpid()) or len(numbers) > 1:
        return _FOREIGN_PROC
    try:
        is_same = _inode(proc / number / "ns" / "pid_for_children") == inode
    except FileNotFoundError:
        is_same = False  # a namespace that has no process yet
    return None if is_same else _OTHER_FOR_CHILDREN


def require(source: str, scope: str) -> None:
    """Check that a capture by `source` sees each process under one pid, and can honour the scope.

    Raises:
        UnsupportedError: it does not; the message says what to do.
    """
    kind = source.partition(":")[0]
    if kind not in CAPTURES:
        if scope == NAMESPACE:
            why, hint = _SCOPELESS.get(kind, _SCOPELESS["tracer"])
            raise _refused(source, why, "capture.scope", f"source ebpf for scope {scope!r}", hint)
        return
    found = fault(scope=scope)
    if found is None and kind == "proc-connector" and is_inner():
        found = _CONNECTOR_INSIDE
    if found is not None:
        needs = "the initial pid namespace and its /proc" if scope == HOST else "a /proc of this pid namespace"
        raise _refused(source, found[0], "pid namespace", needs, found[1])


def _refused(source: str, why: str, feature: str, needs: str, hint: str) -> UnsupportedError:
    return UnsupportedError(f"source {source!r} cannot run here: {why}", feature=feature, needs=needs, hint=hint)


def _inode(link: Path) -> int:
    found = re.fullmatch(r"\w+:\[(\d+)\]", str(link.readlink()))
    return int(found[1]) if found else 0


_INNER_NAMESPACE = (
    "this is not the initial pid namespace, so the kernel reports other pids than this container uses",
    "run the daemon in the host's pid namespace (containers: --pid=host), record only the processes of this namespace "
    "(--scope namespace), or use --source tracer",
)
_NO_PROC = ("nothing is mounted on /proc", "run `mount -t proc proc /proc`")
_FOREIGN_PROC = (
    "/proc was mounted for another pid namespace, so it shows other pids than the kernel reports",
    "mount the /proc of the daemon's pid namespace here (`mount -t proc proc /proc`)",
)
_OTHER_FOR_CHILDREN = (
    "processes that this one starts would be in another pid namespace",
    "start it as a child of the process that made the namespace (`unshare --fork --pid --mount-proc`)",
)
_CONNECTOR_INSIDE = (
    "the kernel's process events exist only in the initial pid namespace",
    "use --source ebpf with --scope namespace, or run the daemon in the host's pid namespace",
)
_SCOPELESS = {
    "tracer": (
        "it records what tracers report, from every pid namespace, so --scope namespace cannot limit it",
        "omit --scope namespace, or use --source ebpf",
    ),
    "replay": (
        "the scope of a recording was chosen when it was made, so --scope namespace cannot limit it",
        "omit --scope namespace",
    ),
}
