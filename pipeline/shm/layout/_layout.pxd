"""C declarations of the shared segments (segments.h) and of the atomic operations on them (layout.h)."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


include "segments.pxi"


cdef extern from "layout.h" nogil:
    uint32_t pl_load_acquire32(const void *p)
    uint64_t pl_load_acquire64(const void *p)
    uint32_t pl_load_relaxed32(const void *p)
    uint64_t pl_load_relaxed64(const void *p)
    void pl_store_release32(void *p, uint32_t v)
    void pl_store_release64(void *p, uint64_t v)
    void pl_store_relaxed32(void *p, uint32_t v)
    void pl_store_relaxed64(void *p, uint64_t v)
    void pl_fence_acquire()
    void pl_fence_release()
    void pl_prefetch(const void *p)
    void pl_prefetch_write(const void *p)
    void pl_row_clear(pl_hot *hot, pl_cold *cold)
    void pl_row_begin(pl_hot *row)
    void pl_row_end(pl_hot *row)
    void pl_row_note(pl_control *control, uint32_t *changes, uint32_t row)
    uint64_t pl_link(uint32_t row, uint32_t generation)
