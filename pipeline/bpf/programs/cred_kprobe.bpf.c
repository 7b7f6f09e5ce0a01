// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Changes of credentials and session, seen as the kernel functions that make them return. Attach kind: kretprobe, for
 * kernels without trampolines; kprobe for one program. Like cred_fentry.bpf.c, but the arguments of functions that
 * return are no longer there. */
#include "program.bpf.h"
/* Programs of this kind run with preemption disabled and never interrupt each other on the same CPU. */
#define PL_CHANGE_BUFFERS 1
#include "change.bpf.h"
#include "call.bpf.h"
#include "group.bpf.h"

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
		pl_session_changed(0, (void *)bpf_get_current_task_btf());                                             \
		return 0;                                                                                              \
	}

PL_AFTER_CRED(pl_commit_creds, commit_creds)
PL_AFTER_CRED(pl_set_loginuid, audit_set_loginuid)
PL_AFTER_CRED(pl_switch_ns, switch_task_namespaces)
PL_AFTER_SESSION(pl_clear_tty, proc_clear_tty) /* the end of setsid() */
PL_AFTER_SESSION(pl_tty_ioctl, tty_jobctrl_ioctl)
PL_AFTER_SESSION(pl_tty_open, tty_open_proc_set_tty)

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

SEC("kprobe/tty_ldisc_hangup")
int pl_tty_hangup(void *ctx)
{
	pl_hung_up(0, PL_AS(struct tty_struct, pl_first_argument(ctx)));
	return 0;
}

/* setsid() or setpgid(); neither the call nor the moved process is known here. */
SEC("kretprobe/change_pid")
int pl_change_pid(void *ctx)
{
	pl_group_changed(0, pl_argument(0));
	return 0;
}
