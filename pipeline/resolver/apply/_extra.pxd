"""Parts of the msgpack map in `extra` that the applier reads and writes. See _extra.pyx."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from pipeline.records._records cimport pl_sender_any
from pipeline.shm.writer._arena cimport Arena


cdef enum:
    # Keys of `extra` that the forks of an image, or its next image, inherit, ...
    EXTRA_SSH = 1 << 0  # `ssh`: the session of sshd
    EXTRA_TRACER = 1 << 1  # `tracer_metadata`: facts from the process's tracing library; only forks inherit it
    EXTRA_CONTAINER = 1 << 2  # `container`: while the process stays in it
    EXTRA_CGROUP = 1 << 3  # `cgroup`: while the process stays in it
    EXTRA_NAMES = 1 << 4  # `names` of its users and groups: while the ids and the container are the same
    # ... and a key that none of them inherits.
    EXTRA_CHANGE = 1 << 5  # `sampled_change`: between which times the last change happened, with ROW_CHANGE_SAMPLED


# Which of the EXTRA_* `keys` the map at `ref` has.
cdef uint32_t find_extra(Arena args, uint32_t ref, uint32_t keys) noexcept nogil
# Put the sender of a signal into the map; see _extra.pyx.
cdef uint32_t add_sender(Arena args, uint32_t ref, const pl_sender_any *sender, int64_t boot_unix_ns) noexcept nogil
# Put the limits of a sampled change into the map; see _extra.pyx.
cdef uint32_t add_change(
    Arena args, uint32_t ref, uint64_t after_boot_ns, uint64_t before_boot_ns, int64_t boot_unix_ns
) noexcept nogil
# The part of the map with `keys`; see _extra.pyx.
cdef const char *pick_extra(Arena args, uint32_t ref, uint32_t keys, bint has_rest, uint32_t *n) noexcept nogil
