"""The kernel's own process caches as entries, and entries pushed into them (specification 2.2, 3.3.5, SyncCache).

`pid_cache` names an image by a cookie, `proc_cache` has the image's facts; layouts are in `bpf/maps.py`. The maps are
given as objects with `get(key)` and `put(key, entry)`: a HashMap of that module, or a dictionary's stand-in in tests.

The reference uses three maps more. Here `inode_file` is statx, `pid_path_keys` is part of `proc_cache`, and kernel
threads are told by their task flags, so `kernel_thread_pids` is not needed.
"""

from __future__ import annotations

from dataclasses import replace
from os import fsdecode, fsencode
from typing import Any, Protocol

import numpy as np

from pipeline.bpf.maps import IMAGE_ENTRY, PID_ENTRY
from pipeline.events import EXEC_MEMFD, EXEC_UPPER_LAYER
from pipeline.resolver import mounts
from pipeline.resolver.cache_entry import ProcessCacheEntry
from pipeline.resolver.model import (
    FILELESS_PREFIX,
    UPPER_LAYER,
    CGroupContext,
    Credentials,
    FileEvent,
    PathKey,
)
from pipeline.resolver.procinfo import ProcInfo
from pipeline.resolver.tty import clean_tty_name

#: Names by which a manager gives out the maps.
PID_CACHE = "pid_cache"
PROC_CACHE = "proc_cache"

_NOEXIST = 1

_CREDENTIALS = ("uid", "gid", "euid", "egid", "fsuid", "fsgid", "auid", "cap_effective", "cap_permitted")


class KernelMap(Protocol):
    """A map from numbers to records."""

    def get(self, key: int) -> Any: ...

    def put(self, key: int, entry: Any, flags: int = 0) -> None: ...


def entry_of(
    pid: int, tid: int, inode: int, owner: np.void, image: np.void, info: ProcInfo | None = None
) -> tuple[ProcessCacheEntry, bool]:
    """Decode the two records of a process.

    Args:
        pid, tid, inode: as the entry's process context has them.
        owner, image: a PID_ENTRY and the IMAGE_ENTRY that its cookie names.
        info: what ``stat`` says of the same process now, for what changes without an exec: parent, name, session,
            terminal. None: it is not asked, or the process has ended.

    Returns:
        An entry with times of the boot clock, and whether its path is whole (the map keeps the first 128 bytes).
    """
    flags = int(image["exec_flags"])
    length = int(image["path_bytes"])
    raw = bytes(image["path"])
    is_whole = length <= len(raw)
    path = fsdecode(raw[:length])
    file = FileEvent(
        inode=int(image["inode"]), mount_id=int(image["mount_id"]), uid=int(image["file_uid"]),
        gid=int(image["file_gid"]), mode=int(image["mode"]), ctime=int(image["ctime_ns"]),
        mtime=int(image["mtime_ns"]), device=int(image["device"]), nlink=int(image["nlink"]),
        flags=UPPER_LAYER if flags & EXEC_UPPER_LAYER else 0,
        **mounts.walked(raw[:length], int(image["mount_end"]), flags),
    )  # fmt: skip
    if is_whole and path:
        if flags & EXEC_MEMFD:
            file = file.with_names("", FILELESS_PREFIX + path.removeprefix("/").removeprefix(FILELESS_PREFIX))
        else:
            file = replace(file.with_names(path, path.rpartition("/")[2]), is_pathname_resolved=True)
    ids: dict[str, Any] = {name: int(owner[name]) for name in _CREDENTIALS}
    credentials = Credentials(**ids)
    cgroup_id = int(owner["cgroup_id"]) or int(image["cgroup_id"])
    entry = ProcessCacheEntry(
        pid=pid, tid=tid or pid, ppid=int(owner["ppid"]), exec_inode=inode, cookie=int(owner["cookie"]),
        file_event=file, credentials=credentials, cgroup=CGroupContext(path_key=PathKey(cgroup_id)),
        comm=fsdecode(bytes(image["comm"])), tty_name=clean_tty_name(bytes(owner["tty"]) or bytes(image["tty"])),
        start_boot_ns=int(owner["start_boot_ns"]), sid=int(owner["sid"]), mnt_ns=int(owner["mnt_ns"]),
        net_ns=int(owner["net_ns"]),
        # Older than the capture: the start is what is known of the fork.
        fork_time=int(owner["fork_boot_ns"]) or int(owner["start_boot_ns"]) or None,
        exec_time=int(image["exec_boot_ns"]) or None, exit_time=int(owner["exit_boot_ns"]) or None,
    )  # fmt: skip
    if info is not None:
        entry.set(ppid=info.ppid, comm=fsdecode(info.comm), sid=info.sid)
        if info.tty:
            entry.tty_name = fsdecode(info.tty)
    return entry, is_whole


def records_of(entry: ProcessCacheEntry, boot_ns_of: Any) -> tuple[np.void, np.void]:
    """The two records of an entry. A time that is unset is 0 (specification 9.3.20)."""
    owner, image = np.zeros(1, PID_ENTRY), np.zeros(1, IMAGE_ENTRY)
    owner["cookie"], owner["start_boot_ns"] = entry.cookie, entry.start_boot_ns
    owner["fork_boot_ns"], owner["exit_boot_ns"] = boot_ns_of(entry.fork_time), boot_ns_of(entry.exit_time)
    owner["cgroup_id"] = image["cgroup_id"] = entry.cgroup.path_key.inode
    for name in ("ppid", "sid", "mnt_ns", "net_ns"):
        owner[name] = getattr(entry, name)
    owner["tty"] = fsencode(entry.tty_name)[:15]
    credentials = entry.credentials
    for name in ("uid", "gid", "euid", "egid", "fsuid", "fsgid", "auid", "cap_effective", "cap_permitted"):
        owner[name] = getattr(credentials, name)
    file = entry.file_event
    image["exec_boot_ns"] = boot_ns_of(entry.exec_time)
    image["inode"], image["mount_id"], image["device"] = file.inode, file.mount_id, file.device
    image["file_uid"], image["file_gid"], image["nlink"], image["mode"] = file.uid, file.gid, file.nlink, file.mode
    image["ctime_ns"], image["mtime_ns"], image["tgid"] = file.ctime, file.mtime, entry.pid
    image["comm"], image["tty"] = fsencode(entry.comm)[:15], fsencode(entry.tty_name)[:15]
    path = fsencode(file.pathname)
    image["mount_end"] = mounts.end_of(path, file.mount_path)
    image["path_bytes"] = min(len(path), 0xFFFF)
    image["path"] = np.void(path[:128].ljust(128, b"\0"))
    return owner[0], image[0]


def push(pid_cache: KernelMap, proc_cache: KernelMap, entry: ProcessCacheEntry, boot_ns_of: Any) -> bool:
    """Store an entry where the kernel has none of its pid yet: what the kernel wrote by itself is newer.

    Returns:
        Whether it was stored.

    Raises:
        OSError: a map refused.
    """
    owner, image = records_of(entry, boot_ns_of)
    proc_cache.put(entry.cookie, image)
    try:
        pid_cache.put(entry.pid, owner, _NOEXIST)
    except FileExistsError:
        return False
    return True
