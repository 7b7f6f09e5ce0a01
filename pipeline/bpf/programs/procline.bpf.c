// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Forks, execs and exits of processes: one program each, on the scheduler's tracepoints. Attach kind: tp_btf. Changes
 * of credentials and others are separate objects, so that a kernel that rejects those still loads this one.
 *
 * Each program has a scratch buffer for each CPU. It fills in its record there, then reserves room in the ring. A
 * program never interrupts itself (the kernel skips and counts such a call), and these run in process context only. */
/* For the older set: an exec record with all of its strings, and the longest one. */
#define PL_RECORD_MAX 90112
#define PL_PIECE_MAX PL_STRING_MAX
#include "program.bpf.h"
#include "path.bpf.h"
#include "symlink.bpf.h"
#include "ssh.bpf.h"
#include "reaper.bpf.h"
#include "cost.bpf.h"

/* ---- fork ---- */

struct pl_fork_record {
	struct pl_header header;
	struct pl_task task;
	struct pl_fork fork;
};
struct pl_fork_scratch {
	struct pl_fork_record record;
	struct pl_pid pid;
};
PL_SCRATCH(pl_fork_buf, struct pl_fork_scratch, 1);

/* Not on sched_process_fork, which fires a moment later and does not have the clone flags. */
SEC("tp_btf/task_newtask")
int BPF_PROG(pl_on_fork, struct task_struct *child, u64 clone_flags)
{
	u32 zero = 0;
	struct pl_fork_scratch *buf;
	struct pl_settings *settings;
	struct pl_pid *from;
	struct task_struct *creator;
	u64 creator_start;
	u32 creator_tgid;

	if (pl_is_outside(child))
		return 0;
	/* Threads and kernel threads are not processes. They are counted, to compare forks with /proc/stat. */
	if (child->pid != child->tgid || child->flags & PF_KTHREAD) {
		if (child->flags & PF_KTHREAD)
			pl_count_here(kthreads_forked);
		else
			pl_count_here(threads_forked);
		return 0;
	}
	buf = bpf_map_lookup_elem(&pl_fork_buf, &zero);
	settings = pl_get_settings();
	if (!buf || !pl_is_recording(settings))
		return 0;

	pl_fill_header(&buf->record.header, child, PL_TYPED);
	pl_fill_task(&buf->record.task, child, PL_TYPED);
	/* With CLONE_PARENT the forking process is not the parent. */
	creator = pl_current();
	creator_tgid = pl_scoped_tgid(creator);
	creator_start = creator_tgid ? PL_GET(creator, group_leader, start_boottime) : 0;
	buf->record.fork.creator_start_boot_ns = creator_start;
	buf->record.fork.creator_tgid = creator_tgid;
	buf->record.fork.creator_tid =
		pl_scope.pid_ns ? pl_inner_nr(PL_GET(creator, thread_pid)) : (u32)PL_GET(creator, pid);
	buf->record.fork.clone_flags = clone_flags;

	/* The child has its creator's image until it execs. The cache is updated before the record is submitted, as
	 * readers of the cache expect. */
	from = pl_find_pid(creator_tgid, creator_start);
	if (from)
		buf->record.task.cookie = from->cookie;
	pl_forget();
	/* The child is in its creator's cgroups, unless the creator is a thread that was moved alone or clone() chose
	 * another cgroup. */
	pl_fill_v1(&buf->record.task, child,
		   PL_GET(child, cgroups) == PL_GET(creator, group_leader, cgroups) ? from : NULL);
	pl_forget();
	pl_init_pid(&buf->pid, &buf->record.header, &buf->record.task);
	buf->pid.fork_boot_ns = bpf_ktime_get_boot_ns();
	pl_add_pid(buf->record.header.tgid, &buf->pid, false);

	pl_send(&buf->record.header, sizeof(buf->record), 0, PL_KIND_FORK, settings);
	return 0;
}

/* ---- exec ---- */

