/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The process that adopts the children of a process that ends. Include after task.bpf.h. */
#ifndef PROCLINE_REAPER_BPF_H
#define PROCLINE_REAPER_BPF_H

/* Ancestors that the search visits at most. */
#define PL_REAPER_STEPS 256

struct pl_reaper {
	const void *task;
	u32 level;
	bool found;
	bool ended;
};

static __always_inline struct task_struct *pl_task_at(const void *address)
{
	return bpf_rdonly_cast(address, bpf_core_type_id_kernel(struct task_struct));
}

/* Check whether an ancestor is a subreaper, and go on to its parent. */
static long pl_check_ancestor(u64 i, struct pl_reaper *reaper)
{
	struct task_struct *task = pl_task_at(reaper->task);
	struct signal_struct *signal = task->signal;

	if (!task->pid || task->thread_pid->level != reaper->level) {
		reaper->ended = true;
		return 1;
	}
	/* `live` counts the threads of the process: its leader may have ended while other threads run. */
	if (BPF_CORE_READ_BITFIELD(signal, is_child_subreaper) && signal->live.counter > 0) {
		reaper->found = true;
		return 1;
	}
	reaper->task = task->real_parent;
	return 0;
}

/* Predict the choice that find_new_reaper() of kernel/exit.c makes next. The prediction is wrong only if a live ancestor
 * changes PR_SET_CHILD_SUBREAPER before that. If the reaper ends in between, its own exit record reports the next one. */
static __always_inline void pl_predict_reaper(struct pl_exit *out, struct task_struct *task)
{
	struct signal_struct *signal = task->signal;
	struct pid *pid = signal->pids[PIDTYPE_TGID];
	struct task_struct *init, *chosen;
	struct pl_reaper reaper = {};

	out->reaper_tgid = 0;
	out->reaper_start_boot_ns = 0;
	if (!pid) {
		out->exit_flags |= PL_EXIT_NO_REAPER;
		return;
	}
	init = pl_upid(pid, pid->level)->ns->child_reaper;
	if (init->signal == signal) {
		out->exit_flags |= PL_EXIT_NS_DIES;
		return;
	}
	chosen = init;
	if (BPF_CORE_READ_BITFIELD(signal, has_child_subreaper)) {
		reaper.task = task->real_parent;
		reaper.level = pid->level;
		bpf_loop(PL_REAPER_STEPS, pl_check_ancestor, &reaper, 0);
		if (reaper.found)
			chosen = pl_task_at(reaper.task);
		else if (!reaper.ended)
			chosen = NULL; /* Too many ancestors: a missing reaper is better than a wrong one. */
	}
	if (chosen) {
		out->reaper_tgid = pl_scoped_tgid(chosen);
		out->reaper_start_boot_ns = chosen->group_leader->start_boottime;
	}
	if (!out->reaper_tgid)
		out->exit_flags |= PL_EXIT_NO_REAPER;
}

#endif
