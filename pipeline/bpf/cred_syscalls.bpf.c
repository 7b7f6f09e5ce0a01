// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Changes of credentials and session where neither trampolines nor kprobes may be attached: at the end of the system
 * calls that make them. Attach kind: tp/syscalls.
 *
 * Every system call of the host is slowed a little as long as one such tracepoint is in use (it leaves the kernel by the
 * slow path), however many there are; the calls that are traced, by some more. Not seen at once: a login uid, which is
 * written to a file; a terminal taken by open(); calls of 32-bit programs, which these tracepoints leave out. The
 * process's next record tells of them. */
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
/* Only of the caller itself: a shell moves its children, which then do it once more themselves. */
PL_AFTER_SESSION(setpgid)

/* TIOCSCTTY and TIOCNOTTY. Which call it was is not told at its end; only the leader of a session has a say in what its
 * terminal is, which leaves out nearly everybody. */
SEC("tp/syscalls/sys_exit_ioctl")
int pl_ioctl(struct trace_event_raw_sys_exit *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();

	if (ctx->ret == 0 && task->signal->leader)
		pl_session_changed(0, task);
	return 0;
}
