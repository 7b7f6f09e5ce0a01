"""The runtime directory of an instance: made, locked and removed by its supervisor, and by nobody else.

    path             mode  made by
    .                0755  here
    supervisor.lock  0600  here; the flock on it is the supervisor's claim
    processes        0644  here; see pipeline.host.processes
    tiers            0644  here; JSON, what of the capture is in force by name, and why what is not
    frames/          0700  here; only the daemon's own processes put frames in
    stream/          0755  here; the socket in it has a mode of its own
    requests/        0755  here; the same

Where a group is set, the directories belong to it and have the set-group-id bit, so that files and sockets made in them
get the group although the workers that make them may not give files away.

The whole path belongs to root or to the daemon's user, and nobody else may write to a directory on it (pipeline.trust);
else the start is refused. A directory that somebody else made at the fallback under /dev/shm is put aside by root.

A supervisor that was killed leaves its directory behind. The next one takes it over as it is: the resolver decides
whether the tables in it are still of use.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
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
_RENAME_EXCHANGE = 2


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
            f"access.group: there is no group {name!r} on this host: make it (groupadd --system {name}) or change the "
            "setting",
            key="access.group",
            value=name,
        ) from None


class InstanceDirectory:
    """The claimed directory of one instance; a context manager that gives the claim up.

    Args:
        name: name of the instance.
        takeover_timeout_s: how long to wait for the workers of a supervisor that was killed.
        group: group of what is made in it, -1 for the daemon's own.

    Raises:
        ConfigError: the name, or a socket's path, cannot be used.
        UnsupportedError: the directory is not on tmpfs, or cannot be made.
        UntrustedError: somebody else owns, or may write to, a directory on the way.
        WriterExistsError: the instance is running.
    """

    def __init__(self, name: str, takeover_timeout_s: float = 10.0, group: int = -1) -> None:
        self.name = name
        self.path = paths.instance_dir(name)
        for socket in (paths.frames_socket, paths.stream_socket, paths.requests_socket, paths.tracers_socket):
            paths.endpoint(socket(self.path))
        if self.path.parent == paths.FALLBACK and paths.RUNTIME_DIR_VARIABLE not in os.environ:
            put_aside(paths.FALLBACK)
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
        """Make the directory and lock it; return the descriptor that holds the lock."""
        file = self.path / paths.SUPERVISOR_LOCK
        while True:
            try:
                _make(self.path.parent, 0o755)
                _make(self.path, 0o755)
                lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                continue  # the instance that was here removed its directory between two of our steps
            except OSError as error:
                raise _cannot_use(file, error) from None
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tgid = _owner(lock)
                os.close(lock)
                raise WriterExistsError(
                    f"instance {self.name!r} is already running{f' (pid {tgid})' if tgid else ''} in {self.path}: "
                    "stop it first, or choose another name with --name",
                    tgid=tgid,
                ) from None
            # Its last owner may have removed the file after we opened it: then others lock another one.
            if _is_at(lock, file):
                with contextlib.suppress(OSError):  # a full file system; the number only serves messages
                    os.ftruncate(lock, 0)
                    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
                return lock
            os.close(lock)

    def _wait_for_orphans(self, timeout_s: float) -> None:
        """Wait until no worker of a killed supervisor writes the tables any more."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                writer = os.open(self.path / paths.WRITER_LOCK, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                return
            try:
                fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise WriterExistsError(
                        f"a resolver of an earlier run still writes {self.path}: end it (fuser -v "
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
                f"{self.path} cannot be given to group {group}",
                feature="access.group",
                needs="CAP_CHOWN, or membership of the group",
                hint="run as root, or as a member of the group",
            ) from None

    def write(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """Replace a file whole, so that no reader finds half of it.

        Raises:
            OSError: the file system is full.
        """
        files.replace(self.path / name, content, mode)

    def remove(self) -> None:
        """Remove the directory and all in it; the claim is held until `close`."""
        # The lock's name goes last: as long as it is there, others find it locked.
        for entry in self.path.iterdir():
            if entry.name == paths.SUPERVISOR_LOCK:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        (self.path / paths.SUPERVISOR_LOCK).unlink(missing_ok=True)
        # Another supervisor may be in there again by now.
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def close(self) -> None:
        """Give up the claim."""
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _make(directory: Path, mode: int) -> None:
    """Make a directory with this mode, and those above it that are missing; check the whole path."""
    try:
        trust.Directory(directory, mine=True, make=mode).close()
    except FileNotFoundError:
        raise  # made and gone again: somebody removes an instance
    except OSError as error:
        raise _cannot_use(directory, error) from None


def put_aside(root: Path) -> None:
    """If somebody else made the directory `root`, put one of this user in its place, in one step.

    Anybody may make names in /dev/shm, and root alone may rename those of others. The other directory gets a new name
    beside it and is left as it is: deleting what a stranger has put there is not the daemon's business.
    """
    if os.geteuid() != 0:
        return
    try:
        owner = root.lstat().st_uid
        if owner == 0:
            return
        mine = Path(tempfile.mkdtemp(prefix=f"{root.name}-not-ours-", dir=root.parent))
    except OSError:
        return  # nothing is there; what else is wrong, the next steps report
    mine.chmod(0o755)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(mine), AT_FDCWD, os.fsencode(root), _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        mine.rmdir()
        if number != errno.ENOENT:  # else it has gone meanwhile
            get_logger().warning(f"cannot put {root} of uid {owner} aside: {os.strerror(number)}")
        return
    get_logger().warning(f"{root} belonged to uid {owner}: it was renamed to {mine}, which you can delete")


def _cannot_use(path: Path, error: OSError) -> ProclineError:
    return UnsupportedError(
        f"{path}: {error.strerror}",
        feature="runtime directory",
        needs="a directory that this user may write",
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
