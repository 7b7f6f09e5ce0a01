"""The maps that BPF programs and user space share: layouts, mapped views, look-ups by descriptor.

Works in any process that was given a map's descriptor, without capabilities and without libbpf. The C side is
``shared.h``; sizes of the maps are there. All numbers are little-endian; 0 means unknown unless said otherwise.

CPU_STATE, 256 bytes, map `pl_shared` (mapped), one element for each possible CPU; written by the programs on that CPU
but for the fields marked otherwise. The last element is no CPU's: its lost_samples are what misses.py found out.

    offset  size  field                 type  unit       meaning
    0       4     sleeping              u4    -          set to 1 by the shard of this ring before it blocks, to 0 by
                                                         the program that wakes it
    4       4     ring                  u4    -          number of the ring that takes this CPU's records; written by
                                                         the loader
    8       8     ring_seq              u8    -          records of this CPU that got room
    16      72    lost_samples          9u8   -          records that got none, by kind
    88      72    head_only             9u8   -          records that got room for their header alone, by kind
    160     8     threads_forked        u8    -          not recorded: threads
    168     8     threads_exited        u8    -          not recorded: exits that left other threads alive
    176     8     kthreads_forked       u8    -          not recorded: kernel threads
    184     8     kthreads_exited       u8    -
    192     8     exec_reread           u8    -          argument areas with an absent page, read again in pieces
    200     8     wakeups               u8    -          wake-ups of this ring's shard
    208     8     no_ring               u8    -          records lost because this CPU has no ring (in lost_samples too)
    216     8     pids_full             u8    -          processes that `pid_cache` had no place for
    224     32    reserved              4u8   -

SETTINGS, 64 bytes, map `pl_settings` (mapped), one element, written by the loader; programs read it at every event:

    offset  size  field                 type  unit       meaning
    0       4     args_bytes            u4    bytes      kept of the arguments at most, up to 32768
    4       4     envs_bytes            u4    bytes      kept of the environment at most, up to 32768
    8       4     wakeup_fill_bytes     u4    bytes      a ring that fills above this wakes its shard; 0: never
    12      4     flags                 u4    mask       CAPTURE_ON
    16      8     root_mnt              u8    -          the recorder's root directory, by which paths end: addresses
    24      8     root_dentry           u8    -          in the kernel, noted by the task iterator; 0: global root
    32      32    reserved              4u8   -

PID_ENTRY, 144 bytes, map `pid_cache`, an array of places; which place has which tgid, the words of `pid_owners` say
(mapped, u8, PID_WAYS of them a set; layout and protocol are in ``pids.bpf.h``):

    offset  size  field                 type  unit       meaning
    0       8     cookie                u8    -          names the image, key of `proc_cache`; shared with the forked
                                                         children that have not called exec
    8       8     start_boot_ns         u8    ns (boot)  which owner of the pid this is; rounded down to a tick where
                                                         /proc alone told of it (fork_boot_ns is 0 then)
    16      8     fork_boot_ns          u8    ns (boot)  when the fork was seen; 0: older than the capture
    24      8     exit_boot_ns          u8    ns (boot)  0: alive
    32      8     cap_effective         u8    mask       credentials as in TASK, as of the last event of the process
    40      8     cap_permitted         u8    mask
    48      8     cgroup_id             u8    -
    56      8     cgroups_v1            u8    -          as in TASK
    64      4     uid                   u4    -
    68      4     gid                   u4    -
    72      4     euid                  u4    -
    76      4     egid                  u4    -
    80      4     suid                  u4    -
    84      4     sgid                  u4    -
    88      4     fsuid                 u4    -
    92      4     fsgid                 u4    -
    96      4     auid                  u4    -          4294967295 is unset
    100     4     audit_session         u4    -          4294967295 is unset
    104     4     ppid                  u4    -
    108     4     user_ns               u4    inode
    112     4     sid                   u4    -          as in TASK; these too as of the last event
    116     4     pgid                  u4    -
    120     4     mnt_ns                u4    inode
    124     4     net_ns                u4    inode
    128     16    tty                   S16   -

IMAGE_ENTRY, 240 bytes, map `proc_cache`, key u8 cookie:

    offset  size  field                 type  unit       meaning
    0       8     exec_boot_ns          u8    ns (boot)  0: the exec is older than the capture
    8       8     cgroup_id             u8    -          at the exec
    16      8     inode                 u8    -          as in EXEC, and so on
    24      8     ctime_ns              u8    ns (unix)
    32      8     mtime_ns              u8    ns (unix)
    40      4     device                u4    -
    44      4     mount_id              u4    -
    48      4     file_uid              u4    -
    52      4     file_gid              u4    -
    56      4     nlink                 u4    -
    60      2     mode                  u2    -
    62      2     exec_flags            u2    mask       those that the file itself gives
    64      4     fs_magic              u4    -
    68      4     tgid                  u4    -          who called exec
    72      2     path_bytes            u2    bytes      whole length
    74      2     root_offset           u2    bytes
    76      4     mount_end             u4    bytes      as in EXEC
    80      16    comm                  S16   -
    96      16    tty                   S16   -
    112     128   path                  V128  -          the first 128 bytes; bytes after path_bytes mean nothing
"""

