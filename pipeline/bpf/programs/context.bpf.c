// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Changes of a process that tracepoints report: its name, its cgroups, and the hangup of its terminal; and the paths of
 * new cgroups. Attach kind: tp_btf. The records have no body; their TASK has the current values. */
/* For the older set: a CGROUP record with all of its parts, and the longest one. */
#define PL_RECORD_MAX 2048
#define PL_PIECE_MAX 1024
#include "program.bpf.h"
/* For pl_on_signal alone. */
#define PL_CHANGE_BUFFERS 1
#include "change.bpf.h"

struct pl_plain_record {
	struct pl_header header;
	struct pl_task task;
};
PL_SCRATCH(pl_rename_buf, struct pl_plain_record, 1);

/* A record of a process, and what pl_fill_record() needs. */
struct pl_known {
	struct pl_plain_record *record;
	struct task_struct *task;
	struct pl_pid *entry;
	const char *comm; /* of pl_on_rename: the new name */
};

/* Fill HEADER, and look the process up in pid_cache. */
static __always_inline void pl_begin_record(struct pl_known *known)
{
	struct pl_header *header = &known->record->header;

	pl_fill_header(header, known->task, PL_TYPED);
	known->entry = pl_find_pid(header->tgid, header->start_boot_ns);
}

/* Fill TASK, between the stamp and the copy of the record. Others change the process at the same time. A state that is
 * read after the time of its record is never older than what records before that time contain, so none of these is
 * undone. The program must not be preempted between the two, which since Linux 7.0 the caller prevents.
 *
 * @has_moved: its cgroups may be others than those in the entry. */
static __always_inline void pl_fill_record(struct pl_known *known, bool has_moved)
{
	struct pl_plain_record *record = known->record;
	struct pl_pid *entry = known->entry;

	pl_fill_task(&record->task, known->task, PL_TYPED);
	pl_fill_v1(&record->task, known->task, has_moved ? NULL : entry);
	pl_forget();
	if (entry) {
		record->task.cookie = entry->cookie;
		pl_keep_namespaces(&record->task, entry);
		pl_refresh_pid(entry, &record->header, &record->task);
	}
}

/* A pl_finish. */
static __always_inline void pl_finish_rename(struct pl_header *header, void *state)
{
	struct pl_known *known = state;
	struct pl_task *out = &known->record->task;

	pl_fill_record(known, false);
	/* The tracepoint fires before the name is stored. */
	__builtin_memset(out->comm, 0, sizeof(out->comm));
	bpf_probe_read_kernel_str(out->comm, sizeof(out->comm), known->comm);
}

/* The name of a process is its leader's. exec renames too, always the current task; the exec record reports that.
 * Meanwhile another thread can rename a leader that waits in an exec. */
SEC("tp_btf/task_rename")
int BPF_PROG(pl_on_rename, struct task_struct *task, const char *comm)
{
	struct pl_settings *settings = pl_get_settings();
	struct pl_known known = { .comm = comm };
	struct pl_plain_record *record;
	u32 zero = 0;

	if (task->pid != task->tgid || task->flags & PF_KTHREAD ||
	    (task == pl_current() && BPF_CORE_READ_BITFIELD_PROBED(task, in_execve)))
		return 0;
	if (!pl_is_recording(settings) || pl_is_outside(task))
		return 0;
	record = bpf_map_lookup_elem(&pl_rename_buf, &zero);
	if (!record)
		return 0;
	known.record = record;
	known.task = pl_any_task(task);
	pl_begin_record(&known);
	pl_disable_preemption();
	pl_send_finished(&record->header, sizeof(*record), 0, PL_KIND_COMM, settings, pl_finish_rename, &known);
	pl_enable_preemption();
	return 0;
}

/* ---- a terminal's hangup ---- */

#define SIGHUP 1
/* include/linux/sched/signal.h: in the place of a siginfo, for signals of the kernel itself. */
#define SEND_SIG_PRIV 1

/* The only tracepoint that reports that a terminal was hung up (its other end was closed, or vhangup()). By then
 * tty_signal_session_leader() has removed it from the leader, and it removes it from the whole session; the leader's
 * record stands for all. The tracepoint fires even if the leader ignores the signal, and before the leader can react.
 *
 * Every signal of the host passes here, with siglock held. So capture.credentials = "auto" leaves this out, and the
 * loader detaches it where another object finds hangups: pl_tty_hangup(), or comparison. A process that gets SIGHUP for
 * another reason, such as an orphaned process group, is found unchanged. */
SEC("tp_btf/signal_generate")
int BPF_PROG(pl_on_signal, int sig, const void *info, struct task_struct *task)
{
	struct signal_struct *signal;

	if (sig != SIGHUP || (u64)info != SEND_SIG_PRIV)
		return 0;
	signal = PL_GET(task, signal);
	if (PL_GET(signal, leader) && !PL_GET(signal, tty))
		pl_session_changed(0, pl_any_task(task));
	return 0;
}

/* ---- cgroups: which ones a process is in, and the paths of their ids ---- */

#define PL_MEMBERS_MAX 16
/* The tracepoints' own limit on a path is 1,024. */
#define PL_CGROUP_PATH_MAX 1024

struct pl_cgroup_record {
	struct pl_plain_record plain;
	struct pl_named_cgroup named;
	struct pl_member members[PL_MEMBERS_MAX];
	char path[PL_CGROUP_PATH_MAX];
};
#ifdef PL_OLD
_Static_assert(sizeof(struct pl_cgroup_record) <= PL_RECORD_MAX, "PL_RECORD_MAX");
#endif
/* One element for each program. */
PL_SCRATCH(pl_cgroup_buf, struct pl_cgroup_record, 2);

struct pl_listing {
	const void *link;
	const void *end;
	struct pl_member *members;
	u32 count;
	u32 pad;
};