struct pl_exec_record {
	struct pl_header header;
	struct pl_task task;
	struct pl_exec exec;
};
struct pl_exec_scratch {
	struct pl_exec_record record;
	struct pl_pid pid;
	struct pl_image image;
	struct pl_path path;
	char name[PL_PATH_MAX];
	u32 directories_bytes; /* the last bytes of exec.name_bytes */
	u32 pad;
	struct pl_symlink symlink;
	struct pl_ssh ssh;
};
PL_SCRATCH(pl_exec_buf, struct pl_exec_scratch, 1);

/* Arguments (element 0) and environment (element 1): a per-CPU value has 32 KiB at most. */
struct pl_strings {
	char text[PL_STRING_MAX];
};
PL_SCRATCH(pl_strings_buf, struct pl_strings, 2);

/* DIRECTORIES, in their order: an element each, as a per-CPU value has 32 KiB at most. */
struct pl_directory {
	struct pl_path path;
	u32 bytes; /* with the NUL in front */
	u32 pad;
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PL_DIRECTORY_COUNT ? PL_DIRECTORY_COUNT : 1); /* The kernel rejects an empty array. */
	__type(key, u32);
	__type(value, struct pl_directory);
} pl_directory_buf SEC(".maps");

/* Fill element `index`. Returns its bytes: 0 if the directory is unknown and `bytes` is 0, so none of the directories
 * behind it is known either. */
__attribute__((unused)) static __always_inline u32 pl_fill_directory(u32 index, const struct path *directory, u32 bytes,
								     const struct pl_settings *settings)
{
	struct pl_directory *buf = bpf_map_lookup_elem(&pl_directory_buf, &index);

	if (!buf)
		return 0;
	buf->bytes = pl_directory_of(&buf->path, 1 + index, directory, settings);
	if (!buf->bytes && bytes) {
		buf->path.text[PL_PATH_MAX - 1] = 0;
		buf->bytes = 1;
	}
	return buf->bytes;
}

/* Fill all elements, the last one first. Returns their bytes. */
static __always_inline u32 pl_fill_directories(struct task_struct *task, const struct pl_settings *settings)
{
	u32 bytes = 0;

#define X(index, member)                                                      \
	bytes += pl_fill_directory(index, &task->member, bytes, settings);        \
	pl_forget();
	PL_DIRECTORIES(X)
#undef X
	return bytes;
}

#ifdef PL_OLD
_Static_assert(sizeof(struct pl_exec_record) + 2 * PL_PATH_MAX + PL_DIRECTORY_COUNT * (PL_PATH_MAX + 1) +
			       2 * PL_STRING_MAX + PL_SSH_BYTES_MAX <=
		       PL_RECORD_MAX,
	       "PL_RECORD_MAX");

/* What steps look up, as they have no pointers. */
static __always_inline struct pl_exec_scratch *pl_exec_at(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&pl_exec_buf, &zero);
}

/* 0 is that of the executable, others are DIRECTORIES. */
static __always_inline struct pl_path *pl_path_at(u32 number)
{
	struct pl_exec_scratch *exec;
	struct pl_directory *directory;

	if (number) {
		number--;
		directory = bpf_map_lookup_elem(&pl_directory_buf, &number);
		return PL_PART(directory, path);
	}
	exec = pl_exec_at();
	return PL_PART(exec, path);
}

static __always_inline struct pl_symlink *pl_symlink_at(void)
{
	struct pl_exec_scratch *exec = pl_exec_at();

	return PL_PART(exec, symlink);
}

static __always_inline struct pl_ssh *pl_ssh_at(void)
{
	struct pl_exec_scratch *exec = pl_exec_at();

	return PL_PART(exec, ssh);
}

static __always_inline char *pl_text_at(u32 index)
{
	struct pl_strings *strings = bpf_map_lookup_elem(&pl_strings_buf, &index);

	return strings ? strings->text : NULL; /* no addition */
}
#endif

#define PL_CHUNK 256

struct pl_chunks {
	char *out;
	u64 from;
	u32 bytes;
	u32 kept;
	u32 index; /* of the buffer */
	u32 chunk; /* the next one */
};

