"""Groups of facts that a TASK holds (KNOWN_*), and the blocks of fields that belong to them.

The fields of a block have the same names and the same order in TASK and in COLD, so that a block is copied and compared
as a whole. A block is named once, below; the checks refuse to compile a layout in which the two differ.
"""

from libc.stdint cimport uint32_t

from pipeline.records._records cimport pl_task_any
from pipeline.shm.layout._layout cimport (
    PL_KNOWN_AUID, PL_KNOWN_CAPS, PL_KNOWN_CGROUP, PL_KNOWN_COMM, PL_KNOWN_CREDS, PL_KNOWN_NS, PL_KNOWN_SID,
    PL_KNOWN_TTY, pl_cold,
)


cdef enum:
    # All groups of a TASK.
    TASK_KNOWN = (
        PL_KNOWN_CREDS | PL_KNOWN_CAPS | PL_KNOWN_AUID | PL_KNOWN_SID | PL_KNOWN_NS | PL_KNOWN_CGROUP | PL_KNOWN_COMM
        | PL_KNOWN_TTY
    )


cdef extern from *:
    """
    #include <stddef.h>
    #include <string.h>

    /* The bytes from field `first` to the end of field `last`. */
    #define PL_SPAN(type, first, last) \
        (offsetof(type, last) + sizeof(((type *)0)->last) - offsetof(type, first))

    /* Group, first field, last field. uid and gid, the cgroup, comm and the terminal are no blocks: some of these
     * fields are in HOT, and others are stored under conditions. */
    #define PL_BLOCKS(X) \
        X(PL_KNOWN_CREDS, euid, fsgid) \
        X(PL_KNOWN_CAPS, cap_effective, cap_permitted) \
        X(PL_KNOWN_AUID, auid, audit_session) \
        X(PL_KNOWN_SID, sid, pgid)
    /* Namespaces, without the pid in the innermost one. */
    #define PL_NS_BLOCK(X) X(PL_KNOWN_NS, pid_ns, user_ns)

    #define PL_CHECK(group, first, last) \
        _Static_assert(PL_SPAN(struct pl_cold, first, last) == PL_SPAN(struct pl_task, first, last), #first);
    PL_BLOCKS(PL_CHECK)
    PL_NS_BLOCK(PL_CHECK)

    #define PL_COPY(group, first, last) \
        if (groups & group) \
            memcpy(&to->first, &from->first, PL_SPAN(struct pl_cold, first, last));
    #define PL_DIFFER(group, first, last) \
        if (groups & group && memcmp(&cold->first, &task->first, PL_SPAN(struct pl_cold, first, last)) != 0) \
            return 1;

    /* Store blocks of a TASK. `ns_pid` is that of the record's process. */
    static inline void pl_put_blocks(struct pl_cold *to, const pl_task_any *from, uint32_t ns_pid, uint32_t groups)
    {
        PL_BLOCKS(PL_COPY)
        PL_NS_BLOCK(PL_COPY)
        if (groups & PL_KNOWN_NS)
            to->ns_pid = ns_pid;
    }

    /* Copy blocks of another process. */
    static inline void pl_copy_blocks(struct pl_cold *to, const struct pl_cold *from, uint32_t groups)
    {
        PL_BLOCKS(PL_COPY)
        PL_NS_BLOCK(PL_COPY)
    }

    static inline int pl_blocks_differ(
        const struct pl_cold *cold, const pl_task_any *task, uint32_t ns_pid, uint32_t groups)
    {
        PL_BLOCKS(PL_DIFFER)
        PL_NS_BLOCK(PL_DIFFER)
        return groups & PL_KNOWN_NS && cold->ns_pid != ns_pid;
    }
    """
    void pl_put_blocks(pl_cold *to, const pl_task_any *source, uint32_t ns_pid, uint32_t groups) noexcept nogil
    void pl_copy_blocks(pl_cold *to, const pl_cold *source, uint32_t groups) noexcept nogil
    bint pl_blocks_differ(
        const pl_cold *cold, const pl_task_any *task, uint32_t ns_pid, uint32_t groups
    ) noexcept nogil
