/* SPDX-License-Identifier: Apache-2.0 */
/* Reads of few words of many rows: the loops of resolve_many(fields=…) and ancestor_pids_many.
 *
 * Each read follows the row protocol. A row that fails any of its checks, for whatever reason, is left to the caller,
 * which reads it again with patience. The loops call nothing (except for rows of which no words are kept), so that what
 * they need stays in registers. */
#ifndef PROCLINE_BULK_H
#define PROCLINE_BULK_H

#include <stdlib.h>

#include "reader.h"

/* Look-ups in progress at once: while a row is copied, the index word 2 * PL_AHEAD positions ahead and the row PL_AHEAD
 * positions ahead are prefetched. A cache miss takes about 80 ns and a copy 5. */
#define PL_AHEAD 12

/* Pids whose kept words are read before the number of changes is read again; chains are longer. */
#define PL_KEPT_PIDS 128
#define PL_KEPT_CHAINS 32

/* Chains that are walked together, a hop each in turn, so that the latencies of their loads overlap. Their links and
 * places stay in registers. */
#define PL_LANES 4

/* If a table has more rows, the second-level cache does not hold what is kept for hops. Chains are then walked in
 * larger groups with prefetches. */
#define PL_LANES_ROWS (128u << 10)

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

/* pl_lookup_once with values that a loop keeps in registers. A row that was added after `tables` was filled in is
 * busy. */
static inline int pl_lookup_in(const struct pl_tables *tables, uint32_t pid, struct pl_hot *to)
{
	uint32_t number;

	if (pid >= tables->capacity)
		return PL_READ_ABSENT;
	number = pl_load_acquire32(&tables->index[pid]);
	if (number == 0)
		return PL_READ_ABSENT;
	if (number - 1 >= tables->rows || !pl_copy_hot(&tables->hot[number], to) || to->tgid != pid ||
	    pl_load_relaxed32(&tables->index[pid]) != number)
		return PL_READ_BUSY;
	return to->flags & PL_ROW_HEAD ? PL_READ_FOUND : PL_READ_OLD_HEAD;
}

/* Return 0 if the words that were read from a row since pl_read_begin returned `seq` are one version of the newest
 * image of `pid`, and it has no end. It is pl_lookup_once with fewer words. The rest of the row would say whether the
 * image is just being replaced; such an image has an end, so that only rows without one are accepted. */
static inline uint64_t pl_head_differs(const struct pl_tables *tables, const struct pl_hot *row, uint32_t number,
				       uint32_t seq, uint32_t pid, uint32_t tgid, uint64_t end)
{
	uint32_t differs;

	pl_fence_acquire(); /* as in pl_read_valid */
	differs = (seq & 1) | (pl_load_relaxed32(&row->row_seq) ^ seq);
	differs |= (tgid ^ pid) | (pl_load_relaxed32(&tables->index[pid]) ^ number);
	return differs | end;
}

/* Prefetch the index word of a pid that comes soon, and the words of one that comes sooner, in the array at `rows`. */
static inline void pl_prefetch_heads(const struct pl_tables *tables, const uint32_t *pids, ptrdiff_t left,
				     const void *rows, const size_t row_bytes)
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
			pl_prefetch((const char *)rows + row * row_bytes);
	}
}

/* Words that a reader keeps of rows, in its own memory, for questions about many pids. They are dense: those of 65,000
 * rows fit in the second-level cache, and the rows do not. A row that changes is noted in `control` (pl_row_note), and
 * the reader forgets its words (docs/row-protocol.md, "Keep words of rows"). Zeros: nothing is kept. */
struct pl_kept_head {
	uint32_t tgid;
	uint32_t ppid;
	uint64_t start;
};
struct pl_kept_hop {
	uint32_t generation;
	uint32_t tgid;
	uint64_t ancestor;
};

/* State of a reader for kept words. The arrays are made when they are needed. */
struct pl_kept {
	struct pl_kept_head *heads;
	struct pl_kept_hop *hops;
	const struct pl_control *control;
	const uint32_t *changes; /* the ring; NULL: nothing can be kept */
	uint64_t position; /* changes of the table that are followed */
	uint64_t asked; /* pids since the changes were followed, or since nothing is kept */
	uint64_t answered; /* pids that were asked for since something is kept */
	uint64_t patience; /* pids that must be asked for before something is kept; 0: not known yet */
	uint32_t rows; /* of the arrays */
	uint32_t used; /* rows that can have words: all below this number */
	uint32_t is_used; /* by a thread */
	uint8_t keeps;
	uint8_t lasts; /* of this call: the kept words may be used */
	uint32_t failed, done; /* of this call: groups of pids */
};

