/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What is true of a process now: the HEADER and TASK sections, and its entry in pid_cache.
 * The programs that include this are tracing programs (tp_btf, iter), so fields are plain loads: a pointer that has
 * gone bad reads as 0. */
#ifndef PROCLINE_TASK_BPF_H
#define PROCLINE_TASK_BPF_H

/* Here and below, `is_typed` is the one of PL_FOLLOW() for the task, or for what was loaded from one. */
static __always_inline void pl_fill_header(struct pl_header *header, struct task_struct *task, const bool is_typed)
{
	struct task_struct *leader = PL_FOLLOW(is_typed, task, group_leader);
	struct task_struct *parent = PL_FOLLOW(is_typed, task, real_parent);

	if (pl_scope.pid_ns) {
		header->tgid = pl_inner_tgid(task);
		header->tid = pl_inner_nr(PL_GET(task, thread_pid));
		header->ppid = pl_inner_tgid(parent);
	} else {
		header->tgid = PL_FOLLOW(is_typed, task, tgid);
		header->tid = PL_FOLLOW(is_typed, task, pid);
		header->ppid = PL_FOLLOW(is_typed, parent, tgid);
	}
	header->start_boot_ns = PL_FOLLOW(is_typed, leader, start_boottime);
	header->parent_start_boot_ns = header->ppid ? PL_FOLLOW(is_typed, parent, group_leader, start_boottime) : 0;
	header->flags = PL_FOLLOW(is_typed, task, pid) != PL_FOLLOW(is_typed, task, tgid) &&
					PL_FOLLOW(is_typed, leader, flags) & PF_EXITING ?
				PL_FLAG_LEADER_DEAD :
				0;
	header->ring_pos = 0;
}

/* Hierarchies that a task's cgroups are looked for in; the kernel has 16 controllers, and names are few. */
#define PL_HIERARCHIES 64
#ifdef PL_OLD
/* Hierarchies that the number of a process is made of. They are fewer, because the verifier follows each step. */
#define PL_V1_STEPS 24
#else
#define PL_V1_STEPS PL_HIERARCHIES
#endif

struct pl_v1 {
	const void *link; /* list_head of the next cgrp_cset_link */
	const void *end;
	u64 every; /* 0: none */
};

static __always_inline const struct cgrp_cset_link *pl_cset_link(const void *node)
{
	return PL_AS(struct cgrp_cset_link, node - bpf_core_field_offset(struct cgrp_cset_link, cgrp_link));
}

PL_SHORT_STEP(pl_v1_step, pl_v1)
{
	const struct cgrp_cset_link *link = pl_cset_link(state->link);
	const struct cgroup *cgroup = PL_GET(link, cgrp);
	u64 hierarchy = (u32)PL_GET(cgroup, root, hierarchy_id), level = (u32)PL_GET(cgroup, level);
	u64 value = hierarchy << 48 ^ PL_GET(cgroup, kn, id);
	/* All ones if neither is 0. Without a branch, which the verifier of the older set would follow at every
	 * step. */
	u64 counts = -((-hierarchy & -level) >> 63);

	asm volatile("" : "+r"(counts));
	state->link = PL_GET(link, cgrp_link.next);
	value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9ull;
	value = (value ^ value >> 27) * 0x94d049bb133111ebull;
	/* The highest bit says that there is one, whatever the numbers. */
	state->every = (state->every ^ ((value ^ value >> 31) & counts)) | (counts & 1ull << 63);
	return state->link == state->end;
}

/* One number for the cgroups of version 1 that the tasks of a css_set are in, as cgroup_set() of
 * pipeline/records/cgroup_sets.py. Where version 2 is all there is the list has one element. No lock: the list changes
 * while a hierarchy is mounted or unmounted; a record of that moment can have a number that stands for nothing. */
static __always_inline u64 pl_cgroups_v1(struct css_set *css_set)
{
	struct list_head *list = &css_set->cgrp_links;
	struct pl_v1 v1 = { .link = PL_GET(list, next), .end = list };

	if (v1.link == PL_GET(list, prev))
		return PL_CGROUPS_V1_ROOTS;
	PL_SHORT_LOOP(PL_V1_STEPS, pl_v1_step, &v1);
	return v1.every ? v1.every : PL_CGROUPS_V1_ROOTS;
}

/* The process's cgroups of version 1. The cache has them, because cgroup_attach_task sees each move. They are looked up
 * only if it does not: a walk takes about 400 ns on a host that has all controllers there. */
static __always_inline void pl_fill_v1(struct pl_task *out, struct task_struct *task, const struct pl_pid *entry)
{
	out->cgroups_v1 = entry ? entry->cgroups_v1 : 0;
	if (!out->cgroups_v1)
		out->cgroups_v1 = pl_cgroups_v1(PL_GET(pl_any_task(task), group_leader, cgroups));
}

