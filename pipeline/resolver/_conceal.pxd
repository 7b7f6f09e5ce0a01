"""The digest of what an image was started with, for the applier, which makes it of records that hide nothing."""

from libc.stdint cimport uint32_t, uint64_t


# Of arguments and environment as they are before anything is hidden, never 0. NULL: absent, which is not empty.
cdef uint64_t pl_digest(const char *args, uint32_t args_bytes, const char *envs, uint32_t envs_bytes) noexcept nogil