/* Copy one chunk of a string area that has an absent page, as far as it can be read. Chunks begin at multiples of
 * PL_CHUNK, so that the verifier sees that each fits in the buffer. */
PL_STEP(pl_copy_chunk, pl_chunks)
{
	u32 at = (state->chunk++ & (PL_STRING_MAX / PL_CHUNK - 1)) * PL_CHUNK, some;
	u64 from = state->from + at;
	char *out = PL_HELD(state->out, pl_text_at(state->index));

	if (PL_IS_MISSING(out) || at >= state->bytes)
		return 1;
	some = state->bytes - at;
	asm volatile("" : "+r"(some));
	if (some > PL_CHUNK)
		some = PL_CHUNK;
	if (!bpf_probe_read_user(out + at, some, (void *)from)) {
		state->kept = at + some;
		return 0;
	}
	some = 4096 - (from & 4095); /* the part before the absent page */
	asm volatile("" : "+r"(some));
	if (some < PL_CHUNK && !bpf_probe_read_user(out + at, some, (void *)from))
		state->kept = at + some;
	return 1;
}

/* Copy [from, from + full) to buffer `index`, at most `limit` bytes. Stores the number of bytes in *kept. Returns the
 * flag `cut` if the limit was reached, `unreadable` if a page was absent, else 0. */
static __always_inline u16 pl_copy_strings(u32 index, u64 from, u64 full, u32 limit, u32 *kept, u16 cut, u16 unreadable)
{
	struct pl_strings *buf = bpf_map_lookup_elem(&pl_strings_buf, &index);
	u64 bytes = full;

	*kept = 0;
	if (!buf)
		return unreadable;
	if (bytes > limit)
		bytes = limit;
	/* Hides the value from clang, which would otherwise drop the next check; the verifier needs it. */
	asm volatile("" : "+r"(bytes));
	if (bytes > PL_STRING_MAX)
		bytes = PL_STRING_MAX;
	*kept = bytes;
	if (bytes && bpf_probe_read_user(buf->text, bytes, (void *)from)) {
		/* A failed read zeroes the whole destination: read again in chunks, as far as pages are present. */
		struct pl_chunks chunks = { .out = buf->text, .from = from, .bytes = bytes, .index = index };

		PL_LOOP(PL_STRING_MAX / PL_CHUNK, pl_copy_chunk, 0, &chunks);
		pl_count_here(exec_reread);
		*kept = chunks.kept;
		if (chunks.kept < bytes)
			return unreadable;
	}
	return bytes < full ? cut : 0;
}

/* Append buffer `index` to the record. */
static __always_inline void pl_append_strings(struct pl_reservation *reserved, u32 at, u32 index, u32 bytes)
{
	struct pl_strings *buf = bpf_map_lookup_elem(&pl_strings_buf, &index);

	if (buf)
		pl_append(reserved, at, buf->text, bytes, PL_STRING_MAX);
}

/* Append DIRECTORIES to the record. Returns where they end. */
static __always_inline u32 pl_append_directories(struct pl_reservation *reserved, u32 at)
{
	for (u32 i = 0; i < PL_DIRECTORY_COUNT; i++) {
		u32 index = i, bytes;
		struct pl_directory *buf = bpf_map_lookup_elem(&pl_directory_buf, &index);

		if (!buf)
			return at;
		bytes = buf->bytes;
		if (bytes <= PL_PATH_MAX)
			pl_write_at(reserved, at, buf->path.text + ((PL_PATH_MAX - bytes) & (PL_PATH_MAX - 1)), bytes);
		at += bytes;
	}
	return at;
}

