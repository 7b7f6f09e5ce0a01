"""Memory that a process has freed and its C library has kept."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Give freed pages of the heap back to the kernel, after work that needed many of them for a moment.

    glibc gives back the end of the heap only, and what a process keeps usually lies there. Other C libraries have no
    malloc_trim(3), and nothing is done.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
