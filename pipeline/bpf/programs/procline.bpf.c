// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Processes being born, changing image and dying: one program each on the scheduler's tracepoints. Attach kind: tp_btf.
 * Credentials and other changes in between are other objects, so that a kernel that refuses those still loads this one.
 *
 * Each program first gathers a record in a scratch buffer of its own and of this CPU, then asks for room. A program is
 * never nested in itself (the kernel skips and counts that), and these run in process context only. */
#include "vmlinux_min.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "records.h"
#include "shared.h"
#include "kfuncs.bpf.h"
#include "maps.bpf.h"
#include "ring.bpf.h"
#include "task.bpf.h"
#include "path.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* ---- fork ---- */

struct pl_fork_record {
	struct pl_head head;
	struct pl_task task;
	struct pl_fork fork;
};
struct pl_fork_scratch {
	struct pl_fork_record record;
	struct pl_pid pid;
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct pl_fork_scratch);
} pl_fork_buf SEC(".maps");

/* Not at sched_process_fork, which comes a moment later and has not got the flags. */
SEC("tp_btf/task_newtask")
int BPF_PROG(pl_on_fork, struct task_struct *child, u64 clone_flags)
{
	u32 zero = 0;
	struct pl_fork_scratch *buf;
	struct pl_settings *settings;
	struct pl_cpu *cpu;
	struct pl_pid *from;
	struct task_struct *creator;
	struct pl_slot slot;
	enum pl_room room;
	u64 creator_start;
	u32 creator_tgid;

	/* Threads and kernel threads are no processes. Counted, so that forks can be compared with /proc/stat. */
	if (child->pid != child->tgid || child->flags & PF_KTHREAD) {
		cpu = pl_this_cpu();
		if (cpu)
			pl_count(child->flags & PF_KTHREAD ? &cpu->kthreads_forked : &cpu->threads_forked);
		return 0;
	}
	buf = bpf_map_lookup_elem(&pl_fork_buf, &zero);
	settings = pl_get_settings();
	if (!buf || !settings || !(settings->flags & PL_CAPTURE_ON))
		return 0;

	pl_fill_head(&buf->record.head, child);
	pl_fill_task(&buf->record.task, child);
	/* With CLONE_PARENT the forking process is not the parent. */
	creator = (void *)bpf_get_current_task_btf();
	creator_tgid = creator->tgid;
	creator_start = creator->group_leader->start_boottime;
	buf->record.fork.creator_start_boot_ns = creator_start;
	buf->record.fork.creator_tgid = creator_tgid;
	buf->record.fork.creator_tid = creator->pid;
	buf->record.fork.clone_flags = clone_flags;

	/* The image is the creator's until the child execs. Known before the record is, as readers of the cache expect. */
	from = pl_find_pid(creator_tgid, creator_start);
	if (from)
		buf->record.task.cookie = from->cookie;
	pl_forget();
	/* It is where its creator is, unless that is a thread that was moved alone, or clone() put it elsewhere. */
	pl_fill_v1(&buf->record.task, child, child->cgroups == creator->group_leader->cgroups ? from : NULL);
	pl_forget();
	pl_init_pid(&buf->pid, &buf->record.head, &buf->record.task);
	buf->pid.fork_boot_ns = bpf_ktime_get_boot_ns();
	pl_add_pid(child->tgid, &buf->pid, false);

	buf->record.head.record_bytes = sizeof(buf->record);
	buf->record.head.var_bytes = 0;
	room = pl_reserve(&slot, &buf->record.head, PL_KIND_FORK);
	if (room == PL_ROOM_NONE)
		return 0;
	if (room == PL_ROOM_FULL)
		bpf_dynptr_write(&slot.data, sizeof(struct pl_head), &buf->record.task,
				 sizeof(buf->record) - sizeof(struct pl_head), 0);
	pl_submit(&slot, settings);
	return 0;
}

/* ---- exec ---- */

struct pl_exec_record {
	struct pl_head head;
	struct pl_task task;
	struct pl_exec exec;
};
/* A name that is compared with the path that it led to, both from the end. In a map: on the stack the verifier would
 * follow each way that the values can go. */
