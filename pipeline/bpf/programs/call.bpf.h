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
	return bpf_core_field_exists(task->thread_info.status) && PL_GET(task, thread_info.status) & TS_COMPAT;
}

/* The registers, for a program on the tracepoint of a single call, which has the context `ctx`. */
static __always_inline struct pt_regs *pl_call_registers(void *ctx)
{
#ifdef PL_OLD
	struct pt_regs *registers = NULL;

	/* Before Linux 5.15 there is no such helper. There the context begins with the address of the registers. A
	 * program may not load it, so it is read as other kernel memory is. */
	if (!bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs)) {
		bpf_probe_read_kernel(&registers, sizeof(registers), ctx);
		return registers;
	}
#endif
	return (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
}

/* `number` is a constant, 0 or 1. */
static __always_inline u64 pl_argument(struct pt_regs *x86, u32 number)
{
	struct pt_regs___aarch64 *arm64 = (void *)x86;

	if (bpf_core_field_exists(x86->di)) {
		if (pl_is_i386_call(pl_current()))
			return number ? PL_GET(x86, cx) : PL_GET(x86, bx);
		return number ? PL_GET(x86, si) : PL_GET(x86, di);
	}
	if (bpf_core_field_exists(arm64->orig_x0))
		return number ? PL_GET(arm64, regs[1]) : PL_GET(arm64, orig_x0);
	return 0;
}

#endif