/* `set` is a field of struct cred with capabilities. */
#define PL_CAPABILITIES(is_typed, cred, set)                                                                           \
	({                                                                                                             \
		u64 bits = 0;                                                                                          \
		const struct cred___before_6_3 *two_words = (const void *)(cred);                                      \
                                                                                                                       \
		if (bpf_core_field_exists(two_words->set.cap))                                                         \
			bits = PL_FOLLOW(is_typed, two_words, set.cap[0]) |                                            \
			       (u64)PL_FOLLOW(is_typed, two_words, set.cap[1]) << 32;                                  \
		else                                                                                                   \
			bits = PL_FOLLOW(is_typed, cred, set.val);                                                     \
		bits;                                                                                                  \
	})

/* Copy two ids of struct cred, which follow each other in TASK, and in the kernel unless it has its structures
 * randomized. */
#define PL_COPY_IDS(is_typed, out, cred, first, second)                                                                \
	do {                                                                                                           \
		_Static_assert(offsetof(struct pl_task, second) == offsetof(struct pl_task, first) + 4, "TASK");       \
		if (!PL_BY_TYPE(is_typed) &&                                                                           \
		    bpf_core_field_offset((cred)->second) == bpf_core_field_offset((cred)->first) + 4) {               \
			PL_COPY_8(&(out)->first, &(cred)->first);                                                      \
		} else {                                                                                               \
			(out)->first = PL_FOLLOW(is_typed, cred, first.val);                                           \
			(out)->second = PL_FOLLOW(is_typed, cred, second.val);                                         \
		}                                                                                                      \
	} while (0)

#ifdef PL_OLD
#define PL_COPY_8(out, from) bpf_probe_read_kernel(out, 8, from)
#define PL_COPY_TTY(out, tty) bpf_probe_read_kernel(out, sizeof(out), &(tty)->name)
#else
/* Any type of the kernel that begins with 64 bits would do. */
#define PL_COPY_8(out, from)                                                                                           \
	do {                                                                                                           \
		s64 pl_both = PL_AS(struct timespec64, from)->tv_sec;                                                  \
                                                                                                                       \
		__builtin_memcpy(out, &pl_both, 8);                                                                    \
	} while (0)
#define PL_COPY_TTY(out, tty) pl_copy_name(out, (tty)->name)

/* The first 16 bytes of an array of characters in the kernel, as two loads: a call of a helper takes longer. */
static __always_inline void pl_copy_name(char *out, const char *from)
{
	((u64 *)out)[0] = ((const u64 *)from)[0];
	((u64 *)out)[1] = ((const u64 *)from)[1];
}
#endif

/* What pl_fill_task_from() has read. A load from an address that may be bad is 45 bytes of machine code, and the size
 * of the code decides what a program costs: it has left the CPU's first cache since the last run. */
struct pl_found {
	struct signal_struct *signal;
	struct pid_namespace *ns; /* the process's own; NULL: it has no pid any more */
	u32 level;		  /* of `ns` */
};

/* The user and group ids, the capabilities and the user namespace. */
static __always_inline void pl_fill_creds(struct pl_task *out, const struct cred *cred, const bool is_typed)
{
	PL_COPY_IDS(is_typed, out, cred, uid, gid);
	PL_COPY_IDS(is_typed, out, cred, euid, egid);
	PL_COPY_IDS(is_typed, out, cred, suid, sgid);
	PL_COPY_IDS(is_typed, out, cred, fsuid, fsgid);
	out->cap_effective = PL_CAPABILITIES(is_typed, cred, cap_effective);
	out->cap_permitted = PL_CAPABILITIES(is_typed, cred, cap_permitted);
	out->user_ns = PL_FOLLOW(is_typed, cred, user_ns, ns.inum);
}

/* The pid inside the process's own pid namespace, from its `pid`, which may be NULL. */
static __always_inline void pl_fill_own_pid(struct pl_task *out, struct pid *pid, struct pl_found *found,
					    const bool is_typed)
{
	struct pid_namespace *ns;
	const struct upid *inner;

	out->ns_pid = 0;
	out->pid_ns = 0;
	found->level = 0;
	found->ns = NULL;
	if (pid) {
		found->level = PL_FOLLOW(is_typed, pid, level);
		inner = pl_upid(pid, found->level);
		ns = PL_GET(inner, ns);
		found->ns = ns;
		out->ns_pid = PL_GET(inner, nr);
		out->pid_ns = PL_GET(ns, ns.inum);
	}
}

