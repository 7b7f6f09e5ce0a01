/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The current task's system call, from its registers. At the end of the call they still have the values of its
 * start. */
#ifndef PROCLINE_CALL_BPF_H
#define PROCLINE_CALL_BPF_H

#define TS_COMPAT 0x0002		 /* arch/x86/include/asm/thread_info.h */
#define __X32_SYSCALL_BIT 0x40000000 /* arch/x86/include/uapi/asm/unistd.h */

/* Whether it is a 32-bit x86 system call, which has other numbers and registers. 64-bit programs can make these too. */
static __always_inline bool pl_is_i386_call(struct task_struct *task)
{
	return bpf_core_field_exists(task->thread_info.status) && task->thread_info.status & TS_COMPAT;
}

/* `number` is a constant, 0 or 1. */
static __always_inline u64 pl_argument(u32 number)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	struct pt_regs *x86 = (void *)bpf_task_pt_regs(task);
	struct pt_regs___aarch64 *arm64 = (void *)x86;

	if (bpf_core_field_exists(x86->di)) {
		if (pl_is_i386_call(task))
			return number ? x86->cx : x86->bx;
		return number ? x86->si : x86->di;
	}
	if (bpf_core_field_exists(arm64->orig_x0))
		return number ? arm64->regs[1] : arm64->orig_x0;
	return 0;
}

#endif
