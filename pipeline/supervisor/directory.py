"""The runtime directory of an instance. Only its supervisor creates, locks and removes it.

    path             mode  content
    .                0755
    supervisor.lock  0600  the supervisor claims the instance by an flock on it
    processes        0644  see pipeline.host.processes
    tiers            0644  JSON: the state of each tier of the capture, by name
    retention        0644  see pipeline.host.retention
    sampling         0644  see pipeline.host.sampling_interval
    frames/          0700  only the daemon's own processes send frames
    stream/          0755  the socket in it has a mode of its own
    requests/        0755  the socket in it has a mode of its own

If a group is set, the directories belong to it and have the set-group-id bit. So new files and sockets get the group,
although the workers that create them may not change the group of a file.

The whole path must belong to root or to the daemon's user, and no other user may write to a directory on it
(pipeline.trust); else the start fails. If another user has created the fallback under /dev/shm, root renames it.

A supervisor that was killed, or that keeps its tables, leaves its directory behind. The next one uses it unchanged: the
resolver decides whether the tables in it are still valid.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import grp
import os
import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline import files, paths, trust
from pipeline.errors import ConfigError, ProclineError, UnsupportedError, WriterExistsError
from pipeline.host.statx import AT_FDCWD
from pipeline.log import get_logger

_DIRECTORIES = {
    paths.FRAMES_DIR: 0o700,
    paths.STREAM_DIR: 0o755,
    paths.REQUESTS_DIR: 0o755,
    paths.TRACERS_DIR: 0o755,
}
_RETRY_S = 0.02
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
#: Attempts to take the name of the fallback from a user who creates and removes it all the time. Each of them fails
#: only if that user changes it within a microsecond or two.
_TRIES = 1000


def group_id(name: str) -> int:
    """Return the number of a group, -1 for the empty name.

    Raises:
        ConfigError: there is no such group.
    """
    if not name:
        return -1
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(
            f"access.group: this host has no group {name!r}; create it (groupadd --system {name}) or "
            "change the setting",
            key="access.group",
            value=name,
        ) from None


class InstanceDirectory:
    """The claimed directory of one instance; as a context manager it releases the claim at the end.

    Args:
        name: name of the instance.
        takeover_timeout_s: how long to wait for the workers of a supervisor that was killed. A resolver that reads all
            processes ends when it has read them, which takes seconds on a busy host.
        group: group of the files in it; -1 for the daemon's own.

    Raises:
        ConfigError: the name, or a socket's path, cannot be used.
        UnsupportedError: the directory is not on tmpfs, or cannot be created.
        UntrustedError: another user owns, or may write to, a directory on the path.
        WriterExistsError: the instance is running.
    """

    def __init__(self, name: str, takeover_timeout_s: float = 30.0, group: int = -1) -> None:
        self.name = name
        self.path = paths.instance_dir(name)
        for socket in (paths.frames_socket, paths.stream_socket, paths.requests_socket, paths.tracers_socket):
            paths.endpoint(socket(self.path))
        fallback = Path(paths.FALLBACK)
        if self.path.parent == fallback and paths.RUNTIME_DIR_VARIABLE not in os.environ:
            put_aside(fallback)
        paths.check_in_memory(self.path)
        self._lock = self._claim()
        try:
            self._wait_for_orphans(takeover_timeout_s)
            for below, mode in _DIRECTORIES.items():
                _make(self.path / below, mode)
            self._give_to(group)
        except BaseException:
            os.close(self._lock)
            raise

    def _claim(self) -> int:
        """Create the directory and lock it; return the descriptor that holds the lock."""
        file = self.path / paths.SUPERVISOR_LOCK
        while True:
            try:
                _make(self.path.parent, 0o755)
                _make(self.path, 0o755)
                lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                continue  # the previous instance removed its directory between two of these steps
            except OSError as error:
                raise _cannot_use(file, error) from None
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tgid = _owner(lock)
                os.close(lock)
                raise WriterExistsError(
                    f"instance {self.name!r} is already running{f' (pid {tgid})' if tgid else ''} in {self.path}; "
                    "stop it first, or choose another name with --name",
                    tgid=tgid,
                ) from None
            # The last owner may have removed the file after it was opened here; then others lock another file.
            if _is_at(lock, file):
                with contextlib.suppress(OSError):  # a full file system; the number only serves messages
                    os.ftruncate(lock, 0)
                    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
                return lock
            os.close(lock)

    def _wait_for_orphans(self, timeout_s: float) -> None:
        """Wait until no worker of a killed supervisor writes the tables."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                writer = os.open(self.path / paths.WRITER_LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                return
            try:
                fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise WriterExistsError(
                        f"a resolver of an earlier run still writes {self.path}; end it (fuser -v "
                        f"{self.path / paths.WRITER_LOCK} shows it), then start again"
                    ) from None
            finally:
                os.close(writer)
            time.sleep(_RETRY_S)

    def _give_to(self, group: int) -> None:
        open_to_others = [self.path, *(self.path / below for below, mode in _DIRECTORIES.items() if mode & 0o077)]
        try:
            for directory in open_to_others if group != -1 else ():
                os.chown(directory, -1, group)
                directory.chmod(0o2755)
        except PermissionError:
            raise UnsupportedError(
                f"cannot change the group of {self.path} to {group}",
                feature="access.group",
                needs="CAP_CHOWN, or membership of the group",
                hint="run as root, or as a member of the group",
            ) from None

    def write(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """Replace a file atomically, so that no reader sees a part of it.

        Raises:
            OSError: the file system is full.
        """
        files.replace(self.path / name, content, mode)

    def remove(self) -> None:
        """Remove the directory and its content; the claim is held until `close`."""
        # The lock file is last: as long as it exists, others find it locked.
        for entry in self.path.iterdir():
            if entry.name == paths.SUPERVISOR_LOCK:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        (self.path / paths.SUPERVISOR_LOCK).unlink(missing_ok=True)
        # Another supervisor may already use the directory again.
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def close(self) -> None:
        """Release the claim."""
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _make(directory: Path, mode: int) -> None:
    """Create a directory with this mode, and its missing parents; check the whole path."""
    try:
        trust.Directory(directory, mine=True, make=mode).close()
    except FileNotFoundError:
        raise  # another supervisor removed it meanwhile
    except OSError as error:
        raise _cannot_use(directory, error) from None


def put_aside(root: Path) -> None:
    """Make sure that the directory `root`, in a directory that all users may write to, is one of root's.

    Any user may create names in /dev/shm, and only root may rename those of others. A directory of another user is
    replaced atomically and gets a new name beside it. It is not deleted, because the daemon does not know what it
    contains. Does nothing without root.
    """
    if os.geteuid() != 0:
        return
    mine: Path | None = None
    try:
        for _ in range(_TRIES):
            owner = _owner_of(root)
            if owner == 0:
                return
            if mine is None:
                mine = Path(tempfile.mkdtemp(prefix=f"{root.name}-not-ours-", dir=root.parent))
                mine.chmod(0o755)
            try:
                _rename(mine, root, _RENAME_NOREPLACE if owner is None else _RENAME_EXCHANGE)
            except (FileNotFoundError, FileExistsError):
                continue  # the other user has removed or created it meanwhile
            if owner is None:
                mine = None
            elif _owner_of(mine) == 0:
                # Another daemon was faster: this is its directory, which it already uses.
                _rename(mine, root, _RENAME_EXCHANGE)
            else:
                get_logger().warning(f"{root} belonged to uid {owner}; it was renamed to {mine}, which you can delete")
                mine = None
            return
        get_logger().warning(f"cannot rename {root}: another user creates and removes it all the time")
    except OSError as error:  # the next steps report what prevents a start
        get_logger().warning(f"cannot rename {root}: {error.strerror}; remove it by hand")
    finally:
        if mine is not None:
            with contextlib.suppress(OSError):
                mine.rmdir()


def _owner_of(path: Path) -> int | None:
    try:
        return path.lstat().st_uid
    except FileNotFoundError:
        return None


def _rename(old: Path, new: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(new))


def _cannot_use(path: Path, error: OSError) -> ProclineError:
    return UnsupportedError(
        f"{path}: {error.strerror}",
        feature="runtime directory",
        needs="a directory that this user may write to",
        hint=f"run as root, or set {paths.RUNTIME_DIR_VARIABLE} to a directory of yours on tmpfs",
    )


def _owner(lock: int) -> int:
    try:
        return int(os.pread(lock, 20, 0))
    except ValueError:
        return 0


def _is_at(fd: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
