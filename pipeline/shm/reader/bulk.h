/* SPDX-License-Identifier: Apache-2.0 */
/* Reads of few words of many rows: the loops of resolve_many(fields=…) and ancestor_pids_many.
 *
 * Each read follows the row protocol. A row that fails any of its checks, for whatever reason, is left to the caller,
 * which reads it again with patience. The loops call nothing, so that what they need stays in registers. */
#ifndef PROCLINE_BULK_H
#define PROCLINE_BULK_H

#include "reader.h"

/* Look-ups in progress at once: while a row is copied, the index word 2 * PL_AHEAD positions ahead and the row PL_AHEAD
 * positions ahead are prefetched. A cache miss takes about 80 ns and a copy 5. */
#define PL_AHEAD 12

/* Chains of one call that are remembered, by the link at which they begin; a power of two. */
#define PL_MEMO 256

/* What the loops need of a view. */
struct pl_tables {
	const uint32_t *index;
	const struct pl_hot *hot;
	uint32_t capacity; /* pids below it are in the index */
	uint32_t rows; /* rows from 1 to this number exist in the file */
};

static inline struct pl_tables pl_tables_of(const struct pl_view *view)
{
	uint32_t end = pl_rows_end(view);

	return (struct pl_tables){view->index, view->hot, view->pid_capacity, end > 0 ? end - 1 : 0};
}

/* Return the row of a pid; 0 if there is none that can be read. */
static inline uint32_t pl_head_of(const struct pl_tables *tables, uint32_t pid)
{
	uint32_t row = pid < tables->capacity ? pl_load_acquire32(&tables->index[pid]) : 0;

	return row - 1 < tables->rows ? row : 0;
}

/* Return 0 if the words that were read from a row since pl_read_begin returned `seq` are one version of the newest image
 * of `pid`, and it has no end. It is pl_lookup_once with fewer words. The rest of the row would say whether the image is
 * just being replaced; such an image has an end, so that only rows without one are accepted. */
static inline uint64_t pl_head_differs(const struct pl_tables *tables, const struct pl_hot *row, uint32_t number,
				       uint32_t seq, uint32_t pid, uint32_t tgid, uint64_t end)
{
	uint32_t differs;

	pl_fence_acquire(); /* as in pl_read_valid */
	differs = (seq & 1) | (pl_load_relaxed32(&row->row_seq) ^ seq);
	differs |= (tgid ^ pid) | (pl_load_relaxed32(&tables->index[pid]) ^ number);
	return differs | end;
}

static inline void pl_prefetch_heads(const struct pl_tables *tables, const uint32_t *pids, ptrdiff_t left)
{
	uint32_t pid, row;

	if (left > 2 * PL_AHEAD) {
		pid = pl_load_relaxed32(&pids[2 * PL_AHEAD]);
		if (pid < tables->capacity)
			pl_prefetch(&tables->index[pid]);
	}
	if (left > PL_AHEAD) {
		pid = pl_load_relaxed32(&pids[PL_AHEAD]);
		row = pid < tables->capacity ? pl_load_relaxed32(&tables->index[pid]) : 0;
		if (row <= tables->rows)
			pl_prefetch(&tables->hot[row]);
	}
}

/* Of an element of the result: its size, and where the fields are in it; 0: the field was not asked for. The pid is at 0,
 * and the parent's pid or padding at 4. */
struct pl_projection {
	ptrdiff_t size, found, start, start_boot, image, end;
	int64_t boot_unix_ns;
};

static inline uint64_t pl_unix_ns(const struct pl_projection *plan, uint64_t boot_ns)
{
	return boot_ns != 0 ? boot_ns + (uint64_t)plan->boot_unix_ns : 0;
}

static inline void pl_store64(char *to, uint64_t value) { memcpy(to, &value, 8); }

/* Fill in one element of the result; `ids` is the pid, and the parent's in the upper half. */
static inline void pl_project(const struct pl_projection *plan, char *out, int found, uint64_t ids, uint64_t start,
			      uint64_t image, uint64_t end)
{
	pl_store64(out, ids);
	if (plan->start)
		pl_store64(out + plan->start, pl_unix_ns(plan, start));
	if (plan->start_boot)
		pl_store64(out + plan->start_boot, start);
	if (plan->image)
		pl_store64(out + plan->image, pl_unix_ns(plan, image));
	if (plan->end)
		pl_store64(out + plan->end, pl_unix_ns(plan, end));
	pl_store64(out + plan->found, (uint64_t)found);
}

