"""C view of the records for the modules that read frames in place.

A frame's columns begin at any address of the message. The structs with the suffix ``_any`` therefore have alignment 1:
the compiler assumes nothing about the address, and on x86-64 and aarch64 still loads a field with one instruction.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

include "records.pxi"


cdef extern from *:
    """
    #define pl_adds_up(flags, var_bytes, strings) \\
        ((strings) == (var_bytes) || (((flags) & PL_FLAG_CONTAINER) && (strings) < (var_bytes)))
    """
    # Whether the strings of an exec record are as long as its HEADER says.
    bint pl_adds_up(uint8_t flags, uint32_t var_bytes, uint64_t strings) noexcept nogil
