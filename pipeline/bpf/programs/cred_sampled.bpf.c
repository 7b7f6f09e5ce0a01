// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Changes of credentials and session on kernels that allow neither trampolines nor kprobes, without a cost for the
 * processes of the host: a task iterator compares every process with its last record. Attach kind: iter.
 *
 * User space runs it again and again (pipeline/bpf/sampling.py). Only differences are recorded, in the ring of the CPU
 * that runs the iterator, with PL_FLAG_SAMPLED: the time of such a record is when the change was found, and the record
 * says after which time it happened. The program
 * writes one byte for every PL_SAMPLE_PART tasks that it visits. A reader that reads one byte at a time therefore
 * visits that many tasks with each read. */
#define PL_GLOBAL static __noinline /* preemption is disabled while a task is compared */
#define PL_IS_MADE_AGAIN 1
#include "program.bpf.h"
#define PL_CHANGE_BUFFERS 1
#include "change.bpf.h"

#define PL_CLOCK_TASKS 64 /* tasks that are visited with one reading of the clock */

/* How long other credentials may be those of an exec whose record follows. An exec that takes longer is held up by its
 * file, perhaps deliberately. */
#define PL_EXEC_NS 3000000000ull

/* Whether the process is in the middle of an exec. Then its credentials change before its exec record is made, which
 * reports them. An exec changes neither group nor terminal. */
static __always_inline bool pl_is_in_exec(struct task_struct *task)
{
	return BPF_CORE_READ_BITFIELD_PROBED(task, in_execve);
}

/* Whether nothing that a TASK of this process would contain differs from its last record. It reads only what can
 * differ: with thousands of processes a pass waits for memory most of the time. */
static __always_inline bool pl_is_as_recorded(const struct pl_pid *entry, struct task_struct *task)
{
	const struct cred *cred = task->real_cred;
	struct signal_struct *signal = task->signal;
	struct nsproxy *nsproxy = task->nsproxy;
	struct tty_struct *tty = signal->tty;
	u64 name[2] = {};

	if (entry->uid != cred->uid.val || entry->gid != cred->gid.val || entry->euid != cred->euid.val ||
	    entry->egid != cred->egid.val || entry->suid != cred->suid.val || entry->sgid != cred->sgid.val ||
	    entry->fsuid != cred->fsuid.val || entry->fsgid != cred->fsgid.val ||
	    entry->cap_effective != PL_CAPABILITIES(PL_TYPED, cred, cap_effective) ||
	    entry->cap_permitted != PL_CAPABILITIES(PL_TYPED, cred, cap_permitted) ||
	    entry->user_ns != cred->user_ns->ns.inum)
		return false;
	if (entry->auid != task->loginuid.val || entry->audit_session != task->sessionid)
		return false;
	/* A leader that has ended is in no namespaces. */
	if (nsproxy && (entry->mnt_ns != nsproxy->mnt_ns->ns.inum || entry->net_ns != nsproxy->net_ns->ns.inum))
		return false;
	if (entry->pgid != pl_scoped_nr(signal->pids[PIDTYPE_PGID], PL_TYPED))
		return false;
	if (tty)
		bpf_probe_read_kernel(name, sizeof(name), &tty->name);
	return *(const u64 *)entry->tty == name[0] && *(const u64 *)(entry->tty + 8) == name[1];
}

static __always_inline void pl_read_task(struct pl_change_scratch *buf, struct task_struct *task, struct pl_pid *entry)
{
	pl_fill_task(&buf->record.task, pl_any_task(task), PL_TYPED);
	pl_keep_namespaces(&buf->record.task, entry);
	buf->record.task.cookie = entry->cookie;
	pl_fill_v1(&buf->record.task, task, entry);
}

/* Whether the entry is still that of the process. If the process has ended since the entry was found, another process
 * may have it now. What is stored in it then would hide changes of that process. */
static __always_inline bool pl_is_entry_of(const struct pl_pid *entry, struct task_struct *task)
{
	return *(const volatile u64 *)&entry->start_boot_ns == PL_GET(task, start_boottime);
}

/* What pl_finish_change() needs. */
struct pl_changed {
	struct pl_change_scratch *buf;
	struct task_struct *task;
	struct pl_pid *entry;
};

