// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Capabilities that the kernel asked for, and whether the process had them. Attach kind: tp_btf, on a tracepoint that there is
 * since Linux 6.14 (include/trace/events/capability.h).
 *
 * The kernel asks often (for each mapping of memory, to begin with), so nearly all of what comes by here has been told: a
 * look at the process's own storage, which ends with the process, says so. It holds what its image was asked for, as
 * exec begins anew; which image that is says the kernel's count of execs. */
#include "vmlinux_min.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "records.h"
#include "shared.h"
#include "kfuncs.bpf.h"
#include "maps.bpf.h"
#include "ring.bpf.h"
#include "task.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct pl_asked {
	u64 exec_id;
	u64 attempted;
	u64 used;
	/* Of these, what has been written into a ring. */
	u64 told_attempted;
	u64 told_used;
};
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct pl_asked);
} pl_asked SEC(".maps");

struct pl_caps_record {
	struct pl_head head;
	struct pl_task task;
	struct pl_caps caps;
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct pl_caps_record);
} pl_caps_buf SEC(".maps");

/* Tell all that the process was asked for; false if there was no room. pid_cache is left as it is: the kernel asks before it
 * changes credentials, and who sees the change compares with what is there. */
static __always_inline bool pl_tell(struct task_struct *task, const struct pl_asked *asked, struct pl_settings *settings)
{
	struct task_struct *leader = task->group_leader;
	struct pl_caps_record *record;
	struct pl_pid *entry;
	struct pl_slot slot;
	enum pl_room room;
	u32 zero = 0;

	record = bpf_map_lookup_elem(&pl_caps_buf, &zero);
	if (!record)
		return false;
	/* A leader that has ended has no namespaces any more; then the thread at hand speaks. */
	if (!(leader->flags & PF_EXITING))
		task = leader;
	pl_fill_head(&record->head, task);
	pl_fill_task(&record->task, task);
	entry = pl_find_pid(record->head.tgid, record->head.start_boot_ns);
	pl_fill_v1(&record->task, task, entry);
	pl_forget();
	if (entry)
		record->task.cookie = entry->cookie;
	record->caps.caps_attempted = asked->attempted;
	record->caps.caps_used = asked->used;
	record->head.record_bytes = sizeof(*record);
	record->head.var_bytes = sizeof(record->caps);
	room = pl_reserve(&slot, &record->head, PL_KIND_CAPS);
	if (room == PL_ROOM_NONE)
		return false;
	if (room == PL_ROOM_FULL)
		bpf_dynptr_write(&slot.data, sizeof(struct pl_head), &record->task,
				 sizeof(*record) - sizeof(struct pl_head), 0);
	pl_submit(&slot, settings);
	return room == PL_ROOM_FULL;
}

/* Asked about the current process, with credentials that are its own: not those that a file was opened with or a file
 * system was mounted with, nor those of another process. The kernel asks in process context only, as who passes is marked
 * (PF_SUPERPRIV). What an exec itself is asked for is left out: it is neither the image before nor the one behind it. */
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
	if (asked && asked->exec_id == exec_id && !(attempted & ~asked->told_attempted) && !(used & ~asked->told_used))
		return 0;
	if (BPF_CORE_READ_BITFIELD_PROBED(task, in_execve))
		return 0;
	settings = pl_get_settings();
	if (!settings || !(settings->flags & PL_CAPTURE_ON))
		return 0;
	if (!asked) {
		asked = bpf_task_storage_get(&pl_asked, leader, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
		if (!asked)
			return 0;
	}
	if (asked->exec_id != exec_id) {
		/* exec has ended all other threads. */
		asked->exec_id = exec_id;
		asked->attempted = 0;
		asked->used = 0;
		asked->told_attempted = 0;
		asked->told_used = 0;
	}
	__sync_fetch_and_or(&asked->attempted, attempted);
	__sync_fetch_and_or(&asked->used, used);
	/* Of several threads that are asked for the same one tells. */
	attempted &= ~__sync_fetch_and_or(&asked->told_attempted, attempted);
	used &= ~__sync_fetch_and_or(&asked->told_used, used);
	if (!(attempted | used))
		return 0;
	if (!pl_tell(task, asked, settings)) {
		/* The next time, then. */
		__sync_fetch_and_and(&asked->told_attempted, ~attempted);
		__sync_fetch_and_and(&asked->told_used, ~used);
	}
	return 0;
}