static inline void pl_kept_free(struct pl_kept *kept)
{
	free(kept->heads);
	free(kept->hops);
	kept->heads = NULL;
	kept->hops = NULL;
	kept->keeps = 0;
}

/* Keep nothing for a while. If it did not pay, the next time must be worth more. */
static inline void pl_kept_stop(struct pl_kept *kept)
{
	kept->patience = kept->answered >= kept->patience ? kept->used : 2 * kept->patience;
	if (kept->patience > (uint64_t)64 * kept->used)
		kept->patience = (uint64_t)64 * kept->used;
	kept->keeps = 0;
	kept->lasts = 0;
	kept->asked = 0;
}

/* Forget the rows that have changed since the last time; return whether what is kept may be used now. With more changes
 * than pids were asked for, it would cost more than it saves. */
static inline int pl_kept_follow(struct pl_kept *kept)
{
	uint64_t from = kept->position, to = pl_load_acquire64(&kept->control->changes), i;
	uint32_t row;

	if (to == from)
		return 1;
	if (to - from >= PL_CHANGES_KEPT) {
		pl_kept_stop(kept);
		return 0;
	}
	if (to - from > kept->asked)
		return 0;
	for (i = from; i != to; i++) {
		row = pl_load_relaxed32(&kept->changes[i % PL_CHANGES_KEPT]);
		if (row >= kept->rows)
			continue;
		if (kept->heads)
			kept->heads[row].tgid = 0;
		if (kept->hops)
			kept->hops[row] = (struct pl_kept_hop){0};
	}
	pl_fence_acquire();
	/* The writer stores an entry before it counts it, so the place of one more can be overwritten. */
	if (pl_load_relaxed64(&kept->control->changes) - from >= PL_CHANGES_KEPT) {
		pl_kept_stop(kept);
		return 0;
	}
	kept->position = to;
	kept->asked = 0;
	return 1;
}

/* Forget all words of an array, and make it if a call needs it; return whether it is there as needed. */
static inline int pl_kept_make(void **array, size_t size, const struct pl_kept *kept, int is_needed, int is_new)
{
	if (*array == NULL && is_needed)
		*array = calloc(kept->rows, size); /* pages that are never touched use no memory */
	else if (*array != NULL && is_new)
		memset(*array, 0, kept->used * size);
	return *array != NULL || !is_needed;
}

/* Begin a call for `n` pids; return whether kept words may be used in it. If so, pl_kept_end must follow. One thread at
 * a time uses them; others read the rows. */
static inline int pl_kept_begin(struct pl_kept *kept, const struct pl_view *view, uint32_t rows, ptrdiff_t n,
				int for_hops)
{
	uint64_t before;
	int is_new;

	if (kept->changes == NULL || __atomic_exchange_n(&kept->is_used, 1, __ATOMIC_ACQUIRE))
		return 0;
	before = kept->asked;
	kept->asked += (uint64_t)n;
	kept->lasts = 1;
	kept->failed = kept->done = 0;
	is_new = !kept->keeps;
	if (is_new) {
		if (kept->patience == 0)
			kept->patience = rows;
		if (before < kept->patience)
			goto no;
		kept->rows = view->row_capacity;
		kept->position = pl_load_acquire64(&kept->control->changes);
		kept->answered = 0;
	}
	if (!pl_kept_make((void **)&kept->heads, sizeof(*kept->heads), kept, !for_hops, is_new) ||
	    !pl_kept_make((void **)&kept->hops, sizeof(*kept->hops), kept, for_hops, is_new))
		goto no;
	kept->keeps = 1;
	if (rows >= kept->used)
		kept->used = rows + 1;
	if (pl_kept_follow(kept)) {
		kept->answered += (uint64_t)n;
		return 1;
	}
no:
	__atomic_store_n(&kept->is_used, 0, __ATOMIC_RELEASE);
	return 0;
}

static inline void pl_kept_end(struct pl_kept *kept)
{
	__atomic_store_n(&kept->is_used, 0, __ATOMIC_RELEASE);
}

