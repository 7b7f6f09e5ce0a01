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
	u16 pad;
};

static __always_inline struct task_struct *pl_task_at(const void *address)
{
	return PL_AS(struct task_struct, address);
}

/* Check whether an ancestor is a subreaper, and continue with its parent. */
PL_STEP(pl_check_ancestor, pl_reaper)
{
	struct task_struct *task = pl_task_at(state->task);
	struct signal_struct *signal = PL_GET(task, signal);

	if (!PL_GET(task, pid)) {
		state->ended = true;
		return 1;
	}
	/* `live` counts the threads of the process: its leader may have ended while other threads run. */
	if (PL_GET_BITS(signal, is_child_subreaper) && PL_GET(signal, live.counter) > 0) {
		/* The kernel stops at the first ancestor of another level. Levels never rise on the way up, so that of
		 * the subreaper says whether there was one. */
		state->found = PL_GET(task, thread_pid, level) == state->level;
		state->ended = !state->found;
		return 1;
	}
	state->task = PL_GET(task, real_parent);
	return 0;
}

/* Predict the choice that find_new_reaper() of kernel/exit.c makes next. The prediction is wrong only if a live
 * ancestor changes PR_SET_CHILD_SUBREAPER before that. If the reaper ends in between, its own exit record reports the
 * next one. */
static __always_inline void pl_predict_reaper(struct pl_exit *out, struct task_struct *task,
					      const struct pl_found *found)
{
	struct signal_struct *signal = found->signal;
	struct pid_namespace *ns = found->ns;
	struct task_struct *init, *chosen;
	struct pl_reaper reaper = {};

	out->reaper_tgid = 0;
	out->reaper_start_boot_ns = 0;
	if (!ns) {
		out->exit_flags |= PL_EXIT_NO_REAPER;
		return;
	}
	init = PL_GET(ns, child_reaper);
	if (PL_GET(init, signal) == signal) {
		out->exit_flags |= PL_EXIT_NS_DIES;
		return;
	}
	chosen = init;
	if (PL_GET_BITS(signal, has_child_subreaper)) {
		reaper.task = PL_GET(task, real_parent);
		reaper.level = found->level;
		PL_LOOP(PL_REAPER_STEPS, pl_check_ancestor, 0, &reaper);
		if (reaper.found)
			chosen = pl_task_at(reaper.task);
		else if (!reaper.ended)
			chosen = NULL; /* Too many ancestors: a missing reaper is better than a wrong one. */
	}
	if (chosen) {
		out->reaper_tgid = pl_scoped_tgid(chosen);
		out->reaper_start_boot_ns = PL_GET(chosen, group_leader, start_boottime);
	}
	if (!out->reaper_tgid)
		out->exit_flags |= PL_EXIT_NO_REAPER;
}

#endif
