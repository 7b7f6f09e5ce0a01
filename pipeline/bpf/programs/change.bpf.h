/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Changes of a live process that no scheduler tracepoint reports: credentials, session, process group, terminal,
 * namespaces. The tiers have different hooks. What they do there is the same and is here: compare the process with its
 * last record, and record it if it differs.
 *
 * So a hook may fire too often, and does not depend on the arguments or the success of its call. A process that is not
 * in pid_cache is recorded, and entered. */
#ifndef PROCLINE_CHANGE_BPF_H
#define PROCLINE_CHANGE_BPF_H

struct pl_change_record {
	struct pl_header header;
	struct pl_task task;
};
struct pl_change_scratch {
	struct pl_change_record record;
	struct pl_sampled sampled; /* directly behind the record, of which it is a part with PL_FLAG_SAMPLED */
	struct pl_pid pid;
};
/* One element for each program that can interrupt, or be preempted by, another program of its object. */
PL_SCRATCH(pl_change_buf, struct pl_change_scratch, PL_CHANGE_BUFFERS);

static __always_inline bool pl_differ_cred(const struct pl_pid *entry, const struct pl_task *task)
{
	return entry->uid != task->uid || entry->gid != task->gid || entry->euid != task->euid ||
	       entry->egid != task->egid || entry->suid != task->suid || entry->sgid != task->sgid ||
	       entry->fsuid != task->fsuid || entry->fsgid != task->fsgid || entry->auid != task->auid ||
	       entry->audit_session != task->audit_session || entry->cap_effective != task->cap_effective ||
	       entry->cap_permitted != task->cap_permitted || entry->user_ns != task->user_ns;
}

/* Only in the middle of setsid() does the session change alone; the group follows at once, and one record has both. */
static __always_inline bool pl_differ_session(const struct pl_pid *entry, const struct pl_task *task)
{
	return entry->pgid != task->pgid || entry->mnt_ns != task->mnt_ns || entry->net_ns != task->net_ns ||
	       *(const u64 *)entry->tty != *(const u64 *)task->tty ||
	       *(const u64 *)(entry->tty + 8) != *(const u64 *)(task->tty + 8);
}

/* `releases`: the process is about to lose its terminal. */
static __noinline void pl_record_change(u32 index, struct task_struct *task, u8 kind, bool releases)
{
	struct pl_settings *settings = pl_get_settings();
	struct pl_change_scratch *buf;
	struct pl_header *header;
	struct pl_pid *entry;

	if (!pl_is_recording(settings) || pl_is_outside(task))
		return;
	buf = bpf_map_lookup_elem(&pl_change_buf, &index);
	if (!buf)
		return;
	header = &buf->record.header;
	entry = pl_fill_known(header, &buf->record.task, pl_any_task(task), PL_UNTYPED, false);
	if (releases)
		__builtin_memset(buf->record.task.tty, 0, sizeof(buf->record.task.tty));
	if (entry) {
		if (pl_differ_cred(entry, &buf->record.task))
			kind = PL_KIND_CRED;
		else if (pl_differ_session(entry, &buf->record.task))
			kind = PL_KIND_SID;
		else
			return;
		pl_refresh_pid(entry, header, &buf->record.task);
	} else {
		/* Without a cookie: its image is not read here. */
		pl_init_pid(&buf->pid, header, &buf->record.task);
		pl_add_pid(header->tgid, &buf->pid, false);
	}
	pl_send(header, sizeof(buf->record), 0, kind, settings);
}

/* The current thread's credentials may have changed. Each thread has its own; those of the process are its leader's. An
 * exec changes them too, and the exec record reports that. */
static __noinline __attribute__((unused)) void pl_cred_changed(u32 index)
{
	struct task_struct *task = pl_current();

	if (PL_GET(task, pid) != PL_GET(task, tgid) || PL_GET(task, flags) & (PF_KTHREAD | PF_EXITING) ||
	    BPF_CORE_READ_BITFIELD_PROBED(task, in_execve))
		return;
	pl_record_change(index, task, PL_KIND_CRED, false);
}

/* What all threads of the process of `task` share may change. */
static __always_inline void pl_process_changed(u32 index, struct task_struct *task, bool releases)
{
	struct task_struct *leader = PL_GET(task, group_leader);

	if (PL_GET(task, flags) & (PF_KTHREAD | PF_EXITING))
		return;
	/* A leader that has ended has no namespaces; then this thread is used. */
	pl_record_change(index, PL_GET(leader, flags) & PF_EXITING ? task : leader, PL_KIND_SID, releases);
}

/* Session, group, terminal or namespaces of the process of `task` may have changed. */
static __noinline void pl_session_changed(u32 index, struct task_struct *task)
{
	pl_process_changed(index, task, false);
}

/* disassociate_ctty(on_exit) begins. A process that does not exit releases its terminal (TIOCNOTTY), which it has until
 * this function or its caller has cleared it. If the leader of a session does this, its record stands for the session.
 */
static __always_inline __attribute__((unused)) void pl_before_release(u32 index, int on_exit)
{
	if (!on_exit)
		pl_process_changed(index, pl_current(), true);
}

/* setsid() or setpgid() called change_pid() for `task`. setpgid() does not move the leader of a session, so a leader
 * that has a terminal is in the middle of setsid(). That calls proc_clear_tty() next, and one record has both
 * changes. */
static __always_inline __attribute__((unused)) void pl_pid_changed(u32 index, struct task_struct *task)
{
	struct signal_struct *signal = PL_GET(task, signal);

	if (!PL_GET(signal, leader) || !PL_GET(signal, tty))
		pl_session_changed(index, task);
}

/* The terminal `tty` is hung up: its other end was closed, a line dropped, or vhangup(). __tty_hangup() calls
 * tty_ldisc_hangup() when no process of the session has the terminal any more, and before the terminal forgets its
 * session. The record of the session's leader stands for all. */
static __always_inline __attribute__((unused)) void pl_hung_up(u32 index, struct tty_struct *tty)
{
	struct tty_struct___before_5_14 *older = (void *)tty;
	struct pid *session;
	void *link;

	if (bpf_core_field_exists(older->session))
		session = PL_GET(older, session);
	else
		session = PL_GET(tty, ctrl.session);
	link = PL_GET(session, tasks[PIDTYPE_TGID].first);
	if (link)
		pl_session_changed(index,
				   PL_AS(struct task_struct,
					 link - bpf_core_field_offset(struct task_struct, pid_links[PIDTYPE_TGID])));
}

#endif
