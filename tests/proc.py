"""Facts about a process from /proc, read without the product's own readers: the values that tests expect."""

from __future__ import annotations

import re
from pathlib import Path

#: A kernel thread, in the flags of proc_pid_stat(5).
PF_KTHREAD = 0x00200000


def status(pid: int) -> dict[str, list[str]]:
    """Return the words of each line of /proc/PID/status, by its name."""
    # Another test's process can have any bytes as its name.
    lines = Path(f"/proc/{pid}/status").read_text(errors="surrogateescape").splitlines()
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}


def stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on."""
    return Path(f"/proc/{pid}/stat").read_text(errors="surrogateescape").rpartition(")")[2].split()


def live_pids() -> set[int]:
    """Return the pids of all processes that have not ended, without kernel threads."""
    found = set()
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                fields = stat(int(each.name))
            except OSError:
                continue
            if fields[0] not in "ZX" and not int(fields[6]) & PF_KTHREAD:
                found.add(int(each.name))
    return found


def exe(pid: int) -> str:
    """Return the path of the executable, as the kernel shows it."""
    return str(Path(f"/proc/{pid}/exe").readlink())


def mount(pid: int | str, mount_id: int) -> tuple[list[bytes], list[bytes]]:
    """Return a mount as a process sees it: the fields of its line of /proc/PID/mountinfo, before and behind the dash.

    Raises:
        AssertionError: the process does not see it.
    """
    for line in Path(f"/proc/{pid}/mountinfo").read_bytes().splitlines():
        fields, _, tail = line.partition(b" - ")
        if int(fields.split()[0]) == mount_id:
            return fields.split(), tail.split()
    raise AssertionError(f"pid {pid} does not see mount {mount_id}")


def mount_point(pid: int | str, mount_id: int) -> bytes:
    """Return the mount point of a mount, as a process sees it."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), mount(pid, mount_id)[0][4])


def namespace(pid: int | str, kind: str) -> int:
    """Return the number of a namespace: `kind` is mnt, net, pid, user or another entry of /proc/PID/ns."""
    return Path(f"/proc/{pid}/ns/{kind}").stat().st_ino
