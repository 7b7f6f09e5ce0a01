"""Open files of an instance, and reject those that another user could have created or changed.

Readers and the daemon open every directory of the path from ``/`` on, one below the other, and follow symbolic links
themselves. So no part of the path can be replaced between its check and its use. The rules:

1. No directory of the path is writable by its group or by others. The exception is a sticky directory (``/tmp``,
   ``/dev/shm``), if the next part of the path belongs to root or to the user of this process. The last directory must
   not be writable even if it is sticky.
2. Every directory and link belongs to root or to the user of this process. Readers also accept one other user if the
   first directory of that user is in a directory that only accepted users can write to: for example, root created
   ``/run/procline`` for the service user. They reject a second other user. The daemon accepts no other user.
3. Files and sockets belong to one of these users. Files are regular files, not links, and only their owner can write.

The owner of ``/`` is accepted like root, except below a sticky directory: in a user namespace it is the overflow uid.

Readers import this module, so it uses the standard library only, and little of it.
"""

from __future__ import annotations

import errno
import os
import stat

from pipeline.errors import ProclineError, UntrustedError

TYPE_CHECKING = False  # see paths.py
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO of another user must not block a reader before the owner is checked.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LINKS_MAX = 40  # the kernel's limit (MAXSYMLINKS)
#: Bits of a mode: users other than the owner can write.
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

_ACTION = "set PROCLINE_RUNTIME_DIR to a directory that only root and you can write to, or remove this one"


class Directory:
    """A directory that no untrusted user could have created or changed; a context manager.

    Args:
        path: absolute, or relative to the working directory.
        mine: accept only directories of root and of the user of this process. For the daemon.
        make: mode with which missing directories are created; None: they are not created.

    Raises:
        UntrustedError: another user could have created or changed the directory or a part of its path.
        OSError: it does not exist, is not a directory, or the path cannot be searched by this user.
    """

    def __init__(self, path: str | os.PathLike[str], *, mine: bool = False, make: int | None = None) -> None:
        self.path = os.path.abspath(path)  # noqa: PTH100 - pathlib keeps "..", and readers do not import it
        self.fd = -1
        self._fixed = {0, os.geteuid()}
        self._owners = set(self._fixed)
        self._may_add = not mine
        self._make = make
        self.fd = self._walk()

    def close(self) -> None:
        """Close the directory. It may be called more than once."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def open(self, name: str) -> int:
        """Open the file `name` for reading and return its descriptor.

        Raises:
            UntrustedError: it is not a regular file, or an untrusted user could have written it.
            OSError: it does not exist, or this user cannot read it.
        """
        path = f"{self.path}/{name}"
        try:
            fd = os.open(name, _FILE, dir_fd=self.fd)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENXIO}:
                raise UntrustedError(f"{path} is not a regular file: remove it", path=path) from None
            raise _at(error, path) from None
        status = os.fstat(fd)
        try:
            self._check_file(path, status, stat.S_ISREG(status.st_mode), "a regular file")
            if status.st_mode & WRITABLE_BY_OTHERS:
                raise _writable(path, status)
        except UntrustedError:
            os.close(fd)
            raise
        return fd

    def read(self, name: str) -> bytes:
        """Return the content of the file `name`. Raises the same errors as `open`."""
        with open(self.open(name), "rb") as file:  # noqa: PTH123 - a descriptor
            return file.read()

    def check_socket(self, name: str) -> None:
        """Check the type and the owner of the socket `name`.

        Raises:
            UntrustedError: it is not a socket, or belongs to an untrusted user.
            OSError: it does not exist, or this user cannot access it.
        """
        status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        self._check_file(f"{self.path}/{name}", status, stat.S_ISSOCK(status.st_mode), "a socket")

    def _check_file(self, path: str, status: os.stat_result, is_right: bool, what: str) -> None:
        if status.st_uid not in self._owners:
            raise _foreign(path, status)
        if not is_right:
            raise UntrustedError(f"{path} is not {what}: remove it", path=path, owner=status.st_uid)

    # -- opening the path ----------------------------------------------------------------------------------------------

    def _walk(self) -> int:
        at, status = self._root()
        shown = "/"
        names = self.path.split("/")[::-1]
        links = 0
        try:
            while names:
                name = names.pop()
                if name in {"", "."}:
                    continue
                is_shared = bool(status.st_mode & WRITABLE_BY_OTHERS)  # and sticky, or it had been rejected below
                shown = f"{shown.rstrip('/')}/{name}"
                fd = self._enter(name, at, shown)
                try:
                    status = os.fstat(fd)
                    self._check_owner(shown, status, is_shared)
                    if stat.S_ISLNK(status.st_mode):
                        links += 1
                        if links > _LINKS_MAX:
                            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), shown)
                        target = os.readlink("", dir_fd=fd)
                        names.extend(target.split("/")[::-1])
                        if target.startswith("/"):
                            os.close(at)
                            at, status = self._root()
                            shown = "/"
                        else:
                            status = os.fstat(at)
                            shown = os.path.dirname(shown)  # noqa: PTH120
                        continue
                    if not stat.S_ISDIR(status.st_mode):
                        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), shown)
                    if status.st_mode & WRITABLE_BY_OTHERS and not status.st_mode & stat.S_ISVTX:
                        raise _writable(shown, status)
                    at, fd = fd, at
                finally:
                    os.close(fd)
            if status.st_mode & WRITABLE_BY_OTHERS:
                raise _writable(shown, status)
        except BaseException:
            os.close(at)
            raise
        return at

    def _root(self) -> tuple[int, os.stat_result]:
        at = os.open("/", _PATH | os.O_DIRECTORY)
        status = os.fstat(at)
        self._owners.add(status.st_uid)
        return at, status

    def _enter(self, name: str, at: int, shown: str) -> int:
        try:
            try:
                return os.open(name, _PATH, dir_fd=at)
            except FileNotFoundError:
                if self._make is None:
                    raise
            made = False
            try:
                os.mkdir(name, self._make, dir_fd=at)
                made = True
            except FileExistsError:
                pass  # another process has just created it
            fd = os.open(name, _PATH | os.O_DIRECTORY, dir_fd=at)
            if made and os.fstat(fd).st_uid == os.geteuid():
                # The umask reduced the mode of mkdir(). An O_PATH descriptor can be changed only through /proc.
                os.chmod(f"/proc/self/fd/{fd}", self._make)  # noqa: PTH101
            return fd
        except OSError as error:
            raise _at(error, shown) from None

    def _check_owner(self, path: str, status: os.stat_result, is_shared: bool) -> None:
        owner = status.st_uid
        if owner in (self._fixed if is_shared else self._owners):
            return
        if is_shared or not self._may_add:
            raise _foreign(path, status)
        # Only trusted users can write to the directory above, so one of them created this directory for its owner.
        self._may_add = False
        self._owners.add(owner)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def open_file(path: str | os.PathLike[str]) -> int:
    """Open a file for reading and return its descriptor. Raises the same errors as `Directory` and `Directory.open`."""
    above, name = _split(path)
    with Directory(above) as directory:
        return directory.open(name)


def read(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a file. Raises the same errors as `open_file`."""
    above, name = _split(path)
    with Directory(above) as directory:
        return directory.read(name)


