/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Whether an exec followed a symbolic link: the name that was opened is compared with the path of the file that runs, both
 * from the end. Include after path.bpf.h. */
#ifndef PROCLINE_SYMLINK_BPF_H
#define PROCLINE_SYMLINK_BPF_H

/* State of the comparison. It is in a map, because the verifier would follow every combination of values on the stack. */
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
	struct pl_symlink *state;
	const struct pl_path *path;
};

/* Compare one byte of the name, which may contain "//", "/./" and "/../". */
static long pl_compare_name_byte(u64 i, struct pl_symlink_search *search)
{
	struct pl_symlink *state = search->state;
	u32 at = state->name_at, is_done = !at, length = state->length, ends = state->path_at;
	char c = '/'; /* ends the first component of a relative name */

	if (at) {
		at--;
		state->name_at = at;
		c = state->name[at & (PL_PATH_MAX - 1)];
	}
	if (c != '/') {
		length++;
		state->length = length;
		if (c == '.')
			state->dots++;
		if (search->path->text[(ends - length) & (2 * PL_PATH_MAX - 1)] == c)
			state->same++;
		return 0;
	}
	if (length && !(length <= 2 && state->dots == length)) {
		if (state->skip) {
			state->skip--;
		} else if (state->same != length || ends < state->path_low + length + 1 ||
			   search->path->text[(ends - length - 1) & (2 * PL_PATH_MAX - 1)] != '/') {
			state->differs = 1;
			return 1;
		} else {
			state->path_at = ends - length - 1;
		}
	} else if (length == 2) {
		state->skip++;
	}
	state->length = 0;
	state->same = 0;
	state->dots = 0;
	return is_done;
}

/* Whether a symbolic link led from the opened name to the file that runs; then the name is not the file's path. An absolute
 * name must equal the whole path, a relative one its end. For a script, `interp` is the name of the interpreter. `exec` has
 * the result of pl_path_of(). */
static __always_inline bool pl_followed_symlink(struct pl_symlink *state, const struct pl_path *path,
						const struct pl_exec *exec, const char *interp, const char *fdpath)
{
	struct pl_symlink_search search = { .state = state, .path = path };
	long length;

	/* A file that was opened by descriptor has no name to compare, and these flags mean that there is no full path. */
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
	bpf_loop(PL_PATH_MAX, pl_compare_name_byte, &search, 0);
	return state->differs || (state->name[0] == '/' && state->path_at != state->path_low);
}

#endif
