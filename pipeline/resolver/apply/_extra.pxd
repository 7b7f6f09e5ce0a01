"""Parts of the msgpack map in `extra` that forks and later images inherit. See _extra.pyx."""

from libc.stdint cimport uint32_t

from pipeline.shm.writer._arena cimport Arena


cdef enum:
    # Keys of `extra` that the forks of an image, or its next image, inherit.
    EXTRA_SSH = 1
    EXTRA_TRACER = 2
    EXTRA_CONTAINER = 4
    EXTRA_CGROUP = 8


# Which of the EXTRA_* `keys` the map at `ref` has.
cdef uint32_t find_extra(Arena args, uint32_t ref, uint32_t keys) noexcept nogil
# The part of the map with `keys`; see _extra.pyx.
cdef const char *pick_extra(Arena args, uint32_t ref, uint32_t keys, bint has_rest, uint32_t *n) noexcept nogil
