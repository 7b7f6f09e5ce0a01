"""keys.h for the writer (_keys.pyx) and the readers (_view.pyx). Declarations only, without a module to import."""

from libc.stdint cimport uint32_t, uint64_t

from pipeline.shm.layout._layout cimport pl_keys


cdef extern from "keys.h" nogil:
    uint64_t pl_ns_key(uint32_t pid, uint32_t pid_ns)
    uint32_t pl_key_buckets(uint32_t capacity)
    uint64_t pl_keys_bytes(uint32_t capacity)
    uint64_t *pl_key_names(const pl_keys *keys)
    uint32_t *pl_key_table(const pl_keys *keys, uint32_t capacity)
    uint32_t pl_key_home(uint64_t key, uint32_t buckets)
    int pl_key_once(const pl_keys *keys, uint32_t capacity, uint64_t key, uint32_t *slot)
