/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The kernel types that the programs read, with only the fields that they read. libbpf finds each field's real offset
 * by name when it loads (CO-RE), so order and padding here have no meaning. Names, nesting and pointer depth are the
 * kernel's (Linux 6.12 and 6.18). If an older kernel has a field under another name, a flavour (NAME___since) declares
 * it. */
#ifndef PROCLINE_VMLINUX_MIN_H
#define PROCLINE_VMLINUX_MIN_H

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __s32 s32;
typedef __u64 u64;
typedef __s64 s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;

#define true 1
#define false 0
#define NULL ((void *)0)

/* From include/uapi/linux/bpf.h; copied, so that the build needs libbpf's headers but none of the kernel. */
enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_ARRAY_OF_MAPS = 12,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};
enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_EXIST = 2,
};
enum {
	BPF_F_NO_PREALLOC = 1 << 0,
	BPF_F_MMAPABLE = 1 << 10,
};
enum bpf_func_id {
	BPF_FUNC_task_pt_regs = 175,
};
enum {
	BPF_LOCAL_STORAGE_GET_F_CREATE = 1 << 0,
};
enum {
	BPF_RB_NO_WAKEUP = 1,
	BPF_RB_FORCE_WAKEUP = 2,
};
enum {
	BPF_RB_AVAIL_DATA = 0,
};
struct bpf_dynptr {
	__u64 opaque[2];
} __attribute__((aligned(8)));

enum pid_type {
	PIDTYPE_PID = 0,
	PIDTYPE_TGID = 1,
	PIDTYPE_PGID = 2,
	PIDTYPE_SID = 3,
};

/* include/linux/sched.h; shared.h has the numbers */
#define PF_EXITING PL_PF_EXITING
#define PF_KTHREAD PL_PF_KTHREAD
/* include/uapi/asm-generic/signal.h */
#define SIGKILL 9
#define SIGCHLD 17
#define SIGCONT 18
#define SIGSTOP 19
#define SIGTSTP 20
#define SIGTTIN 21
#define SIGTTOU 22
#define SIGURG 23
#define SIGWINCH 28
/* linux/sched/signal.h */
#define SIGNAL_GROUP_EXIT 0x00000004
#define SECCOMP_MODE_FILTER 2
#define PFA_NO_NEW_PRIVS 0 /* include/linux/sched.h: a bit of atomic_flags */
#define OVERLAYFS_SUPER_MAGIC 0x794c7630

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	u32 val;
} kuid_t;
typedef struct {
	u32 val;
} kgid_t;
typedef struct {
	u64 val;
} kernel_cap_t;
typedef struct {
	int counter;
} atomic_t;

struct ns_common {
	unsigned int inum;
};
struct user_namespace {
	struct ns_common ns;
};
struct mnt_namespace {
	struct ns_common ns;
};
struct net {
	struct ns_common ns;
};
struct task_struct;
struct pid_namespace {
	struct task_struct *child_reaper;
	unsigned int level;
	struct ns_common ns;
};
struct nsproxy {
	struct mnt_namespace *mnt_ns;
	struct net *net_ns;
};

struct upid {
	int nr;
	struct pid_namespace *ns;
};
struct hlist_node {
	struct hlist_node *next;
};
struct hlist_head {
	struct hlist_node *first;
};
struct pid {
	unsigned int level;
	struct hlist_head tasks[4];
	struct upid numbers[0];
};

struct cred {
	kuid_t uid;
	kgid_t gid;
	kuid_t suid;
	kgid_t sgid;
	kuid_t euid;
	kgid_t egid;
	kuid_t fsuid;
	kgid_t fsgid;
	kernel_cap_t cap_permitted;
	kernel_cap_t cap_effective;
	struct user_namespace *user_ns;
};

/* Before Linux 6.3. */
struct kernel_cap_struct {
	__u32 cap[2];
};
struct cred___before_6_3 {
	struct kernel_cap_struct cap_permitted;
	struct kernel_cap_struct cap_effective;
};

struct qstr {
	u32 len;
	const unsigned char *name;
};
struct hlist_bl_node {
	struct hlist_bl_node **pprev;
};
struct super_block;
struct inode;
struct dentry {
	struct hlist_bl_node d_hash;
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	struct super_block *d_sb;
};
struct super_block {
	u32 s_dev;
	unsigned long s_magic;
	struct dentry *s_root;
};
struct inode {
	u16 i_mode;
	kuid_t i_uid;
	kgid_t i_gid;
	struct super_block *i_sb;
	unsigned long i_ino;
	unsigned int i_nlink;
	/* Since Linux 3aa63a569c64 ("fs: switch timespec64 fields in inode to discrete integers") (v6.11). */
	s64 i_mtime_sec;
	s64 i_ctime_sec;
	u32 i_mtime_nsec;
	u32 i_ctime_nsec;
};
struct timespec64 {
	s64 tv_sec;
	long tv_nsec;
};
/* Linux 6.6 renamed i_ctime, 6.7 i_mtime. */
struct inode___before_6_11 {
	struct timespec64 __i_mtime;
	struct timespec64 __i_ctime;
	struct timespec64 i_mtime;
	struct timespec64 i_ctime;
};
struct ovl_inode {
	struct inode vfs_inode;
	struct dentry *__upperdentry;
};

