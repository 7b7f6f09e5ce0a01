/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Which processes the capture records, and under which numbers.
 *
 * A process has one number in each pid namespace from the initial one down to its own. By default every process is
 * recorded under its number in the initial namespace. If the daemon captures its own pid namespace instead
 * (capture.scope = "namespace"), a process is recorded if it has a number in that namespace, and under that number, as
 * /proc of that namespace shows it. Any other process is outside: it makes no record, and where a record would name it,
 * the number is 0. */
#ifndef PROCLINE_SCOPE_BPF_H
#define PROCLINE_SCOPE_BPF_H

/* Stored by the loader before the kernel verifies the programs. The verifier knows these values, so it removes what
 * they rule out. A capture of the host keeps a load of this value at each check. */
struct pl_scope {
	u32 pid_ns; /* inode of the namespace; 0: record every process, under its number in the initial namespace */
	u32 level;  /* of the namespace: the initial one is at level 0 */
};
static const volatile struct pl_scope pl_scope = {};

/* The numbers of a pid follow it in memory, one for each namespace level; the verifier wants a variable index computed
 * by hand. */
static __always_inline const struct upid *pl_upid(struct pid *pid, u32 level)
{
	const char *numbers = (const char *)PL_ADDRESS(pid) + bpf_core_field_offset(struct pid, numbers);

	return PL_AS(struct upid, numbers + (level & 63) * bpf_core_type_size(struct upid));
}

/* The number of a pid in the recorded namespace; 0: outside. */
static __always_inline u32 pl_inner_nr(struct pid *pid)
{
	const struct upid *upid;

	if (!pid || PL_GET(pid, level) < pl_scope.level)
		return 0;
	upid = pl_upid(pid, pl_scope.level);
	return PL_GET(upid, ns, ns.inum) == pl_scope.pid_ns ? PL_GET(upid, nr) : 0;
}

/* The same for a task's process. A process keeps its pid until its last thread has ended. */
static __always_inline u32 pl_inner_tgid(const struct task_struct *task)
{
	return pl_inner_nr(PL_GET(task, signal, pids[PIDTYPE_TGID]));
}

/* The number of a pid in the scope; 0: outside. `is_typed`: see PL_FOLLOW(). */
static __always_inline u32 pl_scoped_nr(struct pid *pid, const bool is_typed)
{
	if (pl_scope.pid_ns)
		return pl_inner_nr(pid);
	if (PL_BY_TYPE(is_typed))
		return pid ? pid->numbers[0].nr : 0;
	return pid ? PL_GET(pl_upid(pid, 0), nr) : 0;
}

/* The same for a task's process. */
static __always_inline u32 pl_scoped_tgid(const struct task_struct *task)
{
	return pl_scope.pid_ns ? pl_inner_tgid(task) : (u32)PL_GET(task, tgid);
}

static __always_inline bool pl_is_outside(const struct task_struct *task)
{
	return pl_scope.pid_ns && !pl_inner_tgid(task);
}

#endif