from __future__ import annotations

import errno
import mmap
import os
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.bpf import syscall, words
from pipeline.bpf._places import exchange
from pipeline.bpf.words import CAPTURE_ON as CAPTURE_ON
from pipeline.bpf.words import MAX_CPUS as MAX_CPUS

#: Sets of `pid_cache`, and places in each.
PID_SETS, PID_WAYS = 4096, 8
#: High half of the word of a place that is being written.
PLACE_BUSY = 0x80000000
_WORD = np.dtype([("word", "<u8")])
#: A program that comes in between is done within a microsecond.
_ATTEMPTS = 8

CPU_STATE = np.dtype(
    [
        ("sleeping", "<u4"), ("ring", "<u4"), ("ring_seq", "<u8"), ("lost_samples", "<u8", 9), ("head_only", "<u8", 9),
        ("threads_forked", "<u8"), ("threads_exited", "<u8"), ("kthreads_forked", "<u8"), ("kthreads_exited", "<u8"),
        ("exec_reread", "<u8"), ("wakeups", "<u8"), ("no_ring", "<u8"), ("pids_full", "<u8"),
        ("reserved", "<u8", 4),
    ]
)  # fmt: skip
SETTINGS = np.dtype(
    [
        ("args_bytes", "<u4"), ("envs_bytes", "<u4"), ("wakeup_fill_bytes", "<u4"), ("flags", "<u4"),
        ("root_mnt", "<u8"), ("root_dentry", "<u8"), ("reserved", "<u8", 4),
    ]
)  # fmt: skip
PID_ENTRY = np.dtype(
    [
        ("cookie", "<u8"), ("start_boot_ns", "<u8"), ("fork_boot_ns", "<u8"), ("exit_boot_ns", "<u8"),
        ("cap_effective", "<u8"), ("cap_permitted", "<u8"), ("cgroup_id", "<u8"), ("cgroups_v1", "<u8"),
        ("uid", "<u4"), ("gid", "<u4"),
        ("euid", "<u4"), ("egid", "<u4"), ("suid", "<u4"), ("sgid", "<u4"), ("fsuid", "<u4"), ("fsgid", "<u4"),
        ("auid", "<u4"), ("audit_session", "<u4"), ("ppid", "<u4"), ("user_ns", "<u4"), ("sid", "<u4"),
        ("pgid", "<u4"), ("mnt_ns", "<u4"), ("net_ns", "<u4"), ("tty", "S16"),
    ]
)  # fmt: skip
IMAGE_ENTRY = np.dtype(
    [
        ("exec_boot_ns", "<u8"), ("cgroup_id", "<u8"), ("inode", "<u8"), ("ctime_ns", "<u8"), ("mtime_ns", "<u8"),
        ("device", "<u4"), ("mount_id", "<u4"), ("file_uid", "<u4"), ("file_gid", "<u4"), ("nlink", "<u4"),
        ("mode", "<u2"), ("exec_flags", "<u2"), ("fs_magic", "<u4"), ("tgid", "<u4"), ("path_bytes", "<u2"),
        ("root_offset", "<u2"), ("mount_end", "<u4"), ("comm", "S16"), ("tty", "S16"), ("path", "V128"),
    ]
)  # fmt: skip

_COOKIE_WORD = PID_ENTRY.fields["cookie"][1] // 8 if PID_ENTRY.fields else 0

#: Layouts that must match ``struct pl_NAME`` in shared.h.
MAP_LAYOUTS = {"cpu": CPU_STATE, "settings": SETTINGS, "pid": PID_ENTRY, "image": IMAGE_ENTRY}

assert (CPU_STATE.itemsize, SETTINGS.itemsize, PID_ENTRY.itemsize, IMAGE_ENTRY.itemsize) == (256, 64, 144, 240)
assert (CPU_STATE.itemsize, SETTINGS.itemsize) == (words.CPU_STATE_BYTES, words.SETTINGS_BYTES)


