// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Calls by which one process changes another, or itself, in a way that no other program records (capture.calls):
 * ptrace, changed resource limits, and the sealed memfd in which a tracing library puts facts about its process. Attach
 * kinds: fentry and fexit. They cost time in those calls only. The tier needs pl_ptrace_traceme; the loader skips any
 * other program if this kernel lacks its function.
 *
 * These calls are rare, and they are no changes of a process that the tables keep. So they are not in the rings: the
 * resolver empties a queue. Many calls of one uid do not fill it: above a rate they are dropped and counted. Each kind
 * has a rate of its own, so that many calls of one kind do not hide another. A user with subordinate ids has many uids
 * and can fill the queue. A rate for each user namespace would not prevent it: outside of the namespace, set-user-ID
 * files of those ids lead to the same uids. */
#include "program.bpf.h"

/* Members that vmlinux_min.h does not have. What follows ___ is not part of the name in the kernel. */
struct fdtable___calls {
	unsigned int max_fds;
	struct file **fd;
} __attribute__((preserve_access_index));
struct files_struct___calls {
	struct fdtable___calls *fdt;
} __attribute__((preserve_access_index));
struct task_struct___calls {
	unsigned int ptrace;
	struct files_struct___calls *files;
} __attribute__((preserve_access_index));
struct pl_rlimit { /* include/uapi/linux/resource.h */
	unsigned long rlim_cur;
	unsigned long rlim_max;
};

/* include/uapi/linux/ptrace.h, include/linux/ptrace.h, include/uapi/linux/fcntl.h */
#define PTRACE_TRACEME 0
#define PTRACE_ATTACH 16
#define PTRACE_SEIZE 0x4206
#define PT_SEIZED 0x00010000
#define F_ADD_SEALS 1033

#define BPF_MAP_TYPE_QUEUE 22 /* include/uapi/linux/bpf.h */
#define NS_PER_S 1000000000ull
/* How the memfds of tracing libraries are named, and the part of their names that the kernel adds. */
#define PL_MEMFD_NAME "memfd:datadog-tracer-info-"
/* Descriptors above this are not found. */
#define PL_FDS_MAX 65536

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, PL_CALLS_MAX);
	__type(value, struct pl_call);
} pl_calls SEC(".maps");

/* Calls above a rate, and calls without room. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} pl_calls_dropped SEC(".maps");

struct pl_budget {
	u64 since_ns;
	u64 used;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, u64); /* user, and kind << 32 */
	__type(value, struct pl_budget);
} pl_budgets SEC(".maps");

/* Whether one more call of a kind may be recorded for a user in this second. Two CPUs may count one call twice or not
 * at all. */
static __always_inline bool pl_is_within_rate(u32 kind, u64 now_ns)
{
	u32 uid = (u32)bpf_get_current_uid_gid();
	u64 key = uid | (u64)kind << 32;
	struct pl_budget fresh = {.since_ns = now_ns, .used = 1};
	struct pl_budget *budget = bpf_map_lookup_elem(&pl_budgets, &key);

	if (!budget || now_ns - budget->since_ns >= NS_PER_S) {
		bpf_map_update_elem(&pl_budgets, &key, &fresh, BPF_ANY);
		return true;
	}
	budget->used += 1;
	return budget->used <= (uid ? PL_CALLS_PER_S : 10 * PL_CALLS_PER_S);
}

/* Queue a call of the current process. The target is NULL if the call acts on the caller only. */
static __always_inline void pl_queue_call(u32 kind, struct task_struct *target, u32 number, u64 soft, u64 hard)
{
	struct task_struct *task = pl_current();
	struct pl_call call = {};
	u32 zero = 0;
	u64 *dropped;

	if (!pl_is_recording(pl_get_settings()) || pl_is_outside(task) || PL_GET(task, flags) & PF_KTHREAD)
		return;
	call.call_time_boot_ns = bpf_ktime_get_boot_ns();
	call.call_start_boot_ns = PL_GET(task, group_leader, start_boottime);
	call.call_soft = soft;
	call.call_hard = hard;
	call.call_tgid = pl_scoped_tgid(task);
	call.call_tid = pl_scoped_nr(PL_GET(task, thread_pid), PL_UNTYPED);
	call.call_kind = kind;
	call.call_number = number;
	if (target)
		call.call_target = pl_scoped_tgid(target);
	if (target && call.call_target)
		call.call_target_start_boot_ns = PL_GET(target, group_leader, start_boottime);
	if (pl_is_within_rate(kind, call.call_time_boot_ns) && !bpf_map_push_elem(&pl_calls, &call, 0))
		return;
	dropped = bpf_map_lookup_elem(&pl_calls_dropped, &zero);
	if (dropped)
		__sync_fetch_and_add(dropped, 1);
}

