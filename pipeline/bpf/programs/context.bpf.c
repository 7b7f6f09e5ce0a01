// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Changes in a process's life that tracepoints report: its name, its cgroups, and the hangup of its terminal; and the names of
 * new cgroups. Attach kind: tp_btf. The records have no body; their TASK says what is true now. */
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
/* For pl_on_signal alone. */
#define PL_CHANGE_BUFFERS 1
#include "change.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct pl_plain_record {
	struct pl_head head;
	struct pl_task task;
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct pl_plain_record);
} pl_rename_buf SEC(".maps");

static __always_inline void pl_fill(struct pl_plain_record *record, struct task_struct *task, bool has_moved)
{
	struct pl_pid *entry;

	pl_fill_head(&record->head, task);
	pl_fill_task(&record->task, task);
	entry = pl_find_pid(record->head.tgid, record->head.start_boot_ns);
	pl_fill_v1(&record->task, task, has_moved ? NULL : entry);
	pl_forget();
	if (entry) {
		record->task.cookie = entry->cookie;
		pl_keep_namespaces(&record->task, entry);
		pl_refresh_pid(entry, &record->head, &record->task);
	}
}

/* The process's name is its leader's. exec renames too, and reports that itself. */
SEC("tp_btf/task_rename")
int BPF_PROG(pl_on_rename, struct task_struct *task, const char *comm)
{
	struct pl_settings *settings = pl_get_settings();
	struct pl_plain_record *record;
	struct pl_slot slot;
	enum pl_room room;
	u32 zero = 0;

	if (task->pid != task->tgid || task->flags & PF_KTHREAD || BPF_CORE_READ_BITFIELD_PROBED(task, in_execve))
		return 0;
	if (!settings || !(settings->flags & PL_CAPTURE_ON))
		return 0;
	record = bpf_map_lookup_elem(&pl_rename_buf, &zero);
	if (!record)
		return 0;
	pl_fill(record, task, false);
	/* The tracepoint comes before the name is stored. */
	__builtin_memset(record->task.comm, 0, sizeof(record->task.comm));
	bpf_probe_read_kernel_str(record->task.comm, sizeof(record->task.comm), comm);
	record->head.record_bytes = sizeof(*record);
	record->head.var_bytes = 0;
	room = pl_reserve(&slot, &record->head, PL_KIND_COMM);
	if (room == PL_ROOM_NONE)
		return 0;
	if (room == PL_ROOM_FULL)
		bpf_dynptr_write(&slot.data, sizeof(struct pl_head), &record->task, sizeof(record->task), 0);
	pl_submit(&slot, settings);
	return 0;
}

/* ---- a terminal's hangup ---- */

#define SIGHUP 1
/* include/linux/sched/signal.h: instead of a siginfo, the kernel itself sends it. */
#define SEND_SIG_PRIV 1

/* Nothing but the signal says that a terminal was hung up (its other end was closed, or vhangup()):
 * tty_signal_session_leader() has taken it from the leader by then, and takes it from all of the session. The leader speaks
 * for them. The tracepoint comes also when the leader ignores the signal, and before it can act on it.
 *
 * Every signal of the host comes by here, with siglock held. Who gets a hangup for another reason, as an orphaned process
 * group does, is found unchanged. */
SEC("tp_btf/signal_generate")
int BPF_PROG(pl_on_signal, int sig, const void *info, struct task_struct *task)
{
	struct signal_struct *signal;

	if (sig != SIGHUP || (u64)info != SEND_SIG_PRIV)
		return 0;
	signal = task->signal;
	if (signal->leader && !signal->tty)
		pl_session_changed(0, task);
	return 0;
}

/* ---- cgroups: where a process is, and what ids are called ---- */

#define PL_MEMBERS_MAX 16
/* The tracepoints' own limit on a path is 1,024. */
#define PL_CGROUP_PATH_MAX 1024

