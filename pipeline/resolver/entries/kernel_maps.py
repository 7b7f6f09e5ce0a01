"""The kernel's own process caches: read entries from them, store processes in them (specification 2.2, 3.3.5).

`pid_cache` names an image by a cookie, `proc_cache` has the facts of the image; layouts are in `bpf/maps.py`. It does
not insert anything into the tables: `pipeline.resolver.api` does.

The reference uses three more maps. Here statx replaces `inode_file`, `pid_path_keys` is part of `proc_cache`, and task
flags identify kernel threads, so `kernel_thread_pids` is not needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from os import fsdecode
from typing import NamedTuple, Protocol, cast

import numpy as np

from pipeline.bpf.declared import IMAGE_PATH_BYTES
from pipeline.bpf.maps import IMAGE_ENTRY, PID_ENTRY
from pipeline.bpf.syscall import NOEXIST
from pipeline.host.boot import TICK_NS, is_same_start, ticks_of
from pipeline.procfs import filesystems
from pipeline.procfs.info import ProcInfo
from pipeline.procfs.tty import clean_tty_name
from pipeline.records.declared import EXEC_DELETED, EXEC_MEMFD, EXEC_UPPER_LAYER
from pipeline.resolver.entries import mounts
from pipeline.resolver.entries.cache_entry import ProcessCacheEntry
from pipeline.resolver.entries.model import (
    UPPER_LAYER,
    CGroupContext,
    Credentials,
    FileEvent,
    PathKey,
    ResolverError,
)

#: Names of the maps in a manager.
PID_CACHE = "pid_cache"
PROC_CACHE = "proc_cache"

#: Fields of a TASK and an EXEC that have the same names there. `cgroups_v1` is left out: the programs trust a stored
#: value, which would miss a move between the read of /proc and the store. If it is 0 they determine and store it.
_OF_TASK = (
    "cap_effective", "cap_permitted", "cgroup_id", "uid", "gid", "euid", "egid", "suid", "sgid", "fsuid", "fsgid",
    "auid", "audit_session", "user_ns", "sid", "pgid", "mnt_ns", "net_ns", "tty",
)  # fmt: skip
_OF_EXEC = (
    "inode", "ctime_ns", "mtime_ns", "device", "mount_id", "file_uid", "file_gid", "nlink", "mode", "fs_magic",
    "root_offset", "mount_end",
)  # fmt: skip
#: The part of `exec_flags` that belongs to the file of an image.
_FILE_FLAGS = EXEC_DELETED | EXEC_MEMFD | EXEC_UPPER_LAYER

_CREDENTIALS = ("uid", "gid", "euid", "egid", "fsuid", "fsgid", "auid", "cap_effective", "cap_permitted")


class KernelMap(Protocol):
    """A map from numbers to records. Every method raises OSError if the kernel rejects the call.

    Example:
        >>> import tempfile
        >>> class Empty:
        ...     def get(self, key):
        ...         return None
        ...     def put(self, key, entry, flags=0):
        ...         pass
        ...     def delete(self, key):
        ...         pass
        >>> with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, create_tables(path=directory) as tables:
        ...     resolver = EBPFResolver({"pid_cache": Empty(), "proc_cache": Empty()}, tables=tables)
        ...     resolver.bind_maps()
        ...     print(resolver.resolve(7, 7, 0, use_procfs=False))
        None
    """

    def get(self, key: int) -> np.void | None:
        """Return the record of a key; None: there is none."""

    def put(self, key: int, entry: np.void, flags: int = 0) -> None:
        """Store a record. With the flag BPF_NOEXIST, FileExistsError: the key has one."""

    def delete(self, key: int) -> object:
        """Remove a record, if it is there."""


class PidCache(KernelMap, Protocol):
    """`pid_cache`: an entry without an image can get its cookie later."""

    def name_image(self, key: int, cookie: int) -> bool:
        """Set the cookie of an entry that has none; returns whether it was set."""


class Held(NamedTuple):
    """The two records that the kernel holds of a process."""

    owner: np.void  #: a PID_ENTRY
    image: np.void  #: the IMAGE_ENTRY that its cookie names


class KernelMaps:
    """The two maps of a host. Before `bind`, and without a manager, they hold nothing.

    Args:
        manager: the maps by name; None: there are none.
        count: counts stores and refusals (`maps_filled`, `maps_refused`).
    """

    def __init__(self, manager: Mapping[str, KernelMap] | None, count: Callable[[str], object]) -> None:
        self._manager = manager
        self._count = count
        self._pids: PidCache | None = None
        self._images: KernelMap | None = None

    def bind(self) -> None:
        """Get the maps from the manager, if there is one.

        Raises:
            ResolverError: a map is missing.
        """
        if self._manager is None:
            return
        pids, images = self._manager.get(PID_CACHE), self._manager.get(PROC_CACHE)
        for name, found in ((PID_CACHE, pids), (PROC_CACHE, images)):
            if found is None:
                raise ResolverError(f"the kernel map {name} is missing: load the BPF programs before the start")
        self._pids, self._images = cast("PidCache", pids), images

    def find(self, pid: int) -> Held | None:
        """Return the records of a process; None: the maps have no image of it, or the kernel rejects the call."""
        if self._pids is None or self._images is None:
            return None
        try:
            owner = self._pids.get(pid)
            image = self._images.get(int(owner["cookie"])) if owner is not None else None
        except OSError:
            return None
        return Held(owner, image) if owner is not None and image is not None else None

    def exec_time(self, cookie: int) -> int:
        """Return when an exec created the image with this cookie, boot ns; 0: unknown, or no exec did."""
        try:
            image = self._images.get(cookie) if self._images is not None else None
        except OSError:
            return 0
        return int(image["exec_boot_ns"]) if image is not None else 0

    def fill(self, header: np.void, task: np.void, exec_: np.void, path: bytes, cookie: int = 0) -> int:
        """Store a process that was read from ``/proc``, unless the maps have a record of its pid.

        Args:
            header: one HEADER.
            task: one TASK.
            exec_: one EXEC.
            path: of the executable.
            cookie: of its image; 0: it gets a new one.

        Returns:
            The cookie of its image in the maps. 0: there are no maps, they have another process or a more recent image
            under the pid, or the kernel rejected the call, which is counted.
        """
        if self._pids is None or self._images is None:
            return 0
        cookie = cookie or new_cookie()
        try:
            is_new = fill(self._pids, self._images, header, task, exec_, path, cookie)
        except OSError:
            self._count("maps_refused")
            return 0
        if not is_new:
            return self._known_cookie(header)
        self._count("maps_filled")
        return cookie

    def _known_cookie(self, header: np.void) -> int:
        """Return the cookie of a process in the maps; 0: none, or its image is more recent than the read of /proc."""
        try:
            held = self._pids.get(int(header["tgid"])) if self._pids is not None else None
        except OSError:
            return 0
        if held is None or not is_same_start(int(held["start_boot_ns"]), ticks_of(int(header["start_boot_ns"]))):
            return 0
        cookie = int(held["cookie"])
        return cookie if self.exec_time(cookie) <= int(header["time_boot_ns"]) else 0


def entry_of(
    pid: int, tid: int, inode: int, owner: np.void, image: np.void, info: ProcInfo | None = None
) -> tuple[ProcessCacheEntry, bool]:
    """Decode the two records of a process.

    Args:
        pid: of the entry's process context.
        tid: likewise.
        inode: likewise.
        owner: a PID_ENTRY.
        image: the IMAGE_ENTRY that its cookie names.
        info: ``stat`` of the same process now, for the fields that change without an exec: parent, name, session,
            terminal. None: it was not read, or the process has ended.

    Returns:
        An entry with times of the boot clock, and whether its path is whole (the map holds the first 128 bytes).
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
    ids: dict[str, int] = {name: int(owner[name]) for name in _CREDENTIALS}
    credentials = Credentials(**ids)  # type: ignore[arg-type]  # none of these fields is a name
    cgroup_id = int(owner["cgroup_id"]) or int(image["cgroup_id"])
    entry = ProcessCacheEntry(
        pid=pid, tid=tid or pid, ppid=int(owner["ppid"]), exec_inode=inode, cookie=int(owner["cookie"]),
        file_event=file, credentials=credentials, cgroup=CGroupContext(path_key=PathKey(cgroup_id)),
        comm=fsdecode(bytes(image["comm"])), tty_name=clean_tty_name(bytes(owner["tty"]) or bytes(image["tty"])),
        start_boot_ns=int(owner["start_boot_ns"]), sid=int(owner["sid"]), mnt_ns=int(owner["mnt_ns"]),
        net_ns=int(owner["net_ns"]),
        # If the process is older than the capture, only its start is known of the fork.
        fork_time=int(owner["fork_boot_ns"]) or int(owner["start_boot_ns"]) or None,
        exec_time=int(image["exec_boot_ns"]) or None, exit_time=int(owner["exit_boot_ns"]) or None,
    )  # fmt: skip
    if info is not None:
        entry.set(ppid=info.ppid, comm=fsdecode(info.comm), sid=info.sid)
        if info.tty:
            entry.tty_name = fsdecode(info.tty)
    return entry, is_whole


