/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Arguments of the system call that the current task is in: its registers, as it came into the kernel, still have them at
 * the call's end. */
#ifndef PROCLINE_CALL_BPF_H
#define PROCLINE_CALL_BPF_H

/* `number` is a constant, 0 or 1. */
static __always_inline u64 pl_argument(u32 number)
{
	struct pt_regs *x86 = (void *)bpf_task_pt_regs((struct task_struct *)bpf_get_current_task_btf());
	struct pt_regs___arm64 *arm64 = (void *)x86;

	if (bpf_core_field_exists(x86->di))
		return number ? x86->si : x86->di;
	if (bpf_core_field_exists(arm64->orig_x0))
		return number ? arm64->regs[1] : arm64->orig_x0;
	return 0;
}

#endif
