/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The path of a file, by a walk over its dentries and across mounts, as prepend_path() of fs/d_path.c does it; and the
 * facts of its inode. No locks are held: if a directory is renamed during the walk, the result can be a path that never
 * existed. */
#ifndef PROCLINE_PATH_BPF_H
#define PROCLINE_PATH_BPF_H

/* The verifier does not follow the steps one by one, so this limits only the run time. One step is a component or a
 * mount. */
#define PL_WALK_STEPS 2048

/* The path grows backwards from PL_PATH_MAX to 0. Twice the size, so that an offset below PL_PATH_MAX plus a length up
 * to it stays inside for the verifier, which does not know that their sum is PL_PATH_MAX. */
struct pl_path {
	char text[2 * PL_PATH_MAX];
	/* Where the path below the root of the file's mount begins; 0 until it is reached. Not in pl_walk, because
	 * every field of that multiplies the states that the verifier visits. */
	u32 mount_start;
	u32 pad;
};

#ifdef PL_OLD
/* Return the path that a walk writes, by number. The object that includes this file defines it. */
static __always_inline struct pl_path *pl_path_at(u32 number);
#endif

struct pl_walk {
	struct pl_path *out;
	const void *dentry;
	const void *mount;
	const void *root_dentry; /* the task's own root */
	const void *root_mnt;
	const void *end_dentry; /* the recorder's root: paths begin there */
	const void *end_mnt;
	u32 start; /* of the path in out->text */
	u32 root_start; /* of the path below the task's own root; 0 until it is reached */
	u32 flags;
	u32 done;
#ifdef PL_OLD
	u32 number; /* of the path */
	u32 pad;
#endif
};

PL_STEP(pl_walk_step, pl_walk)
{
	struct pl_path *out = PL_HELD(state->out, pl_path_at(state->number));
	const struct dentry *dentry = PL_AS(struct dentry, state->dentry);
	const struct mount *mount = PL_AS(struct mount, state->mount);
	const void *mnt = state->mount + bpf_core_field_offset(struct mount, mnt);
	const struct dentry *parent;
	u32 start = state->start, length;

	if (PL_IS_MISSING(out))
		return 1;
	if (state->dentry == state->root_dentry && mnt == state->root_mnt)
		state->root_start = start;
	if (state->dentry == state->end_dentry && mnt == state->end_mnt)
		goto done;
	if (state->dentry == PL_GET(mount, mnt.mnt_root)) {
		const void *up = PL_GET(mount, mnt_parent);

		if (!out->mount_start)
			out->mount_start = start;
		if (up == state->mount) { /* the top of a mount tree */
			if (!PL_GET(mount, mnt_ns))
				state->flags |= PL_EXEC_DETACHED;
			goto done;
		}
		state->dentry = PL_GET(mount, mnt_mountpoint);
		state->mount = up;
		return 0;
	}
	parent = PL_GET(dentry, d_parent);
	if (state->dentry == parent) { /* a directory that was moved out of the mount */
		state->flags |= PL_EXEC_ESCAPED;
		goto done;
	}
	length = PL_GET(dentry, d_name.len) & 255;
	if (start < length + 1) {
		state->flags |= PL_EXEC_PATH_TRUNCATED;
		goto done;
	}
	start -= length + 1;
	out->text[start & (PL_PATH_MAX - 1)] = '/';
	bpf_probe_read_kernel(out->text + ((start + 1) & (PL_PATH_MAX - 1)), length, PL_GET(dentry, d_name.name));
	state->start = start;
	state->dentry = parent;
	return 0;
done:
	state->done = 1;
	return 1;
}

/* Write the path of `file`, as `task` sees it, to `out`, where it ends at PL_PATH_MAX. Fill the fields of EXEC that
 * describe the path; exec_flags are overwritten. */
static __always_inline void pl_path_of(struct pl_path *out, struct pl_exec *exec, struct file *file,
				       struct task_struct *task, const struct pl_settings *settings)
{
	const struct dentry *dentry = PL_GET(file, f_path.dentry);
	const struct vfsmount *mnt = PL_GET(file, f_path.mnt);
	struct pl_walk walk = {
		.out = out,
		.dentry = dentry,
		.mount = (const void *)mnt - bpf_core_field_offset(struct mount, mnt),
		.root_dentry = PL_GET(task, fs, root.dentry),
		.root_mnt = PL_GET(task, fs, root.mnt),
		.end_dentry = (const void *)settings->root_dentry,
		.end_mnt = (const void *)settings->root_mnt,
		.start = PL_PATH_MAX,
	};
	const struct mount *mount = PL_AS(struct mount, walk.mount);

