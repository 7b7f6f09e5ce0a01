// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* A task iterator over all processes. Attach kind: iter. For each process, but not for kernel threads, it writes
 * HEADER, TASK, EXEC and the path of the executable, as an exec record of kind 0 without a ring number. Arguments and
 * environment come from /proc instead: to read another process's memory, an iterator must be able to sleep.
 *
 * The iterator adds every process that it visits to pid_cache, if the process is older than the capture. */
#define PL_GLOBAL static __noinline /* preemption is disabled while a task is read */
#include "program.bpf.h"
#include "path.bpf.h"

struct pl_iter_record {
	struct pl_header header;
	struct pl_task task;
	struct pl_exec exec;
};
struct pl_iter_scratch {
	struct pl_iter_record record;
	struct pl_pid pid;
	struct pl_image image;
	struct pl_path path;
};
PL_SCRATCH(pl_iter_buf, struct pl_iter_scratch, 1);

#ifdef PL_OLD
static __always_inline struct pl_path *pl_path_at(u32 number)
{
	u32 zero = 0;
	struct pl_iter_scratch *buf = bpf_map_lookup_elem(&pl_iter_buf, &zero);

	return PL_PART(buf, path);
}
#endif

/* Store the root of this process: paths begin there, so that they are right in a chroot or a container. */
static __always_inline void pl_store_root(struct pl_settings *settings)
{
	struct task_struct *self = pl_current();
	struct fs_struct *fs = PL_GET(self, fs);
	struct path *root = &fs->root;

	settings->root_mnt = (u64)PL_GET(root, mnt);
	settings->root_dentry = (u64)PL_GET(root, dentry);
}

static __always_inline void pl_enter_process(struct pl_iter_scratch *buf)
{
	struct pl_header *header = &buf->record.header;
	struct pl_task *task = &buf->record.task;
	struct pl_pid *entry = pl_find_pid(header->tgid, header->start_boot_ns);
	u64 cookie;
	u32 tgid = header->tgid;

	if (entry && entry->cookie) {
		task->cookie = entry->cookie;
		return;
	}
	cookie = pl_new_cookie();
	task->cookie = cookie;
	pl_fill_image(&buf->image, header, task, &buf->record.exec, &buf->path);
	bpf_map_update_elem(&proc_cache, &cookie, &buf->image, BPF_NOEXIST);
	if (entry) {
#ifdef PL_NO_FETCH
		/* An exec on another CPU may store its own, which nothing here can detect. */
		task->cookie = 0;
#else
		/* An exec on another CPU may come in between; then its cookie is used. */
		u64 before = __sync_val_compare_and_swap(&entry->cookie, 0, cookie);

		if (before)
			task->cookie = before;
#endif
		return;
	}
	pl_init_pid(&buf->pid, header, task);
	/* In the place of an earlier owner of the pid, if its exit was missed. */
	if (pl_add_pid(tgid, &buf->pid, true))
		task->cookie = 0;
}

static __always_inline void pl_fill_record(struct pl_iter_scratch *buf, struct task_struct *task,
				      const struct pl_settings *settings)
{
	struct pl_header *header = &buf->record.header;
	struct pl_exec *exec = &buf->record.exec;
	struct mm_struct *mm = PL_GET(task, mm);

	__builtin_memset(exec, 0, sizeof(*exec));
	pl_fill_header(header, task, PL_TYPED);
	if (PL_GET(task, flags) & PF_EXITING)
		header->flags |= PL_FLAG_LEADER_DEAD;
	pl_fill_task(&buf->record.task, task, PL_TYPED);
	pl_fill_v1(&buf->record.task, task, NULL);
	pl_forget();
	if (mm) {
		struct file *file = PL_GET(mm, exe_file);

		pl_path_of(&buf->path, exec, file, task, settings);
		pl_fill_file(exec, file);
		/* In the middle of an exec only the start addresses are set. */
		if (PL_GET(mm, arg_end) > PL_GET(mm, arg_start))
			exec->args_full_bytes = PL_GET(mm, arg_end) - PL_GET(mm, arg_start);
		if (PL_GET(mm, env_end) > PL_GET(mm, env_start))
			exec->envs_full_bytes = PL_GET(mm, env_end) - PL_GET(mm, env_start);
		exec->exec_tid = header->tid;
		exec->prev_tid = header->tid;
		pl_enter_process(buf);
	} else {
		struct pl_pid *entry = pl_find_pid(header->tgid, header->start_boot_ns);

		if (entry)
			pl_keep_namespaces(&buf->record.task, entry);
	}
	header->kind = 0;
	header->cpu = 0;
	header->ring_seq = 0;
	header->time_boot_ns = bpf_ktime_get_boot_ns();
	header->var_bytes = exec->path_bytes;
	header->record_bytes = sizeof(buf->record) + exec->path_bytes;
}

SEC("iter/task")
int pl_each_task(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct pl_settings *settings = pl_get_settings();
	struct seq_file *seq = ctx->meta->seq;
	struct pl_iter_scratch *buf;
	u32 zero = 0, bytes;

	if (!settings)
		return 0;
	if (ctx->meta->seq_num == 0)
		pl_store_root(settings);
	if (!task || PL_GET(task, pid) != PL_GET(task, tgid) || PL_GET(task, flags) & PF_KTHREAD || pl_is_outside(task))
		return 0;
	if (!PL_GET(task, signal, live.counter)) /* it has ended, and its parent has not waited yet */
		return 0;
	/* Unlike a tracepoint, an iterator can be preempted by another reader of the same kind, which would use the
	 * same buffer. */
	pl_disable_preemption();
	buf = bpf_map_lookup_elem(&pl_iter_buf, &zero);
	if (buf) {
		pl_fill_record(buf, pl_any_task(task), settings);
		pl_forget();
		bytes = buf->record.exec.path_bytes;
		/* Without a number it has lost its pid by now. */
		if (!pl_scope.pid_ns || buf->record.header.tgid) {
			bpf_seq_write(seq, &buf->record, sizeof(buf->record));
			if (bytes <= PL_PATH_MAX)
				bpf_seq_write(seq, (void *)pl_path_text(&buf->path, &buf->record.exec), bytes);
		}
	}
	pl_enable_preemption();
	return 0;
}
