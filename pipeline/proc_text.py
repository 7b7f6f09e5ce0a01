"""Files of ``/proc/PID`` in which the kernel describes a process as text, such as ``stat``, ``status``, ``mountinfo``.

Only their format is defined here. Each caller reads the file itself, because callers differ in how: by a path or below
a descriptor, and once or in a loop. Only what the kernel says about this process is read here: its descriptors and its
pid namespace. The module imports nothing that a small reader does not need, because readers import it.

Source: proc_pid_stat(5), proc_pid_status(5), proc_pid_fdinfo(5), proc_pid_mountinfo(5),
Documentation/scheduler/sched-stats.rst.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as `typing.TYPE_CHECKING`, without that module
if TYPE_CHECKING:
    from collections.abc import Iterator

#: What the kernel puts behind a path that is not in its directory any more.
DELETED = b" (deleted)"

#: Positions in `stat_fields`: field n of proc_pid_stat(5) is at n - 3.
STATE = 0
PPID = 1
PGID = 2
SID = 3
TTY_NR = 4  #: number of the controlling terminal; 0: none
TASK_FLAGS = 6  #: PF_* of the kernel
MINOR_FAULTS = 7
MAJOR_FAULTS = 9
USER_TICKS = 11
SYSTEM_TICKS = 12
CHILDREN_USER_TICKS = 13
CHILDREN_SYSTEM_TICKS = 14
THREADS = 17
START_TICKS = 19
CODE_START = 23
CODE_END = 24
STACK_START = 25
ARGS_START = 45
ARGS_END = 46
ENVS_START = 47
ENVS_END = 48


def split_stat(text: bytes) -> tuple[bytes, list[bytes]]:
    """Return the name of a process, and its `stat_fields`.

    Args:
        text: content of ``/proc/PID/stat`` or of a thread's ``stat``.

    Raises:
        ProcessLookupError: it is no such text.
    """
    # The name can contain any byte, also parentheses, blanks and newlines. Only numbers follow the last parenthesis.
    end = text.rfind(b")")
    if end < 0:
        raise ProcessLookupError
    return text[text.index(b"(") + 1 : end], text[end + 2 :].split()


def stat_fields(text: bytes) -> list[bytes]:
    """Return the fields from the third (the state) on. Arguments and exceptions as in `split_stat`."""
    return split_stat(text)[1]


def has_ended(fields: list[bytes]) -> bool:
    """Return whether a process or thread is a zombie, or dead. `fields` as in `stat_fields`."""
    return fields[STATE] in b"ZX"


def cpu_ticks(fields: list[bytes]) -> int:
    """Return the CPU time of a process or thread, in clock ticks, without children. `fields` as in `stat_fields`."""
    return int(fields[USER_TICKS]) + int(fields[SYSTEM_TICKS])


def schedstat(text: bytes) -> tuple[int, int, int]:
    """Return the CPU time of a process or thread and its time waiting for a CPU, in ns, and how often it ran.

    All are 0 on a kernel that does not count them.

    Raises:
        ValueError: the text has another format.
    """
    cpu_ns, wait_ns, runs = map(int, text.split())
    return cpu_ns, wait_ns, runs


def status_value(text: bytes, key: bytes) -> bytes:
    """Return the value of a line of ``/proc/PID/status`` or ``/proc/PID/fdinfo/FD``; b"" if there is no such line.

    Args:
        text: content of the file.
        key: name of the line, but not of the first: ``Name`` or ``pos``. The kernel escapes newlines in the name.
    """
    return text.partition(b"\n%b:\t" % key)[2].partition(b"\n")[0]


def effective_capabilities(status: bytes) -> int:
    """Return the mask of the effective capabilities in the text of ``/proc/PID/status``; 0 if it has none."""
    return int(status_value(status, b"CapEff") or b"0", 16)


def fdinfo_value(fd: int, key: bytes) -> bytes:
    """Return a value that the kernel has for a descriptor of this process; b"" if it has none.

    Args:
        fd: the descriptor.
        key: name of a line of ``/proc/PID/fdinfo/FD``, such as ``max_entries`` of a BPF map, but not ``pos``.

    Raises:
        OSError: it is not open, or ``/proc`` cannot be read.
    """
    with open(f"/proc/self/fdinfo/{fd}", "rb") as info:  # noqa: PTH123 - pathlib is not imported here
        return status_value(info.read(), key)


def mount_id(fd: int) -> bytes:
    """Return the id of the mount that a descriptor is on, in digits, without accessing the file system.

    Raises:
        OSError: ``/proc`` cannot be read.
    """
    return fdinfo_value(fd, b"mnt_id")


def own_pid_ns() -> int:
    """Return the inode of this process's pid namespace, as the tables store it: the kernel's numbers have 32 bits.

    Raises:
        OSError: it cannot be read, or ``/proc`` does not show this process.
    """
    return os.stat("/proc/self/ns/pid").st_ino & 0xFFFF_FFFF  # noqa: PTH116 - pathlib is not imported here


def mounts_of(mountinfo: bytes) -> Iterator[tuple[list[bytes], bytes]]:
    """Yield the fields before the dash of each line, and the text after it: type, source, super block options.

    The fields are ID, PARENT, MAJOR:MINOR, ROOT, MOUNT_POINT, OPTIONS and tags.
    """
    for line in mountinfo.split(b"\n"):  # not splitlines(): the kernel does not escape a carriage return in a name
        fields, _, tail = line.partition(b" - ")
        mounted = fields.split(b" ")
        if len(mounted) > 4:
            yield mounted, tail


def unescape(raw: bytes) -> bytes:
    """Decode the octal escapes of spaces, tabs, newlines and backslashes in a name of mountinfo."""
    if b"\\" not in raw:
        return raw
    import re  # deferred: such names are rare

    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), raw)
