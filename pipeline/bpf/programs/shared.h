/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only OR BSD-2-Clause) */
/* Values of the maps that BPF programs and user space share. Meaning and units: the tables in pipeline/bpf/maps.py; a
 * test compares every size and offset of the two. Include after a header that defines __u8 .. __u64. */
#ifndef PROCLINE_SHARED_H
#define PROCLINE_SHARED_H

/* Length of pl_rings and pl_shared: the highest possible CPU number + 1 that can be captured. */
#define PL_MAX_CPUS 1024
/* Lengths of the maps of processes and images. They are a fall-back for lost events, not the table; both are allocated in
 * full at load (about 5 MB each). Processes: sets (a power of two) of places, see pids.bpf.h. */
#define PL_PID_SETS 4096
#define PL_PID_WAYS 8
/* In the high half of a word of pid_owners. */
#define PL_PLACE_BUSY 0x80000000u
/* Unit of times in /proc: USER_HZ is 100 wherever there is BPF. */
#define PL_TICK_NS 10000000ULL
#define PL_PROC_CACHE_ENTRIES 16384

#define PL_STRING_MAX 32768
#define PL_PATH_MAX 4096
#define PL_IMAGE_PATH_BYTES 128

/* pl_settings.flags */
#define PL_CAPTURE_ON 1

struct pl_cpu {
	__u32 sleeping;
	__u32 ring;
	__u64 ring_seq;
	__u64 lost_samples[9];
	__u64 head_only[9];
	__u64 threads_forked;
	__u64 threads_exited;
	__u64 kthreads_forked;
	__u64 kthreads_exited;
	__u64 exec_reread;
	__u64 wakeups;
	__u64 no_ring;
	__u64 pids_full;
	__u64 reserved[4];
};
_Static_assert(sizeof(struct pl_cpu) == 256, "pl_cpu");

struct pl_settings {
	__u32 args_bytes;
	__u32 envs_bytes;
	__u32 wakeup_fill_bytes;
	__u32 flags;
	__u64 root_mnt;
	__u64 root_dentry;
	__u64 reserved[4];
};
_Static_assert(sizeof(struct pl_settings) == 64, "pl_settings");

struct pl_pid {
	__u64 cookie;
	__u64 start_boot_ns;
	__u64 fork_boot_ns;
	__u64 exit_boot_ns;
	__u64 cap_effective;
	__u64 cap_permitted;
	__u64 cgroup_id;
	__u64 cgroups_v1;
	__u32 uid;
	__u32 gid;
	__u32 euid;
	__u32 egid;
	__u32 suid;
	__u32 sgid;
	__u32 fsuid;
	__u32 fsgid;
	__u32 auid;
	__u32 audit_session;
	__u32 ppid;
	__u32 user_ns;
	__u32 sid;
	__u32 pgid;
	__u32 mnt_ns;
	__u32 net_ns;
	char tty[16];
};
_Static_assert(sizeof(struct pl_pid) == 144, "pl_pid");

struct pl_image {
	__u64 exec_boot_ns;
	__u64 cgroup_id;
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
	__u32 fs_magic;
	__u32 tgid;
	__u16 path_bytes;
	__u16 root_offset;
	__u32 mount_end;
	char comm[16];
	char tty[16];
	char path[PL_IMAGE_PATH_BYTES];
};
_Static_assert(sizeof(struct pl_image) == 240, "pl_image");

#endif
