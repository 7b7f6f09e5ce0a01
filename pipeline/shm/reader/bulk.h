/* SPDX-License-Identifier: Apache-2.0 */
/* Reads of few words of many rows: the loops of resolve_many(fields=…) and ancestor_pids_many.
 *
 * Each read follows the row protocol and combines its checks into one branch. A row that fails any of them, for whatever
 * reason, is left to the caller, which reads it again with patience. The loops call nothing, so that what they need stays
 * in registers. */
#ifndef PROCLINE_BULK_H
#define PROCLINE_BULK_H

#include "reader.h"

/* Look-ups in progress at once: while a row is copied, the index word 2 * PL_AHEAD positions ahead and the row PL_AHEAD
 * positions ahead are prefetched. A cache miss takes about 80 ns and a copy 5. */
#define PL_AHEAD 12

/* Links of one call that are remembered with the chains behind them, a power of two; and how many of a chain at most. */
#define PL_MEMO 256
#define PL_TRAIL 16

/* Chains for which the result is cleared at once. */
#define PL_CLEARED 16

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

/* Read the pid and one link of the image that a link names; return 0 if the caller must follow the link. */
static inline int pl_hop(const struct pl_tables *tables, uint64_t link, ptrdiff_t offset, uint32_t *tgid, uint64_t *next)
{
	const struct pl_hot *row = &tables->hot[(uint32_t)link];
	uint32_t seq, differs;

	if (__builtin_expect((uint32_t)link - 1 >= tables->rows, 0))
		return 0;
	seq = pl_read_begin(row);
	*tgid = pl_load_relaxed32(&row->tgid);
	*next = pl_load_relaxed64((const char *)row + offset);
	differs = (seq & 1) | (pl_load_relaxed32(&row->generation) ^ (uint32_t)(link >> 32));
	return (differs | !pl_read_valid(row, seq)) == 0;
}

/* The walk along one chain: the next link, and what has been found. */
struct pl_walk {
	uint64_t link; /* 0: the walk has ended */
	uint64_t first; /* the link to the image that `to[0]` is from; 0: not known */
	uint64_t after; /* the link behind the last image, also if the walk has ended before it */
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
	walk->after = next;
	walk->link = walk->length == depth || ++walk->steps >= steps_max ? 0 : next;
}

/* Chains of one call by the links in them. The processes of a host have few parents, and the chains of these have ancestors
 * in common, so that most of a chain has been walked before. */
struct pl_memo {
	uint64_t link[PL_MEMO];
	struct pl_known {
		uint64_t place; /* of the pid of the image in the result */
		uint64_t after; /* the link behind the last pid of that chain */
		uint32_t left; /* how many pids of the chain are in the result, from `place` on */
	} known[PL_MEMO];
};

static inline void pl_memo_clear(struct pl_memo *memo) { memset(memo->link, 0, sizeof(memo->link)); }

/* Remember where the pid of an image and those of its ancestors are in the result, unless more of them are known. */
static inline void pl_memo_add(struct pl_memo *memo, uint64_t link, uint64_t place, uint32_t left, uint64_t after)
{
	uint32_t slot = (uint32_t)link % PL_MEMO;

	if (memo->link[slot] == link && memo->known[slot].left >= left)
		return;
	memo->link[slot] = link;
	memo->known[slot] = (struct pl_known){place, after, left};
}

/* Begin a chain with what is known behind walk->link, and return whether that is something. The result is that of the hops.
 * The known chain can begin with the process itself, if an earlier image of it forked the process of that chain: its own
 * images do not count. */
static inline int pl_memo_take(const struct pl_memo *memo, struct pl_walk *walk, const uint32_t *out, uint32_t *to,
			       uint32_t depth, uint32_t steps_max)
{
	uint32_t slot = (uint32_t)walk->link % PL_MEMO, left, i;
	const struct pl_known *known = &memo->known[slot];
	const uint32_t *from;

	if (memo->link[slot] != walk->link)
		return 0;
	from = out + known->place;
	left = known->left;
	walk->first = walk->link;
	if (from[0] == walk->former) {
		from++;
		left--;
		walk->first = 0;
	}
	for (i = 0; i < left; i++)
		to[i] = from[i];
	if (left > 0)
		walk->former = from[left - 1];
	walk->length = left;
	walk->steps += left > 0 ? left : 1; /* something, so that a cycle ends */
	walk->after = known->after;
	walk->link = left == depth || walk->steps >= steps_max ? 0 : known->after;
	return 1;
}

/* Remember a chain that has ended. */
static inline void pl_walk_end(const struct pl_walk *walk, struct pl_memo *memo, uint64_t place)
{
	if (walk->length > 0 && walk->first != 0)
		pl_memo_add(memo, walk->first, place, walk->length, walk->after);
}

/* Put zeros behind a chain that has ended. */
static inline void pl_walk_clear(const struct pl_walk *walk, uint32_t *to, uint32_t depth)
{
	if (walk->length < depth)
		memset(to + walk->length, 0, (depth - walk->length) * sizeof(*to));
}

/* Fill in the chains of pids from number `i` on, one after another; return the number of the first pid that the caller must
 * go on with: at walk->link, or with its look-up if that is 0; `n` if there is none. */
static ptrdiff_t pl_walk_run(const struct pl_tables *from, struct pl_memo *memo, const uint32_t *pids, ptrdiff_t i, ptrdiff_t n,
			     ptrdiff_t offset, uint32_t *out, uint32_t depth, uint8_t *found, struct pl_walk *stuck,
			     uint32_t steps_max)
{
	const struct pl_tables tables = *from;
	uint32_t *to = out + i * depth;
	struct pl_walk walk = {0};
	uint64_t next = 0, trail[PL_TRAIL];
	uint32_t tgid = 0, pid, count, at, is_new, ends[PL_TRAIL];
	ptrdiff_t cleared = i, rows;

	for (; i < n; i++, to += depth) {
		if (i == cleared) { /* a call for each chain would take longer than the chain */
			rows = n - i < PL_CLEARED ? n - i : PL_CLEARED;
			memset(to, 0, (size_t)rows * depth * sizeof(*to));
			cleared += rows;
		}
		pid = pl_load_relaxed32(&pids[i]); /* once, as above */
		walk = (struct pl_walk){.former = pid};
		if (!pl_head_link(&tables, pid, offset, &walk.link)) {
			walk.link = 0;
			break;
		}
		found[i] = 1;
		if (walk.link == 0)
			continue;
		is_new = 1;
		while (walk.link != 0 && walk.length == 0) {
			if (pl_memo_take(memo, &walk, out, to, depth, steps_max)) {
				is_new = 0;
				continue;
			}
			if (!pl_hop(&tables, walk.link, offset, &tgid, &next))
				goto stuck;
			pl_walk_on(&walk, tgid, next, to, depth, steps_max);
		}
		count = 0;
		while (walk.link != 0) {
			trail[count] = walk.link;
			if (!pl_hop(&tables, walk.link, offset, &tgid, &next))
				goto stuck;
			pl_walk_on(&walk, tgid, next, to, depth, steps_max);
			ends[count] = walk.length;
			count += count < PL_TRAIL - 1;
		}
		if (walk.length < depth)
			to[walk.length] = 0; /* an image that did not count may have been stored there */
		pl_walk_end(&walk, memo, (uint64_t)(to - out));
		for (at = 0; is_new && at < count; at++)
			pl_memo_add(memo, trail[at], (uint64_t)(to - out) + ends[at] - 1, walk.length - ends[at] + 1,
				    walk.after);
	}
stuck:
	*stuck = walk;
	return i;
}

#endif
