// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Changes of credentials and session, seen in the kernel functions that make them. Attach kind: fexit, and fentry for
 * two programs. It costs time only in those functions. The tier needs pl_commit_creds; the loader skips any other
 * program if this kernel lacks its function or has inlined it.
 *
 * Trampolines can be preempted, so each program has a buffer of its own (no program interrupts itself). */
#include "program.bpf.h"
#define PL_CHANGE_BUFFERS 8
#include "change.bpf.h"

/* Every change of credentials ends here, always for the current thread. */
SEC("fexit/commit_creds")
int pl_commit_creds(void *ctx)
{
	pl_cred_changed(0);
	return 0;
}

SEC("fexit/audit_set_loginuid")
int pl_set_loginuid(void *ctx)
{
	pl_cred_changed(1);
	return 0;
}

/* setsid(), and setpgid(), which can also move a child. */
SEC("fexit/change_pid")
int pl_change_pid(void *ctx)
{
	u64 task = 0;

#ifdef PL_OLD
	task = *(u64 *)ctx;
#else
	/* Since Linux 6.15 there is an argument before the task. */
	bpf_get_func_arg(ctx, bpf_get_func_arg_cnt(ctx) == 4, &task);
#endif
	pl_pid_changed(2, PL_AS(struct task_struct, (void *)task));
	return 0;
}

/* The end of setsid(). If a whole session loses its terminal, the leader's record reports it. */
SEC("fexit/proc_clear_tty")
int pl_clear_tty(void *ctx)
{
	pl_session_changed(3, pl_current());
	return 0;
}

/* The leader of a session acquires a terminal: it opens it, or calls ioctl(TIOCSCTTY). */
SEC("fexit/__proc_set_tty")
int pl_tty_set(void *ctx)
{
	pl_session_changed(4, pl_current());
	return 0;
}

SEC("fentry/disassociate_ctty")
int pl_tty_release(u64 *ctx)
{
	pl_before_release(6, (int)ctx[0]);
	return 0;
}

SEC("fentry/tty_ldisc_hangup")
int pl_tty_hangup(void *ctx)
{
	pl_hung_up(7, PL_AS(struct tty_struct, (void *)*(u64 *)ctx));
	return 0;
}

/* unshare() and setns(); they act on a thread, and the process's namespaces are its leader's. */
SEC("fexit/switch_task_namespaces")
int pl_switch_ns(void *ctx)
{
	pl_cred_changed(5);
	return 0;
}
