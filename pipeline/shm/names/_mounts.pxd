"""Names of the two mount enums, and the mount's part of a path, for readers and the stream.

The path was walked when the file was executed or read, from the file upwards across the mounts of that time. So no
look-up uses a mount's number, which the kernel later assigns to another mount.
"""

from libc.stdint cimport uint32_t

from pipeline.shm.layout._layout cimport PL_MOUNT_DETACHED, PL_MOUNT_ORIGIN_UNSHARE, PL_MOUNT_SOURCE_SNAPSHOT, pl_file


# generated: mount-names
cdef extern from *:
    """
    static const char *const pl_mount_sources[] = {(const char *)0, "mount_id", "device", "snapshot"};
    static const char *const pl_mount_origins[] = {(const char *)0, "procfs", "event", "unshare"};
    """
# end of the generated part
    const char *const *pl_mount_sources
    const char *const *pl_mount_origins


cdef inline const char *pl_mount_source(const pl_file *file) noexcept nogil:
    """Return how the mount was found; NULL if unknown."""
    return pl_mount_sources[file.mount_source] if file.mount_source <= PL_MOUNT_SOURCE_SNAPSHOT else NULL


cdef inline const char *pl_mount_origin(const pl_file *file) noexcept nogil:
    """Return what reported the mount; NULL if unknown."""
    return pl_mount_origins[file.mount_origin] if file.mount_origin <= PL_MOUNT_ORIGIN_UNSHARE else NULL


cdef inline const char *pl_mount_path(
    const pl_file *file, const char *path, uint32_t n, uint32_t *length
) noexcept nogil:
    """Return the mount's place, a part of the path behind `file` (`n` bytes); NULL if unknown or detached."""
    if file.mount_end == 0 or file.mount_end - 1 > n or file.mount_flags & PL_MOUNT_DETACHED:
        return NULL
    if file.mount_end == 1:
        length[0] = 1
        return "/"
    length[0] = file.mount_end - 1
    return path
