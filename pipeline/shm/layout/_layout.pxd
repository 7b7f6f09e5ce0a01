"""C view of layout.h for the Cython modules."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "layout.h" nogil:
    struct pl_control:
        char magic[8]
        uint32_t layout_version
        uint32_t header_bytes
        uint8_t boot_id[16]
        uint32_t writer_tgid
        uint32_t epoch
        uint64_t writer_start_boot_ns
        uint64_t heartbeat_boot_ns
        uint32_t row_capacity
        uint32_t rows_allocated
        uint32_t pid_capacity
        uint32_t state
        uint64_t names_capacity_bytes
        uint64_t args_capacity_bytes
        uint64_t envs_capacity_bytes
        uint64_t names_allocated_bytes
        uint64_t args_allocated_bytes
        uint64_t envs_allocated_bytes
        int64_t boot_unix_ns
        uint32_t ring_count
        uint32_t commit_index
        uint32_t ring_offset
        uint32_t commit_offset
        uint32_t commit_bytes
        uint32_t pid_ns
        uint64_t capture_id
        uint32_t takeovers
        uint32_t chunk_rows
        uint64_t horizon_boot_ns
        uint32_t user_hz
        uint32_t checked
        uint64_t ready_boot_ns
        uint32_t key_capacity
        uint8_t reserved[316]

    struct pl_ring_ack:
        uint64_t applied_pos
        uint64_t wanted_pos
        uint64_t rewind_seq
        uint64_t watermark_boot_ns
        uint64_t received_pos
        uint64_t stalled
        uint8_t ack_reserved[16]

    struct pl_commit:
        uint64_t number
        uint64_t watermark_boot_ns
        uint64_t time_boot_ns
        uint64_t heads_live
        uint64_t heads_exited
        uint64_t rows_used
        uint64_t names_used_bytes
        uint64_t args_used_bytes
        uint64_t envs_used_bytes
        uint8_t commit_reserved[56]
        uint64_t topic_seq[16]
        uint64_t counters[128]

    struct pl_commit_ring:
        uint64_t applied_pos
        uint64_t watermark_boot_ns

    struct pl_hot:
        uint32_t row_seq
        uint32_t generation
        uint32_t tgid
        uint32_t ppid
        uint64_t start_boot_ns
        uint64_t exec_boot_ns
        uint64_t exit_boot_ns
        uint64_t ancestor
        uint64_t parent
        uint64_t creator
        uint64_t cgroup_id
        uint64_t inode
        uint32_t flags
        uint32_t uid
        uint32_t gid
        uint32_t file_ref
        uint32_t args_ref
        uint32_t known
        char comm[16]
        uint8_t source
        uint8_t cgroup_source
        uint16_t images
        uint32_t check

    struct pl_cold:
        uint64_t fork_boot_ns
        uint64_t previous_owner
        uint64_t cap_effective
        uint64_t cap_permitted
        uint64_t cap_attempted
        uint64_t cap_used
        uint64_t cookie
        uint64_t exec_inode
        uint64_t fork_flags
        uint64_t user_session
        uint32_t euid
        uint32_t egid
        uint32_t suid
        uint32_t sgid
        uint32_t fsuid
        uint32_t fsgid
        uint32_t auid
        uint32_t audit_session
        uint32_t sid
        uint32_t pgid
        uint32_t tid
        uint32_t ns_pid
        uint32_t pid_ns
        uint32_t mnt_ns
        uint32_t net_ns
        uint32_t user_ns
        uint32_t envs_ref
        uint32_t name_ref
        uint32_t cgroup_ref
        uint32_t container_ref
        uint32_t extra_ref
        int32_t exit_code
        char tty[16]
        uint32_t creator_tgid
        uint16_t argc
        uint16_t envc

    struct pl_file:
        uint64_t file_inode
        uint64_t mtime_ns
        uint64_t ctime_ns
        uint32_t device
        uint32_t mount_id
        uint32_t file_uid
        uint32_t file_gid
        uint32_t nlink
        uint16_t mode
        uint16_t file_flags
        uint32_t fs_magic
        uint32_t root_offset
        uint32_t mount_end
        uint8_t mount_source
        uint8_t mount_origin
        uint8_t mount_flags
        uint8_t file_reserved

    struct pl_cgroup:
        uint64_t cgroup_made_boot_ns
        uint64_t container_made_boot_ns

    struct pl_arena:
        uint32_t refcount
        uint32_t length
        uint32_t hash
        uint32_t next

    struct pl_keys:
        uint32_t rebuild_seq
        uint32_t keys_pad
        uint8_t keys_reserved[56]

    enum:
        PL_STATE_DOWN
        PL_STATE_FILLING
        PL_STATE_READY
        PL_STATE_STOPPED
        PL_STATE_SUPERSEDED
        PL_SOURCE_UNKNOWN
        PL_SOURCE_PLACEHOLDER
        PL_SOURCE_EVENT
        PL_SOURCE_MAP
        PL_SOURCE_PROCFS
        PL_SOURCE_SNAPSHOT
        PL_CGROUP_SOURCE_UNKNOWN
        PL_CGROUP_SOURCE_EVENT
        PL_CGROUP_SOURCE_PROCFS
        PL_CGROUP_SOURCE_INHERITED
        PL_MOUNT_SOURCE_UNKNOWN
        PL_MOUNT_SOURCE_ID
        PL_MOUNT_SOURCE_DEVICE
        PL_MOUNT_SOURCE_SNAPSHOT
        PL_MOUNT_ORIGIN_UNKNOWN
        PL_MOUNT_ORIGIN_PROCFS
        PL_MOUNT_ORIGIN_EVENT
        PL_MOUNT_ORIGIN_UNSHARE
        PL_MOUNT_VISIBLE
        PL_MOUNT_DETACHED
        PL_MOUNT_RESOLVED
        PL_ROW_HEAD
        PL_ROW_REPLACED
        PL_ROW_IS_EXEC
        PL_ROW_IS_EXEC_EXEC
        PL_ROW_PARENT_MISSING
        PL_ROW_ADOPTED
        PL_ROW_ADOPTION_PREDICTED
        PL_ROW_DELETED
        PL_ROW_EXIT_UNSEEN
        PL_ROW_BEFORE_CAPTURE
        PL_ROW_GAP
        PL_ROW_ARGS_TRUNCATED
        PL_ROW_ENVS_TRUNCATED
        PL_ROW_KTHREAD
        PL_ROW_SCRIPT
        PL_ROW_THROUGH_SYMLINK
        PL_ROW_NS_INIT
        PL_ROW_START_TICKS
        PL_ROW_HEAD_ONLY
        PL_ROW_ELIDED
        PL_ROW_EXIT_KNOWN
        PL_ROW_FOREIGN
        PL_ROW_STAT_INODE
        PL_KNOWN_START
        PL_KNOWN_CREDS
        PL_KNOWN_CAPS
        PL_KNOWN_FILE
        PL_KNOWN_ARGS
        PL_KNOWN_ENVS
        PL_KNOWN_TTY
        PL_KNOWN_CGROUP
        PL_KNOWN_NS
        PL_KNOWN_SID
        PL_KNOWN_CREATOR
        PL_KNOWN_EXEC_TIME
        PL_KNOWN_COMM
        PL_KNOWN_AUID
        PL_KNOWN_FORK_TIME
        PL_COUNTER_CAPACITY
        PL_ARENA_UNIT_BYTES
        PL_LAYOUT_VERSION
        PL_C_EVENTS_NONE
        PL_C_EVENTS_FORK
        PL_C_EVENTS_EXEC
        PL_C_EVENTS_EXIT
        PL_C_EVENTS_CRED
        PL_C_EVENTS_COMM
        PL_C_EVENTS_CGROUP
        PL_C_EVENTS_SID
        PL_C_LOST_NONE
        PL_C_LOST_FORK
        PL_C_LOST_EXEC
        PL_C_LOST_EXIT
        PL_C_LOST_CRED
        PL_C_LOST_COMM
        PL_C_LOST_CGROUP
        PL_C_LOST_SID
        PL_C_FRAMES
        PL_C_FRAMES_REFUSED
        PL_C_FRAMES_DUPLICATE
        PL_C_FRAMES_GAP
        PL_C_LATE
        PL_C_REPLAYED
        PL_C_HEAD_ONLY
        PL_C_MALFORMED
        PL_C_REPAIRS
        PL_C_REPAIR_ADDED
        PL_C_REPAIR_CLOSED
        PL_C_REPAIR_CHANGED
        PL_C_EVICTIONS
        PL_C_ELIDED
        PL_C_TABLE_FULL
        PL_C_ARENA_FULL
        PL_C_REPARENTS
        PL_C_REPARENTS_CONFIRMED
        PL_C_REPARENTS_CORRECTED
        PL_C_EXITS_UNSEEN
        PL_C_PARENT_MISSING
        PL_C_EXEC_WITHOUT_FORK
        PL_C_EXIT_UNKNOWN
        PL_C_EXEC_BOMB
        PL_C_PUBLISHED
        PL_C_PUBLISH_UNSENT
        PL_C_SNAPSHOT_ADDED
        PL_C_STALLS
        PL_C_THREADS_FORKED
        PL_C_KTHREADS_FORKED
        PL_C_REWINDS
        PL_C_TAKEOVER_ROWS_REPAIRED
        PL_C_PROCFS_READS
        PL_C_PROCFS_FAILED
        PL_C_HITS_CACHE
        PL_C_HITS_KERNEL_MAPS
        PL_C_HITS_PROCFS
        PL_C_MISS
        PL_C_ADDED_EVENT
        PL_C_ADDED_KERNEL_MAPS
        PL_C_ADDED_PROCFS
        PL_C_FLUSHED
        PL_C_LIMITER_DROP
        PL_C_BROKEN_LINEAGE
        PL_C_REQUESTS
        PL_C_REQUESTS_REFUSED
        PL_C_KEYS_REFUSED
        PL_C_KEYS_RECYCLED
        PL_C_PATH_ERROR
        PL_C_ARGS_TRUNCATED
        PL_C_ARGS_SIZE
        PL_C_ENVS_TRUNCATED
        PL_C_ENVS_SIZE
        PL_C_REPARENT_SUCCESS_SET_PROCESS_CONTEXT
        PL_C_REPARENT_SUCCESS_DO_EXIT
        PL_C_REPARENT_SUCCESS_DEQUEUE_EXITED
        PL_C_REPARENT_SUCCESS_EVENT_SERIALIZATION
        PL_C_REPARENT_SUCCESS_KERNEL_PPID
        PL_C_REPARENT_FAILED_SET_PROCESS_CONTEXT
        PL_C_REPARENT_FAILED_DO_EXIT
        PL_C_REPARENT_FAILED_DEQUEUE_EXITED
        PL_C_REPARENT_FAILED_EVENT_SERIALIZATION
        PL_C_REPARENT_FAILED_KERNEL_PPID
        PL_C_REPARENT_PROCFS_OK
        PL_C_REPARENT_PROCFS_FAIL
        PL_C_INODE_ERROR_FORK_PARENT_MISSING
        PL_C_INODE_ERROR_EXEC_PARENT_MISSING
        PL_C_INODE_ERROR_PROCFS_MISMATCH
        PL_C_CONTEXT_EVENTS
        PL_C_CONTEXT_DROPPED
        PL_C_MAPS_FILLED
        PL_C_MAPS_REFUSED
        PL_C_MAPS_FULL
        PL_C_EVENTS_CAPS
        PL_C_SESSIONS_UNREAD
        PL_C_SESSIONS_REFUSED
        PL_C_SESSIONS_EVICTED
        PL_C_LOST_CAPS
        PL_C_REQUESTS_DROPPED
        PL_C_GROWTH_REFUSED
        PL_C_NAMES_EVICTED
        PL_C_NAMES_REFUSED

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
    void pl_fence_full()
    void pl_prefetch(const void *p)
    void pl_prefetch_write(const void *p)
    void pl_row_clear(pl_hot *hot, pl_cold *cold)
    void pl_row_begin(pl_hot *row)
    void pl_row_end(pl_hot *row)
    uint64_t pl_link(uint32_t row, uint32_t generation)
