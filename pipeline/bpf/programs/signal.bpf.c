// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* The process that sent the signal that ends another one (capture.signal_senders). Attach kind: tp_btf. The sender is
 * kept in pl_senders until an exit by a signal takes it, or another one needs its place; no record is written here. */
#include "program.bpf.h"

/* include/uapi/asm-generic/siginfo.h: the codes of kill(), sigqueue() and tgkill(). Other codes are the kernel's, which
 * has no sender: the current process is whichever was interrupted. */
#define SI_USER 0
#define SI_QUEUE -1
#define SI_TKILL -6

/* include/trace/events/signal.h: the signal will be delivered, or without its siginfo. If the process ignores it, or
 * the same signal waits already, this one ends nothing. */
#define TRACE_SIGNAL_DELIVERED 0
#define TRACE_SIGNAL_LOSE_INFO 4

/* The signals that end no process unless it asks for it. Language runtimes send SIGURG to their own threads all the
 * time. */
#define PL_STOPS (1ull << SIGCONT | 1ull << SIGSTOP | 1ull << SIGTSTP | 1ull << SIGTTIN | 1ull << SIGTTOU)
#define PL_HARMLESS (PL_STOPS | 1ull << SIGCHLD | 1ull << SIGURG | 1ull << SIGWINCH)

/* Every signal of the host passes here, with siglock held. */
SEC("tp_btf/signal_generate")
int BPF_PROG(pl_on_sent, int sig, const struct kernel_siginfo *info, struct task_struct *task, int group, int result)
{
	struct task_struct *leader = PL_GET(task, group_leader);
	struct task_struct *current;
	struct pl_target target = {};
	struct pl_sender *known;
	struct pl_sender sender = {};
	int code;

	if (sig <= 0 || sig > 64 || (sig < 64 && PL_HARMLESS >> sig & 1))
		return 0;
	if (result != TRACE_SIGNAL_DELIVERED && result != TRACE_SIGNAL_LOSE_INFO)
		return 0;
	target.start_boot_ns = PL_GET(leader, start_boottime);
	target.tgid = PL_GET(task, tgid);
	known = bpf_map_lookup_elem(&pl_senders, &target);
	/* 0 and 1 stand for signals of the kernel. */
	code = 1;
	if ((u64)info > 1)
		bpf_probe_read_kernel(&code, sizeof(code),
				      (const char *)info + bpf_core_field_offset(struct kernel_siginfo, si_code));
	if (code != SI_USER && code != SI_QUEUE && code != SI_TKILL) {
		/* The kernel's own: an earlier sender of this signal did not end the process. */
		if (known && known->sender_signal == (u32)sig)
			bpf_map_delete_elem(&pl_senders, &target);
		return 0;
	}
	current = pl_current();
	sender.sender_start_boot_ns = PL_GET(current, group_leader, start_boottime);
	/* Repeated signals of one sender cost a look-up only. */
	if (known && known->sender_start_boot_ns == sender.sender_start_boot_ns && known->sender_signal == (u32)sig)
		return 0;
	/* SIGKILL is final, whatever is sent after it. */
	if (known && known->sender_signal == SIGKILL)
		return 0;
	sender.sender_tgid = pl_scoped_tgid(current);
	sender.sender_uid = (u32)bpf_get_current_uid_gid();
	sender.sender_signal = sig;
	bpf_get_current_comm(sender.sender_comm, sizeof(sender.sender_comm));
	bpf_map_update_elem(&pl_senders, &target, &sender, BPF_ANY);
	return 0;
}
