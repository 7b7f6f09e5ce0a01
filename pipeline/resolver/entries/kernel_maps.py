"""The kernel's own process caches as entries, and processes entered into them (specification 2.2, 3.3.5, SyncCache).

`pid_cache` names an image by a cookie, `proc_cache` has the image's facts; layouts are in `bpf/maps.py`. The maps are
given as objects with `get`, `put` and `delete`: a HashMap of that module, or a dictionary's stand-in in tests.

The reference uses three maps more. Here `inode_file` is statx, `pid_path_keys` is part of `proc_cache`, and kernel
threads are told by their task flags, so `kernel_thread_pids` is not needed.
"""

from __future__ import annotations

import os
from dataclasses import replace
from os import fsdecode
from typing import Any, Protocol

import numpy as np

from pipeline.bpf.maps import IMAGE_ENTRY, PID_ENTRY
from pipeline.host.boot import TICK_NS, is_same_start
from pipeline.procfs import filesystems
from pipeline.procfs.info import ProcInfo
from pipeline.procfs.tty import clean_tty_name
from pipeline.records.kinds import EXEC_DELETED, EXEC_MEMFD, EXEC_UPPER_LAYER
from pipeline.resolver.entries import mounts
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.model import (
    UPPER_LAYER,
    CGroupContext,
    Credentials,
    FileEvent,
    PathKey,
)

#: Names by which a manager gives out the maps.
PID_CACHE = "pid_cache"
PROC_CACHE = "proc_cache"

_NOEXIST = 1

#: What a TASK and an EXEC have under the same names. Not `cgroups_v1`: the programs believe what is stored of it, and a
#: move between the look at /proc and the entry is not in it. Where it is 0 they look, and store what they see.
_OF_TASK = (
    "cap_effective", "cap_permitted", "cgroup_id", "uid", "gid", "euid", "egid", "suid", "sgid", "fsuid", "fsgid",
    "auid", "audit_session", "user_ns", "sid", "pgid", "mnt_ns", "net_ns", "tty",
)  # fmt: skip
_OF_EXEC = (
    "inode", "ctime_ns", "mtime_ns", "device", "mount_id", "file_uid", "file_gid", "nlink", "mode", "fs_magic",
    "root_offset", "mount_end",
)  # fmt: skip
#: Of `exec_flags` what an image has by its file.
_FILE_FLAGS = EXEC_DELETED | EXEC_MEMFD | EXEC_UPPER_LAYER

_CREDENTIALS = ("uid", "gid", "euid", "egid", "fsuid", "fsgid", "auid", "cap_effective", "cap_permitted")


class KernelMap(Protocol):
    """A map from numbers to records."""

    def get(self, key: int) -> Any: ...

    def put(self, key: int, entry: Any, flags: int = 0) -> None: ...

    def delete(self, key: int) -> object: ...


class PidCache(KernelMap, Protocol):
    """`pid_cache`: of an entry without an image the cookie can be told later."""

    def name_image(self, key: int, cookie: int) -> bool: ...


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
        flags=UPPER_LAYER if flags & EXEC_UPPER_LAYER else 0, filesystem=filesystems.name_of(int(image["fs_magic"])),
        **mounts.walked(raw[:length], int(image["mount_end"]), flags),
    )  # fmt: skip
    if is_whole and path:
        if flags & EXEC_MEMFD:
            file = file.as_memfd(path)
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


def records_of(head: np.void, task: np.void, exec_: np.void, path: bytes, cookie: int) -> tuple[np.void, np.void]:
    """A process as the two records that the task iterator would have made of it.

    Args:
        head, task, exec_: one HEAD, TASK and EXEC.
        path: of the executable; where ``/proc`` did not show that, the image has name, terminal and cgroup alone.
        cookie: names the image.
    """
    owner, image = np.zeros(1, PID_ENTRY)[0], np.zeros(1, IMAGE_ENTRY)[0]
    for name in _OF_TASK:
        owner[name] = task[name]
    owner["start_boot_ns"], owner["ppid"] = head["start_boot_ns"], head["ppid"]
    owner["cookie"] = cookie
    for name in _OF_EXEC:
        image[name] = exec_[name]
    image["exec_flags"] = int(exec_["exec_flags"]) & _FILE_FLAGS
    for name in ("cgroup_id", "comm", "tty"):
        image[name] = task[name]
    image["tgid"], image["path_bytes"] = head["tgid"], len(path)
    image["path"] = np.void(path[:128].ljust(128, b"\0"))
    return owner, image


def fill(
    pid_cache: PidCache, proc_cache: KernelMap, head: np.void, task: np.void, exec_: np.void, path: bytes, cookie: int
) -> bool:
    """Enter a process where the kernel has nothing of its pid: what the kernel wrote by itself is newer.

    Where that is of the same process and has no image (it changed before anybody told of it), that is entered.

    The image first, so that who finds the cookie finds the image. A program that comes in between finds no entry and
    stores its own over this one, or before it; then this one is not stored. Nor is one of a process that has ended
    since it was looked at: its exit has left an entry.

    Args:
        head, task, exec_, path, cookie: as in `records_of`.

    Returns:
        Whether it was entered.

    Raises:
        OSError: a map refused.
    """
    tgid = int(head["tgid"])
    held = pid_cache.get(tgid)
    if held is not None and not _is_nameless(held, head):
        return False
    owner, image = records_of(head, task, exec_, path, cookie)
    has_made_image = _put_new(proc_cache, cookie, image)
    if _put_new(pid_cache, tgid, owner) if held is None else pid_cache.name_image(tgid, cookie):
        return True
    if has_made_image:
        proc_cache.delete(cookie)
    return False


def _is_nameless(owner: np.void, head: np.void) -> bool:
    """Whether an entry is of the process that `head` is of, which lives, and names no image."""
    return int(owner["cookie"]) == int(owner["exit_boot_ns"]) == 0 and is_same_start(
        int(owner["start_boot_ns"]), int(head["start_boot_ns"]) // TICK_NS
    )


def is_rounded(owner: np.void) -> bool:
    """Whether the start in a PID_ENTRY is one of ``/proc``: see pl_find_pid in bpf/programs/task.bpf.h."""
    return int(owner["fork_boot_ns"]) == 0 and int(owner["start_boot_ns"]) % TICK_NS == 0


def new_cookie() -> int:
    """A name for an image that none has yet; never 0."""
    return int.from_bytes(os.urandom(8), "little") | 1


def _put_new(to: KernelMap, key: int, entry: np.void) -> bool:
    try:
        to.put(key, entry, _NOEXIST)
    except FileExistsError:
        return False
    return True
