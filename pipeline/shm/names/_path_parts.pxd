"""The last part of a file's path, and its extension, for readers and the stream (specification 1.4).

A memfd has a name and no path: the table stores "/memfd:NAME" for it, as the kernel reports it.
"""

from libc.stdint cimport uint32_t


cdef inline uint32_t pl_base_at(const char *path, uint32_t n) noexcept nogil:
    """Return the offset of the last part of a path."""
    while n and path[n - 1] != b"/":
        n -= 1
    return n


cdef inline uint32_t pl_extension_at(const char *base, uint32_t n) noexcept nogil:
    """Return the offset of a name's extension, including the dot; `n` if it has none."""
    cdef uint32_t at = n
    while at:
        at -= 1
        if base[at] == b".":
            return at
    return n
