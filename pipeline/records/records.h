/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only OR BSD-2-Clause) */
/* The records that BPF programs, frames and the resolver share. Meaning and units: the tables in pipeline/records/kinds.py;
 * a test compares every size and offset of the two. Include after a header that defines __u8 .. __u64. */
#ifndef PROCLINE_RECORDS_H
#define PROCLINE_RECORDS_H

struct pl_head {
	__u64 time_boot_ns;
	__u64 ring_seq;
	__u32 tgid;
	__u32 tid;
	__u64 start_boot_ns;
	__u32 ppid;
	__u8 kind;
	__u8 flags;
	__u16 cpu;
	__u64 parent_start_boot_ns;
	__u32 record_bytes;
	__u32 var_bytes;
	__u64 ring_pos;
};
_Static_assert(sizeof(struct pl_head) == 64, "pl_head");

struct pl_task {
	__u32 uid;
	__u32 gid;
	__u32 euid;
	__u32 egid;
	__u32 suid;
	__u32 sgid;
	__u32 fsuid;
	__u32 fsgid;
	__u64 cap_effective;
	__u64 cap_permitted;
	__u32 auid;
	__u32 audit_session;
	__u32 sid;
	__u32 pgid;
	__u32 ns_pid;
	__u32 pid_ns;
	__u32 mnt_ns;
	__u32 net_ns;
	__u32 user_ns;
	__u32 task_flags;
	__u64 cgroup_id;
	char comm[16];
	char tty[16];
	__u64 exe_inode;
	__u32 exe_dev;
	__u32 told;
	__u64 cookie;
	__u64 cgroups_v1;
};
_Static_assert(sizeof(struct pl_task) == 160, "pl_task");

struct pl_fork {
	__u64 creator_start_boot_ns;
	__u32 creator_tgid;
	__u32 creator_tid;
	__u64 clone_flags;
	__u64 fork_reserved;
};
_Static_assert(sizeof(struct pl_fork) == 32, "pl_fork");

struct pl_exec {
	__u64 inode;
	__u64 ctime_ns;
	__u64 mtime_ns;
	__u32 device;
	__u32 mount_id;
	__u32 file_uid;
	__u32 file_gid;
	__u32 nlink;
	__u16 mode;
	__u16 exec_flags;
	__u32 exec_tid;
	__u32 fs_magic;
	__u32 path_bytes;
	__u32 root_offset;
	__u32 name_bytes;
	__u32 args_bytes;
	__u32 args_full_bytes;
	__u32 envs_bytes;
	__u32 envs_full_bytes;
	__u32 argc;
	__u32 envc;
	__u32 prev_tid;
	__u64 prev_inode;
	__u64 interp_inode;
	__u64 prev_cookie;
	__u32 mount_end;
	__u32 ssh_bytes;
};
_Static_assert(sizeof(struct pl_exec) == 128, "pl_exec");

struct pl_exit {
	__u64 reaper_start_boot_ns;
	__u32 reaper_tgid;
	__s32 exit_code;
	__u32 exit_flags;
	__s32 leader_exit_code;
	__u64 exit_reserved;
};
_Static_assert(sizeof(struct pl_exit) == 32, "pl_exit");

struct pl_place {
	__u64 place_id;
	__u32 place_hierarchy;
	__u16 place_path_bytes;
	__u16 place_members;
};
_Static_assert(sizeof(struct pl_place) == 16, "pl_place");

struct pl_member {
	__u64 member_id;
	__u32 member_hierarchy;
	__u32 member_pad;
};
_Static_assert(sizeof(struct pl_member) == 16, "pl_member");

struct pl_caps {
	__u64 caps_attempted;
	__u64 caps_used;
};
_Static_assert(sizeof(struct pl_caps) == 16, "pl_caps");

#define PL_EXEC_ARGS_TRUNCATED 16
#define PL_EXEC_ARGS_UNREADABLE 64
#define PL_EXEC_DELETED 2
#define PL_EXEC_DETACHED 256
#define PL_EXEC_ENVS_TRUNCATED 32
#define PL_EXEC_ENVS_UNREADABLE 128
#define PL_EXEC_ESCAPED 512
#define PL_EXEC_MEMFD 4
#define PL_EXEC_NAME_TRUNCATED 8192
#define PL_EXEC_NO_ROOT 1024
#define PL_EXEC_PATH_TRUNCATED 8
#define PL_EXEC_SCRIPT 1
#define PL_EXEC_SECURE 4096
#define PL_EXEC_THROUGH_SYMLINK 16384
#define PL_EXEC_UPPER_LAYER 2048
#define PL_EXIT_GROUP_DEAD_GUESSED 4
#define PL_EXIT_NO_REAPER 2
#define PL_EXIT_NS_DIES 1
#define PL_FLAG_CONTAINER 16
#define PL_CGROUPS_V1_ROOTS 1
#define PL_FLAG_CGROUP_MADE 32
#define PL_FLAG_HEAD_ONLY 1
#define PL_FLAG_KEYED 8
#define PL_FLAG_LEADER_DEAD 2
#define PL_FLAG_PARTIAL 4
#define PL_KIND_CAPS 8
#define PL_KIND_CGROUP 6
#define PL_KIND_COMM 5
#define PL_KIND_COUNT 9
#define PL_KIND_CRED 4
#define PL_KIND_EXEC 2
#define PL_KIND_EXIT 3
#define PL_KIND_FORK 1
#define PL_KIND_SID 7

/* Whether an exec record's strings are as long as its HEAD says. */
#define PL_ADDS_UP(flags, var_bytes, strings) \
	((strings) == (var_bytes) || (((flags) & PL_FLAG_CONTAINER) && (strings) < (var_bytes)))

#endif