/* Return whether what was read of the index and of kept words since the changes were followed is valid: no row has
 * changed since. Otherwise the caller reads the rows for this group of pids. If that happens often, the kept words are
 * not used for the rest of the call. */
static inline int pl_kept_valid(struct pl_kept *kept)
{
	pl_fence_acquire(); /* as in pl_read_valid */
	kept->done++;
	if (pl_load_relaxed64(&kept->control->changes) == kept->position)
		return 1;
	kept->lasts = ++kept->failed <= 2 + kept->done / 8 && pl_kept_follow(kept);
	return 0;
}

/* An element of the result: its size, and where the fields are in it; 0: the field was not asked for. The pid is at 0,
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
pl_project_run(const struct pl_tables *from, const uint32_t *pids, ptrdiff_t n, const struct pl_projection *chosen,
	       char *out, const int prefetches, const int only_start)
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
			pl_prefetch_heads(&tables, pids + i, n - i, tables.hot, sizeof(*row));
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

/* Read a row for which no words are kept, and keep them; return 0 if it must be read with patience. Not in the loop,
 * whose registers it would need. */
static __attribute__((noinline, cold)) int pl_keep_head(const struct pl_tables *tables, struct pl_kept_head *head,
							uint32_t number, uint32_t pid)
{
	const struct pl_hot *row = &tables->hot[number];
	uint32_t seq = pl_read_begin(row);
	uint64_t ids = pl_load_relaxed64(&row->tgid); /* and ppid */
	uint64_t start = pl_load_relaxed64(&row->start_boot_ns);
	uint64_t end = pl_load_relaxed64(&row->exit_boot_ns);

	if (pl_head_differs(tables, row, number, seq, pid, (uint32_t)ids, end) != 0)
		return 0;
	*head = (struct pl_kept_head){pid, (uint32_t)(ids >> 32), start};
	return 1;
}

/* The same with kept words. Missing words are read from the rows and kept. */
static inline __attribute__((always_inline)) ptrdiff_t
pl_project_kept(const struct pl_tables *from, struct pl_kept_head *heads, const uint32_t *pids, ptrdiff_t n,
		ptrdiff_t left, const struct pl_projection *chosen, char *out, const int prefetches,
		const int only_start)
{
	const struct pl_tables tables = *from;
	struct pl_projection plan = *chosen;
	struct pl_kept_head *head;
	uint32_t number, pid;
	ptrdiff_t i;

	if (only_start)
		plan = (struct pl_projection){24, 16, 8, 0, 0, 0, chosen->boot_unix_ns};
	for (i = 0; i < n; i++, out += plan.size) {
		if (prefetches)
			pl_prefetch_heads(&tables, pids + i, left - i, heads, sizeof(*heads));
		pid = pl_load_relaxed32(&pids[i]); /* once, as above */
		number = pl_head_of(&tables, pid);
		if (__builtin_expect(number == 0, 0))
			break;
		head = &heads[number];
		if (__builtin_expect(head->tgid != pid, 0) && !pl_keep_head(from, head, number, pid))
			break;
		pl_project(&plan, out, 1, pid | (uint64_t)head->ppid << 32, head->start, 0, 0);
	}
	return i;
}

/* Return in how many elements the loops above succeeded, with code made for the usual cases. `kept` is NULL if its
 * words may not be used. */
static ptrdiff_t pl_project_heads(const struct pl_tables *tables, struct pl_kept *kept, const uint32_t *pids,
				  ptrdiff_t n, const struct pl_projection *plan, char *out, int prefetches)
{
	const int only_start = plan->size == 24 && plan->found == 16 && plan->start == 8;
	ptrdiff_t i = 0, count, done;
	char *to;

	while (kept != NULL && kept->lasts && i < n) {
		count = n - i < PL_KEPT_PIDS ? n - i : PL_KEPT_PIDS;
		to = out + i * plan->size;
		if (only_start && prefetches)
			done = pl_project_kept(tables, kept->heads, pids + i, count, n - i, plan, to, 1, 1);
		else if (only_start)
			done = pl_project_kept(tables, kept->heads, pids + i, count, n - i, plan, to, 0, 1);
		else
			done = pl_project_kept(tables, kept->heads, pids + i, count, n - i, plan, to, 1, 0);
		if (!pl_kept_valid(kept))
			done = pl_project_run(tables, pids + i, count, plan, to, 1, 0);
		i += done;
		if (done < count)
			return i;
	}
	pids += i;
	out += i * plan->size;
	n -= i;
	if (only_start)
		return i + (prefetches ? pl_project_run(tables, pids, n, plan, out, 1, 1) :
					 pl_project_run(tables, pids, n, plan, out, 0, 1));
	return i + (prefetches ? pl_project_run(tables, pids, n, plan, out, 1, 0) :
				 pl_project_run(tables, pids, n, plan, out, 0, 0));
}