/* Write everything that follows HEADER. */
static __always_inline void pl_write_exec_body(struct pl_reservation *reserved, struct pl_exec_scratch *buf)
{
	struct pl_exec *exec = &buf->record.exec;
	u32 at = sizeof(buf->record), path_bytes, name_bytes, ssh_bytes, envs_bytes;

	pl_write_at(reserved, sizeof(struct pl_header), &buf->record.task, at - sizeof(struct pl_header));
	path_bytes = exec->path_bytes;
	if (path_bytes <= PL_PATH_MAX)
		pl_write_at(reserved, at, pl_path_text(&buf->path, exec), path_bytes);
	at += path_bytes;
	name_bytes = exec->name_bytes - buf->directories_bytes;
	if (name_bytes < PL_PATH_MAX)
		pl_write_at(reserved, at, buf->name, name_bytes);
	at += name_bytes;
	at = pl_append_directories(reserved, at);
	pl_append_strings(reserved, at, 0, exec->args_bytes);
	at += exec->args_bytes;
	ssh_bytes = exec->ssh_bytes;
	envs_bytes = exec->envs_bytes - ssh_bytes;
	pl_append_strings(reserved, at, 1, envs_bytes);
	at += envs_bytes;
	pl_append(reserved, at, buf->ssh.text, ssh_bytes, PL_SSH_BYTES_MAX);
}

/* Store the process's new image in the caches, and fill in what they hold about the previous image. */
static __always_inline void pl_cache_new_image(struct pl_exec_scratch *buf, struct task_struct *current)
{
	struct pl_header *header = &buf->record.header;
	struct pl_task *task = &buf->record.task;
	struct pl_exec *exec = &buf->record.exec;
	struct pl_pid *entry = pl_find_pid(header->tgid, header->start_boot_ns);
	u64 cookie = pl_new_cookie(), before = entry ? entry->cookie : 0;
	u32 tgid = header->tgid;

	/* A thread other than the leader can be in other cgroups, and it becomes the leader by its exec. */
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
	pl_fill_image(&buf->image, header, task, exec, &buf->path);
	buf->image.exec_boot_ns = bpf_ktime_get_boot_ns();
	bpf_map_update_elem(&proc_cache, &cookie, &buf->image, BPF_ANY);
	if (entry) {
		/* In place, because the fork's time stays. The cookie is last: whenever it is visible, the image is
		 * too. */
		pl_refresh_pid(entry, header, task);
		entry->cookie = cookie;
	} else {
		pl_init_pid(&buf->pid, header, task);
		pl_add_pid(tgid, &buf->pid, false);
	}
}

/* Fill which file the program is from, and how it was found: by a script or by a symbolic link. */
static __always_inline void pl_fill_program(struct pl_exec_scratch *buf, struct task_struct *task,
					    struct linux_binprm *bprm, struct pl_settings *settings)
{
	struct pl_exec *exec = &buf->record.exec;
	struct file *file = PL_GET(bprm, file);

	pl_path_of(&buf->path, exec, file, task, settings);
	pl_forget();
	pl_fill_file(exec, file);
	pl_forget();
	if (BPF_CORE_READ_BITFIELD_PROBED(bprm, secureexec))
		exec->exec_flags |= PL_EXEC_SECURE;
	/* The kernel starts with interp = filename, and changes interp for each interpreter that it loads. */
	if (PL_GET(bprm, interp) != PL_GET(bprm, filename))
		exec->exec_flags |= PL_EXEC_SCRIPT;
	pl_forget();
	if (pl_followed_symlink(&buf->symlink, &buf->path, exec, PL_GET(bprm, interp), PL_GET(bprm, fdpath)))
		exec->exec_flags |= PL_EXEC_THROUGH_SYMLINK;
	pl_forget();
}

/* Copy the name by which the program was called, and the directories of the process. */
static __always_inline void pl_fill_name(struct pl_exec_scratch *buf, struct task_struct *task,
					 struct linux_binprm *bprm, struct pl_settings *settings)
{
	struct pl_exec *exec = &buf->record.exec;
	long name = bpf_probe_read_kernel_str(buf->name, sizeof(buf->name), PL_GET(bprm, filename));

	exec->name_bytes = name > 0 ? name - 1 : 0; /* without its NUL */
	if (name == sizeof(buf->name))
		exec->exec_flags |= PL_EXEC_NAME_TRUNCATED;
	pl_forget();
	buf->directories_bytes = pl_fill_directories(task, settings);
	exec->name_bytes += buf->directories_bytes;
	pl_forget();
}

