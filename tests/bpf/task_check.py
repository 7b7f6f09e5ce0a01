"""The facts that a record of a live process must have, by /proc, and what the kernel does if a leader ends first."""

from __future__ import annotations

from pathlib import Path

from pipeline.host.boot import is_same_start
from tests.bpf.ring_reader import Record
from tests.proc import namespace, stat, status


def check_task(record: Record, pid: int) -> None:
    """Compare HEADER and TASK with /proc for the live process."""
    header, task, now, fields = record.header, record.task, status(pid), stat(pid)
    assert task is not None
    assert (header["tgid"], header["tid"]) == (pid, pid)
    assert header["ppid"] == int(now["PPid"][0])
    assert is_same_start(int(header["start_boot_ns"]), int(fields[19]))
    assert is_same_start(int(header["parent_start_boot_ns"]), int(stat(int(header["ppid"]))[19]))
    assert [task[f] for f in ("uid", "euid", "suid", "fsuid")] == [int(x) for x in now["Uid"]]
    assert [task[f] for f in ("gid", "egid", "sgid", "fsgid")] == [int(x) for x in now["Gid"]]
    assert task["cap_effective"] == int(now["CapEff"][0], 16)
    assert task["cap_permitted"] == int(now["CapPrm"][0], 16)
    assert task["auid"] == int(Path(f"/proc/{pid}/loginuid").read_text())
    assert task["audit_session"] == int(Path(f"/proc/{pid}/sessionid").read_text())
    assert (task["pgid"], task["sid"]) == (int(fields[2]), int(fields[3]))
    assert task["ns_pid"] == int(now["NSpid"][-1])
    for name in ("pid", "mnt", "net", "user"):
        assert task[f"{name}_ns"] == namespace(pid, name), name
    assert task["comm"] == Path(f"/proc/{pid}/comm").read_bytes().rstrip(b"\n")
    assert task["cgroup_id"] == cgroup_id(pid)
    assert not task["task_flags"] & 0x200000


def cgroup_id(pid: int) -> int:
    """Return the inode of the process's directory in the cgroup v2 hierarchy."""
    path = next(line[3:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if line.startswith("0::"))
    root = cgroup_root()
    return 1 if root is None else (root / path.lstrip("/")).stat().st_ino


def cgroup_root() -> Path | None:
    """Return where the cgroup v2 hierarchy is mounted."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return next((Path(line.split()[4]) for line in mounts if " - cgroup2 " in line), None)


def codes_of_separate_ends() -> set[int]:
    """Return the codes that wait() can report if a leader ends with 5, and the last thread then ends with 7.

    A kernel that counts threads for this reports the code of the last one, an older kernel that of the leader.
    """
    return {7} if b"\0quick_threads\0" in Path("/sys/kernel/btf/vmlinux").read_bytes() else {5}


#: The leader ends, and a thread prints that; when it reads a line, it renames the leader. It lives until stdin ends.
LEADERLESS = """
import ctypes, os, sys, threading, time
def live():
    while open("/proc/self/stat").read().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.001)
    print("ready", flush=True)
    if sys.stdin.readline():
        open("/proc/self/comm", "w").write("leaderless")
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=live).start()
ctypes.CDLL(None).pthread_exit(None)
"""
