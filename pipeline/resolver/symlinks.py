"""Other names of an executable that was reached through a symbolic link.

A multi-call binary such as busybox is one file under many names; rules that look for ``/bin/ls`` should find it. Leaves
out whether the kernel followed a link: that comes with the exec event.
"""

from __future__ import annotations

from typing import NamedTuple

BUSYBOX_PATHS = frozenset({"/bin/busybox", "/usr/bin/busybox"})


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
        path: of the executable.
        argv0: the first argument, not scrubbed.
        is_through_symlink: the kernel followed a symbolic link during exec.

    Source: specification 3.4, SetProcessSymlink.
    """
    if not (is_busybox(path) or is_through_symlink):
        return None
    base = argv0.rpartition("/")[2]
    if not base:
        return None
    return SymlinkNames((f"/bin/{base}", f"/usr/bin/{base}"), base)