def read_json(path: str | os.PathLike[str], *, otherwise: object = None) -> Any:
    """Return what a file has as JSON; `otherwise` if it cannot be read, is not trusted, or has something else."""
    import json  # deferred: a reader that asks about one process needs none

    try:
        return json.loads(read(path))
    except (OSError, ValueError, ProclineError):
        return otherwise


def check_socket(path: str | os.PathLike[str]) -> None:
    """Check that no untrusted user can listen at `path`. Call it before connect(2).

    Untrusted users cannot change any directory of a path that passes, so connect(2) then reaches the socket that was
    checked. After connect(2) it would be too late: another user's socket could have been replaced or removed by then.

    Raises:
        UntrustedError: another user could have created the socket or a directory of its path.
        OSError: it does not exist, or this user cannot access it.
    """
    above, name = _split(path)
    with Directory(above) as directory:
        directory.check_socket(name)


def _split(path: str | os.PathLike[str]) -> tuple[str, str]:
    return os.path.split(os.path.abspath(path))  # noqa: PTH100


def _foreign(path: str, status: os.stat_result) -> UntrustedError:
    return UntrustedError(
        f"{path} belongs to uid {status.st_uid} (mode {stat.S_IMODE(status.st_mode):04o}), and that user could have "
        f"forged its contents: {_ACTION}",
        path=path,
        owner=status.st_uid,
        mode=stat.S_IMODE(status.st_mode),
    )


def _writable(path: str, status: os.stat_result) -> UntrustedError:
    mode = stat.S_IMODE(status.st_mode)
    writers = "everybody" if mode & 0o002 else f"group {status.st_gid}"
    return UntrustedError(
        f"{path} belongs to uid {status.st_uid} and can be written by {writers} (mode {mode:04o}), so its contents "
        f"could be forged: make it writable by its owner only (chmod go-w {path}), or set PROCLINE_RUNTIME_DIR to "
        "another directory",
        path=path,
        owner=status.st_uid,
        mode=mode,
    )


def _at(error: OSError, path: str) -> OSError:
    """Return the same error with the whole path instead of the last name."""
    return OSError(error.errno, error.strerror, path)
