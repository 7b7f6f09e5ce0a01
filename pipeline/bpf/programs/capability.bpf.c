// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Capabilities that the kernel checked, and whether the process had them. Attach kind: tp_btf, on a tracepoint that
 * exists since Linux 6.14 (include/trace/events/capability.h).
 *
 * The kernel checks often (for example at each memory mapping), so nearly every check has been reported before. A
 * storage that belongs to the process, and ends with it, shows that. It holds the checks of one image, because an exec
 * resets them; the kernel's count of execs identifies the image. */
#include "program.bpf.h"

struct pl_asked {
	u64 exec_id;
	u64 attempted;
	u64 used;
	/* The part of these that is in a record. */
	u64 reported_attempted;
	u64 reported_used;
};
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct pl_asked);
} pl_asked SEC(".maps");

struct pl_caps_record {
	struct pl_header header;
	struct pl_task task;
	struct pl_caps caps;
};
PL_SCRATCH(pl_caps_buf, struct pl_caps_record, 1);

/* Record every checked capability of the process; returns false if there was no room. pid_cache is not updated: the
 * kernel checks before it changes credentials, and the hook of that change compares with pid_cache. */
static __always_inline bool pl_report(struct task_struct *task, const struct pl_asked *asked,
				      struct pl_settings *settings)
{
	struct task_struct *leader = task->group_leader;
	struct pl_caps_record *record;
	u32 zero = 0;

	record = bpf_map_lookup_elem(&pl_caps_buf, &zero);
	if (!record)
		return false;
	/* A leader that has ended has no namespaces; then this thread is used. */
	if (!(leader->flags & PF_EXITING))
		task = leader;
	pl_fill_known(&record->header, &record->task, task, PL_TYPED, false);
	record->caps.caps_attempted = asked->attempted;
	record->caps.caps_used = asked->used;
	return pl_send(&record->header, sizeof(*record), sizeof(record->caps), PL_KIND_CAPS, settings);
}

/* Only checks of the current process's own credentials are recorded: not those of an open file, of a mount, or of
 * another process. The kernel checks in process context only, because it marks the process (PF_SUPERPRIV). Checks in
 * the middle of an exec are left out: they belong neither to the old image nor to the new one. */
SEC("tp_btf/cap_capable")
int BPF_PROG(pl_on_capable, const struct cred *cred, const void *target_ns, const void *capable_ns, int cap, int ret)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	struct task_struct *leader;
	struct pl_settings *settings;
	struct pl_asked *asked;
	u64 attempted, used, exec_id;

	if (cred != task->real_cred || task->flags & (PF_KTHREAD | PF_EXITING) || (u32)cap > 63)
		return 0;
	attempted = 1ull << cap;
	used = ret ? 0 : attempted;
	leader = task->group_leader;
	exec_id = task->self_exec_id;
	asked = bpf_task_storage_get(&pl_asked, leader, NULL, 0);
	if (asked && asked->exec_id == exec_id && !(attempted & ~asked->reported_attempted) &&
	    !(used & ~asked->reported_used))
		return 0;
	if (BPF_CORE_READ_BITFIELD_PROBED(task, in_execve))
		return 0;
	settings = pl_get_settings();
	if (!pl_is_recording(settings) || pl_is_outside(task))
		return 0;
	if (!asked) {
		asked = bpf_task_storage_get(&pl_asked, leader, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
		if (!asked)
			return 0;
	}
	if (asked->exec_id != exec_id) {
		/* An exec has ended all other threads. */
		asked->exec_id = exec_id;
		asked->attempted = 0;
		asked->used = 0;
		asked->reported_attempted = 0;
		asked->reported_used = 0;
	}
	__sync_fetch_and_or(&asked->attempted, attempted);
	__sync_fetch_and_or(&asked->used, used);
	/* If several threads are checked for the same capability, one of them reports it. */
	attempted &= ~__sync_fetch_and_or(&asked->reported_attempted, attempted);
	used &= ~__sync_fetch_and_or(&asked->reported_used, used);
	if (!(attempted | used))
		return 0;
	if (!pl_report(task, asked, settings)) {
		/* The next check reports it. */
		__sync_fetch_and_and(&asked->reported_attempted, ~attempted);
		__sync_fetch_and_and(&asked->reported_used, ~used);
	}
	return 0;
}