static __always_inline void pl_fill_comm(struct pl_task *out, struct task_struct *leader)
{
#ifdef PL_OLD
	/* Before Linux 5.17 an earlier, longer name is left behind the NUL. */
	__builtin_memset(out->comm, 0, sizeof(out->comm));
	bpf_probe_read_kernel_str(out->comm, sizeof(out->comm), &leader->comm);
#else
	pl_copy_name(out->comm, leader->comm);
#endif
}

/* The inode and the device of the executable. A kernel thread has no memory, so `mm` is NULL. */
static __always_inline void pl_fill_exe(struct pl_task *out, struct mm_struct *mm, const bool is_typed)
{
	out->exe_inode = 0;
	out->exe_dev = 0;
	if (mm) {
		struct inode *inode = PL_FOLLOW(is_typed, mm, exe_file, f_inode);

		out->exe_inode = PL_FOLLOW(is_typed, inode, i_ino);
		out->exe_dev = PL_FOLLOW(is_typed, inode, i_sb, s_dev);
	}
}

/* Restrictions that the process cannot remove: no new privileges, and the seccomp mode. */
static __always_inline void pl_fill_restrictions(struct pl_task *out, struct task_struct *leader, const bool is_typed)
{
	out->no_new_privs = 1 + (PL_FOLLOW(is_typed, leader, atomic_flags) >> PFA_NO_NEW_PRIVS & 1);
	out->seccomp_mode = 0;
	if (bpf_core_field_exists(leader->seccomp.mode)) {
		u32 mode = PL_FOLLOW(is_typed, leader, seccomp.mode);

		/* 3 is SECCOMP_MODE_DEAD: a filter is ending the thread. */
		out->seccomp_mode = 1 + (mode < SECCOMP_MODE_FILTER ? mode : SECCOMP_MODE_FILTER);
	}
}

/* Fill all of TASK but `cookie` and `cgroups_v1`. `task` is any thread of the process.
 *
 * Name, credentials, login and cgroups are each thread's own; those of the process are its leader's, which keeps them
 * until the whole process is gone. Memory and namespaces are dropped by a leader that exits; then those of `task` are
 * used. */
static __always_inline void pl_fill_task_from(struct pl_task *out, struct task_struct *task, struct pl_found *found,
					      const bool is_typed)
{
	struct task_struct *leader = PL_FOLLOW(is_typed, task, group_leader);
	const struct cred *cred = PL_FOLLOW(is_typed, leader, real_cred);
	struct signal_struct *signal = PL_FOLLOW(is_typed, task, signal);
	struct nsproxy *nsproxy = PL_FOLLOW(is_typed, leader, nsproxy);
	struct mm_struct *mm = PL_FOLLOW(is_typed, leader, mm);
	/* The process's pid rather than the thread's: a leader that has ended keeps it until the whole group has. */
	struct pid *pid = PL_FOLLOW(is_typed, signal, pids[PIDTYPE_TGID]);
	struct tty_struct *tty = PL_FOLLOW(is_typed, signal, tty);

	if (!nsproxy)
		nsproxy = PL_FOLLOW(is_typed, task, nsproxy);
	if (!mm)
		mm = PL_FOLLOW(is_typed, task, mm);
	found->signal = signal;
	pl_fill_creds(out, cred, is_typed);
	out->auid = PL_FOLLOW(is_typed, leader, loginuid.val);
	out->audit_session = PL_FOLLOW(is_typed, leader, sessionid);
	out->sid = pl_scoped_nr(PL_FOLLOW(is_typed, signal, pids[PIDTYPE_SID]), is_typed);
	out->pgid = pl_scoped_nr(PL_FOLLOW(is_typed, signal, pids[PIDTYPE_PGID]), is_typed);
	pl_fill_own_pid(out, pid, found, is_typed);
	out->mnt_ns = PL_FOLLOW(is_typed, nsproxy, mnt_ns, ns.inum);
	out->net_ns = PL_FOLLOW(is_typed, nsproxy, net_ns, ns.inum);
	out->task_flags = PL_FOLLOW(is_typed, leader, flags);
	out->cgroup_id = PL_FOLLOW(is_typed, leader, cgroups, dfl_cgrp, kn, id);
	pl_fill_comm(out, leader);
	if (tty)
		PL_COPY_TTY(out->tty, tty);
	else
		__builtin_memset(out->tty, 0, sizeof(out->tty));
	pl_fill_exe(out, mm, is_typed);
	out->known = 0;
	pl_fill_restrictions(out, leader, is_typed);
	out->cookie = 0;
	out->cgroups_v1 = 0;
}

static __always_inline void pl_fill_task(struct pl_task *out, struct task_struct *task, const bool is_typed)
{
	struct pl_found found;

	pl_fill_task_from(out, task, &found, is_typed);
}