/* A debugger attached to a process: by PTRACE_ATTACH or PTRACE_SEIZE, of which `ptrace` shows which it was. */
static __always_inline void pl_queue_attach(struct task_struct *child)
{
	u32 flags = BPF_CORE_READ((struct task_struct___calls *)child, ptrace);

	pl_queue_call(PL_CALL_PTRACE, child, flags & PT_SEIZED ? PTRACE_SEIZE : PTRACE_ATTACH, 0, 0);
}

/* The last thing that an attach does. The kernel reports a detach in the same way, with another request. */
SEC("fentry/proc_ptrace_connector")
int BPF_PROG(pl_ptrace_attach, struct task_struct *child, int request)
{
	if (request == PTRACE_ATTACH)
		pl_queue_attach(child);
	return 0;
}

/* For kernels without the one above (CONFIG_PROC_EVENTS); the loader detaches this one on others. A compiler may put
 * the function into its callers, as in Linux 7.2: then this program attaches, but never runs. */
SEC("fentry/__ptrace_link")
int BPF_PROG(pl_ptrace_link, struct task_struct *child, struct task_struct *debugger)
{
	struct task_struct *task = pl_current();

	/* A child that is traced because its parent is makes no call. */
	if (child != task && debugger == task)
		pl_queue_attach(child);
	return 0;
}

/* The last check before a process is traced by its parent, as it asked for (PTRACE_TRACEME). */
SEC("fexit/security_ptrace_traceme")
int BPF_PROG(pl_ptrace_traceme, struct task_struct *parent, int result)
{
	if (!result)
		pl_queue_call(PL_CALL_PTRACE, NULL, PTRACE_TRACEME, 0, 0);
	return 0;
}

/* The last check before the kernel changes a limit. */
SEC("fexit/security_task_setrlimit")
int BPF_PROG(pl_setrlimit, struct task_struct *process, unsigned int resource, struct pl_rlimit *limit, int result)
{
	struct task_struct *task = pl_current();
	struct pl_rlimit changed = {};
	bool is_own = PL_GET(process, tgid) == PL_GET(task, tgid);

	if (result)
		return 0;
	bpf_probe_read_kernel(&changed, sizeof(changed), limit);
	pl_queue_call(PL_CALL_SETRLIMIT, is_own ? NULL : process, resource, changed.rlim_cur, changed.rlim_max);
	return 0;
}

struct pl_fd_search {
	u64 file; /* address */
	struct file **files;
	u32 count;
	u32 at;
	u32 found;
};

PL_STEP(pl_compare_fd, pl_fd_search)
{
	u64 file = 0;

	if (state->at >= state->count)
		return 1;
	bpf_probe_read_kernel(&file, sizeof(file), state->files + state->at);
	if (file == state->file) {
		state->found = state->at;
		return 1;
	}
	state->at++;
	return 0;
}

SEC("fexit/memfd_fcntl")
int BPF_PROG(pl_memfd_seal, struct file *file, unsigned int command, unsigned long seals, long result)
{
	struct task_struct___calls *task = (void *)pl_current();
	struct pl_fd_search search = {.file = (u64)file, .found = PL_FDS_MAX};
	char name[sizeof(PL_MEMFD_NAME) - 1] = {};
	struct fdtable___calls *table;

	if (command != F_ADD_SEALS || result)
		return 0;
	bpf_probe_read_kernel(name, sizeof(name), PL_GET(file, f_path.dentry, d_name.name));
	if (__builtin_memcmp(name, PL_MEMFD_NAME, sizeof(name)))
		return 0;
	table = BPF_CORE_READ(task, files, fdt);
	search.files = BPF_CORE_READ(table, fd);
	search.count = BPF_CORE_READ(table, max_fds);
	PL_LOOP(PL_FDS_MAX, pl_compare_fd, 0, &search);
	if (search.found < PL_FDS_MAX)
		pl_queue_call(PL_CALL_MEMFD_SEAL, NULL, search.found, 0, 0);
	return 0;
}