/* Copy the arguments and the environment, with the variables of an SSH session behind it. */
static __always_inline void pl_fill_strings(struct pl_exec_scratch *buf, struct task_struct *task,
					    struct pl_settings *settings)
{
	struct pl_exec *exec = &buf->record.exec;
	struct mm_struct *mm = PL_GET(task, mm);
	u64 full;

	full = PL_GET(mm, arg_end) - PL_GET(mm, arg_start);
	exec->args_full_bytes = full;
	exec->exec_flags |= pl_copy_strings(0, PL_GET(mm, arg_start), full, settings->args_bytes, &exec->args_bytes,
					    PL_EXEC_ARGS_TRUNCATED, PL_EXEC_ARGS_UNREADABLE);
	pl_forget();
	full = PL_GET(mm, env_end) - PL_GET(mm, env_start);
	exec->envs_full_bytes = full;
	exec->exec_flags |= pl_copy_strings(1, PL_GET(mm, env_start), full, settings->envs_bytes, &exec->envs_bytes,
					    PL_EXEC_ENVS_TRUNCATED, PL_EXEC_ENVS_UNREADABLE);
	pl_forget();
	exec->ssh_bytes = pl_copy_ssh_variables(&buf->ssh, task, PL_GET(mm, env_start), PL_GET(mm, env_end));
	exec->envs_bytes += exec->ssh_bytes;
	pl_forget();
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(pl_on_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	u32 zero = 0, var_bytes;
	struct pl_exec_scratch *buf = bpf_map_lookup_elem(&pl_exec_buf, &zero);
	struct pl_settings *settings = pl_get_settings();
	struct pl_exec *exec;
	struct pl_reservation reserved;
	enum pl_room room;

	if (!buf || !pl_is_recording(settings) || pl_is_outside(task))
		return 0;
	exec = &buf->record.exec;
	pl_fill_header(&buf->record.header, task, PL_TYPED);
	pl_fill_task(&buf->record.task, task, PL_TYPED);
	/* TASK has the previous image. The task no longer has it; pl_cache_new_image() copies it from proc_cache. */
	buf->record.task.exe_inode = 0;
	buf->record.task.exe_dev = 0;

	pl_fill_program(buf, task, bprm, settings);
	/* Another thread than the leader has the leader's pid by now; its own is gone, with its numbers in
	 * namespaces. */
	if (pl_scope.pid_ns)
		old_pid = old_pid == PL_GET(task, pid) ? buf->record.header.tid : 0;
	exec->exec_tid = old_pid;
	exec->prev_tid = old_pid;
	exec->argc = PL_GET(bprm, argc);
	exec->envc = PL_GET(bprm, envc);
	exec->prev_inode = 0;
	exec->interp_inode = 0;
	pl_fill_name(buf, task, bprm, settings);
	pl_fill_strings(buf, task, settings);
	pl_cache_new_image(buf, task);
	pl_forget();

	var_bytes = exec->path_bytes + exec->name_bytes + exec->args_bytes + exec->envs_bytes;
	buf->record.header.var_bytes = var_bytes;
	buf->record.header.record_bytes = sizeof(buf->record) + var_bytes;
	pl_forget();
	room = pl_reserve(&reserved, &buf->record.header, PL_KIND_EXEC);
	if (room == PL_ROOM_NONE)
		return 0;
	if (room == PL_ROOM_FULL)
		pl_write_exec_body(&reserved, buf);
	pl_submit(&reserved, settings);
	return 0;
}

/* ---- exit ---- */

struct pl_exit_record {
	struct pl_header header;
	struct pl_task task;
	struct pl_exit exit;
	struct pl_cost cost;
	struct pl_sender sender;
};
struct pl_exit_scratch {
	struct pl_exit_record record;
	struct pl_pid pid;
};
PL_SCRATCH(pl_exit_buf, struct pl_exit_scratch, 1);

#ifdef PL_NO_FETCH
/* Exits of processes with several threads: where no word can be exchanged, the first insertion wins. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct pl_target);
	__type(value, u64);
} pl_exits SEC(".maps");
#endif

/* Whether no other thread of the process has recorded its exit: on kernels that do not report which thread is the last
 * one, several threads that exit at once each see no live thread. */
static __always_inline bool pl_is_first_exit(struct pl_pid *entry, const struct pl_header *header,
					     struct task_struct *current)
{
	/* With one thread left that is not released, no other can be here. */
	if (PL_GET(current, signal, nr_threads) == 1)
		return !*(volatile u64 *)&entry->exit_boot_ns;
#ifdef PL_NO_FETCH
	struct pl_target target = { .start_boot_ns = header->start_boot_ns, .tgid = header->tgid };
	u64 now = 0;

