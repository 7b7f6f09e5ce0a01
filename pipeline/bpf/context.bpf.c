// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Changes in a process's life that tracepoints report: its name and its cgroup. Attach kind: tp_btf. The records have no
 * body; their TASK says what is true now. */
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

struct pl_plain_record {
	struct pl_head head;
	struct pl_task task;
};
/* One element for each program: a cgroup move can interrupt no rename, but nothing here has to rely on that. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, u32);
	__type(value, struct pl_plain_record);
} pl_context_buf SEC(".maps");

static __always_inline struct pl_plain_record *pl_begin(u32 index, struct task_struct *task)
{
	struct pl_plain_record *record = bpf_map_lookup_elem(&pl_context_buf, &index);
	struct pl_pid *entry;

	if (!record)
		return NULL;
	pl_fill_head(&record->head, task);
	pl_fill_task(&record->task, task);
	entry = pl_find_pid(record->head.tgid, record->head.start_boot_ns);
	if (entry) {
		record->task.cookie = entry->cookie;
		pl_refresh_pid(entry, &record->head, &record->task);
	}
	return record;
}

static __always_inline void pl_end(struct pl_plain_record *record, struct pl_settings *settings, u8 kind)
{
	struct pl_slot slot;
	enum pl_room room;

	record->head.record_bytes = sizeof(*record);
	record->head.var_bytes = 0;
	room = pl_reserve(&slot, &record->head, kind);
	if (room == PL_ROOM_NONE)
		return;
	if (room == PL_ROOM_FULL)
		bpf_dynptr_write(&slot.data, sizeof(struct pl_head), &record->task, sizeof(record->task), 0);
	pl_submit(&slot, settings);
}

/* The process's name is its leader's. exec renames too, and reports that itself. */
SEC("tp_btf/task_rename")
int BPF_PROG(pl_on_rename, struct task_struct *task, const char *comm)
{
	struct pl_settings *settings = pl_get_settings();
	struct pl_plain_record *record;

	if (task->pid != task->tgid || task->flags & PF_KTHREAD || BPF_CORE_READ_BITFIELD_PROBED(task, in_execve))
		return 0;
	if (!settings || !(settings->flags & PL_CAPTURE_ON))
		return 0;
	record = pl_begin(0, task);
	if (!record)
		return 0;
	/* The tracepoint comes before the name is stored. */
	__builtin_memset(record->task.comm, 0, sizeof(record->task.comm));
	bpf_probe_read_kernel_str(record->task.comm, sizeof(record->task.comm), comm);
	pl_end(record, settings, PL_KIND_COMM);
	return 0;
}

/* After the move, once for a process (its leader) or for a single thread. Hierarchies of version 1 count as well: they
 * leave cgroup_id as it is, but a container may be known by nothing else. */
SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(pl_on_cgroup, struct cgroup *to, const char *path, struct task_struct *task, bool threadgroup)
{
	struct pl_settings *settings = pl_get_settings();
	struct pl_plain_record *record;

	if (task->pid != task->tgid || task->flags & PF_KTHREAD)
		return 0;
	if (!settings || !(settings->flags & PL_CAPTURE_ON))
		return 0;
	record = pl_begin(1, task);
	if (record)
		pl_end(record, settings, PL_KIND_CGROUP);
	return 0;
}