/* Fill in elements from the first on; return how many, up to the first pid that is not simply found. */
static inline __attribute__((always_inline)) ptrdiff_t
pl_project_run(const struct pl_tables *from, const uint32_t *pids, ptrdiff_t n, const struct pl_projection *chosen, char *out,
	       const int prefetches, const int only_start)
{
	const struct pl_tables tables = *from;
	struct pl_projection plan = *chosen;
	uint64_t ids, start, image = 0, end;
	const struct pl_hot *row;
	uint32_t number, seq, pid;
	ptrdiff_t i;

	if (only_start) /* so that the compiler knows the places */
		plan = (struct pl_projection){24, 16, 8, 0, 0, 0, chosen->boot_unix_ns};
	for (i = 0; i < n; i++, out += plan.size) {
		if (prefetches)
			pl_prefetch_heads(&tables, pids + i, n - i);
		pid = pl_load_relaxed32(&pids[i]); /* once: another thread of the caller can write to the array */
		number = pl_head_of(&tables, pid);
		if (__builtin_expect(number == 0, 0))
			break;
		row = &tables.hot[number];
		seq = pl_read_begin(row);
		ids = pl_load_relaxed64(&row->tgid); /* and ppid */
		start = pl_load_relaxed64(&row->start_boot_ns);
		if (!only_start)
			image = pl_load_relaxed64(&row->exec_boot_ns);
		end = pl_load_relaxed64(&row->exit_boot_ns);
		if (__builtin_expect(pl_head_differs(&tables, row, number, seq, pid, (uint32_t)ids, end) != 0, 0))
			break;
		pl_project(&plan, out, 1, ids, start, image, 0);
	}
	return i;
}

/* Return in how many elements the loop above succeeded, with its code made for the usual cases. */
static ptrdiff_t pl_project_heads(const struct pl_tables *tables, const uint32_t *pids, ptrdiff_t n,
				  const struct pl_projection *plan, char *out, int prefetches)
{
	int only_start = plan->size == 24 && plan->found == 16 && plan->start == 8;

	if (only_start)
		return prefetches ? pl_project_run(tables, pids, n, plan, out, 1, 1) :
				    pl_project_run(tables, pids, n, plan, out, 0, 1);
	return prefetches ? pl_project_run(tables, pids, n, plan, out, 1, 0) :
			    pl_project_run(tables, pids, n, plan, out, 0, 0);
}

/* Read one link of the newest image of a live process; return 0 if the caller must look the pid up. */
static inline int pl_head_link(const struct pl_tables *tables, uint32_t pid, ptrdiff_t offset, uint64_t *link)
{
	uint32_t number = pl_head_of(tables, pid), seq, tgid;
	const struct pl_hot *row = &tables->hot[number];
	uint64_t end;

	if (number == 0)
		return 0;
	seq = pl_read_begin(row);
	tgid = pl_load_relaxed32(&row->tgid);
	end = pl_load_relaxed64(&row->exit_boot_ns);
	*link = pl_load_relaxed64((const char *)row + offset);
	return pl_head_differs(tables, row, number, seq, pid, tgid, end) == 0;
}

/* Read the pid and one link of the image that a link names; return 0 if the caller must follow the link. A chain takes as
 * long as its instructions, and the processor executes a comparison and a branch as one. */
static inline int pl_hop(const struct pl_tables *tables, uint64_t link, ptrdiff_t offset, uint32_t *tgid, uint64_t *next)
{
	const struct pl_hot *row = &tables->hot[(uint32_t)link];
	uint32_t seq;

	if (__builtin_expect((uint32_t)link - 1 >= tables->rows, 0))
		return 0;
	seq = pl_read_begin(row);
	if (__builtin_expect((seq & 1) != 0, 0) ||
	    __builtin_expect(pl_load_relaxed32(&row->generation) != (uint32_t)(link >> 32), 0))
		return 0;
	*tgid = pl_load_relaxed32(&row->tgid);
	*next = pl_load_relaxed64((const char *)row + offset);
	return __builtin_expect(pl_read_valid(row, seq), 1);
}

/* The walk along one chain: the next link, and what has been found. */
struct pl_walk {
	uint64_t link; /* 0: the walk has ended */
	uint64_t first; /* the link behind which `to` begins */
	uint32_t former; /* the pid that was found last: images of one process count once */
	uint32_t steps;
	uint32_t length;
};

/* Note what a hop has found. */
static inline void pl_walk_on(struct pl_walk *walk, uint32_t tgid, uint64_t next, uint32_t *to, uint32_t depth,
			      uint32_t steps_max)
{
	if (walk->length == 0)
		walk->first = walk->link;
	to[walk->length] = tgid;
	walk->length += tgid != walk->former;
	walk->former = tgid;
	walk->link = walk->length == depth || ++walk->steps == steps_max ? 0 : next;
}

