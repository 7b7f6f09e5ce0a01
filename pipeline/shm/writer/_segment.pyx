"""Map a segment's file at its ceiling and grow it in place; map private memory in the same form.

This module makes the system calls itself, because Python's mmap rejects a length beyond the end of the file and unmaps
a view's memory on close. segments.py defines the files' names and contents. According to posix_fallocate(3) and
mmap(2), a mapping may be longer than its file, but the part beyond the end must not be accessed (SIGBUS).
"""

from cpython.buffer cimport PyBuffer_FillInfo
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint64_t
from posix.unistd cimport _SC_PAGESIZE, close as c_close, sysconf

import os


cdef extern from "sys/mman.h" nogil:
    void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void *address, size_t length)
    int madvise(void *address, size_t length, int advice)
    int PROT_READ
    int PROT_WRITE
    int MAP_SHARED
    int MAP_PRIVATE
    int MAP_ANONYMOUS
    int MAP_NORESERVE
    int MADV_DONTDUMP
    int MADV_POPULATE_WRITE, MADV_POPULATE_READ
    void *MAP_FAILED


cdef extern from "fcntl.h" nogil:
    int posix_fallocate(int fd, long offset, long length)


cdef extern from "sys/vfs.h" nogil:
    struct statfs_buffer "statfs":
        long f_type
    int c_statfs "statfs"(const char *path, statfs_buffer *result)


cdef uint64_t RETRY_REQUESTS = 1024


def filesystem_type(path) -> int:
    """Return statfs(2)'s f_type of the file system that holds `path` (0x01021994 for tmpfs)."""
    cdef statfs_buffer result
    cdef bytes name = os.fsencode(path)
    if c_statfs(name, &result) != 0:
        raise OSError(errno, os.strerror(errno), str(path))
    return result.f_type & 0xFFFFFFFF


cdef class Segment:
    """Bytes [0, capacity) of a file, or of private memory when `fd` is -1. The object owns the descriptor.

    The memory stays mapped while a view of it exists (buffer protocol: bytes [0, allocated)).

    Args:
        name: for messages.
        fd: descriptor that is open for reading and writing, or -1.
        capacity: bytes to map.
        allocated: bytes of the file that exist.
    """

    def __cinit__(self, name, int fd, uint64_t capacity, uint64_t allocated):
        cdef void *address
        self.name = name
        self.fd = fd
        self.base = NULL
        self.capacity = capacity
        self.allocated = capacity if fd < 0 else allocated
        if fd < 0:
            address = mmap(NULL, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        else:
            address = mmap(NULL, capacity, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if address == MAP_FAILED:
            raise OSError(errno, f"cannot map {capacity} bytes of {name}: {os.strerror(errno)}")
        # Arguments and environments contain secrets: exclude them from core dumps.
        madvise(address, capacity, MADV_DONTDUMP)
        self.base = <char *>address

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.capacity)
        self.close_file()

    cdef void close_file(self) noexcept:
        """Close the descriptor, which ends growth. The memory stays mapped."""
        if self.fd >= 0:
            c_close(self.fd)
            self.fd = -1

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.base, self.allocated, 0, flags)

    cdef bint grow(self, uint64_t to_bytes) noexcept nogil:
        """Allocate the file up to `to_bytes`; return False at the ceiling or when the file system is full."""
        if to_bytes <= self.allocated:
            return True
        if to_bytes > self.capacity or not self.allocate(self.allocated, to_bytes - self.allocated):
            return False
        self.allocated = to_bytes
        return True

    cdef bint allocate(self, uint64_t begin, uint64_t length) noexcept nogil:
        """Allocate a part of the file; return False when the file system is full.

        Never raises: a full tmpfs must not stop the writer, which then behaves as at its ceiling. After a refusal, only
        every RETRY_REQUESTS-th request asks the kernel again, so that a full file system does not cost a system call
        for each new process.
        """
        cdef int result
        cdef int attempts = 0
        if self.fd < 0:
            return False
        if self.waits > 0:
            self.waits -= 1
            return False
        while True:
            result = posix_fallocate(self.fd, <long>begin, <long>length)
            attempts += 1
            if result != EINTR or attempts == 16:
                break
        if result != 0:
            self.refused += 1
            self.waits = RETRY_REQUESTS
            return False
        return True

    cdef void populate_read(self, uint64_t to_bytes) noexcept nogil:
        """Map the first bytes, which are allocated and were written, in one call before they are read in sequence."""
        if to_bytes:
            madvise(self.base, min(to_bytes, self.allocated), MADV_POPULATE_READ)

    cdef void populate(self, uint64_t from_bytes, uint64_t to_bytes) noexcept nogil:
        """Map a part of the allocated bytes in one call, before it is written in sequence.

        A page fault for each page takes several times as long. If the kernel refuses (madvise(2), MADV_POPULATE_WRITE,
        since Linux 5.14), the pages fault one by one.
        """
        cdef uint64_t begin = from_bytes & ~<uint64_t>(sysconf(_SC_PAGESIZE) - 1)
        cdef uint64_t end = min(to_bytes, self.allocated)
        if begin < end:
            madvise(self.base + begin, end - begin, MADV_POPULATE_WRITE)
