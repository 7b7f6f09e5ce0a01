"""C view of records/records.h for the modules that read frames in place.

A frame's columns begin at any address of the message, hence the types with alignment 1: the compiler then makes no
assumption about the address, and on x86-64 and aarch64 still loads a field with one instruction.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from *:
    """
    #include <linux/types.h>
    #include "records.h"
    typedef struct pl_head pl_head_any __attribute__((aligned(1)));
    typedef struct pl_task pl_task_any __attribute__((aligned(1)));
    typedef struct pl_fork pl_fork_any __attribute__((aligned(1)));
    typedef struct pl_exec pl_exec_any __attribute__((aligned(1)));
    typedef struct pl_exit pl_exit_any __attribute__((aligned(1)));
    typedef struct pl_caps pl_caps_any __attribute__((aligned(1)));
    """
    ctypedef struct pl_head_any:
        uint64_t time_boot_ns
        uint64_t ring_seq
        uint32_t tgid
        uint32_t tid
        uint64_t start_boot_ns
        uint32_t ppid
        uint8_t kind
        uint8_t flags
        uint16_t cpu
        uint64_t parent_start_boot_ns
        uint32_t record_bytes
        uint32_t var_bytes
        uint64_t ring_pos

    ctypedef struct pl_task_any:
        uint32_t uid
        uint32_t gid
        uint32_t euid
        uint32_t egid
        uint32_t suid
        uint32_t sgid
        uint32_t fsuid
        uint32_t fsgid
        uint64_t cap_effective
        uint64_t cap_permitted
        uint32_t auid
        uint32_t audit_session
        uint32_t sid
        uint32_t pgid
        uint32_t ns_pid
        uint32_t pid_ns
        uint32_t mnt_ns
        uint32_t net_ns
        uint32_t user_ns
        uint32_t task_flags
        uint64_t cgroup_id
        char comm[16]
        char tty[16]
        uint64_t exe_inode
        uint32_t exe_dev
        uint32_t told
        uint64_t cookie
        uint64_t cgroups_v1

    ctypedef struct pl_fork_any:
        uint64_t creator_start_boot_ns
        uint32_t creator_tgid
        uint32_t creator_tid
        uint64_t clone_flags

    ctypedef struct pl_exec_any:
        uint64_t inode
        uint64_t ctime_ns
        uint64_t mtime_ns
        uint32_t device
        uint32_t mount_id
        uint32_t file_uid
        uint32_t file_gid
        uint32_t nlink
        uint16_t mode
        uint16_t exec_flags
        uint32_t exec_tid
        uint32_t fs_magic
        uint32_t path_bytes
        uint32_t root_offset
        uint32_t name_bytes
        uint32_t args_bytes
        uint32_t args_full_bytes
        uint32_t envs_bytes
        uint32_t envs_full_bytes
        uint32_t argc
        uint32_t envc
        uint32_t prev_tid
        uint64_t prev_inode
        uint64_t interp_inode
        uint64_t prev_cookie
        uint32_t mount_end

    ctypedef struct pl_exit_any:
        uint64_t reaper_start_boot_ns
        uint32_t reaper_tgid
        int32_t exit_code
        uint32_t exit_flags
        int32_t leader_exit_code

    ctypedef struct pl_caps_any:
        uint64_t caps_attempted
        uint64_t caps_used

    enum:
        PL_KIND_FORK
        PL_KIND_EXEC
        PL_KIND_EXIT
        PL_KIND_CRED
        PL_KIND_COMM
        PL_KIND_CGROUP
        PL_KIND_SID
        PL_KIND_CAPS
        PL_KIND_COUNT
        PL_FLAG_CONTAINER
        PL_CGROUPS_V1_ROOTS
        PL_FLAG_CGROUP_MADE
        PL_FLAG_HEAD_ONLY
        PL_FLAG_KEYED
        PL_FLAG_LEADER_DEAD
        PL_FLAG_PARTIAL
        PL_EXEC_SCRIPT
        PL_EXEC_DELETED
        PL_EXEC_DETACHED
        PL_EXEC_ESCAPED
        PL_EXEC_MEMFD
        PL_EXEC_NAME_TRUNCATED
        PL_EXEC_NO_ROOT
        PL_EXEC_PATH_TRUNCATED
        PL_EXEC_THROUGH_SYMLINK
        PL_EXEC_UPPER_LAYER
        PL_EXEC_ARGS_TRUNCATED
        PL_EXEC_ENVS_TRUNCATED
        PL_EXEC_ARGS_UNREADABLE
        PL_EXEC_ENVS_UNREADABLE
        PL_EXIT_NS_DIES
        PL_EXIT_NO_REAPER

    bint PL_ADDS_UP(uint8_t flags, uint32_t var_bytes, uint64_t strings) noexcept nogil