/* Chains of one call by the link behind which they begin: where in the result they are. Many processes of a host have the
 * same parent, so that most chains have been walked before. */
struct pl_memo {
	uint64_t link[PL_MEMO];
	uint64_t place[PL_MEMO];
};

static inline void pl_memo_clear(struct pl_memo *memo) { memset(memo->link, 0, sizeof(memo->link)); }

/* Remember a chain, which must be complete in the result, with the zeros behind it. */
static inline void pl_memo_add(struct pl_memo *memo, uint64_t link, uint64_t place)
{
	memo->link[(uint32_t)link % PL_MEMO] = link;
	memo->place[(uint32_t)link % PL_MEMO] = place;
}

/* Put zeros behind a chain that has ended, and remember it. */
static inline void pl_walk_end(const struct pl_walk *walk, struct pl_memo *memo, uint32_t *out, uint32_t depth, uint64_t place)
{
	if (walk->length < depth)
		memset(out + place * depth + walk->length, 0, (depth - walk->length) * sizeof(*out));
	if (walk->length > 0)
		pl_memo_add(memo, walk->first, place);
}

/* Copy the chain behind a link if it is known; return whether it is. A chain that begins with `pid` itself (the link names
 * an earlier image of it, from which the known chain's process was forked) is another one: its own images do not count. */
static inline int pl_memo_copy(const struct pl_memo *memo, uint64_t link, uint32_t pid, uint32_t *out, size_t depth,
			       uint64_t place)
{
	uint32_t slot = (uint32_t)link % PL_MEMO;
	const uint32_t *known;

	if (memo->link[slot] != link)
		return 0;
	known = out + memo->place[slot] * depth;
	if (known[0] == pid)
		return 0;
	memcpy(out + place * depth, known, depth * sizeof(*out));
	return 1;
}

/* Fill in the chains of pids from number `i` on, one after another; return the number of the first pid that the caller must
 * go on with: at walk->link, or with its look-up if that is 0; `n` if there is none. */
static inline __attribute__((always_inline)) ptrdiff_t
pl_walk_chains(const struct pl_tables *from, struct pl_memo *memo, const uint32_t *pids, ptrdiff_t i, ptrdiff_t n,
	       const ptrdiff_t offset, uint32_t *out, uint32_t depth, uint8_t *found, struct pl_walk *stuck, uint32_t steps_max)
{
	const struct pl_tables tables = *from;
	uint32_t *to = out + i * depth;
	struct pl_walk walk = {0};
	uint64_t next = 0;
	uint32_t tgid = 0, pid, left;

	for (; i < n; i++, to += depth) {
		pid = pl_load_relaxed32(&pids[i]); /* once, as above */
		walk = (struct pl_walk){.former = pid};
		if (!pl_head_link(&tables, pid, offset, &walk.link)) {
			walk.link = 0;
			break;
		}
		found[i] = 1;
		while (walk.link != 0 && walk.length == 0) {
			if (pl_memo_copy(memo, walk.link, pid, out, depth, i))
				goto copied;
			if (!pl_hop(&tables, walk.link, offset, &tgid, &next))
				goto stuck;
			pl_walk_on(&walk, tgid, next, to, depth, steps_max);
		}
		/* As pl_walk_on, with what is known by now. The link 0 names no row, so that its end needs no check of its own. */
		for (left = walk.link == 0 ? 0 : steps_max - walk.steps; left > 0; left--) {
			if (!pl_hop(&tables, walk.link, offset, &tgid, &next)) {
				if (walk.link == 0)
					break;
				walk.steps = steps_max - left;
				goto stuck;
			}
			to[walk.length] = tgid;
			walk.length += tgid != walk.former;
			walk.former = tgid;
			walk.link = next;
			if (walk.length == depth)
				break;
		}
		pl_walk_end(&walk, memo, out, depth, i);
	copied:;
	}
stuck:
	*stuck = walk;
	return i;
}

/* Do the same with code made for the usual links. */
static ptrdiff_t pl_walk_run(const struct pl_tables *from, struct pl_memo *memo, const uint32_t *pids, ptrdiff_t i, ptrdiff_t n,
			     ptrdiff_t offset, uint32_t *out, uint32_t depth, uint8_t *found, struct pl_walk *stuck,
			     uint32_t steps_max)
{
	if (offset == offsetof(struct pl_hot, ancestor))
		return pl_walk_chains(from, memo, pids, i, n, offsetof(struct pl_hot, ancestor), out, depth, found, stuck,
				      steps_max);
	return pl_walk_chains(from, memo, pids, i, n, offset, out, depth, found, stuck, steps_max);
}

#endif
