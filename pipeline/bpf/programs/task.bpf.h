/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What is true of a process now: the HEAD and TASK sections, and its entry in pid_cache.
 * The programs that include this are tracing programs (tp_btf, iter), so fields are plain loads: a pointer that has gone
 * bad reads as 0. */
#ifndef PROCLINE_TASK_BPF_H
#define PROCLINE_TASK_BPF_H

static __always_inline void pl_fill_head(struct pl_head *head, struct task_struct *task)
{
	struct task_struct *leader = task->group_leader;
	struct task_struct *parent = task->real_parent;

	if (pl_scope.pid_ns) {
		head->tgid = pl_inner_tgid(task);
		head->tid = pl_inner_nr(task->thread_pid);
		head->ppid = pl_inner_tgid(parent);
	} else {
		head->tgid = task->tgid;
		head->tid = task->pid;
		head->ppid = parent->tgid;
	}
	head->start_boot_ns = leader->start_boottime;
	head->parent_start_boot_ns = head->ppid ? parent->group_leader->start_boottime : 0;
	head->flags = task->pid != task->tgid && leader->flags & PF_EXITING ? PL_FLAG_LEADER_DEAD : 0;
	head->ring_pos = 0;
}

/* Hierarchies that a task's cgroups are looked for in; the kernel has 16 controllers, and names are few. */
#define PL_HIERARCHIES 64

struct pl_v1 {
	const void *link; /* list_head of the next cgrp_cset_link */
	const void *end;
	u64 every;
	bool found;
};

static __always_inline const struct cgrp_cset_link *pl_cset_link(const void *node)
{
	return bpf_rdonly_cast(node - bpf_core_field_offset(struct cgrp_cset_link, cgrp_link),
			       bpf_core_type_id_kernel(struct cgrp_cset_link));
}

static long pl_v1_step(u64 i, struct pl_v1 *v1)
{
	const struct cgrp_cset_link *link = pl_cset_link(v1->link);
	const struct cgroup *cgroup = link->cgrp;
	u64 hierarchy, value;

	v1->link = link->cgrp_link.next;
	if (cgroup->level) {
		hierarchy = (u32)cgroup->root->hierarchy_id;
		if (hierarchy) {
			value = hierarchy << 48 ^ cgroup->kn->id;
			value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9ull;
			value = (value ^ value >> 27) * 0x94d049bb133111ebull;
			v1->every ^= value ^ value >> 31;
			v1->found = true;
		}
	}
	return v1->link == v1->end;
}

/* One number for the cgroups of version 1 that the tasks of a css_set are in, as cgroup_set() of pipeline/records/events.py. Where
 * version 2 is all there is the list has one element. No lock: the list changes while a hierarchy is mounted or unmounted;
 * a record of that moment can have a number that stands for nothing. */
static __always_inline u64 pl_cgroups_v1(struct css_set *css_set)
{
	struct list_head *list = &css_set->cgrp_links;
	struct pl_v1 v1 = { .link = list->next, .end = list };

	if (v1.link == list->prev)
		return PL_CGROUPS_V1_ROOTS;
	bpf_loop(PL_HIERARCHIES, pl_v1_step, &v1, 0);
	return v1.found ? v1.every | 1ull << 63 : PL_CGROUPS_V1_ROOTS;
}

/* Where the process's cgroups of version 1 are looked up only if they may be others than what is known of them: moves are seen
 * by cgroup_attach_task and stored in the cache, and a walk is about 400 ns on a host with all the controllers there. */
static __always_inline void pl_fill_v1(struct pl_task *out, struct task_struct *task, const struct pl_pid *entry)
{
	out->cgroups_v1 = entry ? entry->cgroups_v1 : 0;
	if (!out->cgroups_v1)
		out->cgroups_v1 = pl_cgroups_v1(task->group_leader->cgroups);
}

/* Fill all of TASK but `cookie` and `cgroups_v1`. `task` is any thread of the process.
 *
 * Name, credentials, login and cgroups are each thread's own; those of the process are its leader's, which keeps them until
 * the whole process is gone. Memory and namespaces are dropped by a leader that exits; then those of `task` are used. */