/* A pl_finish: read the state once more. Other programs record the process at the same time. A state that is read after
 * the time of its record is never older than what records before that time contain, so none of these is undone. */
static __always_inline void pl_finish_change(struct pl_header *header, void *state)
{
	struct pl_changed *changed = state;

	pl_read_task(changed->buf, changed->task, changed->entry);
	pl_forget();
	if (!pl_is_entry_of(changed->entry, changed->task))
		return;
	pl_refresh_pid(changed->entry, header, &changed->buf->record.task);
	pl_forget();
	changed->entry->same_boot_ns = header->time_boot_ns;
}

/* What differs between a process and its entry has changed after this time. Only comparisons make it younger: other
 * records read the process before their own time. */
static __always_inline u64 pl_unchanged_until(const struct pl_pid *entry, const struct pl_settings *settings)
{
	u64 same = *(const volatile u64 *)&entry->same_boot_ns;

	if (same)
		return same;
	return entry->start_boot_ns > settings->began_boot_ns ? entry->start_boot_ns : settings->began_boot_ns;
}

static __always_inline void pl_compare(struct pl_change_scratch *buf, struct task_struct *task,
				       struct pl_settings *settings)
{
	struct pl_changed changed = { .buf = buf, .task = task };
	struct pl_header *header = &buf->record.header;
	struct pl_pid *entry;
	bool is_in_exec, is_cred, is_session;
	u64 recent;

	entry = pl_find_pid(pl_scoped_tgid(task), task->start_boottime);
	/* Without an entry there is nothing to compare with; its next record enters the process. */
	if (!entry)
		return;
	/* Both before the process is read: it can change, and another reader of the iterator can record that. */
	recent = *(volatile u64 *)&settings->recent_boot_ns;
	buf->sampled.changed_after_boot_ns = pl_unchanged_until(entry, settings);
	pl_forget();
	if (pl_is_as_recorded(entry, task)) {
		if (pl_is_entry_of(entry, task))
			entry->same_boot_ns = recent;
		return;
	}
	is_in_exec = pl_is_in_exec(task);
	pl_fill_header(header, task, PL_TYPED);
	pl_read_task(buf, task, entry);
	pl_forget();
	is_cred = pl_differ_cred(entry, &buf->record.task);
	is_session = pl_differ_session(entry, &buf->record.task);
	if (!is_cred && !is_session)
		return;
	/* The exec may have begun or ended on another CPU since. Its file can make it wait as long as a user wants, so
	 * it hides no difference that cannot be its own. */
	if (!is_session && (is_in_exec || pl_is_in_exec(task)) &&
	    recent < buf->sampled.changed_after_boot_ns + PL_EXEC_NS)
		return;
	if (entry->exit_boot_ns || !task->signal->live.counter)
		return;
	header->flags |= PL_FLAG_SAMPLED;
	changed.entry = entry;
	/* Without room for the whole record the entry stays as it is, and the next pass finds the difference again. */
	pl_send_finished(header, sizeof(buf->record) + sizeof(buf->sampled), sizeof(buf->sampled),
			 is_cred ? PL_KIND_CRED : PL_KIND_SID, settings, pl_finish_change, &changed);
}

SEC("iter/task")
int pl_each_sample(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct seq_file *seq = ctx->meta->seq;
	struct pl_settings *settings = pl_get_settings();
	struct pl_change_scratch *buf;
	u32 zero = 0;
	char dot = '.';

	/* Every reader reads the clock, and uses what any of them has read: it is a time before the comparison. */
	if (settings && ctx->meta->seq_num % PL_CLOCK_TASKS == 0)
		settings->recent_boot_ns = bpf_ktime_get_boot_ns();
	if (ctx->meta->seq_num % PL_SAMPLE_PART == PL_SAMPLE_PART - 1)
		bpf_seq_write(seq, &dot, sizeof(dot));
	if (!task || task->pid != task->tgid || task->flags & PF_KTHREAD || !pl_is_recording(settings) ||
	    pl_is_outside(task))
		return 0;
	/* As in iter.bpf.c: another reader of the iterator would use the same buffer. */
	pl_disable_preemption();
	buf = bpf_map_lookup_elem(&pl_change_buf, &zero);
	if (buf)
		pl_compare(buf, task, settings);
	pl_enable_preemption();
	return 0;
}
