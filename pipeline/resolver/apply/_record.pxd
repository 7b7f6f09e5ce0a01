"""One record as the functions of apply pass it on: pointers to its parts, and the source of its facts.

A `parsed_record` is filled once, where the record enters apply, and passed by pointer. The Applier keeps no state of a
record between two records.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from pipeline.records._records cimport (
    PL_EXEC_ARGS_TRUNCATED, PL_EXEC_ARGS_UNREADABLE, PL_EXEC_ENVS_TRUNCATED, PL_EXEC_ENVS_UNREADABLE, PL_FLAG_CONTAINER,
    PL_EXIT_COST, PL_EXIT_IO, PL_EXIT_SENDER, PL_FLAG_SAMPLED, PL_KIND_CAPS, PL_KIND_CRED, PL_KIND_EXEC, PL_KIND_EXIT,
    PL_KIND_SID, pl_caps_any, pl_cost_any, pl_exec_any, pl_exit_any, pl_fork_any, pl_header_any, pl_sampled_any,
    pl_sender_any, pl_task_any,
)
from pipeline.shm.layout._layout cimport (
    PL_KNOWN_ARGS, PL_KNOWN_COST, PL_KNOWN_ENVS, PL_KNOWN_IO, PL_ROW_ARGS_TRUNCATED,
    PL_ROW_ENVS_TRUNCATED,
)


# What only some kinds of records have. `bytes` is NULL if the record has no body.
cdef union record_body:
    const char *bytes
    const pl_fork_any *fork
    const pl_exec_any *exec  # also of facts from /proc, which have kind 0
    const pl_exit_any *exit


cdef struct parsed_record:
    const pl_header_any *header
    const pl_task_any *task  # NULL: the record has none (FLAG_HEAD_ONLY)
    record_body body
    const char *strings  # path, name, arguments and environment, one after the other
    const char *container  # container id; read only if container_bytes is not 0
    uint64_t digest  # of arguments and environment before anything was hidden; 0: not known
    uint32_t groups  # KNOWN_* groups of `task` that hold a value
    uint32_t container_bytes
    uint32_t ns_pid  # of `task`, which processes of one frame may share
    uint8_t source  # SOURCE_* of the rows that the record makes
    uint8_t cgroup_source  # CGROUP_SOURCE_* of what the record says about cgroups
    bint is_stat  # the executable's inode is from stat(), not from the kernel's own structures


# Arguments or environment, as an exec record holds them.
cdef struct exec_text:
    const char *text
    uint32_t n, full  # bytes in the record, and before it was cut
    uint32_t known, truncated  # bits of it: KNOWN_*, ROW_*
    bint is_known, is_cut


cdef inline bint knows_args(const pl_exec_any *body) noexcept nogil:
    """Whether the arguments are known from a record, even if there are none.

    They are not if they could not be read, or if the capture keeps 0 bytes of them.
    """
    return body.args_bytes != 0 or not (
        body.exec_flags & PL_EXEC_ARGS_UNREADABLE
        or (body.exec_flags & PL_EXEC_ARGS_TRUNCATED and body.args_full_bytes)
    )


cdef inline bint knows_envs(const pl_exec_any *body) noexcept nogil:
    """The same for the environment."""
    return body.envs_bytes != 0 or not (
        body.exec_flags & PL_EXEC_ENVS_UNREADABLE
        or (body.exec_flags & PL_EXEC_ENVS_TRUNCATED and body.envs_full_bytes)
    )


cdef inline uint64_t strings_bytes(const pl_exec_any *body) noexcept nogil:
    return <uint64_t>body.path_bytes + body.name_bytes + body.args_bytes + body.envs_bytes


cdef inline exec_text args_of(const pl_exec_any *body, const char *strings) noexcept nogil:
    """The arguments in a record; `strings` are all of its strings."""
    cdef exec_text args
    args.text = strings + body.path_bytes + body.name_bytes
    args.n, args.full = body.args_bytes, body.args_full_bytes
    args.known, args.truncated = PL_KNOWN_ARGS, PL_ROW_ARGS_TRUNCATED
    args.is_known = knows_args(body)
    args.is_cut = body.exec_flags & (PL_EXEC_ARGS_TRUNCATED | PL_EXEC_ARGS_UNREADABLE) != 0
    return args


cdef inline exec_text envs_of(const pl_exec_any *body, const char *strings) noexcept nogil:
    """The environment in a record."""
    cdef exec_text envs
    envs.text = strings + body.path_bytes + body.name_bytes + body.args_bytes
    envs.n, envs.full = body.envs_bytes, body.envs_full_bytes
    envs.known, envs.truncated = PL_KNOWN_ENVS, PL_ROW_ENVS_TRUNCATED
    envs.is_known = knows_envs(body)
    envs.is_cut = body.exec_flags & (PL_EXEC_ENVS_TRUNCATED | PL_EXEC_ENVS_UNREADABLE) != 0
    return envs


cdef inline const pl_cost_any *cost_of(const parsed_record *record) noexcept nogil:
    """Return the resources that the process of an exit record has used; NULL: unknown."""
    if (
        record.body.exit == NULL or record.strings == NULL or not record.body.exit.exit_flags & PL_EXIT_COST
        or record.header.var_bytes < sizeof(pl_cost_any)
    ):
        return NULL
    return <const pl_cost_any *>record.strings


cdef inline const pl_sender_any *sender_of(const parsed_record *record) noexcept nogil:
    """The process that sent the signal that ended the process of an exit record; NULL: unknown."""
    if (
        cost_of(record) == NULL or not record.body.exit.exit_flags & PL_EXIT_SENDER
        or record.header.var_bytes < sizeof(pl_cost_any) + sizeof(pl_sender_any)
    ):
        return NULL
    return <const pl_sender_any *>(record.strings + sizeof(pl_cost_any))


cdef inline const pl_sampled_any *sampled_of(const parsed_record *record) noexcept nogil:
    """When the change of a record could have happened; NULL: at its time, or unknown, as in older recordings."""
    if (
        not record.header.flags & PL_FLAG_SAMPLED or record.strings == NULL
        or (record.header.kind != PL_KIND_CRED and record.header.kind != PL_KIND_SID)
        or record.header.var_bytes < sizeof(pl_sampled_any)
    ):
        return NULL
    return <const pl_sampled_any *>record.strings


cdef inline uint32_t cost_groups(const pl_exit_any *body) noexcept nogil:
    """KNOWN_* of what COST says."""
    return PL_KNOWN_COST | (PL_KNOWN_IO if body.exit_flags & PL_EXIT_IO else 0)


cdef extern from *:
    """
    #include <stddef.h>
    /* The fields of COST are those of COSTS, in the same order. */
    _Static_assert(sizeof(struct pl_cost) == sizeof(struct pl_costs), "COST and COSTS differ in size");
    #define PL_SAME_PLACE(field) (offsetof(struct pl_cost, field) == offsetof(struct pl_costs, field))
    _Static_assert(PL_SAME_PLACE(write_bytes) && PL_SAME_PLACE(involuntary_switches),
                   "the order of COST and COSTS differs");
    """


cdef inline void find_container(parsed_record *record) noexcept nogil:
    """Set the container id of a tracer's record; it stands behind the other strings."""
    cdef uint64_t used = 0
    if not record.header.flags & PL_FLAG_CONTAINER or record.strings == NULL:
        return
    if record.header.kind == PL_KIND_EXEC and record.body.exec != NULL:
        used = strings_bytes(record.body.exec)
    elif record.header.kind == PL_KIND_CAPS:
        used = sizeof(pl_caps_any)
    elif record.header.kind == PL_KIND_EXIT and cost_of(record) != NULL:
        used = sizeof(pl_cost_any) + (sizeof(pl_sender_any) if sender_of(record) != NULL else 0)
    elif sampled_of(record) != NULL:
        used = sizeof(pl_sampled_any)
    used = min(used, <uint64_t>record.header.var_bytes)
    record.container = record.strings + used
    record.container_bytes = <uint32_t>(record.header.var_bytes - used)
