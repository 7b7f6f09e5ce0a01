/* SPDX-License-Identifier: Apache-2.0 */
/* The shared segments as C sees them, and the few atomic operations that publish and read them.
 * Meaning, units and tables: tables.py; a test compares every size and offset of the two. */
#ifndef PROCLINE_LAYOUT_H
#define PROCLINE_LAYOUT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct pl_control {
	char magic[8];
	uint32_t layout_version;
	uint32_t header_bytes;
	uint8_t boot_id[16];
	uint32_t writer_tgid;
	uint32_t epoch;
	uint64_t writer_start_boot_ns;
	uint64_t heartbeat_boot_ns;
	uint32_t row_capacity;
	uint32_t rows_allocated;
	uint32_t pid_capacity;
	uint32_t state;
	uint64_t names_capacity_bytes;
	uint64_t args_capacity_bytes;
	uint64_t envs_capacity_bytes;
	uint64_t names_allocated_bytes;
	uint64_t args_allocated_bytes;
	uint64_t envs_allocated_bytes;
	int64_t boot_unix_ns;
	uint32_t ring_count;
	uint32_t commit_index;
	uint32_t ring_offset;
	uint32_t commit_offset;
	uint32_t commit_bytes;
	uint32_t pid_ns;
	uint64_t capture_id;
	uint32_t takeovers;
	uint32_t chunk_rows;
	uint64_t horizon_boot_ns;
	uint32_t user_hz;
	uint32_t checked;
	uint64_t ready_boot_ns;
	uint32_t key_capacity;
	uint8_t reserved[316];
};
_Static_assert(sizeof(struct pl_control) == 512, "pl_control");

struct pl_ring_ack {
	uint64_t applied_pos;
	uint64_t wanted_pos;
	uint64_t rewind_seq;
	uint64_t watermark_boot_ns;
	uint64_t received_pos;
	uint64_t stalled;
	uint8_t ack_reserved[16];
};
_Static_assert(sizeof(struct pl_ring_ack) == 64, "pl_ring_ack");

struct pl_commit {
	uint64_t number;
	uint64_t watermark_boot_ns;
	uint64_t time_boot_ns;
	uint64_t heads_live;
	uint64_t heads_exited;
	uint64_t rows_used;
	uint64_t names_used_bytes;
	uint64_t args_used_bytes;
	uint64_t envs_used_bytes;
	uint8_t commit_reserved[56];
	uint64_t topic_seq[16];
	uint64_t counters[128];
};
_Static_assert(sizeof(struct pl_commit) == 1280, "pl_commit");

struct pl_commit_ring {
	uint64_t applied_pos;
	uint64_t watermark_boot_ns;
};
_Static_assert(sizeof(struct pl_commit_ring) == 16, "pl_commit_ring");

struct pl_hot {
	uint32_t row_seq;
	uint32_t generation;
	uint32_t tgid;
	uint32_t ppid;
	uint64_t start_boot_ns;
	uint64_t exec_boot_ns;
	uint64_t exit_boot_ns;
	uint64_t ancestor;
	uint64_t parent;
	uint64_t creator;
	uint64_t cgroup_id;
	uint64_t inode;
	uint32_t flags;
	uint32_t uid;
	uint32_t gid;
	uint32_t file_ref;
	uint32_t args_ref;
	uint32_t known;
	char comm[16];
	uint8_t source;
	uint8_t cgroup_source;
	uint16_t images;
	uint32_t check;
};
_Static_assert(sizeof(struct pl_hot) == 128, "pl_hot");

struct pl_cold {
	uint64_t fork_boot_ns;
	uint64_t previous_owner;
	uint64_t cap_effective;
	uint64_t cap_permitted;
	uint64_t cap_attempted;
	uint64_t cap_used;
	uint64_t cookie;
	uint64_t exec_inode;
	uint64_t fork_flags;
	uint64_t user_session;
	uint32_t euid;
	uint32_t egid;
	uint32_t suid;
	uint32_t sgid;
	uint32_t fsuid;
	uint32_t fsgid;
	uint32_t auid;
	uint32_t audit_session;
	uint32_t sid;
	uint32_t pgid;
	uint32_t tid;
	uint32_t ns_pid;
	uint32_t pid_ns;
	uint32_t mnt_ns;
	uint32_t net_ns;
	uint32_t user_ns;
	uint32_t envs_ref;
	uint32_t name_ref;
	uint32_t cgroup_ref;
	uint32_t container_ref;
	uint32_t extra_ref;
	int32_t exit_code;
	char tty[16];
	uint32_t creator_tgid;
	uint16_t argc;
	uint16_t envc;
};
_Static_assert(sizeof(struct pl_cold) == 192, "pl_cold");

