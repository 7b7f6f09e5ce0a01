"""The maps that BPF programs and user space share: layouts, mapped views, look-ups by descriptor.

Works in any process that has a map's descriptor, without capabilities and without libbpf. `pipeline.bpf.declared`
declares layouts, limits and flags.
"""

from __future__ import annotations

import errno
import mmap
import os
import time
from typing import TYPE_CHECKING

import numpy as np

from pipeline.bpf import declared, syscall
from pipeline.bpf._places import exchange
from pipeline.bpf.declared import CAPTURE_ON as CAPTURE_ON
from pipeline.bpf.declared import MAX_CPUS as MAX_CPUS
from pipeline.bpf.declared import PID_SETS as PID_SETS
from pipeline.bpf.declared import PID_WAYS as PID_WAYS
from pipeline.bpf.declared import PLACE_BUSY as PLACE_BUSY
from pipeline.records.capture_fds import NO_FD

if TYPE_CHECKING:
    import numpy.typing as npt

_WORD = np.dtype([("word", "<u8")])
#: A program that writes at the same time finishes within a microsecond.
_ATTEMPTS = 8

CPU_STATE = np.dtype(declared.CPU_STATE_LAYOUT.dtype())
SETTINGS = np.dtype(declared.SETTINGS_LAYOUT.dtype())
PID_ENTRY = np.dtype(declared.PID_ENTRY_LAYOUT.dtype())
IMAGE_ENTRY = np.dtype(declared.IMAGE_ENTRY_LAYOUT.dtype())

_COOKIE_WORD = declared.PID_ENTRY_LAYOUT.word("cookie")


def cpu_states(fd: int, *, writable: bool = False, count: int = MAX_CPUS) -> npt.NDArray[np.void]:
    """Map `pl_shared`; shape (count,), dtype CPU_STATE. Only a process that sets `sleeping` or `ring` writes to it.

    The view changes while the programs count. The mapping lives as long as the array.

    Raises:
        OSError: the descriptor is not a mappable map, or may not be written.
    """
    return _mapped(fd, CPU_STATE, count, writable)


def settings(fd: int, *, writable: bool = False) -> npt.NDArray[np.void]:
    """Map `pl_settings`; shape (1,), dtype SETTINGS."""
    return _mapped(fd, SETTINGS, 1, writable)


class HashMap:
    """A hash map behind a descriptor: `proc_cache`. Entries are copies.

    Args:
        fd: the map; the caller keeps ownership.
        key: dtype of the keys.
        value: dtype of the values.
    """

    def __init__(self, fd: int, key: np.dtype[np.unsignedinteger], value: np.dtype[np.void]) -> None:
        self.fd, self.key, self.value = fd, key, value

    def get(self, key: int) -> np.void | None:
        """Return the entry of `key`; None if the map has none."""
        data = syscall.lookup(self.fd, key.to_bytes(self.key.itemsize, "little"), self.value.itemsize)
        return None if data is None else np.frombuffer(data, self.value)[0]

    def items(self) -> tuple[npt.NDArray[np.unsignedinteger], npt.NDArray[np.void]]:
        """Return all keys and entries, shapes (n,); entries that are added or deleted meanwhile may be missing."""
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
    """The processes that the programs know, tgid -> PID_ENTRY, with the methods of HashMap. Entries are copies.

    To write a place, a program or this class first exchanges the word of the place for a busy one, so each of them may
    add processes at any time. A reader compares the word before and after.

    Args:
        owners_fd: map `pid_owners`; only used here.
        entries_fd: map `pid_cache`; the caller keeps ownership.
        exchange_fd: the program that exchanges words where programs do so under a lock, in the older set; NO_FD: they
            have no lock.

    Raises:
        OSError: a descriptor is not such a map, or may not be written.
    """

    def __init__(self, owners_fd: int, entries_fd: int, exchange_fd: int = NO_FD) -> None:
        self._words = _mapped(owners_fd, _WORD, PID_SETS * PID_WAYS, True).view(np.uint64)
        self._entries_fd = entries_fd
        self._exchange_fd = exchange_fd
        self._entry_words: npt.NDArray[np.uint64] | None = None

    def get(self, key: int) -> np.void | None:
        """Return the entry of the tgid `key`; None if there is none."""
        for _ in range(_ATTEMPTS):
            place = self._place(key)
            if place is None:
                return None
            word = int(self._words[place])
            # Exchange the word for itself: two full barriers around the copy ensure that it was made between them.
            if _owner(word) != key or _is_busy(word) or not exchange(self._words, place, word, word):
                continue
            data = syscall.lookup(self._entries_fd, place.to_bytes(4, "little"), PID_ENTRY.itemsize)
            if data is not None and exchange(self._words, place, word, word):
                return np.frombuffer(data, PID_ENTRY)[0]
        return None

    def items(self) -> tuple[npt.NDArray[np.unsignedinteger], npt.NDArray[np.void]]:
        """Return all keys and entries, shapes (n,); entries that are added or deleted meanwhile may be missing."""
        before = self._words.copy()
        _, values = syscall.lookup_batch(self._entries_fd, 4, PID_ENTRY.itemsize)
        is_whole = (before != 0) & (before >> 32 != PLACE_BUSY) & (self._words == before)
        return before[is_whole].astype(np.uint32), np.frombuffer(values, PID_ENTRY)[is_whole]

    def put(self, key: int, entry: np.void, flags: int = syscall.ANY) -> None:
        """Store a copy of `entry` (dtype PID_ENTRY), in a free place or that of the process that ended longest ago.

        Raises:
            FileExistsError: `flags` is NOEXIST and there is an entry, or one is being written.
            OSError: E2BIG, all processes of the set are alive; or the kernel rejected a call.
        """
        if not 0 < key < 1 << 32:
            raise ValueError(key)
        busy = PLACE_BUSY << 32 | key
        for _ in range(_ATTEMPTS):
            place, word = self._place_for(key)
            if _owner(word) == key and (flags == syscall.NOEXIST or _is_busy(word)):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            if not self._take(place, word, busy):
                continue
            # As in pids.bpf.h: if two writers add one process in two places, at least one of them gives up.
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
        """Set the cookie of the tgid `key` in place if it has none; return whether it has this cookie now.

        A program that adds an image writes the whole entry including a cookie, either before this or over it.
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
        exchange(self._entry_words, at, cookie, 0)  # the place now belongs to another process
        return False

    def delete(self, key: int) -> bool:
        """Free the place of the tgid `key`; False if it has none."""
        place = self._place(key)
        return place is not None and exchange(self._words, place, int(self._words[place]), 0)

    def _take(self, place: int, word: int, busy: int) -> bool:
        """Exchange the word of a place for a busy one. Then no program writes to the place."""
        if self._exchange_fd == NO_FD:
            return exchange(self._words, place, word, busy)
        return bool(syscall.run_program(self._exchange_fd, place, word, busy))

    def _set(self, key: int) -> npt.NDArray[np.uint64]:
        first = key % PID_SETS * PID_WAYS
        return self._words[first : first + PID_WAYS]

    def _place(self, key: int) -> int | None:
        for way, word in enumerate(self._set(key).tolist()):
            if _owner(word) == key and not _is_busy(word):
                return key % PID_SETS * PID_WAYS + way
        return None

    def _place_for(self, key: int) -> tuple[int, int]:
        """Return the number of the place to use, and its current word."""
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
    """Return the time of a process's end as stored in its word; pl_end_stamp of pids.bpf.h."""
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
