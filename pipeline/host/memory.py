"""Memory that a process has freed but its C library has not returned to the kernel."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Return freed pages of the heap to the kernel, after work that needed many of them for a short time.

    Without this call glibc returns only the end of the heap, which is usually still in use. Other C libraries have no
    malloc_trim(3); there the function does nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
