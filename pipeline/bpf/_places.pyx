"""Atomic exchange on the words of `pid_owners`, which BPF programs change at the same time; see pids.bpf.h."""

from libc.stdint cimport uint64_t


cdef extern from *:
    """
    #include <stdint.h>
    #include <stdbool.h>
    static inline bool pl_exchange(uint64_t *at, uint64_t before, uint64_t after)
    {
        return __atomic_compare_exchange_n(at, &before, after, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    """
    bint pl_exchange(uint64_t *at, uint64_t before, uint64_t after) nogil


def exchange(uint64_t[::1] words, Py_ssize_t place, uint64_t before, uint64_t after) -> bool:
    """Store `after` in `words[place]` if it contains `before`; return whether it did. Acts as a full barrier."""
    if not 0 <= place < words.shape[0]:
        raise IndexError(place)
    return pl_exchange(&words[place], before, after)
