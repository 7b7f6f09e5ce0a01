/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Whether an exec followed a symbolic link: the name that was opened is compared with the path of the file that runs,
 * both from the end. Include after path.bpf.h. */
#ifndef PROCLINE_SYMLINK_BPF_H
#define PROCLINE_SYMLINK_BPF_H

/* State of the comparison. It is in a map, because the verifier would follow every combination of values on the
 * stack. */
struct pl_symlink {
	u32 name_at; /* bytes of the name that are left */
	u32 path_at; /* end of the path's current component */
	u32 path_low; /* beginning of the path */
	u32 length; /* bytes so far of the name's current component */
	u32 same; /* of these, bytes that are equal in the path */
	u32 skip; /* components that a ".." behind them cancels */
	u32 dots; /* bytes of the component that are dots */
	u32 differs;
	char name[PL_PATH_MAX];
};

struct pl_symlink_search {
	struct pl_symlink *names;
	const struct pl_path *path;
};

#ifdef PL_OLD
/* The object that includes this file defines it. */
static __always_inline struct pl_symlink *pl_symlink_at(void);
#endif

/* Compare one byte of the name, which may contain "//", "/./" and "/../". */
PL_STEP(pl_compare_name_byte, pl_symlink_search)
{
	struct pl_symlink *names = PL_HELD(state->names, pl_symlink_at());
	const struct pl_path *path = PL_HELD(state->path, pl_path_at(0));
	u32 at, is_done, length, ends;
	char c = '/'; /* ends the first component of a relative name */

	if (PL_IS_MISSING(names) || PL_IS_MISSING(path))
		return 1;
	at = names->name_at;
	is_done = !at;
	length = names->length;
	ends = names->path_at;

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
		if (path->text[(ends - length) & (2 * PL_PATH_MAX - 1)] == c)
			names->same++;
		return 0;
	}
	if (length && !(length <= 2 && names->dots == length)) {
		if (names->skip) {
			names->skip--;
		} else if (names->same != length || ends < names->path_low + length + 1 ||
			   path->text[(ends - length - 1) & (2 * PL_PATH_MAX - 1)] != '/') {
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

/* Whether a symbolic link led from the opened name to the file that runs; then the name is not the file's path. An
 * absolute name must equal the whole path, a relative one its end. For a script, `interp` is the name of the
 * interpreter. `exec` has the result of pl_path_of(). */
static __always_inline bool pl_followed_symlink(struct pl_symlink *state, const struct pl_path *path,
						const struct pl_exec *exec, const char *interp, const char *fdpath)
{
	struct pl_symlink_search search = { .names = state, .path = path };
	long length;

	/* A file that was opened by descriptor has no name to compare, and these flags mean that there is no full
	 * path. */
	if (interp == fdpath ||
	    exec->exec_flags & (PL_EXEC_MEMFD | PL_EXEC_PATH_TRUNCATED | PL_EXEC_ESCAPED | PL_EXEC_NO_ROOT))
		return false;
	length = bpf_probe_read_kernel_str(state->name, sizeof(state->name), interp);
	if (length < 2 || length == sizeof(state->name))
		return false;
	state->name_at = length - 1;
	state->path_at = PL_PATH_MAX;
	state->path_low = PL_PATH_MAX - exec->path_bytes + exec->root_offset;
	state->length = 0;
	state->same = 0;
	state->skip = 0;
	state->dots = 0;
	state->differs = 0;
	PL_LOOP(PL_PATH_MAX, pl_compare_name_byte, 0, &search);
	return state->differs || (state->name[0] == '/' && state->path_at != state->path_low);
}

#endif
