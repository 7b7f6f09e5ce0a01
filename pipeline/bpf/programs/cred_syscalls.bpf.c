// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Changes of credentials and session on kernels that allow neither trampolines nor kprobes: at the end of the system
 * calls that make them. Attach kind: tp/syscalls, and tp_btf for 32-bit system calls.
 *
 * While at least one such tracepoint is in use, every system call of the host is slower, because it leaves the kernel
 * by the slow path. Traced calls are slower still. */
#include "program.bpf.h"
/* Programs on tracepoints of single calls share buffer 0, because they never interrupt each other on the same CPU: they
 * run with preemption disabled, and where they do not (Linux 7), the kernel skips all of them on a CPU until the one
 * that was preempted there ends (bpf_prog_active, kernel/trace/bpf_trace.c). The raw tracepoint can be preempted on
 * newer kernels: it has buffer 1. */
#define PL_CHANGE_BUFFERS 2
#define PL_NATIVE 0
#define PL_COMPAT 1
#include "change.bpf.h"
#include "call.bpf.h"
#include "group.bpf.h"

/* What may have changed after a call that returned `ret`; further arguments are those of the call. */

static __always_inline void pl_after_cred(u32 index, long ret)
{
	if (ret >= 0)
		pl_cred_changed(index);
}

static __always_inline void pl_after_session(u32 index, long ret)
{
	if (ret >= 0)
		pl_session_changed(index, pl_current());
}

/* The group of the caller, or of a child that the first argument identifies. */
static __always_inline void pl_after_setpgid(u32 index, long ret, int nr)
{
	if (ret == 0)
		pl_group_changed(index, nr);
}

/* include/uapi/asm-generic/ioctls.h */
#define TIOCSCTTY 0x540E
#define TIOCNOTTY 0x5422

/* The leader of a session acquires a terminal. Any process can release it: the leader for the whole session, others for
 * themselves. */
static __always_inline void pl_after_ioctl(u32 index, long ret, u32 command)
{
	if (ret == 0 && (command == TIOCSCTTY || command == TIOCNOTTY))
		pl_session_changed(index, pl_current());
}

/* The leader of a session without a terminal acquires the terminal that it opens. */
static __always_inline void pl_after_open(u32 index, long ret)
{
	struct task_struct *task = pl_current();
	struct signal_struct *signal;
	struct pl_pid *entry;

	if (ret < 0)
		return;
	signal = PL_GET(task, signal);
	if (!PL_GET(signal, leader) || !PL_GET(signal, tty))
		return;
	entry = pl_find_pid(pl_scoped_tgid(task), PL_GET(task, group_leader, start_boottime));
	if (!entry || !entry->tty[0])
		pl_session_changed(index, task);
}

/* A login uid is a number that a thread writes to its own /proc/self/loginuid. The file of a write is not known here,
 * so the process is compared with its last record. Longer writes are not such a number. */
#define PL_NUMBER_MAX 64

/* The last process of each CPU that was compared and did not differ. `changes` is the count at that time: after another
 * change the process is compared again. */
struct pl_login {
	u64 start_boot_ns;
	u32 tgid;
	u32 auid;
	u32 audit_session;
	u32 changes;
};
PL_SCRATCH(pl_login_buf, struct pl_login, PL_CHANGE_BUFFERS);
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} pl_login_changes SEC(".maps");

static __always_inline void pl_after_write(u32 index, long ret)
{
	struct task_struct *task;
	struct pl_login *last;
	struct pl_pid *entry;
	u32 zero = 0, *changes, tgid, auid, session;
	u64 start_boot_ns, ids;

	if (ret <= 0 || ret > PL_NUMBER_MAX)
		return;
	task = pl_current();
	last = bpf_map_lookup_elem(&pl_login_buf, &index);
	changes = bpf_map_lookup_elem(&pl_login_changes, &zero);
	ids = bpf_get_current_pid_tgid();
	tgid = ids >> 32;
	if ((u32)ids != tgid || !last || !changes)
		return;
	start_boot_ns = PL_GET(task, start_boottime);
	auid = PL_GET(task, loginuid.val);
	session = PL_GET(task, sessionid);
	if (last->tgid == tgid && last->start_boot_ns == start_boot_ns && last->auid == auid &&
	    last->audit_session == session && last->changes == *changes)
		return;
	entry = pl_find_pid(pl_scoped_tgid(task), start_boot_ns);
	if (!entry)
		return; /* nothing to compare with; there are too many writes to record every unknown process */
	if (entry->auid != auid || entry->audit_session != session) {
		__sync_fetch_and_add(changes, 1);
		pl_cred_changed(index);
		return;
	}
	last->start_boot_ns = start_boot_ns;
	last->tgid = tgid;
	last->auid = auid;
	last->audit_session = session;
	last->changes = *changes;
}

