"""Replace a file whole, so that no reader finds half of it. Reading what could be another user's is in `trust`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def replace(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Put a file with this content and mode at `path`, in place of one that may be there.

    It is written under another name in the same directory, `.NAME.new`, and then renamed. That name is the caller's:
    nobody else may write to the directory, and a file that a killed process left there is removed.

    Raises:
        OSError: the file system is full, or the like. What was at `path` stays, and nothing else is left.

    Example:
        >>> replace(Path("/run/procline/default/processes"), b"{}")
    """
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor
            os.fchmod(fd, mode)  # the mode of open() is cut by the umask
            file.write(content)
        temporary.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
