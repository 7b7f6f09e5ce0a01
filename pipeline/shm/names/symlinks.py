"""Other names of an executable that was reached through a symbolic link.

A multi-call binary such as busybox is one file with many names, and rules that search for ``/bin/ls`` must find it. The
names are derived from the invoked name; no row stores them. The row records whether the kernel followed a link. Readers
import this module, so it uses only the standard library.
"""

from __future__ import annotations

from typing import NamedTuple

BUSYBOX_PATHS = frozenset({"/bin/busybox", "/usr/bin/busybox"})
#: No file has a longer name (NAME_MAX), so a longer word is not a name.
BASENAME_MAX_BYTES = 255


class SymlinkNames(NamedTuple):
    """The paths and the basename of the invoked name."""

    paths: tuple[str, str]  #: under /bin and under /usr/bin
    basename: str


def is_busybox(path: str) -> bool:
    """Return whether the executable is busybox at one of its two usual places.

    Example:
        >>> is_busybox("/bin/busybox"), is_busybox("/usr/bin/date")
        (True, False)
    """
    return path in BUSYBOX_PATHS


def symlink_names(path: str, argv0: str, is_through_symlink: bool = False) -> SymlinkNames | None:
    """Return the names under which the executable was invoked, or None if its path suffices.

    Args:
        path: of the executable, as the process sees it.
        argv0: the first argument, not scrubbed.
        is_through_symlink: whether the kernel followed a symbolic link during exec.

    Source: specification 3.4, SetProcessSymlink.
    """
    if not (is_busybox(path) or is_through_symlink):
        return None
    base = argv0.rpartition("/")[2]
    if not base or len(base.encode("utf-8", "surrogateescape")) > BASENAME_MAX_BYTES:
        return None
    return SymlinkNames((f"/bin/{base}", f"/usr/bin/{base}"), base)