	out->mount_start = 0;
	exec->mount_id = PL_GET(mount, mnt_id);
	if (dentry == PL_GET(dentry, d_parent) && dentry != PL_GET(dentry, d_sb, s_root)) {
		/* A file of no directory. Its name is "memfd:..." for a memfd; it has no mount tree to walk. */
		u32 length = PL_GET(dentry, d_name.len) & 255;
		char *name = out->text + ((PL_PATH_MAX - length) & (PL_PATH_MAX - 1));

		bpf_probe_read_kernel(name, length, PL_GET(dentry, d_name.name));
		walk.start = PL_PATH_MAX - 1 - length;
		out->text[walk.start & (PL_PATH_MAX - 1)] = '/';
		walk.root_start = walk.start;
		walk.flags = PL_EXEC_ESCAPED;
		if (name[0] == 'm' && name[1] == 'e' && name[2] == 'm' && name[3] == 'f' && name[4] == 'd' &&
		    name[5] == ':')
			walk.flags = PL_EXEC_MEMFD;
	} else {
		if (!PL_GET(dentry, d_hash.pprev) && dentry != PL_GET(dentry, d_parent))
			walk.flags = PL_EXEC_DELETED;
		PL_LOOP(PL_WALK_STEPS, pl_walk_step, 0, &walk);
		if (!walk.done)
			walk.flags |= PL_EXEC_PATH_TRUNCATED;
	}
	if (walk.start >= PL_PATH_MAX) { /* the file is itself the root of a mount tree */
		walk.start = PL_PATH_MAX - 1;
		out->text[PL_PATH_MAX - 1] = '/';
	}
	if (!walk.root_start) {
		walk.flags |= PL_EXEC_NO_ROOT;
		walk.root_start = walk.start;
	}
	exec->mount_end = 0;
	if (!(walk.flags & (PL_EXEC_MEMFD | PL_EXEC_ESCAPED | PL_EXEC_PATH_TRUNCATED)))
		/* If the walk did not leave the mount, the path begins at the mount. */
		exec->mount_end = 1 + (out->mount_start ? out->mount_start - walk.start : 0);
	exec->path_bytes = PL_PATH_MAX - walk.start;
	exec->root_offset = walk.root_start > walk.start ? walk.root_start - walk.start : 0;
	exec->exec_flags = walk.flags;
}

/* Write the path of a directory to `out`, which is the path `number`. It ends at PL_PATH_MAX, with a NUL in front.
 * Returns the bytes of both; 0: the directory is deleted, its mount is detached, it is not below the recorder's root,
 * or its path is too long. The process chooses it, so it is text and nothing else: bounded, and never part of an
 * identity. */
static __always_inline u32 pl_directory_of(struct pl_path *out, u32 number, const struct path *directory,
					   const struct pl_settings *settings)
{
	const struct dentry *dentry = PL_GET(directory, dentry);
	const struct vfsmount *mnt = PL_GET(directory, mnt);
	struct pl_walk walk = {
		.out = out,
		.dentry = dentry,
		.mount = (const void *)mnt - bpf_core_field_offset(struct mount, mnt),
		.end_dentry = (const void *)settings->root_dentry,
		.end_mnt = (const void *)settings->root_mnt,
		.start = PL_PATH_MAX,
#ifdef PL_OLD
		.number = number,
#endif
	};

	out->mount_start = 0;
	if (!PL_GET(dentry, d_hash.pprev) && dentry != PL_GET(dentry, d_parent))
		return 0;
	PL_LOOP(PL_WALK_STEPS, pl_walk_step, 0, &walk);
	if (!walk.done || walk.flags)
		return 0;
	if (walk.start >= PL_PATH_MAX) {
		walk.start = PL_PATH_MAX - 1;
		out->text[PL_PATH_MAX - 1] = '/';
	}
	if (!walk.start)
		return 0;
	out->text[(walk.start - 1) & (PL_PATH_MAX - 1)] = 0;
	return PL_PATH_MAX - walk.start + 1;
}

/* Where the path begins. */
static __always_inline const char *pl_path_text(const struct pl_path *path, const struct pl_exec *exec)
{
	return path->text + ((PL_PATH_MAX - exec->path_bytes) & (PL_PATH_MAX - 1));
}