struct pl_file {
	uint64_t file_inode;
	uint64_t mtime_ns;
	uint64_t ctime_ns;
	uint32_t device;
	uint32_t mount_id;
	uint32_t file_uid;
	uint32_t file_gid;
	uint32_t nlink;
	uint16_t mode;
	uint16_t file_flags;
	uint32_t fs_magic;
	uint32_t root_offset;
	uint32_t mount_end;
	uint8_t mount_source;
	uint8_t mount_origin;
	uint8_t mount_flags;
	uint8_t file_reserved;
};
_Static_assert(sizeof(struct pl_file) == 64, "pl_file");

struct pl_cgroup {
	uint64_t cgroup_made_boot_ns;
	uint64_t container_made_boot_ns;
};
_Static_assert(sizeof(struct pl_cgroup) == 16, "pl_cgroup");

struct pl_arena {
	uint32_t refcount;
	uint32_t length;
	uint32_t hash;
	uint32_t next;
};
_Static_assert(sizeof(struct pl_arena) == 16, "pl_arena");

struct pl_keys {
	uint32_t rebuild_seq;
	uint32_t keys_pad;
	uint8_t keys_reserved[56];
};
_Static_assert(sizeof(struct pl_keys) == 64, "pl_keys");

enum {
	PL_STATE_DOWN = 0,
	PL_STATE_FILLING = 1,
	PL_STATE_READY = 2,
	PL_STATE_STOPPED = 3,
	PL_STATE_SUPERSEDED = 4,
	PL_SOURCE_UNKNOWN = 0,
	PL_SOURCE_PLACEHOLDER = 1,
	PL_SOURCE_EVENT = 2,
	PL_SOURCE_MAP = 3,
	PL_SOURCE_PROCFS = 4,
	PL_SOURCE_SNAPSHOT = 5,
	PL_CGROUP_SOURCE_UNKNOWN = 0,
	PL_CGROUP_SOURCE_EVENT = 1,
	PL_CGROUP_SOURCE_PROCFS = 2,
	PL_CGROUP_SOURCE_INHERITED = 3,
	PL_MOUNT_SOURCE_UNKNOWN = 0,
	PL_MOUNT_SOURCE_ID = 1,
	PL_MOUNT_SOURCE_DEVICE = 2,
	PL_MOUNT_SOURCE_SNAPSHOT = 3,
	PL_MOUNT_ORIGIN_UNKNOWN = 0,
	PL_MOUNT_ORIGIN_PROCFS = 1,
	PL_MOUNT_ORIGIN_EVENT = 2,
	PL_MOUNT_ORIGIN_UNSHARE = 3,
	PL_MOUNT_VISIBLE = 1,
	PL_MOUNT_DETACHED = 2,
	PL_MOUNT_RESOLVED = 4,
	PL_ROW_HEAD = 1,
	PL_ROW_REPLACED = 2,
	PL_ROW_IS_EXEC = 4,
	PL_ROW_IS_EXEC_EXEC = 8,
	PL_ROW_PARENT_MISSING = 16,
	PL_ROW_ADOPTED = 32,
	PL_ROW_ADOPTION_PREDICTED = 64,
	PL_ROW_DELETED = 128,
	PL_ROW_EXIT_UNSEEN = 256,
	PL_ROW_BEFORE_CAPTURE = 512,
	PL_ROW_GAP = 1024,
	PL_ROW_ARGS_TRUNCATED = 2048,
	PL_ROW_ENVS_TRUNCATED = 4096,
	PL_ROW_KTHREAD = 8192,
	PL_ROW_SCRIPT = 16384,
	PL_ROW_THROUGH_SYMLINK = 32768,
	PL_ROW_NS_INIT = 65536,
	PL_ROW_START_TICKS = 131072,
	PL_ROW_HEAD_ONLY = 262144,
	PL_ROW_ELIDED = 524288,
	PL_ROW_EXIT_KNOWN = 1048576,
	PL_ROW_FOREIGN = 2097152,
	PL_ROW_STAT_INODE = 4194304,
	PL_KNOWN_START = 1,
	PL_KNOWN_CREDS = 2,
	PL_KNOWN_CAPS = 4,
	PL_KNOWN_FILE = 8,
	PL_KNOWN_ARGS = 16,
	PL_KNOWN_ENVS = 32,
	PL_KNOWN_TTY = 64,
	PL_KNOWN_CGROUP = 128,
	PL_KNOWN_NS = 256,
	PL_KNOWN_SID = 512,
	PL_KNOWN_CREATOR = 1024,
	PL_KNOWN_EXEC_TIME = 2048,
	PL_KNOWN_COMM = 4096,
	PL_KNOWN_AUID = 8192,
	PL_KNOWN_FORK_TIME = 16384,
	PL_COUNTER_CAPACITY = 128,
	PL_ARENA_UNIT_BYTES = 16,
	PL_LAYOUT_VERSION = 5,
};