struct pl_cgroup_record {
	struct pl_plain_record plain;
	struct pl_place place;
	struct pl_member members[PL_MEMBERS_MAX];
	char path[PL_CGROUP_PATH_MAX];
};
/* One element for each program. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, u32);
	__type(value, struct pl_cgroup_record);
} pl_cgroup_buf SEC(".maps");

struct pl_listing {
	const void *link;
	const void *end;
	struct pl_member *members;
	u32 count;
};

static long pl_list_step(u64 i, struct pl_listing *listing)
{
	const struct cgrp_cset_link *link = pl_cset_link(listing->link);
	const struct cgroup *cgroup = link->cgrp;

	listing->link = link->cgrp_link.next;
	if (cgroup->level && cgroup->root->hierarchy_id) {
		struct pl_member *member = &listing->members[listing->count & (PL_MEMBERS_MAX - 1)];

		member->member_id = cgroup->kn->id;
		member->member_hierarchy = cgroup->root->hierarchy_id;
		member->member_pad = 0;
		listing->count++;
	}
	return listing->count == PL_MEMBERS_MAX || listing->link == listing->end;
}

static __always_inline void pl_write_some(struct pl_slot *slot, u32 at, const void *from, u32 bytes, u32 limit)
{
	/* Apart: clang would make one comparison of bytes - 1 of the two, of which Linux 6.12 learns nothing about bytes. */
	if (!bytes)
		return;
	asm volatile("" : "+r"(bytes));
	if (bytes <= limit)
		bpf_dynptr_write(&slot->data, at, (void *)from, bytes, 0);
}

/* Write the record with the strings that a CGROUP record has. */
static __always_inline void pl_end_cgroup(struct pl_cgroup_record *record, struct cgroup *cgroup, const char *path,
					  struct css_set *css_set, struct pl_settings *settings)
{
	struct pl_place *place = &record->place;
	struct pl_head *head = &record->plain.head;
	struct pl_slot slot;
	enum pl_room room;
	long length;
	u32 bytes;

	place->place_id = cgroup->kn->id;
	place->place_hierarchy = cgroup->root->hierarchy_id;
	place->place_members = 0;
	if (css_set) {
		struct list_head *list = &css_set->cgrp_links;
		struct pl_listing listing = { .link = list->next, .end = list, .members = record->members };

		bpf_loop(PL_HIERARCHIES, pl_list_step, &listing, 0);
		place->place_members = listing.count;
	}
	/* A path that was cut is no path. */
	length = bpf_probe_read_kernel_str(record->path, sizeof(record->path), path);
	place->place_path_bytes = length > 1 && length < PL_CGROUP_PATH_MAX ? length - 1 : 0;
	pl_forget();
	head->var_bytes = sizeof(*place) + place->place_members * sizeof(struct pl_member) + place->place_path_bytes;
	head->record_bytes = sizeof(record->plain) + head->var_bytes;
	pl_forget();
	room = pl_reserve(&slot, head, PL_KIND_CGROUP);
	if (room == PL_ROOM_NONE)
		return;
	if (room == PL_ROOM_FULL) {
		u32 at = sizeof(record->plain);

		bpf_dynptr_write(&slot.data, sizeof(struct pl_head), &record->plain.task, sizeof(record->plain.task), 0);
		bpf_dynptr_write(&slot.data, at, place, sizeof(*place), 0);
		at += sizeof(*place);
		bytes = place->place_members * sizeof(struct pl_member);
		pl_write_some(&slot, at, record->members, bytes, sizeof(record->members));
		at += bytes;
		pl_write_some(&slot, at, record->path, place->place_path_bytes, sizeof(record->path));
	}
	pl_submit(&slot, settings);
}

/* After the move, once for a process (its leader) or for a single thread. */
SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(pl_on_cgroup, struct cgroup *to, const char *path, struct task_struct *task, bool threadgroup)
{
	struct pl_settings *settings = pl_get_settings();
	struct pl_cgroup_record *record;
	u32 index = 0;

	if (task->pid != task->tgid || task->flags & PF_KTHREAD)
		return 0;
	if (!settings || !(settings->flags & PL_CAPTURE_ON))
		return 0;
	record = bpf_map_lookup_elem(&pl_cgroup_buf, &index);
	if (!record)
		return 0;
	pl_fill(&record->plain, task, true);
	pl_end_cgroup(record, to, path, task->cgroups, settings);
	return 0;
}

/* The path of a new cgroup, before anybody is in it: who is forked right into it, as systemd does, gives the id alone. The
 * record is about no process; HEAD and TASK are those of the maker. */
SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(pl_on_mkdir, struct cgroup *made, const char *path)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	struct pl_settings *settings = pl_get_settings();
	struct pl_cgroup_record *record;
	u32 index = 1;

	if (task->flags & (PF_KTHREAD | PF_EXITING))
		return 0;
	if (!settings || !(settings->flags & PL_CAPTURE_ON))
		return 0;
	record = bpf_map_lookup_elem(&pl_cgroup_buf, &index);
	if (!record)
		return 0;
	pl_fill_head(&record->plain.head, task);
	pl_fill_task(&record->plain.task, task);
	record->plain.head.flags |= PL_FLAG_CGROUP_MADE;
	pl_end_cgroup(record, made, path, NULL, settings);
	return 0;
}
