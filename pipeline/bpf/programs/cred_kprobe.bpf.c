// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Changes of credentials and session, seen as the kernel functions that make them return. Attach kind: kretprobe, for
 * kernels without trampolines; kprobe for some programs. Like cred_fentry.bpf.c, but the arguments of functions that
 * return are no longer there. */
#include "program.bpf.h"
/* Programs of this kind run with preemption disabled and never interrupt each other on the same CPU. */
#define PL_CHANGE_BUFFERS 1
#include "change.bpf.h"
#ifndef PL_OLD
#include "call.bpf.h"
#include "group.bpf.h"
#endif

#define PL_AFTER_CRED(name, function)                                                                                  \
	SEC("kretprobe/" #function)                                                                                    \
	int name(void *ctx)                                                                                            \
	{                                                                                                              \
		pl_cred_changed(0);                                                                                    \
		return 0;                                                                                              \
	}

#define PL_AFTER_SESSION(name, function)                                                                               \
	SEC("kretprobe/" #function)                                                                                    \
	int name(void *ctx)                                                                                            \
	{                                                                                                              \
		pl_session_changed(0, pl_current());                                                                   \
		return 0;                                                                                              \
	}

PL_AFTER_CRED(pl_commit_creds, commit_creds)
PL_AFTER_CRED(pl_set_loginuid, audit_set_loginuid)
PL_AFTER_CRED(pl_switch_ns, switch_task_namespaces)
PL_AFTER_SESSION(pl_clear_tty, proc_clear_tty) /* the end of setsid() */
PL_AFTER_SESSION(pl_tty_set, __proc_set_tty)

/* The first argument of a function, at its entry. */
static __always_inline void *pl_first_argument(void *ctx)
{
	struct pt_regs *x86 = ctx;
	struct pt_regs___aarch64 *arm64 = ctx;

	if (bpf_core_field_exists(x86->di))
		return (void *)BPF_CORE_READ(x86, di);
	if (bpf_core_field_exists(arm64->orig_x0))
		return (void *)BPF_CORE_READ(arm64, regs[0]);
	return NULL;
}

SEC("kprobe/disassociate_ctty")
int pl_tty_release(void *ctx)
{
	pl_before_release(0, (long)pl_first_argument(ctx));
	return 0;
}

SEC("kprobe/tty_ldisc_hangup")
int pl_tty_hangup(void *ctx)
{
	pl_hung_up(0, PL_AS(struct tty_struct, pl_first_argument(ctx)));
	return 0;
}

#ifdef PL_OLD

/* The process that change_pid() moves; 0: none. There is one at a time on the host, because callers of change_pid()
 * hold tasklist_lock. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} pl_moved_map SEC(".maps");

/* The first argument, on the kernels that this set is for: since Linux 6.15 there is another before it. */
SEC("kprobe/change_pid")
int pl_move_pid(void *ctx)
{
	u32 zero = 0;
	u64 *moved = bpf_map_lookup_elem(&pl_moved_map, &zero);

	if (moved)
		*moved = (u64)pl_first_argument(ctx);
	return 0;
}

/* setsid(), and setpgid(), which can also move a child. */
SEC("kretprobe/change_pid")
int pl_change_pid(void *ctx)
{
	u32 zero = 0;
	u64 *moved = bpf_map_lookup_elem(&pl_moved_map, &zero);
	u64 task = moved ? *moved : 0;

	if (!task)
		return 0;
	*moved = 0;
	pl_pid_changed(0, PL_AS(struct task_struct, task));
	return 0;
}

#else

/* setsid() or setpgid(); neither the call nor the moved process is known here. */
SEC("kretprobe/change_pid")
int pl_change_pid(void *ctx)
{
	pl_group_changed(0, pl_argument(pl_call_registers(ctx), 0));
	return 0;
}

#endif