/* Positions in pl_commit.counters. */
enum {
	PL_C_EVENTS_NONE = 0,
	PL_C_EVENTS_FORK = 1,
	PL_C_EVENTS_EXEC = 2,
	PL_C_EVENTS_EXIT = 3,
	PL_C_EVENTS_CRED = 4,
	PL_C_EVENTS_COMM = 5,
	PL_C_EVENTS_CGROUP = 6,
	PL_C_EVENTS_SID = 7,
	PL_C_LOST_NONE = 8,
	PL_C_LOST_FORK = 9,
	PL_C_LOST_EXEC = 10,
	PL_C_LOST_EXIT = 11,
	PL_C_LOST_CRED = 12,
	PL_C_LOST_COMM = 13,
	PL_C_LOST_CGROUP = 14,
	PL_C_LOST_SID = 15,
	PL_C_FRAMES = 16,
	PL_C_FRAMES_REFUSED = 17,
	PL_C_FRAMES_DUPLICATE = 18,
	PL_C_FRAMES_GAP = 19,
	PL_C_LATE = 20,
	PL_C_REPLAYED = 21,
	PL_C_HEAD_ONLY = 22,
	PL_C_MALFORMED = 23,
	PL_C_REPAIRS = 24,
	PL_C_REPAIR_ADDED = 25,
	PL_C_REPAIR_CLOSED = 26,
	PL_C_REPAIR_CHANGED = 27,
	PL_C_EVICTIONS = 28,
	PL_C_ELIDED = 29,
	PL_C_TABLE_FULL = 30,
	PL_C_ARENA_FULL = 31,
	PL_C_REPARENTS = 32,
	PL_C_REPARENTS_CONFIRMED = 33,
	PL_C_REPARENTS_CORRECTED = 34,
	PL_C_EXITS_UNSEEN = 35,
	PL_C_PARENT_MISSING = 36,
	PL_C_EXEC_WITHOUT_FORK = 37,
	PL_C_EXIT_UNKNOWN = 38,
	PL_C_EXEC_BOMB = 39,
	PL_C_PUBLISHED = 40,
	PL_C_PUBLISH_UNSENT = 41,
	PL_C_SNAPSHOT_ADDED = 42,
	PL_C_STALLS = 43,
	PL_C_THREADS_FORKED = 44,
	PL_C_KTHREADS_FORKED = 45,
	PL_C_REWINDS = 46,
	PL_C_TAKEOVER_ROWS_REPAIRED = 47,
	PL_C_PROCFS_READS = 48,
	PL_C_PROCFS_FAILED = 49,
	PL_C_HITS_CACHE = 50,
	PL_C_HITS_KERNEL_MAPS = 51,
	PL_C_HITS_PROCFS = 52,
	PL_C_MISS = 53,
	PL_C_ADDED_EVENT = 54,
	PL_C_ADDED_KERNEL_MAPS = 55,
	PL_C_ADDED_PROCFS = 56,
	PL_C_FLUSHED = 57,
	PL_C_LIMITER_DROP = 58,
	PL_C_BROKEN_LINEAGE = 59,
	PL_C_REQUESTS = 60,
	PL_C_REQUESTS_REFUSED = 61,
	PL_C_KEYS_REFUSED = 62,
	PL_C_KEYS_RECYCLED = 63,
	PL_C_PATH_ERROR = 64,
	PL_C_ARGS_TRUNCATED = 65,
	PL_C_ARGS_SIZE = 66,
	PL_C_ENVS_TRUNCATED = 67,
	PL_C_ENVS_SIZE = 68,
	PL_C_REPARENT_SUCCESS_SET_PROCESS_CONTEXT = 69,
	PL_C_REPARENT_SUCCESS_DO_EXIT = 70,
	PL_C_REPARENT_SUCCESS_DEQUEUE_EXITED = 71,
	PL_C_REPARENT_SUCCESS_EVENT_SERIALIZATION = 72,
	PL_C_REPARENT_SUCCESS_KERNEL_PPID = 73,
	PL_C_REPARENT_FAILED_SET_PROCESS_CONTEXT = 74,
	PL_C_REPARENT_FAILED_DO_EXIT = 75,
	PL_C_REPARENT_FAILED_DEQUEUE_EXITED = 76,
	PL_C_REPARENT_FAILED_EVENT_SERIALIZATION = 77,
	PL_C_REPARENT_FAILED_KERNEL_PPID = 78,
	PL_C_REPARENT_PROCFS_OK = 79,
	PL_C_REPARENT_PROCFS_FAIL = 80,
	PL_C_INODE_ERROR_FORK_PARENT_MISSING = 81,
	PL_C_INODE_ERROR_EXEC_PARENT_MISSING = 82,
	PL_C_INODE_ERROR_PROCFS_MISMATCH = 83,
	PL_C_CONTEXT_EVENTS = 84,
	PL_C_CONTEXT_DROPPED = 85,
	PL_C_MAPS_FILLED = 86,
	PL_C_MAPS_REFUSED = 87,
	PL_C_MAPS_FULL = 88,
	PL_C_EVENTS_CAPS = 89,
	PL_C_LOST_CAPS = 90,
	PL_C_SESSIONS_UNREAD = 91,
	PL_C_SESSIONS_REFUSED = 92,
	PL_C_SESSIONS_EVICTED = 93,
	PL_C_REQUESTS_DROPPED = 94,
	PL_C_GROWTH_REFUSED = 95,
	PL_C_NAMES_EVICTED = 96,
	PL_C_NAMES_REFUSED = 97,
};

