/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The SSH variables in the environment of the first program of an SSH session. Processes that cannot be a child of sshd
 * are not searched. */
#ifndef PROCLINE_SSH_BPF_H
#define PROCLINE_SSH_BPF_H

/* Limits of the search: strings of the environment, and bytes of each. An SSH_CONNECTION has 139 bytes at most. */
#define PL_SSH_STRINGS 512
#define PL_SSH_STRING_MAX 256
#define PL_SSH_BYTES_MAX 512

struct pl_ssh {
	u64 from; /* address of the next string */
	u32 kept; /* bytes in `text` */
	u32 is_rest; /* the next string is the rest of one that is longer than `piece` */
	char piece[PL_SSH_STRING_MAX];
	/* An offset below the limit, plus a string, stays inside for the verifier. */
	char text[PL_SSH_BYTES_MAX + PL_SSH_STRING_MAX];
};

struct pl_ssh_search {
	struct pl_ssh *ssh;
	u64 end;
};

#ifdef PL_OLD
/* The object that includes this file defines it. */
static __always_inline struct pl_ssh *pl_ssh_at(void);
#endif

/* Read the next string of the environment, and keep it if it is one of the SSH variables. */
PL_STEP(pl_search_ssh_string, pl_ssh_search)
{
	struct pl_ssh *ssh = PL_HELD(state->ssh, pl_ssh_at());
	bool is_rest;
	u32 at, bytes;
	long length;

	if (PL_IS_MISSING(ssh))
		return 1;
	is_rest = ssh->is_rest;
	at = ssh->kept;
	if (ssh->from >= state->end)
		return 1;
	length = bpf_probe_read_user_str(ssh->piece, sizeof(ssh->piece), (void *)ssh->from);
	if (length < 0)
		return 1;
	if (!length) /* Linux 6.12 does not count the NUL of an empty string. */
		length = 1;
	ssh->is_rest = length == sizeof(ssh->piece);
	ssh->from += length - ssh->is_rest;
	if (is_rest || ssh->is_rest ||
	    (__builtin_memcmp(ssh->piece, "SSH_CONNECTION=", 15) && __builtin_memcmp(ssh->piece, "SSH_CLIENT=", 11)))
		return 0;
	bytes = length;
	asm volatile("" : "+r"(bytes));
	if (bytes > sizeof(ssh->piece) || at + bytes >= PL_SSH_BYTES_MAX)
		return 0;
	bpf_probe_read_kernel(ssh->text + (at & (PL_SSH_BYTES_MAX - 1)), bytes, ssh->piece);
	ssh->kept = at + bytes;
	return 0;
}

/* Whether the comm begins with "sshd". The first process of a session keeps sshd's name until its exec. */
static __always_inline bool pl_has_sshd_name(const struct task_struct *task)
{
	return PL_GET(task, comm[0]) == 's' && PL_GET(task, comm[1]) == 's' && PL_GET(task, comm[2]) == 'h' &&
	       PL_GET(task, comm[3]) == 'd';
}

/* The number of the initial user namespace: PROC_USER_INIT_INO of include/linux/proc_ns.h. */
#define PL_INITIAL_USER_NS 0xEFFFFFFDU

static __always_inline bool pl_runs_as_host_root(const struct task_struct *task)
{
	const struct cred *cred = PL_GET(task, real_cred);

	return !PL_GET(cred, uid.val) && !PL_GET(cred, euid.val) &&
	       PL_GET(cred, user_ns, ns.inum) == PL_INITIAL_USER_NS;
}

/* Any user can start a program named sshd, so the name counts only if root runs it in the initial user namespace. sshd
 * drops root's rights before it forks the user's shell; there the parent must be such a process. The resolver checks
 * whether the file is the host's sshd. */
static __always_inline bool pl_may_be_sshd(const struct task_struct *task)
{
	const struct task_struct *parent = PL_GET(task, real_parent, group_leader);

	return pl_has_sshd_name(task) &&
	       (pl_runs_as_host_root(task) || (pl_has_sshd_name(parent) && pl_runs_as_host_root(parent)));
}

/* Copy the variables in which sshd describes its client to the first program of a session. That program may end before
 * user space can read its environment (`ssh HOST true`), so they are copied here, even if environments are not
 * captured. The copy ends with an empty string, which says that the whole environment was searched. Returns the bytes
 * of the copy; 0 if the environment was not searched. */
static __always_inline u32 pl_copy_ssh_variables(struct pl_ssh *ssh, struct task_struct *task, u64 from, u64 end)
{
	struct pl_ssh_search search = { .ssh = ssh, .end = end };
	u32 kept;

	if (!pl_may_be_sshd(PL_GET(task, real_parent, group_leader)) || pl_has_sshd_name(task) ||
	    pl_is_outside(PL_GET(task, real_parent)))
		return 0;
	ssh->from = from;
	ssh->kept = 0;
	ssh->is_rest = 0;
	PL_LOOP(PL_SSH_STRINGS, pl_search_ssh_string, 0, &search);
	kept = ssh->kept;
	if (!kept && ssh->from < end)
		return 0;
	ssh->text[kept & (PL_SSH_BYTES_MAX - 1)] = 0;
	return kept + 1;
}

#endif
