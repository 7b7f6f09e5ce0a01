"""A recording: the frames of a capture in a file, in the order in which they were handed over.

`pipeline.sources.recording.declared` has the layouts of the header and of what is before each frame.

The file has no trailer, so a writer may be killed at any moment: complete frames stay readable. The file contains
arguments and environments. Secrets in them are hidden as in the tables, unless the recording is raw. Only the owner of
the file can read it. `pipeline.bus.frames.encode` describes a frame; `replay` sends a recording.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.bus.frames.encode import FRAME_MAX_BYTES
from pipeline.errors import ConfigError, FrameError, WriteError
from pipeline.sources.recording.declared import (
    RECORDING_HEADER_LAYOUT,
    RECORDING_MAGIC,
    RECORDING_PREFIX_LAYOUT,
    RECORDING_VERSION,
)

_HEADER = RECORDING_HEADER_LAYOUT.struct(
    "magic", "version", "header_bytes", "boot_id", "boot_unix_ns", "created_unix_ns", whole=True
)
_PREFIX = RECORDING_PREFIX_LAYOUT.struct("frame_bytes", "crc")


class RecordingWriter:
    """Writes a new recording. When `write` returns, the file contains the whole frame.

    A file without a frame, which a killed process left behind, is overwritten.

    Args:
        path: the file, which gets mode 0600.
        boot_id, boot_unix_ns: for the header.
        is_draft: remove the file when it is closed, unless `keep` is called before.
    """

    def __init__(self, path: Path, *, boot_id: bytes, boot_unix_ns: int = 0, is_draft: bool = False) -> None:
        """Create the file.

        Raises:
            ConfigError: the file exists already, or cannot be created.
            WriteError: there is no room for its header.
        """
        self._path = path
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            self._fd = _open_unfinished(path)
            if self._fd < 0:
                raise ConfigError(
                    f"{path} exists, and a recording does not overwrite it; remove it or choose another name",
                    key="file", value=path,
                ) from None  # fmt: skip
        except OSError as error:
            raise ConfigError(
                f"cannot create {path}: {error.strerror}; choose a directory that exists and that you can write to",
                key="file", value=path,
            ) from None  # fmt: skip
        self.frames = 0
        self._is_kept = False
        with suppress(OSError):  # the file system may not support locks
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            now_ns = time.time_ns()
            self._write([_HEADER.pack(RECORDING_MAGIC, RECORDING_VERSION, _HEADER.size, boot_id, boot_unix_ns, now_ns)])
        except OSError as error:
            self.close()
            raise self._failed(error) from None
        self._is_kept = not is_draft

    def keep(self) -> None:
        """Keep a draft from now on."""
        self._is_kept = True

    def write(self, message: bytes | memoryview) -> None:
        """Append one frame.

        Raises:
            WriteError: the write failed, for example because the file system is full. Earlier frames stay intact.
        """
        end = os.lseek(self._fd, 0, os.SEEK_CUR)
        try:
            self._write([_PREFIX.pack(len(message), zlib.crc32(message)), message])
        except OSError as error:
            os.ftruncate(self._fd, end)
            os.lseek(self._fd, end, os.SEEK_SET)
            raise self._failed(error) from None
        self.frames += 1

    def _write(self, parts: list[bytes | memoryview]) -> None:
        left = [memoryview(part) for part in parts]
        while left:
            written = os.writev(self._fd, left)
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if left:
                left[0] = left[0][written:]

    def _failed(self, error: OSError) -> WriteError:
        what = "nothing was recorded"
        if self.frames and self._is_kept:
            what = f"the {self.frames} frames before are in it and can be replayed"
        todo = "choose a file on another file system"
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            todo = f"free some space, or {todo}"
        return WriteError(f"cannot write {self._path}: {error.strerror}; {what}; {todo}", path=os.fspath(self._path))

    def close(self) -> None:
        """Close the file, and remove it if it is a draft; may be called twice.

        Raises:
            WriteError: the last frames may be lost.
        """
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            if not self._is_kept:
                status, ours = self._path.lstat(), os.fstat(fd)
                if (status.st_dev, status.st_ino) == (ours.st_dev, ours.st_ino) and stat.S_ISREG(ours.st_mode):
                    self._path.unlink()
        except FileNotFoundError:
            pass
        finally:
            try:
                os.close(fd)
            except OSError as error:
                raise self._failed(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _open_unfinished(path: Path) -> int:
    """Open a recording without frames and without a writer, to overwrite it; -1: the file is something else."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        status = os.fstat(fd)
        # An incomplete header, or none: the writer was killed before the header was complete.
        begin = os.pread(fd, _HEADER.size, 0) if stat.S_ISREG(status.st_mode) else b""
        if (
            stat.S_ISREG(status.st_mode)
            and status.st_uid == os.geteuid()
            and stat.S_IMODE(status.st_mode) == 0o600
            and status.st_size <= _HEADER.size
            and begin[: len(RECORDING_MAGIC)] == RECORDING_MAGIC[: len(begin)]
        ):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            return fd
    except OSError:
        pass
    os.close(fd)
    return -1


class Recording:
    """A recording that is mapped for reading.

    Attributes:
        boot_id: 16 bytes.
        boot_unix_ns, created_unix_ns: the values in the header.
    """

    def __init__(self, path: Path) -> None:
        """Open the file and read its header.

        Raises:
            ConfigError: the file cannot be read.
            FrameError: the file is not a recording, or a recording of another version.
        """
        self._path = path
        try:
            with path.open("rb") as file:
                length = os.fstat(file.fileno()).st_size
                if length < _HEADER.size:
                    raise self._refusal("it is not a recording: it is too short; name a file of `procline record`")
                self._map = mmap.mmap(file.fileno(), length, prot=mmap.PROT_READ)
        except OSError as error:
            raise ConfigError(
                f"cannot read the recording {path}: {error.strerror}; check its name and its permissions",
                key="file", value=path,
            ) from None  # fmt: skip
        magic, version, self._start, self.boot_id, self.boot_unix_ns, self.created_unix_ns = _HEADER.unpack_from(
            self._map
        )
        if magic != RECORDING_MAGIC:
            raise self._refusal("it is not a recording: it begins with other bytes; name a file of `procline record`")
        if version != RECORDING_VERSION:
            raise self._refusal(
                f"it has version {version}, this is version {RECORDING_VERSION}; read it with the release that wrote it"
            )
        if not _HEADER.size <= self._start <= length:
            raise self._refusal("its header is damaged; use another copy of the file")

    def _refusal(self, reason: str) -> FrameError:
        return FrameError(f"{self._path}: {reason}", peer=os.fspath(self._path), reason=reason)

    def __iter__(self) -> Iterator[memoryview]:
        """Yield the frames, as views of the file.

        Raises:
            FrameError: after the last whole frame, if the file ends inside a frame; or at a damaged frame.
        """
        view = memoryview(self._map)
        at, number = self._start, 0
        while at < len(view):
            if len(view) - at < _PREFIX.size:
                raise self._refusal(f"it is cut off behind frame {number}, at byte {at}")
            length, checksum = _PREFIX.unpack_from(view, at)
            if length > FRAME_MAX_BYTES:
                raise self._refusal(f"frame {number} at byte {at} is damaged: {length} bytes")
            begin = at + _PREFIX.size
            if length > len(view) - begin:
                raise self._refusal(f"it is cut off in frame {number}, at byte {at}")
            message = view[begin : begin + length]
            if zlib.crc32(message) != checksum:
                raise self._refusal(f"frame {number} at byte {at} is damaged: its checksum differs")
            yield message
            at, number = begin + length, number + 1