def records_of(header: np.void, task: np.void, exec_: np.void, path: bytes, cookie: int) -> tuple[np.void, np.void]:
    """Return the two records that the task iterator would have made of a process.

    Args:
        header: one HEADER.
        task: one TASK.
        exec_: one EXEC.
        path: of the executable. If ``/proc`` did not show it, the image has only name, terminal and cgroup.
        cookie: names the image.
    """
    owner, image = np.zeros(1, PID_ENTRY)[0], np.zeros(1, IMAGE_ENTRY)[0]
    for name in _OF_TASK:
        owner[name] = task[name]
    owner["start_boot_ns"], owner["ppid"] = header["start_boot_ns"], header["ppid"]
    owner["cookie"] = cookie
    for name in _OF_EXEC:
        image[name] = exec_[name]
    image["exec_flags"] = int(exec_["exec_flags"]) & _FILE_FLAGS
    for name in ("cgroup_id", "comm", "tty"):
        image[name] = task[name]
    image["tgid"], image["path_bytes"] = header["tgid"], len(path)
    image["path"] = np.void(path[:IMAGE_PATH_BYTES].ljust(IMAGE_PATH_BYTES, b"\0"))
    return owner, image


def fill(
    pid_cache: PidCache, proc_cache: KernelMap, header: np.void, task: np.void, exec_: np.void, path: bytes, cookie: int
) -> bool:
    """Store a process in the maps, if the kernel has no record of its pid: the kernel's own records are more recent.

    If the kernel's record belongs to the same process and has no image (the process changed before it was reported),
    the image is added.

    The image is stored first, so that a program that finds the cookie finds the image. A BPF program that runs in
    between finds no record, and stores its own before this one or over it; in the first case this one is not stored.
    Nor is one of a process that has ended since ``/proc`` was read: its exit has left a record.

    Args:
        pid_cache: the map of processes.
        proc_cache: the map of images.
        header: as in `records_of`, and so are the rest.
        task: the TASK.
        exec_: the EXEC.
        path: of the executable.
        cookie: names the image.

    Returns:
        Whether it was stored.

    Raises:
        OSError: the kernel rejected the call.
    """
    tgid = int(header["tgid"])
    held = pid_cache.get(tgid)
    if held is not None and not _is_nameless(held, header):
        return False
    owner, image = records_of(header, task, exec_, path, cookie)
    has_made_image = _put_new(proc_cache, cookie, image)
    if _put_new(pid_cache, tgid, owner) if held is None else pid_cache.name_image(tgid, cookie):
        return True
    if has_made_image:
        proc_cache.delete(cookie)
    return False


def _is_nameless(owner: np.void, header: np.void) -> bool:
    """Whether a record belongs to the live process of `header`, and names no image."""
    return int(owner["cookie"]) == int(owner["exit_boot_ns"]) == 0 and is_same_start(
        int(owner["start_boot_ns"]), int(header["start_boot_ns"]) // TICK_NS
    )


def is_rounded(owner: np.void) -> bool:
    """Whether the start in a PID_ENTRY was read from ``/proc``: see pl_find_pid in bpf/programs/task.bpf.h."""
    return int(owner["fork_boot_ns"]) == 0 and int(owner["start_boot_ns"]) % TICK_NS == 0


def new_cookie() -> int:
    """Return a new random name for an image; never 0."""
    return int.from_bytes(os.urandom(8), "little") | 1


def _put_new(to: KernelMap, key: int, entry: np.void) -> bool:
    try:
        to.put(key, entry, NOEXIST)
    except FileExistsError:
        return False
    return True