static __always_inline void pl_fill_task(struct pl_task *out, struct task_struct *task)
{
	struct task_struct *leader = task->group_leader;
	const struct cred *cred = leader->real_cred;
	struct signal_struct *signal = task->signal;
	struct nsproxy *nsproxy = leader->nsproxy;
	struct mm_struct *mm = leader->mm;
	/* The process's pid rather than the thread's: a leader that has ended keeps it until the whole group has. */
	struct pid *pid = signal->pids[PIDTYPE_TGID];
	const struct upid *inner;
	struct tty_struct *tty = signal->tty;

	if (!nsproxy)
		nsproxy = task->nsproxy;
	if (!mm)
		mm = task->mm;
	out->uid = cred->uid.val;
	out->gid = cred->gid.val;
	out->euid = cred->euid.val;
	out->egid = cred->egid.val;
	out->suid = cred->suid.val;
	out->sgid = cred->sgid.val;
	out->fsuid = cred->fsuid.val;
	out->fsgid = cred->fsgid.val;
	out->cap_effective = cred->cap_effective.val;
	out->cap_permitted = cred->cap_permitted.val;
	out->user_ns = cred->user_ns->ns.inum;
	out->auid = leader->loginuid.val;
	out->audit_session = leader->sessionid;
	out->sid = pl_scoped_nr(signal->pids[PIDTYPE_SID]);
	out->pgid = pl_scoped_nr(signal->pids[PIDTYPE_PGID]);
	out->ns_pid = 0;
	out->pid_ns = 0;
	if (pid) {
		inner = pl_upid(pid, pid->level);
		out->ns_pid = inner->nr;
		out->pid_ns = inner->ns->ns.inum;
	}
	out->mnt_ns = nsproxy->mnt_ns->ns.inum;
	out->net_ns = nsproxy->net_ns->ns.inum;
	out->task_flags = leader->flags;
	out->cgroup_id = leader->cgroups->dfl_cgrp->kn->id;
	bpf_probe_read_kernel(out->comm, sizeof(out->comm), &leader->comm);
	if (tty)
		bpf_probe_read_kernel(out->tty, sizeof(out->tty), &tty->name);
	else
		__builtin_memset(out->tty, 0, sizeof(out->tty));
	out->exe_inode = 0;
	out->exe_dev = 0;
	if (mm) {
		struct inode *inode = mm->exe_file->f_inode;

		out->exe_inode = inode->i_ino;
		out->exe_dev = inode->i_sb->s_dev;
	}
	out->known = 0;
	out->no_new_privs = 1 + (leader->atomic_flags >> PFA_NO_NEW_PRIVS & 1);
	out->seccomp_mode = 0;
	if (bpf_core_field_exists(leader->seccomp.mode)) {
		u32 mode = leader->seccomp.mode;

		/* 3 is SECCOMP_MODE_DEAD: a filter is ending the thread. */
		out->seccomp_mode = 1 + (mode < SECCOMP_MODE_FILTER ? mode : SECCOMP_MODE_FILTER);
	}
	out->cookie = 0;
	out->cgroups_v1 = 0;
}

static __always_inline u64 pl_new_cookie(void)
{
	/* Never 0, which means unknown. */
	return ((u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32()) | 1;
}

/* The process's entry, and in *word its place's word; or nothing when it is unknown or belongs to an earlier owner of the pid.
 *
 * One that user space made of /proc alone (fork_boot_ns is 0, as of all that are older than the capture) has its start
 * rounded down to a tick. It is still the same process: a later owner of the pid was forked under the capture, and its fork
 * replaced the entry. */
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

/* Fill HEAD and TASK of a process that should be in pid_cache; returns its entry there and in *word its place's word, or
 * NULL.
 *
 * @has_moved: its cgroups may be others than those in the entry. */
static __always_inline struct pl_pid *pl_fill_place(struct pl_head *head, struct pl_task *out, struct task_struct *task,
						    bool has_moved, u64 **word)
{
	struct pl_pid *entry;

	pl_fill_head(head, task);
	pl_fill_task(out, task);
	entry = pl_find_place(head->tgid, head->start_boot_ns, word);
	pl_fill_v1(out, task, has_moved ? NULL : entry);
	pl_forget();
	if (entry)
		out->cookie = entry->cookie;
	return entry;
}

static __always_inline struct pl_pid *pl_fill_known(struct pl_head *head, struct pl_task *out, struct task_struct *task,
						    bool has_moved)
{
	u64 *word;

	return pl_fill_place(head, out, task, has_moved, &word);
}

/* A leader that has ended is in no namespaces any more, and its process lives on in those that are known. */
static __always_inline void pl_keep_namespaces(struct pl_task *task, const struct pl_pid *entry)
{
	if (task->mnt_ns)
		return;
	task->mnt_ns = entry->mnt_ns;
	task->net_ns = entry->net_ns;
}

/* Write the facts that change during a life; times and cookie stay. */
static __always_inline void pl_refresh_pid(struct pl_pid *entry, const struct pl_head *head, const struct pl_task *task)
{
	entry->cap_effective = task->cap_effective;
	entry->cap_permitted = task->cap_permitted;
	entry->cgroup_id = task->cgroup_id;
	entry->cgroups_v1 = task->cgroups_v1;
	entry->uid = task->uid;
	entry->gid = task->gid;
	entry->euid = task->euid;
	entry->egid = task->egid;
	entry->suid = task->suid;
	entry->sgid = task->sgid;
	entry->fsuid = task->fsuid;
	entry->fsgid = task->fsgid;
	entry->auid = task->auid;
	entry->audit_session = task->audit_session;
	entry->ppid = head->ppid;
	entry->user_ns = task->user_ns;
	entry->sid = task->sid;
	entry->pgid = task->pgid;
	entry->mnt_ns = task->mnt_ns;
	entry->net_ns = task->net_ns;
	__builtin_memcpy(entry->tty, task->tty, sizeof(entry->tty));
}

static __always_inline void pl_init_pid(struct pl_pid *entry, const struct pl_head *head, const struct pl_task *task)
{
	entry->cookie = task->cookie;
	entry->start_boot_ns = head->start_boot_ns;
	entry->fork_boot_ns = 0;
	entry->exit_boot_ns = 0;
	pl_refresh_pid(entry, head, task);
}

#endif
