"""Replace a file atomically, so that no reader sees a partly written one; remove trees; read small files of the kernel.

`pipeline.trust` reads files that another user could have created.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def replace(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file with this content and mode to `path`, replacing an existing file.

    The content is written to a file `.NAME.new` in the same directory, which is then renamed. No other process may
    write to this directory or use that name; a file that a killed process left under it is removed.

    Args:
        path: the file.
        content: its bytes.
        mode: its permission bits, not reduced by the umask.

    Raises:
        OSError: writing failed, for example because the file system is full. An existing file at `path` is unchanged,
            and no other file is left behind.

    Example:
        >>> replace(Path("/run/procline/default/processes"), b"{}")
    """
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor
            os.fchmod(fd, mode)  # the umask reduces the mode of open()
            file.write(content)
        temporary.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def remove_tree(path: Path) -> None:
    """Remove a directory with its content, if it exists. What cannot be removed is left."""
    if path.is_dir():
        import shutil  # deferred: it loads three libraries for archives, and there is rarely anything to remove

        shutil.rmtree(path, ignore_errors=True)


def read_kernel(path: str) -> bytes:
    """Return the content of a small file of ``/proc``, at most 256 KiB.

    `Path.read_bytes` makes nine system calls. For a process that reads a few such files each time it wakes up, this is
    what it costs.

    Raises:
        OSError: the file cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 1 << 18)
    finally:
        os.close(fd)
