"""Open and read the executable of a process, of which the kernel reported inode, device, mtime and ctime.

The process may belong to a hostile user, who chose the file and the file system that it is on:

1. The file is reached by ``/proc/PID/exe`` or, where the process has ended, by its path below the own root. It is used
   only if inode, device, mtime and ctime are those that the kernel reported, so another file is never taken for it.
2. It is opened with O_PATH first. Nothing of it is accessed before its mount is known to be of a local file system, so
   FUSE and network file systems, which could block forever, are never asked. An overlay can have such a file system
   below it, so it is used only where root mounted it (`pipeline.procfs.users.owner_of`).
3. Only regular files are opened for reading, with O_NONBLOCK: somebody else's lease on it makes this fail at once.
4. A file of more than a given size is not read, also if it is sparse. It is read at a bounded rate, and what changed
   meanwhile is not used. So is what was changed a moment before: two changes within one tick of the clock have the
   same times.
5. A hash is kept for its key, so it must be impossible to make another content with the same key. Users can mount
   tmpfs, overlay and FUSE in namespaces of their own, where the kernel gives the same device number to one after the
   other, and a FUSE server chooses inode and times. A write through a mapping of a file on tmpfs changes no time. So
   only files on file systems that root alone can mount are hashed, and memfds that are sealed against writing.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress

from pipeline.proc_text import mount_id, mounts_of
from pipeline.procfs.rooted import (
    MOUNTINFO_BYTES_MAX,
    is_local_type,
    memfd_mount,
    open_in_root,
    open_process,
    read_mounts,
)
from pipeline.procfs.users import owner_of

#: Inode, mtime and ctime in ns, and device (in the kernel's encoding).
Key = tuple[int, int, int, int]

#: File systems that show files of others, which need not be local.
_LAYERED = frozenset((b"overlay", b"aufs"))
#: File systems that users can mount, or whose files change without a new time: no hash is kept for their files.
_UNSTABLE = _LAYERED | {b"tmpfs", b"ramfs", b"rootfs"}
#: A file that was changed so short a time ago is read later. The kernel's clock for files ticks at least every 10 ms.
RACY_NS = 50_000_000
_PIECE_BYTES = 1 << 18
_U64 = (1 << 64) - 1


class ForbiddenFileError(Exception):
    """The file must not be read: too large, no regular file, or on a file system that could block."""


class OtherFileError(Exception):
    """The process has ended or has another executable, and the path leads to another file or to none."""


def open_executable(key: Key, tgid: int, path: bytes) -> int:
    """Return an O_PATH descriptor of an executable, whose key stands for its content.

    Args:
        key: the file that the kernel reported.
        tgid: a process that executed it.
        path: its path, for the case that the process has ended.

    Raises:
        ForbiddenFileError: the file system could block, or another file could get the same key.
        OtherFileError: the file was not found.
    """
    with suppress(OSError, OtherFileError):
        process = open_process(tgid)
        try:
            return _checked(os.open("exe", os.O_PATH | os.O_CLOEXEC, dir_fd=process), key, process, hashed=True)
        finally:
            os.close(process)
    return open_path(key, path, hashed=True)


def open_path(key: Key, path: bytes, *, hashed: bool = False) -> int:
    """Return an O_PATH descriptor of the file with a path below the own root, if it is the reported one.

    Args:
        key: the file that the kernel reported.
        path: the path.
        hashed: a hash is kept for the key, so no other file may ever get it.

    Raises:
        ForbiddenFileError: the file system could block, or another file could get the same key.
        OtherFileError: the path leads elsewhere.
    """
    if not path.startswith(b"/") or b"\0" in path:
        raise OtherFileError("no path")
    held: list[int] = []
    try:
        held.append(own := open_process("self"))
        held.append(root := os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        mounts = read_mounts(own, MOUNTINFO_BYTES_MAX)
        return _checked(open_in_root(root, os.fsdecode(path[1:]), mounts), key, own, hashed=hashed)
    except (OSError, ValueError) as error:
        raise OtherFileError(str(error)) from error
    finally:
        for descriptor in held:
            os.close(descriptor)


def sha256(
    file: int,
    key: Key,
    *,
    bytes_max: int,
    bytes_per_s: int,
    wait: Callable[[float], bool],
    now: Callable[[], int] = time.time_ns,
) -> tuple[str, int]:
    """Return the SHA-256 of a file in hexadecimal digits, and how many bytes were read.

    Args:
        file: a descriptor of `open_executable`.
        key: the file.
        bytes_max: a larger file is rejected.
        bytes_per_s: of a file, no more is read in a second.
        wait: sleeps; True ends the reading.
        now: the clock of the files' times, in ns.

    Raises:
        ForbiddenFileError: it is too large, another process has a lease on it, it is not readable, or it is in memory
            and not sealed against writing.
        OtherFileError: it was changed a moment ago, or while it was read.
    """
    if abs(now() - key[2]) < RACY_NS:
        raise OtherFileError("changed a moment ago")
    size = os.fstat(file).st_size
    if size > bytes_max:
        raise ForbiddenFileError(f"{size} bytes")
    try:
        content = os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except BlockingIOError as error:
        raise ForbiddenFileError("lease") from error
    except PermissionError as error:
        raise ForbiddenFileError("not readable with the daemon's rights") from error
    import hashlib  # only where hashes are wanted: OpenSSL takes 4 MB

    digest = hashlib.sha256()
    done = 0
    begun = time.monotonic()
    try:
        with suppress(OSError):  # a file that cannot be sealed
            if not fcntl.fcntl(content, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE:
                raise ForbiddenFileError("in memory, and not sealed against writing")
        while done <= size and (piece := os.read(content, _PIECE_BYTES)):
            digest.update(piece)
            done += len(piece)
            early = done / bytes_per_s - (time.monotonic() - begun)
            if early > 0 and wait(early):
                raise OtherFileError("ended")
        after = os.fstat(content)
    finally:
        os.close(content)
    if done != size or _times(after) != key[:3]:
        raise OtherFileError("changed while it was read")
    return digest.hexdigest(), done


def _checked(file: int, key: Key, process: int, *, hashed: bool) -> int:
    """Return an O_PATH descriptor if it is the file with this key; otherwise it is closed, and an error is raised."""
    try:
        # The id of the mount is known without an access to the file system.
        number = mount_id(file)
        if number == memfd_mount():
            status = os.fstat(file)
            device = os.major(status.st_dev) << 20 | os.minor(status.st_dev)
        else:
            device = _local_device(number, process, hashed=hashed)
            status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise ForbiddenFileError("no regular file")
        # The device of a mount is that of its file system, as the kernel reports it; that of a file can be another one.
        if (*_times(status), device) != key:
            raise OtherFileError("another file")
    except BaseException:
        os.close(file)
        raise
    return file


def _times(status: os.stat_result) -> tuple[int, int, int]:
    """Return inode, mtime and ctime. A time before 1970 wraps, as in the BPF programs."""
    return status.st_ino, status.st_mtime_ns & _U64, status.st_ctime_ns & _U64


def _local_device(number: bytes, process: int, *, hashed: bool) -> int:
    """Return the device of a mount of a file system that cannot block.

    Raises:
        ForbiddenFileError: it could block, no such mount is known, or another file could get the key of one there.
    """
    own = open_process("self")
    try:
        for which in (own, process):
            with suppress(OSError):
                for fields, tail in mounts_of(read_mounts(which, MOUNTINFO_BYTES_MAX)):
                    if fields[0] != number:
                        continue
                    kind = tail.split(b" ", 1)[0]
                    if not is_local_type(kind) or (kind in _LAYERED and which == process and owner_of(process)):
                        raise ForbiddenFileError(f"file system {kind.decode('ascii', 'replace')}")
                    if hashed and kind in _UNSTABLE:
                        raise ForbiddenFileError(f"no lasting identity on {kind.decode()}")
                    major, _, minor = fields[2].partition(b":")
                    return int(major) << 20 | int(minor)
    finally:
        os.close(own)
    raise ForbiddenFileError("unknown mount")
