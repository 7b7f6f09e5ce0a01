"""What readers and the stream show of a file's path (specification 1.4): its last part, and the extension of that.

A memfd has a name and no path: the table has "/memfd:NAME" for it, as the kernel walks it.
"""

from libc.stdint cimport uint32_t


cdef inline uint32_t pl_base_at(const char *path, uint32_t n) noexcept nogil:
    """Where the last part of a path begins."""
    while n and path[n - 1] != b"/":
        n -= 1
    return n


cdef inline uint32_t pl_extension_at(const char *base, uint32_t n) noexcept nogil:
    """Where the extension of a name begins, the dot included; `n`: it has none."""
    cdef uint32_t at = n
    while at:
        at -= 1
        if base[at] == b".":
            return at
    return n