/* Read one link, and the generation, of the newest image of a live process; return 0 if the caller must look the pid
 * up. */
static inline int pl_head_link(const struct pl_tables *tables, uint32_t number, uint32_t pid, ptrdiff_t offset,
			       uint64_t *link, uint32_t *generation)
{
	uint32_t seq, tgid;
	const struct pl_hot *row = &tables->hot[number];
	uint64_t end;

	if (number == 0)
		return 0;
	seq = pl_read_begin(row);
	tgid = pl_load_relaxed32(&row->tgid);
	end = pl_load_relaxed64(&row->exit_boot_ns);
	*link = pl_load_relaxed64((const char *)row + offset);
	*generation = pl_load_relaxed32(&row->generation);
	return pl_head_differs(tables, row, number, seq, pid, tgid, end) == 0;
}

/* Read the pid and one link of the image that a link names; return 0 if the caller must follow the link. A chain takes
 * as long as its instructions, and the processor executes a comparison and a branch as one. */
static inline int pl_hop(const struct pl_tables *tables, uint64_t link, ptrdiff_t offset, uint32_t *tgid,
			 uint64_t *next)
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

/* The same for the link to the ancestor, from kept words alone. */
static inline __attribute__((always_inline)) int pl_hop_of_kept(const struct pl_kept_hop *hops, uint32_t rows,
								uint64_t link, uint32_t *tgid, uint64_t *next)
{
	const struct pl_kept_hop *hop = &hops[(uint32_t)link];

	if (__builtin_expect((uint32_t)link - 1 >= rows, 0) ||
	    __builtin_expect(hop->generation != (uint32_t)(link >> 32), 0))
		return 0;
	*tgid = hop->tgid;
	*next = hop->ancestor;
	return 1;
}

/* As above, but read missing words from the row and keep them. */
static inline int pl_hop_kept(const struct pl_tables *tables, struct pl_kept_hop *hops, uint64_t link, uint32_t *tgid,
			      uint64_t *next)
{
	if (pl_hop_of_kept(hops, tables->rows, link, tgid, next))
		return 1;
	if (!pl_hop(tables, link, offsetof(struct pl_hot, ancestor), tgid, next))
		return 0;
	hops[(uint32_t)link] = (struct pl_kept_hop){(uint32_t)(link >> 32), *tgid, *next};
	return 1;
}