/* Fill the fields of EXEC that describe the file itself, not its path. */
static __always_inline void pl_fill_file(struct pl_exec *out, struct file *file)
{
	struct inode *inode = PL_GET(file, f_inode);
	struct super_block *sb = PL_GET(inode, i_sb);
	u32 magic = PL_GET(sb, s_magic);

	out->inode = PL_GET(inode, i_ino);
	out->device = PL_GET(sb, s_dev);
	out->fs_magic = magic;
	out->file_uid = PL_GET(inode, i_uid.val);
	out->file_gid = PL_GET(inode, i_gid.val);
	out->nlink = PL_GET(inode, i_nlink);
	out->mode = PL_GET(inode, i_mode);
	if (bpf_core_field_exists(inode->i_ctime_sec)) {
		/* The top bit says that the time was queried. Since Linux 4e40eff0b573 ("fs: add infrastructure for
		 * multigrain timestamps") (v6.13). */
		out->ctime_ns = PL_GET(inode, i_ctime_sec) * 1000000000ull + (PL_GET(inode, i_ctime_nsec) & 0x7fffffff);
		out->mtime_ns = PL_GET(inode, i_mtime_sec) * 1000000000ull + PL_GET(inode, i_mtime_nsec);
	} else {
		struct inode___before_6_11 *old = (void *)inode;

		/* Each by itself: Linux 6.6 has __i_ctime and i_mtime. */
		if (bpf_core_field_exists(old->__i_ctime))
			out->ctime_ns = PL_GET(old, __i_ctime.tv_sec) * 1000000000ull + PL_GET(old, __i_ctime.tv_nsec);
		else
			out->ctime_ns = PL_GET(old, i_ctime.tv_sec) * 1000000000ull + PL_GET(old, i_ctime.tv_nsec);
		if (bpf_core_field_exists(old->__i_mtime))
			out->mtime_ns = PL_GET(old, __i_mtime.tv_sec) * 1000000000ull + PL_GET(old, __i_mtime.tv_nsec);
		else
			out->mtime_ns = PL_GET(old, i_mtime.tv_sec) * 1000000000ull + PL_GET(old, i_mtime.tv_nsec);
	}
	if (magic == OVERLAYFS_SUPER_MAGIC) {
		/* While the module overlayfs is not loaded, its types are unknown. The field has followed the embedded
		 * inode since Linux v4.14. */
		const void *at = (const void *)inode + bpf_core_type_size(struct inode);
		const void *upper = NULL;

		if (bpf_core_field_exists(struct ovl_inode, __upperdentry))
			at = (const void *)inode - bpf_core_field_offset(struct ovl_inode, vfs_inode) +
			     bpf_core_field_offset(struct ovl_inode, __upperdentry);
		bpf_probe_read_kernel(&upper, sizeof(upper), at);
		if (upper)
			out->exec_flags |= PL_EXEC_UPPER_LAYER;
	}
}

/* Fill an image's entry of proc_cache. */
static __always_inline void pl_fill_image(struct pl_image *out, const struct pl_header *header,
					  const struct pl_task *task, const struct pl_exec *exec,
					  const struct pl_path *path)
{
	out->exec_boot_ns = 0;
	out->cgroup_id = task->cgroup_id;
	out->inode = exec->inode;
	out->ctime_ns = exec->ctime_ns;
	out->mtime_ns = exec->mtime_ns;
	out->device = exec->device;
	out->mount_id = exec->mount_id;
	out->file_uid = exec->file_uid;
	out->file_gid = exec->file_gid;
	out->nlink = exec->nlink;
	out->mode = exec->mode;
	out->exec_flags = exec->exec_flags;
	out->fs_magic = exec->fs_magic;
	out->tgid = header->tgid;
	out->path_bytes = exec->path_bytes;
	out->root_offset = exec->root_offset;
	out->mount_end = exec->mount_end;
	__builtin_memcpy(out->comm, task->comm, sizeof(out->comm));
	__builtin_memcpy(out->tty, task->tty, sizeof(out->tty));
	/* Bytes after the path have no meaning. If path_bytes > PL_IMAGE_PATH_BYTES, this is the beginning of the
	 * path. */
	bpf_probe_read_kernel(out->path, sizeof(out->path), pl_path_text(path, exec));
}

#endif
