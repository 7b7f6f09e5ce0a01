"""What readers and the stream show of the mount that a file is on: names of the two enums, and the part of the path.

The path was walked when the file was executed or looked at, from the file up across the mounts as they were then. So
nothing is looked up by the number of a mount, which the kernel gives to another mount later.
"""

from libc.stdint cimport uint32_t

from pipeline.shm.layout._layout cimport PL_MOUNT_DETACHED, PL_MOUNT_ORIGIN_UNSHARE, PL_MOUNT_SOURCE_SNAPSHOT, pl_file


cdef extern from *:
    """
    static const char *const pl_mount_sources[] = {(const char *)0, "mount_id", "device", "snapshot"};
    static const char *const pl_mount_origins[] = {(const char *)0, "procfs", "event", "unshare"};
    """
    const char *const *pl_mount_sources
    const char *const *pl_mount_origins


cdef inline const char *pl_mount_source(const pl_file *file) noexcept nogil:
    """How the mount was found; NULL: unknown."""
    return pl_mount_sources[file.mount_source] if file.mount_source <= PL_MOUNT_SOURCE_SNAPSHOT else NULL


cdef inline const char *pl_mount_origin(const pl_file *file) noexcept nogil:
    """Who told of it; NULL: unknown."""
    return pl_mount_origins[file.mount_origin] if file.mount_origin <= PL_MOUNT_ORIGIN_UNSHARE else NULL


cdef inline const char *pl_mount_path(const pl_file *file, const char *path, uint32_t n, uint32_t *length) noexcept nogil:
    """Where the mount is, a part of the path behind `file` (`n` bytes); NULL: unknown, or nowhere."""
    if file.mount_end == 0 or file.mount_end - 1 > n or file.mount_flags & PL_MOUNT_DETACHED:
        return NULL
    if file.mount_end == 1:
        length[0] = 1
        return "/"
    length[0] = file.mount_end - 1
    return path