/* Read the ancestor of the newest image of a process, with kept words; return 0 if the caller must look the pid up. */
static inline int pl_head_link_kept(const struct pl_tables *tables, struct pl_kept_hop *hops, uint32_t pid,
				    uint64_t *link)
{
	uint32_t number = pl_head_of(tables, pid), generation;

	if (number == 0)
		return 0;
	if (__builtin_expect(hops[number].tgid != pid, 0)) {
		if (!pl_head_link(tables, number, pid, offsetof(struct pl_hot, ancestor), link, &generation))
			return 0;
		hops[number] = (struct pl_kept_hop){generation, pid, *link};
	}
	*link = hops[number].ancestor;
	return 1;
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

/* Chains of one call by the link behind which they begin: where in the result they are. Many processes of a host have
 * the same parent, so that most chains have been walked before. */
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
static inline void pl_walk_end(const struct pl_walk *walk, struct pl_memo *memo, uint32_t *out, uint32_t depth,
			       uint64_t place)
{
	if (walk->length < depth)
		memset(out + place * depth + walk->length, 0, (depth - walk->length) * sizeof(*out));
	if (walk->length > 0)
		pl_memo_add(memo, walk->first, place);
}

/* Copy the chain behind a link if it is known; return whether it is. A chain that begins with `pid` itself (the link
 * names an earlier image of it, from which the known chain's process was forked) is another one: its own images do not
 * count. */
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

/* Fill in the chains of pids from number `i` on, one after another. Return the number of the first pid whose chain is
 * not complete; `n` if there is none. The caller continues that chain at stuck->link, or looks the pid up if that is
 * 0. */
static inline __attribute__((always_inline)) ptrdiff_t
pl_walk_chains(const struct pl_tables *from, struct pl_memo *memo, const uint32_t *pids, ptrdiff_t i, ptrdiff_t n,
	       const ptrdiff_t offset, uint32_t *out, uint32_t depth, uint8_t *found, struct pl_walk *stuck,
	       uint32_t steps_max)
{
	const struct pl_tables tables = *from;
	uint32_t *to = out + i * depth;
	struct pl_walk walk = {0};
	uint64_t next = 0;
	uint32_t tgid = 0, pid, left, generation;

	for (; i < n; i++, to += depth) {
		pid = pl_load_relaxed32(&pids[i]); /* once, as above */
		walk = (struct pl_walk){.former = pid};
		if (!pl_head_link(&tables, pl_head_of(&tables, pid), pid, offset, &walk.link, &generation)) {
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
		/* As pl_walk_on, with what is known by now. The link 0 names no row, so that its end needs no check of
		 * its own. */
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

/* A call of pl_walk_kept: where it reads, and where the chains go. */
struct pl_kept_walks {
	struct pl_tables tables;
	struct pl_kept_hop *hops;
	struct pl_memo *memo;
	uint32_t *out; /* `depth` pids for each chain */
	ptrdiff_t place; /* of the first chain in `out` */
	uint32_t depth;
	uint32_t steps_max;
};

/* Chains that are walked together, a hop of each in turn, so that their cache misses overlap. */
struct pl_lanes {
	struct pl_walk walk[PL_LANES];
	uint32_t *begin[PL_LANES]; /* of the chain in the result */
	uint32_t *to[PL_LANES]; /* for the next pid of the chain */
	uint64_t link[PL_LANES];
	uint32_t at[PL_LANES]; /* number of the pid */
	uint32_t count;
	uint32_t steps; /* that each of them has made at most */
	uint32_t failed; /* the lane in which a hop failed: its number plus 1; 0: no hop failed */
};

/* What pl_chain_begin has found. */
enum pl_begun { PL_BEGUN_ENDS, PL_BEGUN_CONTINUES, PL_BEGUN_NOT_KEPT };

/* Begin the chain of pid number `i` of a call: until it has a pid, ends or is known. */
static inline __attribute__((always_inline)) enum pl_begun
pl_chain_begin(const struct pl_kept_walks *call, struct pl_walk *walk, uint32_t pid, ptrdiff_t i, uint32_t *to)
{
	uint64_t place = (uint64_t)(call->place + i), next = 0;
	uint32_t tgid = 0;

	*walk = (struct pl_walk){.former = pid};
	if (!pl_head_link_kept(&call->tables, call->hops, pid, &walk->link))
		return PL_BEGUN_NOT_KEPT;
	while (walk->link != 0 && walk->length == 0) {
		if (pl_memo_copy(call->memo, walk->link, pid, call->out, call->depth, place))
			return PL_BEGUN_ENDS;
		if (!pl_hop_kept(&call->tables, call->hops, walk->link, &tgid, &next))
			return PL_BEGUN_NOT_KEPT;
		pl_walk_on(walk, tgid, next, to, call->depth, call->steps_max);
	}
	if (walk->link != 0)
		return PL_BEGUN_CONTINUES;
	pl_walk_end(walk, call->memo, call->out, call->depth, place);
	return PL_BEGUN_ENDS;
}

/* Walk the chains of all lanes until one of them ends, is as long as it may be, or makes a hop of which no word is
 * kept. */
static inline __attribute__((always_inline)) void pl_lanes_walk(const struct pl_kept_walks *call,
								struct pl_lanes *lanes)
{
	uint64_t next = 0;
	uint32_t rounds, length, tgid = 0, k;

	for (;;) {
		/* In as many rounds as the longest chain lacks, no chain becomes too long. */
		for (rounds = call->steps_max - lanes->steps, k = 0; k < PL_LANES; k++) {
			length = (uint32_t)(lanes->to[k] - lanes->begin[k]);
			rounds = call->depth - length < rounds ? call->depth - length : rounds;
		}
		if (rounds == 0)
			return;
		for (; rounds > 0; rounds--, lanes->steps++) {
#pragma GCC unroll 8
			for (k = 0; k < PL_LANES; k++) {
				if (!pl_hop_of_kept(call->hops, call->tables.rows, lanes->link[k], &tgid, &next)) {
					lanes->failed = k + 1;
					return;
				}
				*lanes->to[k] = tgid;
				lanes->to[k] += tgid != lanes->to[k][-1]; /* which a lane always has */
				lanes->link[k] = next;
			}
		}
	}
}

/* Walk the rest of the chain of lane `k` alone; return 0 if the caller must walk the whole chain. */
static inline __attribute__((always_inline)) int pl_lane_end(const struct pl_kept_walks *call, struct pl_lanes *lanes,
							     uint32_t k)
{
	struct pl_walk *walk = &lanes->walk[k];
	uint64_t next = 0;
	uint32_t tgid = 0;

	walk->link = lanes->link[k];
	walk->former = lanes->to[k][-1];
	walk->length = (uint32_t)(lanes->to[k] - lanes->begin[k]);
	walk->steps = lanes->count == PL_LANES ? lanes->steps + (k + 1 < lanes->failed) : walk->steps;
	if (walk->length == call->depth || walk->steps >= call->steps_max)
		walk->link = 0;
	while (walk->link != 0) {
		if (!pl_hop_kept(&call->tables, call->hops, walk->link, &tgid, &next))
			return 0;
		pl_walk_on(walk, tgid, next, lanes->begin[k], call->depth, call->steps_max);
	}
	pl_walk_end(walk, call->memo, call->out, call->depth, (uint64_t)(call->place + lanes->at[k]));
	return 1;
}

/* Walk the chains of ancestors of `n` pids, at most PL_KEPT_CHAINS, with kept words; return bits of those that the
 * caller must walk. What is found is not valid before pl_kept_valid. */
static inline uint32_t pl_walk_kept(const struct pl_tables *from, struct pl_kept_hop *hops, struct pl_memo *memo,
				    const uint32_t *pids, ptrdiff_t n, ptrdiff_t left, ptrdiff_t place, uint32_t *out,
				    uint32_t depth, uint8_t *found, uint32_t steps_max)
{
	const struct pl_kept_walks call = {*from, hops, memo, out, place, depth, steps_max};
	struct pl_lanes lanes;
	uint32_t k, undone = 0;
	ptrdiff_t i = 0;

	while (i < n) {
		lanes.count = lanes.steps = lanes.failed = 0;
		for (; i < n && lanes.count < PL_LANES; i++) {
			struct pl_walk *walk = &lanes.walk[lanes.count];
			uint32_t *begin = out + (place + i) * depth;
			enum pl_begun begun;

			pl_prefetch_heads(&call.tables, pids + i, left - i, hops, sizeof(*hops));
			found[i] = 1;
			begun = pl_chain_begin(&call, walk, pl_load_relaxed32(&pids[i]), i, begin); /* once, as above */
			undone |= (uint32_t)(begun == PL_BEGUN_NOT_KEPT) << i;
			if (begun != PL_BEGUN_CONTINUES)
				continue;
			lanes.begin[lanes.count] = begin;
			lanes.to[lanes.count] = begin + walk->length;
			lanes.link[lanes.count] = walk->link;
			lanes.at[lanes.count] = (uint32_t)i;
			lanes.steps = walk->steps > lanes.steps ? walk->steps : lanes.steps;
			lanes.count++;
		}
		if (lanes.count == PL_LANES)
			pl_lanes_walk(&call, &lanes);
		for (k = 0; k < lanes.count; k++)
			undone |= (uint32_t)!pl_lane_end(&call, &lanes, k) << lanes.at[k];
	}
	return undone;
}

/* Do the same with code made for the usual links. */
static ptrdiff_t pl_walk_run(const struct pl_tables *from, struct pl_memo *memo, const uint32_t *pids, ptrdiff_t i,
			     ptrdiff_t n, ptrdiff_t offset, uint32_t *out, uint32_t depth, uint8_t *found,
			     struct pl_walk *stuck, uint32_t steps_max)
{
	if (offset == offsetof(struct pl_hot, ancestor))
		return pl_walk_chains(from, memo, pids, i, n, offsetof(struct pl_hot, ancestor), out, depth, found,
				      stuck, steps_max);
	return pl_walk_chains(from, memo, pids, i, n, offset, out, depth, found, stuck, steps_max);
}

#endif
