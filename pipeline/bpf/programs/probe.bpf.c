// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* One empty program of each attach kind that Procline uses, to test which kinds a kernel accepts. probe.py loads them
 * one at a time. The credentials tier needs commit_creds(). The last program is run by the loader, see there. */
#include "vmlinux_min.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "kfuncs.bpf.h"
#include "sets.bpf.h"
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

#ifndef PL_OLD
/* What the newer set of objects needs, one program for each thing. */

SEC("tp_btf/sched_process_exec")
int BPF_PROG(pl_try_cast, struct task_struct *task)
{
	return ((struct task_struct *)bpf_rdonly_cast(task, bpf_core_type_id_kernel(struct task_struct)))->pid == 1;
}

static long pl_no_step(u64 i, u64 *state)
{
	(*state)++;
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(pl_try_loop, struct task_struct *task)
{
	u64 state = 0;

	bpf_loop(64, pl_no_step, &state, 0);
	return state == 1;
}

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536); /* a page is larger on some machines */
} pl_try_ring SEC(".maps");

SEC("tp_btf/sched_process_exec")
int BPF_PROG(pl_try_dynptr, struct task_struct *task)
{
	struct bpf_dynptr data;

	bpf_ringbuf_reserve_dynptr(&pl_try_ring, 8, 0, &data);
	bpf_ringbuf_discard_dynptr(&data, BPF_RB_NO_WAKEUP);
	return 0;
}

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} pl_try_word SEC(".maps");

SEC("tp_btf/sched_process_exec")
int BPF_PROG(pl_try_fetch, struct task_struct *task)
{
	u32 zero = 0;
	u64 *word = bpf_map_lookup_elem(&pl_try_word, &zero);

	return word && __sync_fetch_and_add(word, 1) == 1;
}
#endif

/* The pid namespace of the process that runs this program: its level if the first argument is 0, else its inode. Only
 * the kernel knows the level: a process cannot see the namespaces above its own. Nothing attaches the program. A
 * program of the type "syscall" could return both, but needs Linux 5.14. */
SEC("raw_tp")
int pl_own_scope(const u64 *arguments)
{
	struct task_struct *task = pl_current();
	struct pid *pid = PL_GET(task, thread_pid);

	u32 level = PL_GET(pid, level);
	const struct upid *upid = pl_upid(pid, level);

	return arguments[0] ? PL_GET(upid, ns, ns.inum) : level;
}