#define PL_AFTER(call, after, ...)                                                                                     \
	SEC("tp/syscalls/sys_exit_" #call)                                                                             \
	int pl_##call(struct trace_event_raw_sys_exit *ctx)                                                            \
	{                                                                                                              \
		pl_after_##after(PL_NATIVE, ctx->ret, ##__VA_ARGS__);                                                  \
		return 0;                                                                                              \
	}

PL_AFTER(setuid, cred)
PL_AFTER(setgid, cred)
PL_AFTER(setreuid, cred)
PL_AFTER(setregid, cred)
PL_AFTER(setresuid, cred)
PL_AFTER(setresgid, cred)
PL_AFTER(setfsuid, cred) /* returns the previous id, even if it changed nothing */
PL_AFTER(setfsgid, cred)
PL_AFTER(capset, cred)
/* A new user namespace gives all capabilities in it. Each thread has its own namespaces of the other kinds, too. */
PL_AFTER(unshare, cred)
PL_AFTER(setns, cred)
PL_AFTER(setsid, session)
PL_AFTER(setpgid, setpgid, pl_argument(pl_call_registers(ctx), 0))
PL_AFTER(ioctl, ioctl, pl_argument(pl_call_registers(ctx), 1))
PL_AFTER(openat, open)
PL_AFTER(openat2, open)
PL_AFTER(open, open) /* not on every architecture */
PL_AFTER(write, write)
PL_AFTER(writev, write)
PL_AFTER(pwrite64, write)
PL_AFTER(pwritev, write)
PL_AFTER(pwritev2, write)

/* The tracepoints above skip 32-bit system calls, which have other numbers. Any program can make these (int 0x80), not
 * only a 32-bit one. All hooks at the end of every call see them too, and this hook costs the other calls
 * least. */

/* arch/x86/entry/syscalls/syscall_32.tbl */
static __noinline void pl_after_i386(struct pt_regs *regs, u32 call, long ret)
{
	switch (call) {
	case 23: /* setuid, setgid, setreuid, setregid, setfsuid, setfsgid, setresuid and setresgid of 16-bit ids */
	case 46:
	case 70:
	case 71:
	case 138:
	case 139:
	case 164:
	case 170:
	case 203: /* setreuid, setregid, setresuid, setresgid, setuid, setgid, setfsuid, setfsgid */
	case 204:
	case 208:
	case 210:
	case 213:
	case 214:
	case 215:
	case 216:
	case 185: /* capset */
	case 310: /* unshare */
	case 346: /* setns */
		pl_after_cred(PL_COMPAT, ret);
		break;
	case 66: /* setsid */
		pl_after_session(PL_COMPAT, ret);
		break;
	case 57: /* setpgid */
		pl_after_setpgid(PL_COMPAT, ret, pl_argument(regs, 0));
		break;
	case 54: /* ioctl */
		pl_after_ioctl(PL_COMPAT, ret, pl_argument(regs, 1));
		break;
	case 5:	  /* open */
	case 295: /* openat */
	case 437: /* openat2 */
		pl_after_open(PL_COMPAT, ret);
		break;
	case 4:	  /* write */
	case 146: /* writev */
	case 181: /* pwrite64 */
	case 334: /* pwritev */
	case 379: /* pwritev2 */
		pl_after_write(PL_COMPAT, ret);
		break;
	}
}

/* arch/x86/entry/syscalls/syscall_64.tbl: the 64-bit numbers, except for calls with arguments of another size. */
static __noinline void pl_after_x32(struct pt_regs *regs, u32 call, long ret)
{
	switch (call & ~__X32_SYSCALL_BIT) {
	case 105: /* setuid, setgid, setreuid, setregid, setresuid, setresgid, setfsuid, setfsgid */
	case 106:
	case 113:
	case 114:
	case 117:
	case 119:
	case 122:
	case 123:
	case 126: /* capset */
	case 272: /* unshare */
	case 308: /* setns */
		pl_after_cred(PL_COMPAT, ret);
		break;
	case 112: /* setsid */
		pl_after_session(PL_COMPAT, ret);
		break;
	case 109: /* setpgid */
		pl_after_setpgid(PL_COMPAT, ret, pl_argument(regs, 0));
		break;
	case 514: /* ioctl */
		pl_after_ioctl(PL_COMPAT, ret, pl_argument(regs, 1));
		break;
	case 2:	  /* open */
	case 257: /* openat */
	case 437: /* openat2 */
		pl_after_open(PL_COMPAT, ret);
		break;
	case 1:	  /* write */
	case 18:  /* pwrite64 */
	case 516: /* writev */
	case 535: /* pwritev */
	case 547: /* pwritev2 */
		pl_after_write(PL_COMPAT, ret);
		break;
	}
}

SEC("tp_btf/sys_exit")
int BPF_PROG(pl_compat, struct pt_regs *regs, long ret)
{
	u32 call;

	if (!bpf_core_field_exists(regs->orig_ax))
		return 0;
	call = regs->orig_ax; /* typed in both sets, as an argument of the program */
	if (pl_is_i386_call(pl_current()))
		pl_after_i386(regs, call, ret);
	else if (call & __X32_SYSCALL_BIT)
		pl_after_x32(regs, call, ret);
	return 0;
}