/* Atomics. GCC and clang builtins follow the C11 model, so on aarch64 an acquire load is ldar and a release store stlr. */
static inline uint32_t pl_load_acquire32(const void *p) { return __atomic_load_n((const uint32_t *)p, __ATOMIC_ACQUIRE); }
static inline uint64_t pl_load_acquire64(const void *p) { return __atomic_load_n((const uint64_t *)p, __ATOMIC_ACQUIRE); }
static inline uint32_t pl_load_relaxed32(const void *p) { return __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED); }
static inline uint64_t pl_load_relaxed64(const void *p) { return __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED); }
static inline void pl_store_release32(void *p, uint32_t v) { __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELEASE); }
static inline void pl_store_release64(void *p, uint64_t v) { __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELEASE); }
static inline void pl_store_relaxed32(void *p, uint32_t v) { __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELAXED); }
static inline void pl_store_relaxed64(void *p, uint64_t v) { __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELAXED); }
static inline void pl_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void pl_fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }
static inline void pl_fence_full(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void pl_prefetch(const void *p) { __builtin_prefetch(p); }
/* For what is written next: readers' caches let go of the line meanwhile, which the store would wait for. gcc makes this of
 * __builtin_prefetch(p, 1) only for processors newer than those that packages are built for; older ones take it as a no-op
 * (Intel SDM, AMD APM: PREFETCHW). */
static inline void pl_prefetch_write(const void *p)
{
#if defined(__x86_64__)
	__asm__ volatile("prefetchw %0" : : "m"(*(const char *)p));
#else
	__builtin_prefetch(p, 1);
#endif
}

/* Zero a row that is being made, but for row_seq and generation. Copied from zeros that the compiler cannot see: of a memset
 * of this size gcc makes `rep stos`, which takes as long to begin as all of these stores take. */
static inline void pl_row_clear(struct pl_hot *hot, struct pl_cold *cold)
{
	static const char zeros[sizeof(*cold)];
	const char *from = zeros;
	_Static_assert(sizeof(*hot) <= sizeof(*cold), "as many zeros as the larger of the two");
	__asm__("" : "+r"(from));
	memcpy((char *)hot + 8, from, sizeof(*hot) - 8);
	memcpy(cold, from, sizeof(*cold));
}

/* A row is written between pl_row_begin and pl_row_end. begin makes row_seq odd before any other store can be seen: the
 * release fence keeps the stores that follow behind it (Boehm, "Can seqlocks get along with programming language memory
 * models?", 2012). end makes it even after all of them. A reader pairs with both: acquire load of row_seq, copy, acquire
 * fence, second load of row_seq. */
static inline void pl_row_begin(struct pl_hot *row)
{
	pl_store_relaxed32(&row->row_seq, row->row_seq | 1);
	pl_fence_release();
}

static inline void pl_row_end(struct pl_hot *row)
{
	pl_store_release32(&row->row_seq, (row->row_seq | 1) + 1);
}

static inline uint64_t pl_link(uint32_t row, uint32_t generation) { return row | (uint64_t)generation << 32; }

#endif
