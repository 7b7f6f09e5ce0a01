"""Other names of an executable that was reached through a symbolic link.

A multi-call binary such as busybox is one file under many names; rules that look for ``/bin/ls`` should find it. So
the names are derived from what was invoked, and no row holds them. Leaves out whether the kernel followed a link: the
row says that. Readers import this module, so it takes nothing but the standard library.
"""

from __future__ import annotations

from typing import NamedTuple

BUSYBOX_PATHS = frozenset({"/bin/busybox", "/usr/bin/busybox"})
#: No file has a longer name (NAME_MAX), so a longer word is none.
BASENAME_MAX_BYTES = 255


class SymlinkNames(NamedTuple):
    """What the invoked name stands for."""

    paths: tuple[str, str]  #: under /bin and under /usr/bin
    basename: str


def is_busybox(path: str) -> bool:
    """Whether the executable is busybox at one of its two usual places."""
    return path in BUSYBOX_PATHS


def symlink_names(path: str, argv0: str, is_through_symlink: bool = False) -> SymlinkNames | None:
    """The names under which the executable was invoked, or None when its path tells all.

    Args:
        path: of the executable, as the process sees it.
        argv0: the first argument, not scrubbed.
        is_through_symlink: the kernel followed a symbolic link during exec.

    Source: specification 3.4, SetProcessSymlink.
    """
    if not (is_busybox(path) or is_through_symlink):
        return None
    base = argv0.rpartition("/")[2]
    if not base or len(base.encode("utf-8", "surrogateescape")) > BASENAME_MAX_BYTES:
        return None
    return SymlinkNames((f"/bin/{base}", f"/usr/bin/{base}"), base)
