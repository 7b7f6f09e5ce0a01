// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* One empty program of each attach kind that Procline uses, to test which kinds a kernel accepts. probe.py loads them
 * one at a time. The credentials tier needs commit_creds(). */
#include "vmlinux_min.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

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