def cpu_states(fd: int, *, writable: bool = False, count: int = MAX_CPUS) -> npt.NDArray[np.void]:
    """Map `pl_shared`; shape (count,), dtype CPU_STATE. Writable only for who sets `sleeping` or `ring`.

    The view changes by itself as the programs count. The mapping lives as long as the array.

    Raises:
        OSError: the descriptor is no mappable map, or may not be written.
    """
    return _mapped(fd, CPU_STATE, count, writable)


def settings(fd: int, *, writable: bool = False) -> npt.NDArray[np.void]:
    """Map `pl_settings`; shape (1,), dtype SETTINGS."""
    return _mapped(fd, SETTINGS, 1, writable)


def lost_by_ring(states: npt.NDArray[np.void], ring: int) -> npt.NDArray[np.uint64]:
    """Return the records lost so far by kind, shape (9,), over the CPUs that write to `ring`.

    Usually that is the CPU of the same number; the spare ring has several.
    """
    return states["lost_samples"][states["ring"] == ring].sum(axis=0, dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class HashMap:
    """A hash map behind a descriptor: `proc_cache`. Entries are copies.

    Attributes:
        fd: the map; stays the caller's.
        key: dtype of the keys.
        value: dtype of the values.
    """

    fd: int
    key: np.dtype[np.unsignedinteger]
    value: np.dtype[np.void]

    def get(self, key: int) -> np.void | None:
        """Return the entry of `key`, None if the map has none."""
        data = syscall.lookup(self.fd, key.to_bytes(self.key.itemsize, "little"), self.value.itemsize)
        return None if data is None else np.frombuffer(data, self.value)[0]

    def items(self) -> tuple[npt.NDArray[np.unsignedinteger], npt.NDArray[np.void]]:
        """Return all keys and entries, shapes (n,); what comes or goes meanwhile may be missing."""
        keys, values = syscall.lookup_batch(self.fd, self.key.itemsize, self.value.itemsize)
        return np.frombuffer(keys, self.key), np.frombuffer(values, self.value)

    def put(self, key: int, entry: np.void, flags: int = syscall.ANY) -> None:
        """Store a copy of `entry` (dtype `value`).

        Raises:
            FileExistsError: `flags` is NOEXIST and there is an entry.
        """
        syscall.update(self.fd, key.to_bytes(self.key.itemsize, "little"), entry.tobytes(), flags)

    def delete(self, key: int) -> bool:
        """Delete the entry of `key`; False if there was none."""
        return syscall.delete(self.fd, key.to_bytes(self.key.itemsize, "little"))


class PidMap:
    """The processes that the programs know, tgid -> PID_ENTRY, with what a HashMap can do. Entries are copies.

    A place is written by who exchanged its word for a busy one, here as in the programs, so each of them may enter
    processes at any time. A reader looks at the word before and after.

    Args:
        owners_fd: map `pid_owners`; only used here.
        entries_fd: map `pid_cache`; stays the caller's.

    Raises:
        OSError: a descriptor is no such map, or may not be written.
    """

    def __init__(self, owners_fd: int, entries_fd: int) -> None:
        self._words = _mapped(owners_fd, _WORD, PID_SETS * PID_WAYS, True).view(np.uint64)
        self._entries_fd = entries_fd
        self._entry_words: npt.NDArray[np.uint64] | None = None

    def get(self, key: int) -> np.void | None:
        """Return the entry of the tgid `key`, None if there is none."""
        for _ in range(_ATTEMPTS):
            place = self._place(key)
            if place is None:
                return None
            word = int(self._words[place])
            # Exchanged for itself: looks at it between two full barriers, so that the copy is of the time in between.
            if _owner(word) != key or _is_busy(word) or not exchange(self._words, place, word, word):
                continue
            data = syscall.lookup(self._entries_fd, place.to_bytes(4, "little"), PID_ENTRY.itemsize)
            if data is not None and exchange(self._words, place, word, word):
                return np.frombuffer(data, PID_ENTRY)[0]
        return None

    def items(self) -> tuple[npt.NDArray[np.unsignedinteger], npt.NDArray[np.void]]:
        """Return all keys and entries, shapes (n,); what comes or goes meanwhile may be missing."""
        before = self._words.copy()
        _, values = syscall.lookup_batch(self._entries_fd, 4, PID_ENTRY.itemsize)
        is_whole = (before != 0) & (before >> 32 != PLACE_BUSY) & (self._words == before)
        return before[is_whole].astype(np.uint32), np.frombuffer(values, PID_ENTRY)[is_whole]

    def put(self, key: int, entry: np.void, flags: int = syscall.ANY) -> None:
        """Store a copy of `entry` (dtype PID_ENTRY), in a free place or that of who ended longest ago.

        Raises:
            FileExistsError: `flags` is NOEXIST and there is an entry, or one is being written.
            OSError: E2BIG, all of the set live.
        """
        if not 0 < key < 1 << 32:
            raise ValueError(key)
        busy = PLACE_BUSY << 32 | key
        for _ in range(_ATTEMPTS):
            place, word = self._place_for(key)
            if _owner(word) == key and (flags == syscall.NOEXIST or _is_busy(word)):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            if not exchange(self._words, place, word, busy):
                continue
            # As in pids.bpf.h: of two that enter one process in two places at least one gives up.
            if np.count_nonzero(self._set(key).astype(np.uint32) == key) > 1:
                exchange(self._words, place, busy, 0)
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            try:
                syscall.update(self._entries_fd, place.to_bytes(4, "little"), entry.tobytes())
            except OSError:
                exchange(self._words, place, busy, 0)
                raise
            end = int(entry["exit_boot_ns"])
            exchange(self._words, place, busy, (end_stamp(end) << 32 if end else 0) | key)
            return
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))

    def name_image(self, key: int, cookie: int) -> bool:
        """Give the entry of the tgid `key` a cookie, in place, if it has none; return whether it has this one now.

        A program that enters an image writes the whole entry, with a cookie, so it is either before this or over it.
        """
        place = self._place(key)
        if place is None:
            return False
        if self._entry_words is None:
            self._entry_words = _mapped(self._entries_fd, PID_ENTRY, PID_SETS * PID_WAYS, True).view(np.uint64)
        word, at = int(self._words[place]), place * (PID_ENTRY.itemsize // 8) + _COOKIE_WORD
        if _owner(word) != key or _is_busy(word) or not exchange(self._entry_words, at, 0, cookie):
            return False
        if exchange(self._words, place, word, word):
            return True
        exchange(self._entry_words, at, cookie, 0)  # it became another's place
        return False

    def delete(self, key: int) -> bool:
        """Free the place of the tgid `key`; False if it has none."""
        place = self._place(key)
        return place is not None and exchange(self._words, place, int(self._words[place]), 0)

    def _set(self, key: int) -> npt.NDArray[np.uint64]:
        first = key % PID_SETS * PID_WAYS
        return self._words[first : first + PID_WAYS]

    def _place(self, key: int) -> int | None:
        for way, word in enumerate(self._set(key).tolist()):
            if _owner(word) == key and not _is_busy(word):
                return key % PID_SETS * PID_WAYS + way
        return None

    def _place_for(self, key: int) -> tuple[int, int]:
        """Return the place to use, and its word."""
        now = end_stamp(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        best = (0, -1, 0)
        for way, word in enumerate(self._set(key).tolist()):
            if _owner(word) == key:
                age = 1 << 33
            elif not word:
                age = 1 << 32
            elif word >> 32 and not _is_busy(word):
                age = 1 + ((now - (word >> 32)) & ~PLACE_BUSY & 0xFFFFFFFF)
            else:
                continue
            best = max(best, (age, way, word))
        age, way, word = best
        if not age:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        return key % PID_SETS * PID_WAYS + way, word


def end_stamp(boot_ns: int) -> int:
    """When a process ended as its word has it; pl_end_stamp of pids.bpf.h."""
    return (boot_ns >> 20) & 0x7FFFFFFF | 1


def _owner(word: int) -> int:
    return word & 0xFFFFFFFF


def _is_busy(word: int) -> bool:
    return word >> 32 == PLACE_BUSY


def proc_cache(fd: int) -> HashMap:
    """Return the map cookie -> IMAGE_ENTRY behind `fd`."""
    return HashMap(fd, np.dtype("<u8"), IMAGE_ENTRY)


def _mapped(fd: int, dtype: np.dtype[np.void], count: int, writable: bool) -> npt.NDArray[np.void]:
    access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    # The kernel maps an array map in whole pages.
    length = -(-dtype.itemsize * count // mmap.PAGESIZE) * mmap.PAGESIZE
    return np.frombuffer(mmap.mmap(fd, length, mmap.MAP_SHARED, access), dtype, count)
