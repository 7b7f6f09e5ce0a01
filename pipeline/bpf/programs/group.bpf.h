/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* setpgid() as seen by hooks that do not know which process was moved. Include after change.bpf.h. */
#ifndef PROCLINE_GROUP_BPF_H
#define PROCLINE_GROUP_BPF_H

/* Children that the search for the moved one visits at most; the newest come first. */
#define PL_CHILDREN_STEPS 4096

struct pl_children {
	const void *at; /* list_head */
	const void *end;
	u32 level; /* of the pid namespace that `nr` is a number of */
	int nr;
	const void *found;
};

PL_STEP(pl_compare_child, pl_children)
{
	const struct task_struct *child;
	struct pid *pid;

	if (state->at == state->end)
		return 1;
	child = PL_AS(struct task_struct, state->at - bpf_core_field_offset(struct task_struct, sibling));
	pid = PL_GET(child, thread_pid);
	if (pid) {
		const struct upid *upid = pl_upid(pid, state->level);

		if (PL_GET(upid, nr) == state->nr) {
			state->found = child;
			return 1;
		}
	}
	state->at = PL_GET(child, sibling.prev);
	return 0;
}

/* The current task's setpgid() changed its own group or that of a child. `nr`, the first argument, is the number in the
 * caller's pid namespace. A child that another thread forked is in that thread's list. No lock is held: a child that is
 * removed from the list meanwhile ends the search. */
static __noinline void pl_group_changed(u32 index, int nr)
{
	struct task_struct *task = pl_current();
	struct list_head *list = &task->children;
	struct pl_children children = { .at = PL_GET(list, prev), .end = list, .nr = nr };

	if (PL_GET(task, flags) & (PF_KTHREAD | PF_EXITING))
		return;
	if (nr) {
		children.level = PL_GET(task, thread_pid, level);
		PL_LOOP(PL_CHILDREN_STEPS, pl_compare_child, index, &children);
	}
	if (children.found)
		pl_session_changed(index, PL_AS(struct task_struct, children.found));
	pl_pid_changed(index, task);
}

#endif