struct pl_names {
	u32 name_at; /* bytes of the name that are left */
	u32 path_at; /* where the path's component ends */
	u32 path_low; /* where the path begins */
	u32 length; /* of the name's component so far */
	u32 same; /* bytes of it that are the path's too */
	u32 skip; /* components that a ".." behind them takes back */
	u32 dots; /* bytes of the component that are dots */
	u32 differs;
	char name[PL_PATH_MAX];
};
/* Strings of an environment that are looked at, and how much of each: an SSH_CONNECTION has 139 bytes at most. */
#define PL_SSH_STRINGS 512
#define PL_SSH_STRING_MAX 256
#define PL_SSH_BYTES_MAX 512

struct pl_ssh {
	u64 from;
	u32 kept;
	u32 is_rest; /* of a string that is longer than what is looked at */
	char piece[PL_SSH_STRING_MAX];
	/* An offset below the limit, plus a string, stays inside for the verifier. */
	char text[PL_SSH_BYTES_MAX + PL_SSH_STRING_MAX];
};
struct pl_exec_scratch {
	struct pl_exec_record record;
	struct pl_pid pid;
	struct pl_image image;
	struct pl_path path;
	char name[PL_PATH_MAX];
	struct pl_names names;
	struct pl_ssh ssh;
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct pl_exec_scratch);
} pl_exec_buf SEC(".maps");

/* Arguments and environment: one value each, because a per-CPU value ends at 32 KiB. */
struct pl_strings {
	char text[PL_STRING_MAX];
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, u32);
	__type(value, struct pl_strings);
} pl_strings_buf SEC(".maps");

#define PL_CHUNK 256

struct pl_chunks {
	char *out;
	u64 from;
	u32 bytes;
	u32 kept;
};

/* Chunks lie on a grid of the buffer, so that the verifier sees each fit. */
static long pl_read_chunk(u64 i, struct pl_chunks *chunks)
{
	u32 at = (i & (PL_STRING_MAX / PL_CHUNK - 1)) * PL_CHUNK, some;
	u64 from = chunks->from + at;

	if (at >= chunks->bytes)
		return 1;
	some = chunks->bytes - at;
	asm volatile("" : "+r"(some));
	if (some > PL_CHUNK)
		some = PL_CHUNK;
	if (!bpf_probe_read_user(chunks->out + at, some, (void *)from)) {
		chunks->kept = at + some;
		return 0;
	}
	some = 4096 - (from & 4095); /* what comes before the absent page */
	asm volatile("" : "+r"(some));
	if (some < PL_CHUNK && !bpf_probe_read_user(chunks->out + at, some, (void *)from))
		chunks->kept = at + some;
	return 1;
}

/* Copy [from, from + full) to buffer `index`, up to `limit` bytes; *kept says how many. Returns the flags: `cut` if there
 * is more, `unreadable` if a page of it was absent. */
static __always_inline u16 pl_read_strings(u32 index, u64 from, u64 full, u32 limit, u32 *kept, u16 cut, u16 unreadable)
{
	struct pl_strings *buf = bpf_map_lookup_elem(&pl_strings_buf, &index);
	u64 bytes = full;

	*kept = 0;
	if (!buf)
		return unreadable;
	if (bytes > limit)
		bytes = limit;
	/* Else clang knows the limit's own bound and drops the check that the verifier needs. */
	asm volatile("" : "+r"(bytes));
	if (bytes > PL_STRING_MAX)
		bytes = PL_STRING_MAX;
	*kept = bytes;
	if (bytes && bpf_probe_read_user(buf->text, bytes, (void *)from)) {
		/* A failed read leaves the whole destination zero: read again, in pieces, what is there. */
		struct pl_chunks chunks = { .out = buf->text, .from = from, .bytes = bytes };
		struct pl_cpu *cpu = pl_this_cpu();

		bpf_loop(PL_STRING_MAX / PL_CHUNK, pl_read_chunk, &chunks, 0);
		if (cpu)
			pl_count(&cpu->exec_reread);
		*kept = chunks.kept;
		if (chunks.kept < bytes)
			return unreadable;
	}
	return bytes < full ? cut : 0;
}

