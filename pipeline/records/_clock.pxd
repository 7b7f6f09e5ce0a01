"""The clocks, for Cython (clock.h)."""

from libc.stdint cimport uint64_t


cdef extern from "clock.h" nogil:
    int CLOCK_BOOTTIME
    int CLOCK_MONOTONIC
    uint64_t pl_clock_ns(int clock)
    uint64_t pl_now_boot_ns()
    uint64_t pl_now_coarse_ns()