	/* An int: before Linux 6.4 the verifier puts a call of the map's own function here, which leaves the upper half
	 * of the result undefined. */
	return !entry->exit_boot_ns && (int)bpf_map_update_elem(&pl_exits, &target, &now, BPF_NOEXIST) != -PL_EEXIST;
#else
	return !__sync_val_compare_and_swap(&entry->exit_boot_ns, 0, bpf_ktime_get_boot_ns());
#endif
}

/* Enter a process that is not in pid_cache, as one that has ended. Returns false if another thread of it has done
 * so. */
static __always_inline bool pl_add_ended(struct pl_exit_scratch *buf)
{
	struct pl_header *header = &buf->record.header;
	u64 now = bpf_ktime_get_boot_ns();
	u32 tgid = header->tgid;
	long error;

	pl_init_pid(&buf->pid, header, &buf->record.task);
	buf->pid.exit_boot_ns = now;
	error = pl_add_pid(tgid, &buf->pid, true);
	if (!error)
		pl_end_pid(tgid, now);
	/* -EEXIST: the other thread was first. After any other failure the record is still written. */
	return error != -PL_EEXIST;
}

/* What pl_finish_exit() needs. */
struct pl_ending {
	struct task_struct *task;
	struct signal_struct *signal;
	struct pl_pid *entry; /* NULL: none */
	struct pl_threads threads;
	u32 cost; /* EXIT_* of the record */
};

/* Store the state in which the process ends, in its entry. */
static __always_inline void pl_end_entry(struct pl_pid *entry, const struct pl_exit_record *record, u64 now)
{
	if (!entry)
		return;
	pl_refresh_pid(entry, &record->header, &record->task);
	*(volatile u64 *)&entry->exit_boot_ns = now;
}

/* A pl_finish: fill what depends on the time, and update the entry. So the exit reads one clock instead of three, and
 * the stores to the entry, often to cache lines of another CPU, overlap those to the ring. */
#ifdef PL_OLD
__noinline /* for each size */
#endif
static void pl_finish_exit(struct pl_header *header, void *state)
{
	struct pl_exit_record *record = (struct pl_exit_record *)header;
	struct pl_ending *ending = state;

	if (ending->cost)
		pl_finish_cost(&record->cost, &ending->threads.sums, ending->task, ending->signal,
			       header->time_boot_ns);
	pl_end_entry(ending->entry, record, header->time_boot_ns);
}

/* Copy the sender of the signal that ended the process, and forget it; returns the number of bytes. */
static __always_inline u32 pl_take_sender(struct pl_sender *out, const struct task_struct *task, u32 exit_code)
{
	struct pl_target target = {};
	struct pl_sender *known;
	u32 bytes = 0;

	/* Most processes end without a signal, so they need no look-up. If one survived a signal, its entry stays until
	 * the map needs the place; no other process has its start. */
	if (!(exit_code & PL_WAIT_SIGNAL))
		return 0;
	target.start_boot_ns = PL_GET(task, group_leader, start_boottime);
	target.tgid = PL_GET(task, tgid);
	known = bpf_map_lookup_elem(&pl_senders, &target);
	if (!known)
		return 0;
	if (known->sender_signal == (exit_code & PL_WAIT_SIGNAL)) {
		*out = *known;
		bytes = sizeof(*out);
	}
	bpf_map_delete_elem(&pl_senders, &target);
	return bytes;
}

/* Send the record up to EXIT, and `var_bytes` of what follows. Returns whether there was room for all of it. */
static __always_inline bool pl_send_exit(struct pl_exit_record *record, u32 var_bytes, struct pl_settings *settings,
					 struct pl_ending *ending)
{
	const u32 fixed = sizeof(struct pl_header) + sizeof(struct pl_task) + sizeof(struct pl_exit);

#define PL_SEND(bytes)                                                                                                 \
	pl_send_finished(&record->header, fixed + (bytes), bytes, PL_KIND_EXIT, settings, pl_finish_exit, ending)
#ifdef PL_OLD
	/* The sizes are constant. */
	if (!var_bytes)
		return PL_SEND(0);
	if (var_bytes == sizeof(struct pl_cost))
		return PL_SEND(sizeof(struct pl_cost));
	return PL_SEND(sizeof(struct pl_cost) + sizeof(struct pl_sender));
#else
	/* One expansion, as each is a kilobyte of machine code. The number goes through the map, so that the verifier
	 * follows the rest once for all sizes. */
	record->header.var_bytes = var_bytes;
	pl_forget();
	var_bytes = record->header.var_bytes;
	if (var_bytes > sizeof(struct pl_cost) + sizeof(struct pl_sender))
		return false; /* never */
	return PL_SEND(var_bytes);
#endif
#undef PL_SEND
}

/* Whether the process ends with this thread. If it is a guess, because the kernel does not report it, other threads
 * that exit at the same time can get the same answer. */
static __always_inline bool pl_is_last_thread(u64 *ctx, struct task_struct *current, bool is_guess)
{
	return is_guess ? PL_GET(current, signal, live.counter) == 0 : ctx[1] & 1;
}

/* Store the code that wait() will return, by the same rule, and return it. Newer kernels (6.1 does, 5.10 does not) set
 * the flag for each process that ends, older ones if it was killed, or called exit_group() while it had several
 * threads. */
static __always_inline u32 pl_fill_exit_code(struct pl_exit *exit, struct task_struct *task,
					     struct signal_struct *signal)
{
	u32 exit_code = task->group_leader->exit_code;

