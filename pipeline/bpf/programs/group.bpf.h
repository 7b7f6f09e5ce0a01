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

static long pl_compare_child(u64 i, struct pl_children *children)
{
	const struct task_struct *child;
	struct pid *pid;

	if (children->at == children->end)
		return 1;
	child = bpf_rdonly_cast(children->at - bpf_core_field_offset(struct task_struct, sibling),
				bpf_core_type_id_kernel(struct task_struct));
	pid = PL_GET(child, thread_pid);
	if (pid && pl_upid(pid, children->level)->nr == children->nr) {
		children->found = child;
		return 1;
	}
	children->at = PL_GET(child, sibling.prev);
	return 0;
}

/* The current task's setpgid() changed its own group or that of a child. `nr`, the first argument, is the number in the
 * caller's pid namespace. A child that another thread forked is in that thread's list. No lock is held: a child that is
 * removed from the list meanwhile ends the search. */
static __noinline void pl_group_changed(u32 index, int nr)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	struct list_head *list = &task->children;
	struct pl_children children = { .at = PL_GET(list, prev), .end = list, .nr = nr };

	if (PL_GET(task, flags) & (PF_KTHREAD | PF_EXITING))
		return;
	if (nr) {
		children.level = PL_GET(task, thread_pid, level);
		bpf_loop(PL_CHILDREN_STEPS, pl_compare_child, &children, 0);
	}
	if (children.found)
		pl_session_changed(index, bpf_rdonly_cast(children.found, bpf_core_type_id_kernel(struct task_struct)));
	pl_pid_changed(index, task);
}

#endif
