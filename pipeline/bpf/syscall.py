"""The bpf(2) commands for inherited descriptors: look up, list, change, iterate, query.

Does not use libbpf, so that readers of the kernel's maps start quickly; loader.py loads programs. Attributes are laid
out as in ``union bpf_attr`` of include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from contextlib import suppress
from pathlib import Path

from pipeline.host import privileges
from pipeline.records.capabilities import CAP_BPF, CAP_SYS_ADMIN

MAP_CREATE = 0
MAP_LOOKUP_ELEM = 1
MAP_UPDATE_ELEM = 2
MAP_DELETE_ELEM = 3
PROG_TEST_RUN = 10
OBJ_GET_INFO_BY_FD = 15
MAP_LOOKUP_AND_DELETE_ELEM = 21
MAP_LOOKUP_BATCH = 24
ITER_CREATE = 33

_ARRAY = 2  # BPF_MAP_TYPE_ARRAY

ANY = 0  #: update: create or replace
NOEXIST = 1  #: update: create, or fail with EEXIST

#: Kinds of descriptors, as /proc/PID/fd names them; on some kernels the link of a kprobe or tracepoint is a perf event.
PROGRAM, LINK, PERF_EVENT = "anon_inode:bpf-prog", "anon_inode:bpf_link", "anon_inode:[perf_event]"
#: What the names of all BPF objects begin with.
ANY_OBJECT = "anon_inode:bpf"

#: Number of bpf(2) by ``uname -m``.
_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}

_NO_DESCRIPTOR = 0xFFFF_FFFF

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def bpf(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    """Make one call of the BPF subsystem, and return its result.

    Source: bpf(2).

    Raises:
        OSError: the kernel rejected the call, or this machine's system call number is unknown (ENOSYS).
    """
    number = _NUMBERS.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, f"bpf(2) has no known number on {os.uname().machine}")
    result = _libc.syscall(
        ctypes.c_long(number), ctypes.c_int(command), ctypes.byref(attributes), ctypes.c_uint(len(attributes))
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def needs_capability() -> bool:
    """Return whether each call of a process without CAP_BPF fails, also those for descriptors that it has inherited.

    Old kernels do that if the sysctl kernel.unprivileged_bpf_disabled is not 0, as on Debian. Newer ones restrict only
    what makes maps and loads programs.
    """
    with privileges.lowered((CAP_BPF, CAP_SYS_ADMIN)):
        try:
            info(_NO_DESCRIPTOR)
        except OSError as error:
            return error.errno == errno.EPERM
    return False


def create_array() -> int:
    """Return the descriptor of a new array of one element of eight bytes, which takes a page.

    Unlike libbpf, this does not raise RLIMIT_MEMLOCK before.
    """
    return bpf(MAP_CREATE, _attributes("IIII", _ARRAY, 4, 8, 1))


def lookup(fd: int, key: bytes, value_bytes: int) -> bytes | None:
    """Return the value of `key`; None if there is none. Not for per-CPU maps."""
    value = ctypes.create_string_buffer(value_bytes)
    key_buffer = ctypes.create_string_buffer(key, len(key))
    attributes = _attributes("IxxxxQQQ", fd, ctypes.addressof(key_buffer), ctypes.addressof(value), 0)
    try:
        bpf(MAP_LOOKUP_ELEM, attributes)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return value.raw


def update(fd: int, key: bytes, value: bytes, flags: int = ANY) -> None:
    """Store `value` under `key`; see ANY, NOEXIST. A queue has no keys: with b"" the value is appended."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value_buffer = ctypes.create_string_buffer(value, len(value))
    bpf(
        MAP_UPDATE_ELEM,
        _attributes("IxxxxQQQ", fd, ctypes.addressof(key_buffer) if key else 0, ctypes.addressof(value_buffer), flags),
    )