	exit->leader_exit_code = exit_code;
	if (signal->flags & SIGNAL_GROUP_EXIT)
		exit_code = signal->group_exit_code;
	exit->exit_code = exit_code;
	exit->exit_reserved = 0;
	return exit_code;
}

/* Fill CPU time, memory and other costs, and the sender of the signal that ended the process. Returns the number of
 * bytes. */
static __always_inline u32 pl_fill_ending(struct pl_exit_record *record, struct pl_ending *ending, u32 exit_code,
					  struct pl_settings *settings)
{
	u32 sender;

	ending->cost = pl_fill_cost(&record->cost, &ending->threads, ending->task, ending->signal, settings);
	pl_forget();
	record->exit.exit_flags |= ending->cost;
	sender = ending->cost ? pl_take_sender(&record->sender, ending->task, exit_code) : 0;
	if (sender)
		record->exit.exit_flags |= PL_EXIT_SENDER;
	return ending->cost ? sizeof(struct pl_cost) + sender : 0;
}

/* Count the end of a thread or kernel thread, which is not recorded. */
static __always_inline void pl_count_thread_end(struct task_struct *task)
{
	if (task->flags & PF_KTHREAD)
		pl_count_here(kthreads_exited);
	else
		pl_count_here(threads_exited);
}

/* This thread may have left the process's namespaces: unshare() acts on a thread. */
static __always_inline void pl_restore_namespaces(struct pl_task *out, const struct pl_pid *entry,
						  struct task_struct *task)
{
	if (entry && entry->mnt_ns && !task->group_leader->nsproxy) {
		out->mnt_ns = entry->mnt_ns;
		out->net_ns = entry->net_ns;
	}
}

/* Give up the place of the process. If no record of its end was sent, its end is now, not at the time of the record.
 * This comes last: from here on another process can get the place. */
static __always_inline void pl_leave_place(struct pl_pid *entry, u64 *word, struct pl_exit_record *record, bool is_sent)
{
	u64 now = record->header.time_boot_ns;

	if (!is_sent) {
		now = bpf_ktime_get_boot_ns();
		pl_end_entry(entry, record, now);
	}
	pl_end_place(word, record->header.tgid, now);
}

SEC("tp_btf/sched_process_exit")
int pl_on_exit(u64 *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx[0];
	u32 zero = 0;
	struct pl_exit_scratch *buf;
	struct pl_settings *settings;
	bool is_last, is_guess, is_first = true, is_sent;
	struct pl_ending ending;
	struct pl_found found;
	struct signal_struct *signal;
	struct pl_pid *entry;
	u64 *word;
	u32 exit_code, var_bytes;

	if (pl_is_outside(task))
		return 0;
	is_guess = !bpf_core_type_exists(btf_trace_sched_process_exit___group_dead);
	is_last = pl_is_last_thread(ctx, task, is_guess);
	if (!is_last || task->flags & PF_KTHREAD) {
		pl_count_thread_end(task);
		return 0;
	}
	buf = bpf_map_lookup_elem(&pl_exit_buf, &zero);
	settings = pl_get_settings();
	if (!buf || !pl_is_recording(settings))
		return 0;

	entry = pl_fill_place(&buf->record.header, &buf->record.task, task, PL_TYPED, false, &word, &found);
	pl_restore_namespaces(&buf->record.task, entry, task);
	if (!entry)
		is_first = pl_add_ended(buf);
	else if (is_guess)
		is_first = pl_is_first_exit(entry, &buf->record.header, task);
	if (is_guess && !is_first) {
		pl_count_here(threads_exited);
		return 0;
	}
	buf->record.exit.exit_flags = is_guess ? PL_EXIT_GROUP_DEAD_GUESSED : 0;
	signal = found.signal;
	exit_code = pl_fill_exit_code(&buf->record.exit, task, signal);
	pl_predict_reaper(&buf->record.exit, task, &found);
	pl_forget();
	ending.task = task;
	ending.signal = signal;
	ending.entry = entry;
	var_bytes = pl_fill_ending(&buf->record, &ending, exit_code, settings);
	is_sent = pl_send_exit(&buf->record, var_bytes, settings, &ending);
	if (entry)
		pl_leave_place(entry, word, &buf->record, is_sent);
	return 0;
}

/* The scheduler's clock has just been read when it wakes a new thread; see pl_running_time(). */
SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(pl_on_wakeup, struct task_struct *task)
{
	u32 zero = 0;
	struct pl_clock *clock = bpf_map_lookup_elem(&pl_clock_map, &zero);
	const struct rq *queue;
	u64 tick = bpf_jiffies64();

	if (!clock || clock->tick == tick)
		return 0;
	queue = pl_queue_of(task);
	if (queue) {
		u64 now = bpf_ktime_get_boot_ns();

		clock->offset = PL_GET(queue, clock) - now;
		clock->time = now;
		clock->tick = tick;
	}
	return 0;
}

#ifdef PL_NO_FETCH
/* Exchange a word of pid_owners for user space (PidMap in pipeline/bpf/maps.py), which runs this program; nothing
 * attaches it. Arguments: the place, its word, and the new word. An exchange by user space itself would be overwritten
 * if it came between the comparison and the store of a program. Returns 0 if the word is another one, or a program has
 * the lock. */
SEC("raw_tp")
int pl_exchange(const u64 *arguments)
{
	u32 key = arguments[0] / PL_PID_WAYS, way = arguments[0] % PL_PID_WAYS;
	struct pl_owners *set = bpf_map_lookup_elem(&pid_owners, &key);

	return set && pl_swap(&set->owner[way], arguments[1], arguments[2], key);
}
#endif