static __always_inline u64 pl_new_cookie(void)
{
	/* Never 0, which means unknown. */
	return ((u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32()) | 1;
}

/* The process's entry, and in *word its place's word; or nothing when it is unknown or belongs to an earlier owner of
 * the pid.
 *
 * One that user space made of /proc alone (fork_boot_ns is 0, as of all that are older than the capture) has its start
 * rounded down to a tick. It is still the same process: a later owner of the pid was forked under the capture, and its
 * fork replaced the entry. */
static __always_inline struct pl_pid *pl_find_place(u32 tgid, u64 start_boot_ns, u64 **word)
{
	struct pl_pid *entry;

	if (pl_scope.pid_ns && !tgid)
		return NULL; /* outside; a free place has the number 0 too */
	entry = pl_pid_at(tgid, word);
	if (!entry || entry->start_boot_ns == start_boot_ns)
		return entry;
	if (entry->fork_boot_ns || entry->start_boot_ns != start_boot_ns - start_boot_ns % PL_TICK_NS)
		return NULL;
	entry->start_boot_ns = start_boot_ns;
	return entry;
}

static __always_inline struct pl_pid *pl_find_pid(u32 tgid, u64 start_boot_ns)
{
	u64 *word;

	return pl_find_place(tgid, start_boot_ns, &word);
}

/* Fill HEADER and TASK of a process that should be in pid_cache; returns its entry there and in *word its place's word,
 * or NULL.
 *
 * @has_moved: its cgroups may be others than those in the entry. */
static __always_inline struct pl_pid *pl_fill_place(struct pl_header *header, struct pl_task *out,
						    struct task_struct *task, const bool is_typed, bool has_moved,
						    u64 **word, struct pl_found *found)
{
	struct pl_pid *entry;

	pl_fill_header(header, task, is_typed);
	pl_fill_task_from(out, task, found, is_typed);
	entry = pl_find_place(header->tgid, header->start_boot_ns, word);
	pl_fill_v1(out, task, has_moved ? NULL : entry);
	pl_forget();
	if (entry)
		out->cookie = entry->cookie;
	return entry;
}

static __always_inline struct pl_pid *pl_fill_known(struct pl_header *header, struct pl_task *out,
						    struct task_struct *task, const bool is_typed, bool has_moved)
{
	struct pl_found found;
	u64 *word;

	return pl_fill_place(header, out, task, is_typed, has_moved, &word, &found);
}

/* A leader that has ended is in no namespaces any more, and its process lives on in those that are known. */
static __always_inline void pl_keep_namespaces(struct pl_task *task, const struct pl_pid *entry)
{
	if (task->mnt_ns)
		return;
	task->mnt_ns = entry->mnt_ns;
	task->net_ns = entry->net_ns;
}

/* Copy two 32-bit fields, which follow each other in TASK and in an entry. */
#define PL_COPY_FIELDS(entry, task, first, second)                                                                     \
	do {                                                                                                           \
		_Static_assert(offsetof(struct pl_task, second) == offsetof(struct pl_task, first) + 4, "TASK");       \
		_Static_assert(offsetof(struct pl_pid, second) == offsetof(struct pl_pid, first) + 4, "PID_ENTRY");    \
		__builtin_memcpy(&(entry)->first, &(task)->first, 8);                                                  \
	} while (0)

/* Write the facts that change during a life; times and cookie stay. */
static __always_inline void pl_refresh_pid(struct pl_pid *entry, const struct pl_header *header,
					   const struct pl_task *task)
{
	entry->cap_effective = task->cap_effective;
	entry->cap_permitted = task->cap_permitted;
	PL_COPY_FIELDS(entry, task, uid, gid);
	PL_COPY_FIELDS(entry, task, euid, egid);
	PL_COPY_FIELDS(entry, task, suid, sgid);
	PL_COPY_FIELDS(entry, task, fsuid, fsgid);
	PL_COPY_FIELDS(entry, task, auid, audit_session);
	PL_COPY_FIELDS(entry, task, sid, pgid);
	PL_COPY_FIELDS(entry, task, mnt_ns, net_ns);
	entry->cgroup_id = task->cgroup_id;
	entry->cgroups_v1 = task->cgroups_v1;
	entry->ppid = header->ppid;
	entry->user_ns = task->user_ns;
	__builtin_memcpy(entry->tty, task->tty, sizeof(entry->tty));
}

static __always_inline void pl_init_pid(struct pl_pid *entry, const struct pl_header *header,
					const struct pl_task *task)
{
	entry->cookie = task->cookie;
	entry->start_boot_ns = header->start_boot_ns;
	entry->fork_boot_ns = 0;
	entry->exit_boot_ns = 0;
	entry->same_boot_ns = 0;
	pl_refresh_pid(entry, header, task);
}

#endif