def delete(fd: int, key: bytes) -> bool:
    """Delete `key`; False if there was none."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    try:
        bpf(MAP_DELETE_ELEM, _attributes("IxxxxQ", fd, ctypes.addressof(key_buffer)))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def pop(fd: int, value_bytes: int) -> bytes | None:
    """Remove and return the oldest element of a queue; None if it is empty."""
    value = ctypes.create_string_buffer(value_bytes)
    try:
        bpf(MAP_LOOKUP_AND_DELETE_ELEM, _attributes("IxxxxQQQ", fd, 0, ctypes.addressof(value), 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return value.raw


def lookup_batch(fd: int, key_bytes: int, value_bytes: int) -> tuple[bytes, bytes]:
    """Return all keys and all values of a hash map, each concatenated.

    The kernel walks the buckets one by one under each bucket's lock. Entries that exist during the whole walk are
    returned. Entries that are added or deleted meanwhile may be missing.
    """
    batch = 4096
    keys, values = bytearray(), bytearray()
    position = ctypes.create_string_buffer(max(8, key_bytes))
    previous = 0
    while True:
        key_buffer = ctypes.create_string_buffer(batch * key_bytes)
        value_buffer = ctypes.create_string_buffer(batch * value_bytes)
        attributes = _attributes(
            "QQQQIIQQ",
            previous,
            ctypes.addressof(position),
            ctypes.addressof(key_buffer),
            ctypes.addressof(value_buffer),
            batch,
            fd,
            0,
            0,
        )
        is_last = False
        try:
            bpf(MAP_LOOKUP_BATCH, attributes)
        except OSError as error:
            if error.errno == errno.ENOSPC:  # one bucket has more entries than the batch
                batch *= 2
                continue
            if error.errno != errno.ENOENT:
                raise
            is_last = True
        (count,) = struct.unpack_from("I", attributes, 32)
        keys += key_buffer.raw[: count * key_bytes]
        values += value_buffer.raw[: count * value_bytes]
        if is_last:
            return bytes(keys), bytes(values)
        previous = ctypes.addressof(position)


def info(fd: int, length: int = 256) -> bytes:
    """Return the kernel's description of a map, program or link (``struct bpf_map_info`` …), zero-padded."""
    return _info(fd, length)[0]


def info_bytes(fd: int) -> int:
    """Return how many bytes this kernel's description of a map, program or link has; newer kernels have longer ones."""
    return _info(fd, mmap.PAGESIZE)[1]


def _info(fd: int, length: int) -> tuple[bytes, int]:
    buffer = ctypes.create_string_buffer(length)
    attributes = _attributes("IIQ", fd, length, ctypes.addressof(buffer))
    bpf(OBJ_GET_INFO_BY_FD, attributes)
    return buffer.raw, int(struct.unpack_from("I", attributes, 4)[0])


def own_fds(*kinds: str) -> set[int]:
    """Return this process's descriptors of these kinds, such as PROGRAM."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if str(entry.readlink()).startswith(kinds):
                found.add(int(entry.name))
    return found


def run_program(fd: int, *arguments: int) -> int:
    """Run a program for raw tracepoints once, in this thread, with up to 12 arguments; return its result, of 32 bits.

    Raises:
        OSError: the kernel does not run it.
    """
    context = (ctypes.c_uint64 * len(arguments))(*arguments)
    # Nothing else may be given for programs of this type.
    attributes = _attributes("II32xIIQQ", fd, 0, ctypes.sizeof(context), 0, ctypes.addressof(context), 0)
    bpf(PROG_TEST_RUN, attributes)
    return int(struct.unpack_from("<I", attributes, 4)[0])


def iter_create(link_fd: int) -> int:
    """Return a new descriptor; reading it runs the iterator behind `link_fd` once."""
    return bpf(ITER_CREATE, _attributes("II", link_fd, 0))


def run_iterator(link_fd: int) -> bytes:
    """Run the iterator behind `link_fd` once and return its output.

    Raises:
        OSError: `link_fd` is not the link of an iterator.
    """
    fd = iter_create(link_fd)
    try:
        # A read returns at most 32 KiB. Space for more would be mapped and unmapped at each one.
        return b"".join(iter(lambda: os.read(fd, 1 << 15), b""))
    finally:
        os.close(fd)


def _attributes(layout: str, *values: int) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(struct.pack(f"={layout}", *values), struct.calcsize(f"={layout}"))
