// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Changes of credentials and session where neither trampolines nor kprobes may be attached: at the end of the system
 * calls that make them. Attach kind: tp/syscalls.
 *
 * Every system call of the host is slowed a little as long as one such tracepoint is in use (it leaves the kernel by the
 * slow path), however many there are; the calls that are traced, by some more. Not seen at once: calls of 32-bit programs,
 * which these tracepoints leave out. The process's next record tells of them. */
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
/* Programs of this kind run with preemption off and never one inside another on the same CPU. */
#define PL_CHANGE_BUFFERS 1
#include "change.bpf.h"
#include "call.bpf.h"
#include "group.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define PL_AFTER_CRED(call)                                                                                             \
	SEC("tp/syscalls/sys_exit_" #call)                                                                              \
	int pl_##call(struct trace_event_raw_sys_exit *ctx)                                                             \
	{                                                                                                               \
		if (ctx->ret >= 0)                                                                                      \
			pl_cred_changed(0);                                                                             \
		return 0;                                                                                               \
	}

#define PL_AFTER_SESSION(call)                                                                                          \
	SEC("tp/syscalls/sys_exit_" #call)                                                                              \
	int pl_##call(struct trace_event_raw_sys_exit *ctx)                                                             \
	{                                                                                                               \
		if (ctx->ret >= 0)                                                                                      \
			pl_session_changed(0, (void *)bpf_get_current_task_btf());                                      \
		return 0;                                                                                               \
	}

PL_AFTER_CRED(setuid)
PL_AFTER_CRED(setgid)
PL_AFTER_CRED(setreuid)
PL_AFTER_CRED(setregid)
PL_AFTER_CRED(setresuid)
PL_AFTER_CRED(setresgid)
PL_AFTER_CRED(setfsuid) /* returns the id before, even if it did nothing */
PL_AFTER_CRED(setfsgid)
PL_AFTER_CRED(capset)
/* A new user namespace comes with all capabilities in it; the other namespaces are each thread's own as well. */
PL_AFTER_CRED(unshare)
PL_AFTER_CRED(setns)
PL_AFTER_SESSION(setsid)

/* Of the caller itself, or of a child, which the call's first argument names. */
SEC("tp/syscalls/sys_exit_setpgid")
int pl_setpgid(struct trace_event_raw_sys_exit *ctx)
{
	if (ctx->ret == 0)
		pl_group_changed(0);
	return 0;
}

/* include/uapi/asm-generic/ioctls.h */
#define TIOCSCTTY 0x540E
#define TIOCNOTTY 0x5422

/* A terminal is taken by the leader of a session, and given up by anybody: by the leader for the whole session, by others for
 * their own process. */
SEC("tp/syscalls/sys_exit_ioctl")
int pl_ioctl(struct trace_event_raw_sys_exit *ctx)
{
	u32 command;

	if (ctx->ret)
		return 0;
	command = pl_argument(1);
	if (command == TIOCSCTTY || command == TIOCNOTTY)
		pl_session_changed(0, (void *)bpf_get_current_task_btf());
	return 0;
}

/* A leader of a session that has no terminal takes the one that it opens. */
static __always_inline void pl_opened(long ret)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	struct pl_pid *entry;

	if (ret < 0 || !task->signal->leader || !task->signal->tty)
		return;
	entry = pl_find_pid(task->tgid, task->group_leader->start_boottime);
	if (!entry || !entry->tty[0])
		pl_session_changed(0, task);
}

#define PL_AFTER_OPEN(call)                                                                                             \
	SEC("tp/syscalls/sys_exit_" #call)                                                                              \
	int pl_##call(struct trace_event_raw_sys_exit *ctx)                                                             \
	{                                                                                                               \
		pl_opened(ctx->ret);                                                                                    \
		return 0;                                                                                               \
	}

PL_AFTER_OPEN(openat)
PL_AFTER_OPEN(openat2)
PL_AFTER_OPEN(open) /* not on every architecture */

/* A login uid is a number that is written to /proc/self/loginuid, by its own thread. Nothing tells which file a write was to
 * but what can be compared: the process with what was last recorded of it. Longer texts are no such number. */
#define PL_NUMBER_MAX 64

/* The last process of each CPU that was compared and did not differ. What counts as a difference after it has changed once
 * more is another number of changes. */
struct pl_login {
	u64 start_boot_ns;
	u32 tgid;
	u32 auid;
	u32 audit_session;
	u32 changes;
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct pl_login);
} pl_login_buf SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} pl_login_changes SEC(".maps");

static __always_inline void pl_written(long ret)
{
	struct task_struct *task;
	struct pl_login *last;
	struct pl_pid *entry;
	u32 zero = 0, *changes, auid, session;

	if (ret <= 0 || ret > PL_NUMBER_MAX)
		return;
	task = (void *)bpf_get_current_task_btf();
	last = bpf_map_lookup_elem(&pl_login_buf, &zero);
	changes = bpf_map_lookup_elem(&pl_login_changes, &zero);
	if (task->pid != task->tgid || !last || !changes)
		return;
	auid = task->loginuid.val;
	session = task->sessionid;
	if (last->tgid == (u32)task->tgid && last->start_boot_ns == task->start_boottime && last->auid == auid &&
	    last->audit_session == session && last->changes == *changes)
		return;
	entry = pl_find_pid(task->tgid, task->start_boottime);
	if (!entry)
		return; /* nothing to compare with; writes are too many to record every process that is new here */
	if (entry->auid != auid || entry->audit_session != session) {
		__sync_fetch_and_add(changes, 1);
		pl_cred_changed(0);
		return;
	}
	last->start_boot_ns = task->start_boottime;
	last->tgid = task->tgid;
	last->auid = auid;
	last->audit_session = session;
	last->changes = *changes;
}

#define PL_AFTER_WRITE(call)                                                                                            \
	SEC("tp/syscalls/sys_exit_" #call)                                                                              \
	int pl_##call(struct trace_event_raw_sys_exit *ctx)                                                             \
	{                                                                                                               \
		pl_written(ctx->ret);                                                                                   \
		return 0;                                                                                               \
	}

PL_AFTER_WRITE(write)
PL_AFTER_WRITE(writev)
PL_AFTER_WRITE(pwrite64)