struct pl_ssh_search {
	struct pl_ssh *ssh;
	u64 end;
};

static long pl_ssh_step(u64 i, struct pl_ssh_search *search)
{
	struct pl_ssh *ssh = search->ssh;
	bool is_rest = ssh->is_rest;
	u32 at = ssh->kept, bytes;
	long length;

	if (ssh->from >= search->end)
		return 1;
	length = bpf_probe_read_user_str(ssh->piece, sizeof(ssh->piece), (void *)ssh->from);
	if (length < 0)
		return 1;
	if (!length) /* Linux 6.12 counts no NUL of an empty string */
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

/* Whose comm begins with "sshd". The first process of a session keeps the name of sshd until its exec. */
static __always_inline bool pl_is_sshd(const struct task_struct *task)
{
	return task->comm[0] == 's' && task->comm[1] == 's' && task->comm[2] == 'h' && task->comm[3] == 'd';
}

/* The number of the initial user namespace: PROC_USER_INIT_INO of include/linux/proc_ns.h. */
#define PL_INITIAL_USER_NS 0xEFFFFFFDU

static __always_inline bool pl_is_roots(const struct task_struct *task)
{
	const struct cred *cred = task->real_cred;

	return !cred->uid.val && !cred->euid.val && cred->user_ns->ns.inum == PL_INITIAL_USER_NS;
}

/* Any user may call a program sshd, so root must run it, in the initial user namespace; or it was forked by such a
 * process, as where sshd gives up root's rights before it forks the user's shell. Whether the file is the host's sshd is
 * for the resolver to find out. */
static __always_inline bool pl_may_be_sshd(const struct task_struct *task)
{
	const struct task_struct *parent = task->real_parent->group_leader;

	return pl_is_sshd(task) && (pl_is_roots(task) || (pl_is_sshd(parent) && pl_is_roots(parent)));
}

/* What sshd tells the first program of a session of its client. The program may have ended before anybody can look at its
 * environment (`ssh HOST true`), so it is taken from there now, whether environments are captured or not: these variables,
 * and an empty string, which says that the whole environment was looked at. Returns the bytes; 0: not looked at. */
static __always_inline u32 pl_read_ssh(struct pl_ssh *ssh, struct task_struct *task, u64 from, u64 end)
{
	struct pl_ssh_search search = { .ssh = ssh, .end = end };
	u32 kept;

	if (!pl_may_be_sshd(task->real_parent->group_leader) || pl_is_sshd(task))
		return 0;
	ssh->from = from;
	ssh->kept = 0;
	ssh->is_rest = 0;
	bpf_loop(PL_SSH_STRINGS, pl_ssh_step, &search, 0);
	kept = ssh->kept;
	if (!kept && ssh->from < end)
		return 0;
	ssh->text[kept & (PL_SSH_BYTES_MAX - 1)] = 0;
	return kept + 1;
}

/* Append buffer `index` to the record. */
static __always_inline void pl_write_strings(struct pl_slot *slot, u32 at, u32 index, u32 bytes)
{
	struct pl_strings *buf = bpf_map_lookup_elem(&pl_strings_buf, &index);

	/* Apart: clang would make one comparison of bytes - 1 of the two, of which Linux 6.12 learns nothing about bytes. */
	if (!buf || !bytes)
		return;
	asm volatile("" : "+r"(bytes));
	if (bytes <= PL_STRING_MAX)
		bpf_dynptr_write(&slot->data, at, buf->text, bytes, 0);
}

struct pl_naming {
	struct pl_names *names;
	const struct pl_path *path;
};

/* One byte of the name, which may have "//", "/./" and "/../" in it. */
static long pl_name_step(u64 i, struct pl_naming *naming)
{
	struct pl_names *names = naming->names;
	u32 at = names->name_at, is_done = !at, length = names->length, ends = names->path_at;
	char c = '/'; /* what ends the first component of a relative name */

	if (at) {
		at--;
		names->name_at = at;
		c = names->name[at & (PL_PATH_MAX - 1)];
	}
	if (c != '/') {
		length++;
		names->length = length;
		if (c == '.')
			names->dots++;
		if (naming->path->text[(ends - length) & (2 * PL_PATH_MAX - 1)] == c)
			names->same++;
		return 0;
	}
	if (length && !(length <= 2 && names->dots == length)) {
		if (names->skip) {
			names->skip--;
		} else if (names->same != length || ends < names->path_low + length + 1 ||
			   naming->path->text[(ends - length - 1) & (2 * PL_PATH_MAX - 1)] != '/') {
			names->differs = 1;
			return 1;
		} else {
			names->path_at = ends - length - 1;
		}
	} else if (length == 2) {
		names->skip++;
	}
	names->length = 0;
	names->same = 0;
	names->dots = 0;
	return is_done;
}

/* Whether a symbolic link was followed from the name that the kernel opened to the file that runs: then the name is not its
 * path. An absolute name says all of the path, a relative one its end. For a script the name is the interpreter's. */
static __always_inline bool pl_through_symlink(struct pl_exec_scratch *buf, const char *interp, const char *fdpath)
{
	struct pl_exec *exec = &buf->record.exec;
	struct pl_names *names = &buf->names;
	struct pl_naming naming = { .names = names, .path = &buf->path };
	long length;

	/* Opened by descriptor: what may have led from there is not told. And where there is no path, nothing is compared. */
	if (interp == fdpath ||
	    exec->exec_flags & (PL_EXEC_MEMFD | PL_EXEC_PATH_TRUNCATED | PL_EXEC_ESCAPED | PL_EXEC_NO_ROOT))
		return false;
	length = bpf_probe_read_kernel_str(names->name, sizeof(names->name), interp);
	if (length < 2 || length == sizeof(names->name))
		return false;
	names->name_at = length - 1;
	names->path_at = PL_PATH_MAX;
	names->path_low = PL_PATH_MAX - exec->path_bytes + exec->root_offset;
	names->length = 0;
	names->same = 0;
	names->skip = 0;
	names->dots = 0;
	names->differs = 0;
	bpf_loop(PL_PATH_MAX, pl_name_step, &naming, 0);
	return names->differs || (names->name[0] == '/' && names->path_at != names->path_low);
}

/* Write all that comes after HEAD. */
static __always_inline void pl_write_exec(struct pl_slot *slot, struct pl_exec_scratch *buf)
{
	struct pl_exec *exec = &buf->record.exec;
	u32 at = sizeof(buf->record), path_bytes, name_bytes, ssh_bytes, envs_bytes;

	bpf_dynptr_write(&slot->data, sizeof(struct pl_head), &buf->record.task, at - sizeof(struct pl_head), 0);
	path_bytes = exec->path_bytes;
	if (path_bytes <= PL_PATH_MAX)
		bpf_dynptr_write(&slot->data, at, (void *)pl_path_text(&buf->path, exec), path_bytes, 0);
	at += path_bytes;
	name_bytes = exec->name_bytes;
	if (name_bytes < PL_PATH_MAX)
		bpf_dynptr_write(&slot->data, at, buf->name, name_bytes, 0);
	at += name_bytes;
	pl_write_strings(slot, at, 0, exec->args_bytes);
	at += exec->args_bytes;
	ssh_bytes = exec->ssh_bytes;
	envs_bytes = exec->envs_bytes - ssh_bytes;
	pl_write_strings(slot, at, 1, envs_bytes);
	at += envs_bytes;
	if (!ssh_bytes)
		return;
	asm volatile("" : "+r"(ssh_bytes));
	if (ssh_bytes <= PL_SSH_BYTES_MAX)
		bpf_dynptr_write(&slot->data, at, buf->ssh.text, ssh_bytes, 0);
}

/* Give the process its new image in the caches, and take from them what is known of the one before. */
static __always_inline void pl_cache_exec(struct pl_exec_scratch *buf, struct task_struct *current)
{
	struct pl_head *head = &buf->record.head;
	struct pl_task *task = &buf->record.task;
	struct pl_exec *exec = &buf->record.exec;
	struct pl_pid *entry = pl_find_pid(head->tgid, head->start_boot_ns);
	u64 cookie = pl_new_cookie(), before = entry ? entry->cookie : 0;
	u32 tgid = head->tgid;

	/* A thread that takes its leader's place may be elsewhere. */
	pl_fill_v1(task, current, exec->exec_tid == tgid ? entry : NULL);
	pl_forget();

	task->cookie = cookie;
	exec->prev_cookie = before;
	if (before) {
		struct pl_image *image = bpf_map_lookup_elem(&proc_cache, &before);

		if (image) {
			exec->prev_inode = image->inode;
			task->exe_inode = image->inode;
			task->exe_dev = image->device;
		}
	}
	pl_fill_image(&buf->image, head, task, exec, &buf->path);
	buf->image.exec_boot_ns = bpf_ktime_get_boot_ns();
	bpf_map_update_elem(&proc_cache, &cookie, &buf->image, BPF_ANY);
	if (entry) {
		/* In place: the fork's time stays. The cookie last, so that who finds it finds the image. */
		pl_refresh_pid(entry, head, task);
		entry->cookie = cookie;
	} else {
		pl_init_pid(&buf->pid, head, task);
		pl_add_pid(tgid, &buf->pid, false);
	}
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(pl_on_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	u32 zero = 0, var_bytes;
	struct pl_exec_scratch *buf = bpf_map_lookup_elem(&pl_exec_buf, &zero);
	struct pl_settings *settings = pl_get_settings();
	struct mm_struct *mm = task->mm;
	struct file *file = bprm->file;
	struct pl_exec *exec;
	struct pl_slot slot;
	enum pl_room room;
	u64 full;
	long name;

	if (!buf || !settings || !(settings->flags & PL_CAPTURE_ON))
		return 0;
	exec = &buf->record.exec;
	pl_fill_head(&buf->record.head, task);
	pl_fill_task(&buf->record.task, task);
	/* TASK has the image before this one; it is gone from the task by now and comes from proc_cache below. */
	buf->record.task.exe_inode = 0;
	buf->record.task.exe_dev = 0;

	pl_path_of(&buf->path, exec, file, task, settings);
	pl_forget();
	pl_fill_file(exec, file);
	pl_forget();
	if (BPF_CORE_READ_BITFIELD_PROBED(bprm, secureexec))
		exec->exec_flags |= PL_EXEC_SECURE;
	/* The kernel begins with interp = filename and changes interp for each interpreter that it turns to. */
	if (bprm->interp != bprm->filename)
		exec->exec_flags |= PL_EXEC_SCRIPT;
	pl_forget();
	if (pl_through_symlink(buf, bprm->interp, bprm->fdpath))
		exec->exec_flags |= PL_EXEC_THROUGH_SYMLINK;
	pl_forget();
	exec->exec_tid = old_pid;
	exec->prev_tid = old_pid;
	exec->argc = bprm->argc;
	exec->envc = bprm->envc;
	exec->prev_inode = 0;
	exec->interp_inode = 0;

	name = bpf_probe_read_kernel_str(buf->name, sizeof(buf->name), bprm->filename);
	exec->name_bytes = name > 0 ? name - 1 : 0; /* without its NUL */
	if (name == sizeof(buf->name))
		exec->exec_flags |= PL_EXEC_NAME_TRUNCATED;
	pl_forget();

	full = mm->arg_end - mm->arg_start;
	exec->args_full_bytes = full;
	exec->exec_flags |= pl_read_strings(0, mm->arg_start, full, settings->args_bytes, &exec->args_bytes,
					    PL_EXEC_ARGS_TRUNCATED, PL_EXEC_ARGS_UNREADABLE);
	pl_forget();
	full = mm->env_end - mm->env_start;
	exec->envs_full_bytes = full;
	exec->exec_flags |= pl_read_strings(1, mm->env_start, full, settings->envs_bytes, &exec->envs_bytes,
					    PL_EXEC_ENVS_TRUNCATED, PL_EXEC_ENVS_UNREADABLE);
	pl_forget();
	exec->ssh_bytes = pl_read_ssh(&buf->ssh, task, mm->env_start, mm->env_end);
	exec->envs_bytes += exec->ssh_bytes;
	pl_forget();
	pl_cache_exec(buf, task);
	pl_forget();

	var_bytes = exec->path_bytes + exec->name_bytes + exec->args_bytes + exec->envs_bytes;
	buf->record.head.var_bytes = var_bytes;
	buf->record.head.record_bytes = sizeof(buf->record) + var_bytes;
	pl_forget();
	room = pl_reserve(&slot, &buf->record.head, PL_KIND_EXEC);
	if (room == PL_ROOM_NONE)
		return 0;
	if (room == PL_ROOM_FULL)
		pl_write_exec(&slot, buf);
	pl_submit(&slot, settings);
	return 0;
}

/* ---- exit ---- */

/* Generations that the search for a reaper goes up. */
#define PL_REAPER_STEPS 256

struct pl_reaper {
	const void *task;
	u32 level;
	bool found;
	bool ended;
};

static __always_inline struct task_struct *pl_task_at(const void *address)
{
	return bpf_rdonly_cast(address, bpf_core_type_id_kernel(struct task_struct));
}

static long pl_reaper_step(u64 i, struct pl_reaper *reaper)
{
	struct task_struct *task = pl_task_at(reaper->task);
	struct signal_struct *signal = task->signal;

	if (!task->pid || task->thread_pid->level != reaper->level) {
		reaper->ended = true;
		return 1;
	}
	/* live, not the thread at hand: its leader may have ended while others live on. */
	if (BPF_CORE_READ_BITFIELD_PROBED(signal, is_child_subreaper) && signal->live.counter > 0) {
		reaper->found = true;
		return 1;
	}
	reaper->task = task->real_parent;
	return 0;
}

/* Who adopts the children of a process that ends now, as find_new_reaper() of kernel/exit.c will decide. Wrong only if a
 * living ancestor changes PR_SET_CHILD_SUBREAPER before that; a reaper that ends in between is followed by its own
 * record. */
static __always_inline void pl_predict_reaper(struct pl_exit *out, struct task_struct *task)
{
	struct signal_struct *signal = task->signal;
	struct pid *pid = signal->pids[PIDTYPE_TGID];
	struct task_struct *init, *chosen;
	struct pl_reaper reaper = {};

	out->reaper_tgid = 0;
	out->reaper_start_boot_ns = 0;
	if (!pid) {
		out->exit_flags |= PL_EXIT_NO_REAPER;
		return;
	}
	init = pl_upid(pid, pid->level)->ns->child_reaper;
	if (init->signal == signal) {
		out->exit_flags |= PL_EXIT_NS_DIES;
		return;
	}
	chosen = init;
	if (BPF_CORE_READ_BITFIELD_PROBED(signal, has_child_subreaper)) {
		reaper.task = task->real_parent;
		reaper.level = pid->level;
		bpf_loop(PL_REAPER_STEPS, pl_reaper_step, &reaper, 0);
		if (reaper.found)
			chosen = pl_task_at(reaper.task);
		else if (!reaper.ended)
			chosen = NULL; /* deeper than the search goes: nobody is better than the wrong one */
	}
	if (chosen) {
		out->reaper_tgid = chosen->tgid;
		out->reaper_start_boot_ns = chosen->group_leader->start_boottime;
	}
	if (!out->reaper_tgid)
		out->exit_flags |= PL_EXIT_NO_REAPER;
}

struct pl_exit_record {
	struct pl_head head;
	struct pl_task task;
	struct pl_exit exit;
};
struct pl_exit_scratch {
	struct pl_exit_record record;
	struct pl_pid pid;
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct pl_exit_scratch);
} pl_exit_buf SEC(".maps");

/* Stamp the exit into pid_cache. False if another thread of the process has done so: where the kernel does not say which
 * thread is the last one, several that leave at once each see no thread alive. */
static __always_inline bool pl_cache_exit(struct pl_exit_scratch *buf, struct task_struct *current)
{
	struct pl_head *head = &buf->record.head;
	struct pl_pid *entry = pl_find_pid(head->tgid, head->start_boot_ns);
	u64 now = bpf_ktime_get_boot_ns();
	u32 tgid = head->tgid;
	long error;

	pl_fill_v1(&buf->record.task, current, entry);
	pl_forget();
	if (entry) {
		/* The thread at hand may have left the process's namespaces (unshare() acts on a thread). */
		if (!current->group_leader->nsproxy && entry->mnt_ns) {
			buf->record.task.mnt_ns = entry->mnt_ns;
			buf->record.task.net_ns = entry->net_ns;
		}
		buf->record.task.cookie = entry->cookie;
		if (__sync_val_compare_and_swap(&entry->exit_boot_ns, 0, now))
			return false;
		pl_refresh_pid(entry, head, &buf->record.task);
		/* Last: from here on the place may be given to another process. */
		pl_end_pid(tgid, now);
		return true;
	}
	pl_init_pid(&buf->pid, head, &buf->record.task);
	buf->pid.exit_boot_ns = now;
	error = pl_add_pid(tgid, &buf->pid, true);
	if (!error)
		pl_end_pid(tgid, now);
	/* -EEXIST: the other thread was quicker. Any other failure is no reason to lose the record. */
	return error != -PL_EEXIST;
}

SEC("tp_btf/sched_process_exit")
int pl_on_exit(u64 *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx[0];
	u32 zero = 0;
	struct pl_exit_scratch *buf;
	struct pl_settings *settings;
	struct pl_cpu *cpu;
	struct pl_slot slot;
	enum pl_room room;
	bool is_last, is_guess = false, is_first;

	if (bpf_core_type_exists(btf_trace_sched_process_exit___group_dead)) {
		is_last = ctx[1] & 1;
	} else {
		is_last = task->signal->live.counter == 0;
		is_guess = true;
	}
	if (!is_last || task->flags & PF_KTHREAD) {
		cpu = pl_this_cpu();
		if (cpu)
			pl_count(task->flags & PF_KTHREAD ? &cpu->kthreads_exited : &cpu->threads_exited);
		return 0;
	}
	buf = bpf_map_lookup_elem(&pl_exit_buf, &zero);
	settings = pl_get_settings();
	if (!buf || !settings || !(settings->flags & PL_CAPTURE_ON))
		return 0;

	pl_fill_head(&buf->record.head, task);
	pl_fill_task(&buf->record.task, task);
	is_first = pl_cache_exit(buf, task);
	if (is_guess && !is_first) {
		cpu = pl_this_cpu();
		if (cpu)
			pl_count(&cpu->threads_exited);
		return 0;
	}
	buf->record.exit.exit_flags = is_guess ? PL_EXIT_GROUP_DEAD_GUESSED : 0;
	/* What wait() will say; set by then also when the last thread left by itself. */
	buf->record.exit.exit_code = task->signal->group_exit_code;
	buf->record.exit.leader_exit_code = task->group_leader->exit_code;
	buf->record.exit.exit_reserved = 0;
	pl_predict_reaper(&buf->record.exit, task);

	buf->record.head.record_bytes = sizeof(buf->record);
	buf->record.head.var_bytes = 0;
	room = pl_reserve(&slot, &buf->record.head, PL_KIND_EXIT);
	if (room == PL_ROOM_NONE)
		return 0;
	if (room == PL_ROOM_FULL)
		bpf_dynptr_write(&slot.data, sizeof(struct pl_head), &buf->record.task,
				 sizeof(buf->record) - sizeof(struct pl_head), 0);
	pl_submit(&slot, settings);
	return 0;
}