#ifdef PL_OLD
/* Those of pl_on_cgroup: the other program lists none. */
static __always_inline struct pl_member *pl_members_at(void)
{
	u32 zero = 0;
	struct pl_cgroup_record *record = bpf_map_lookup_elem(&pl_cgroup_buf, &zero);

	return (struct pl_member *)PL_PART(record, members);
}
#endif

PL_STEP(pl_list_cgroup, pl_listing)
{
	struct pl_member *members = PL_HELD(state->members, pl_members_at());
	const struct cgrp_cset_link *link = pl_cset_link(state->link);
	const struct cgroup *cgroup = PL_GET(link, cgrp);

	if (PL_IS_MISSING(members))
		return 1;
	state->link = PL_GET(link, cgrp_link.next);
	if (PL_GET(cgroup, level) && PL_GET(cgroup, root, hierarchy_id)) {
		struct pl_member *member = &members[state->count & (PL_MEMBERS_MAX - 1)];

		member->member_id = PL_GET(cgroup, kn, id);
		member->member_hierarchy = PL_GET(cgroup, root, hierarchy_id);
		member->member_pad = 0;
		state->count++;
	}
	return state->count == PL_MEMBERS_MAX || state->link == state->end;
}

/* Complete a CGROUP record with its members and its path, and submit it. With `known`, TASK is filled here. */
static __always_inline void pl_send_cgroup(struct pl_cgroup_record *record, struct cgroup *cgroup, const char *path,
					  struct css_set *css_set, struct pl_known *known,
					  struct pl_settings *settings)
{
	struct pl_named_cgroup *named = &record->named;
	struct pl_header *header = &record->plain.header;
	struct pl_reservation reserved;
	enum pl_room room;
	long length;
	u32 bytes;

	named->named_id = PL_GET(PL_AS(struct cgroup, cgroup), kn, id);
	named->named_hierarchy = PL_GET(PL_AS(struct cgroup, cgroup), root, hierarchy_id);
	named->named_members = 0;
	if (css_set) {
		struct list_head *list = &css_set->cgrp_links;
		struct pl_listing listing = { .link = PL_GET(list, next), .end = list, .members = record->members };

		PL_LOOP(PL_HIERARCHIES, pl_list_cgroup, 0, &listing);
		named->named_members = listing.count;
	}
	/* A truncated path is left out. */
	length = bpf_probe_read_kernel_str(record->path, sizeof(record->path), path);
	named->named_path_bytes = length > 1 && length < PL_CGROUP_PATH_MAX ? length - 1 : 0;
	pl_forget();
	header->var_bytes = sizeof(*named) + named->named_members * sizeof(struct pl_member) + named->named_path_bytes;
	header->record_bytes = sizeof(record->plain) + header->var_bytes;
	pl_forget();
	pl_disable_preemption();
	room = pl_reserve(&reserved, header, PL_KIND_CGROUP);
	if (room == PL_ROOM_NONE) {
		pl_enable_preemption();
		return;
	}
	if (room == PL_ROOM_FULL) {
		u32 at = sizeof(record->plain);

		if (known)
			pl_fill_record(known, true);
		pl_forget();
		pl_write_at(&reserved, sizeof(struct pl_header), &record->plain.task, sizeof(record->plain.task));
		pl_write_at(&reserved, at, named, sizeof(*named));
		at += sizeof(*named);
		bytes = named->named_members * sizeof(struct pl_member);
		pl_append(&reserved, at, record->members, bytes, sizeof(record->members));
		at += bytes;
		pl_append(&reserved, at, record->path, named->named_path_bytes, sizeof(record->path));
	}
	pl_submit(&reserved, settings);
	pl_enable_preemption();
}

/* Fires after the move, once for a process (its leader) or for a single thread. */
SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(pl_on_cgroup, struct cgroup *to, const char *path, struct task_struct *task, bool threadgroup)
{
	struct pl_settings *settings = pl_get_settings();
	struct pl_cgroup_record *record;
	struct pl_known known = {};
	u32 index = 0;

	if (task->pid != task->tgid || task->flags & PF_KTHREAD)
		return 0;
	if (!pl_is_recording(settings) || pl_is_outside(task))
		return 0;
	record = bpf_map_lookup_elem(&pl_cgroup_buf, &index);
	if (!record)
		return 0;
	task = pl_any_task(task);
	known.record = &record->plain;
	known.task = task;
	pl_begin_record(&known);
	/* If there is no room for this record, the next one looks for them again. */
	if (known.entry)
		known.entry->cgroups_v1 = 0;
	pl_send_cgroup(record, to, path, PL_GET(task, cgroups), &known, settings);
	return 0;
}

/* The path of a new cgroup, before a process is in it. A process that is forked into a cgroup, as systemd does it,
 * reports only the id. The record describes no process; HEADER and TASK are those of the creator. */
SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(pl_on_mkdir, struct cgroup *made, const char *path)
{
	struct task_struct *task = pl_current();
	struct pl_settings *settings = pl_get_settings();
	struct pl_cgroup_record *record;
	u32 index = 1;

	if (PL_GET(task, flags) & (PF_KTHREAD | PF_EXITING))
		return 0;
	if (!pl_is_recording(settings) || pl_is_outside(task))
		return 0;
	record = bpf_map_lookup_elem(&pl_cgroup_buf, &index);
	if (!record)
		return 0;
	task = pl_any_task(task);
	pl_fill_header(&record->plain.header, task, PL_UNTYPED);
	pl_fill_task(&record->plain.task, task, PL_UNTYPED);
	record->plain.header.flags |= PL_FLAG_CGROUP_MADE;
	pl_send_cgroup(record, made, path, NULL, NULL, settings);
	return 0;
}
