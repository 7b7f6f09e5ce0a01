// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* One empty program of each attach kind that Procline uses, to test which kinds a kernel accepts. probe.py loads them
 * one at a time. The credentials tier needs commit_creds(). The last program is run by the loader, see there. */
#include "vmlinux_min.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "kfuncs.bpf.h"
#include "scope.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("tp_btf/sched_process_exec")
int BPF_PROG(pl_try_tp_btf, struct task_struct *task)
{
	return 0;
}

SEC("iter/task")
int pl_try_iter(struct bpf_iter__task *ctx)
{
	return 0;
}

SEC("fentry/commit_creds")
int BPF_PROG(pl_try_fentry, struct cred *cred)
{
	return 0;
}

SEC("kprobe/commit_creds")
int pl_try_kprobe(void *ctx)
{
	return 0;
}

SEC("tp/syscalls/sys_exit_setuid")
int pl_try_tp_syscalls(void *ctx)
{
	return 0;
}

/* The pid namespace of the process that runs this program. Only the kernel knows the level: a process cannot see the
 * namespaces above its own. */
SEC("syscall")
int pl_own_scope(struct pl_scope *scope)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	struct pid *pid = task->thread_pid;

	scope->level = pid->level;
	scope->pid_ns = pl_upid(pid, pid->level)->ns->ns.inum;
	return 0;
}