struct vfsmount {
	struct dentry *mnt_root;
	struct super_block *mnt_sb;
};
struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
	struct mnt_namespace *mnt_ns;
	int mnt_id;
};
struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};
struct file {
	struct inode *f_inode;
	struct path f_path;
};
struct fs_struct {
	struct path root;
	struct path pwd;
};

struct mm_struct {
	unsigned long arg_start;
	unsigned long arg_end;
	unsigned long env_start;
	unsigned long env_end;
	struct file *exe_file;
};

struct tty_struct {
	char name[64];
	struct {
		struct pid *session;
	} ctrl;
};
struct tty_struct___before_5_14 {
	struct pid *session;
};
/* Without CONFIG_TASK_IO_ACCOUNTING it has no such fields. */
struct task_io_accounting {
	u64 read_bytes;
	u64 write_bytes;
};
struct prev_cputime {
	u64 utime;
	u64 stime;
};
struct seqcount {
	unsigned int sequence;
};
typedef struct seqcount seqcount_t;
struct seqcount_spinlock {
	seqcount_t seqcount;
};
typedef struct seqcount_spinlock seqcount_spinlock_t;
typedef struct {
	seqcount_spinlock_t seqcount;
} seqlock_t;
struct list_head {
	struct list_head *next;
	struct list_head *prev;
};
struct signal_struct {
	atomic_t live;
	int nr_threads;
	struct list_head thread_head;
	int leader;
	int group_exit_code;
	unsigned int flags;
	unsigned int is_child_subreaper : 1;
	unsigned int has_child_subreaper : 1;
	struct pid *pids[4];
	struct tty_struct *tty;
	/* The sums of threads that have been released. */
	seqlock_t stats_lock;
	u64 utime;
	u64 stime;
	u64 cutime;
	u64 cstime;
	struct prev_cputime prev_cputime;
	unsigned long nvcsw;
	unsigned long nivcsw;
	unsigned long min_flt;
	unsigned long maj_flt;
	unsigned long maxrss;
	unsigned long inblock; /* in 512 bytes, from storage */
	unsigned long oublock;
	unsigned long long sum_sched_runtime;
};

struct kernfs_node {
	u64 id;
};
struct cgroup_root {
	int hierarchy_id;
};
struct cgroup {
	int level;
	struct kernfs_node *kn;
	struct cgroup_root *root;
};
struct cgrp_cset_link {
	struct cgroup *cgrp;
	struct list_head cgrp_link;
};
struct css_set {
	struct cgroup *dfl_cgrp;
	struct list_head cgrp_links;
};

/* Without CONFIG_SECCOMP it has no fields. */
struct seccomp {
	int mode;
};
/* x86 alone has this field. */
struct thread_info {
	u32 status;
};
struct rq {
	u64 clock;
	u64 clock_task;
};
/* Without CONFIG_FAIR_GROUP_SCHED it has no such field, and a task does not name it. */
struct cfs_rq {
	struct rq *rq;
};
struct sched_entity {
	u64 exec_start;
	u64 sum_exec_runtime;
	struct cfs_rq *cfs_rq;
};
struct task_struct {
	struct thread_info thread_info;
	unsigned int flags;
	struct sched_entity se;
	struct mm_struct *mm;
	int exit_state;
	int exit_code;
	unsigned int in_execve : 1;
	unsigned long atomic_flags;
	int pid;
	int tgid;
	struct task_struct *real_parent;
	struct list_head children;
	struct list_head sibling;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	struct hlist_node pid_links[4];
	struct list_head thread_node;
	u64 utime;
	u64 stime;
	unsigned long nvcsw;
	unsigned long nivcsw;
	unsigned long min_flt;
	unsigned long maj_flt;
	u64 start_boottime;
	u64 self_exec_id;
	const struct cred *real_cred;
	char comm[16];
	struct fs_struct *fs;
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	kuid_t loginuid;
	unsigned int sessionid;
	struct seccomp seccomp;
	struct task_io_accounting ioac;
	struct css_set *cgroups;
};

struct kernel_siginfo {
	int si_code;
};

struct linux_binprm {
	unsigned int secureexec : 1;
	struct file *file;
	int argc;
	int envc;
	const char *filename;
	const char *interp;
	const char *fdpath;
};

/* Where the first two arguments of a system call still stand at its end: those of 32-bit programs in bx and cx. */
struct pt_regs {
	unsigned long bx;
	unsigned long cx;
	unsigned long si;
	unsigned long di;
	unsigned long orig_ax;
};
/* The end of the name is free: CO-RE ignores it. libbpf has its own pt_regs___arm64 in a build for that machine. */
struct pt_regs___aarch64 {
	u64 regs[31];
	u64 orig_x0;
};

struct trace_entry {
	unsigned short type;
	unsigned char flags;
	unsigned char preempt_count;
	int pid;
};
struct trace_event_raw_sys_exit {
	struct trace_entry ent;
	long id;
	long ret;
};

struct seq_file;
struct bpf_iter_meta {
	struct seq_file *seq;
	u64 session_id;
	u64 seq_num;
};
struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

/* Newest form first; which one the kernel has is asked with bpf_core_type_exists(). The group_dead argument came
 * together with the tracepoint's move in front of exit_mm(); Debian's 6.12 has not got it, 6.18 has. */
typedef void (*btf_trace_sched_process_exit___group_dead)(void *, struct task_struct *, bool);

#pragma clang attribute pop

#endif
