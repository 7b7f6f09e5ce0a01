/* SPDX-License-Identifier: Apache-2.0 */
/* The reader's side of the row protocol: copy a row, look up a pid, follow a link. Nothing here writes to shared memory
 * or waits; the caller decides how long to retry a busy row. docs/row-protocol.md explains the protocol. */
#ifndef PROCLINE_READER_H
#define PROCLINE_READER_H

#include <time.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "clock.h"
#include "keys.h"
#include "layout.h"

/* A segment of strings. */
struct pl_strings {
	const char *bytes; /* NULL if this reader may not open it */
	const uint64_t *allocated; /* the field of `control` */
	uint64_t mapped; /* bytes */
};

/* One epoch of an instance's segments, as mapped by a reader. */
struct pl_view {
	const struct pl_control *control;
	const uint32_t *index;
	const struct pl_hot *hot;
	const struct pl_cold *cold;
	const struct pl_costs *costs; /* of a row only with KNOWN_COST: the pages of other rows may not exist */
	uint32_t pid_capacity, row_capacity;
	uint32_t slots; /* entries of the index: pids, then keys */
	uint32_t key_capacity;
	const struct pl_keys *keys;
	struct pl_strings names, args, envs;
};

/* A copy of what a row has besides its hot part. */
struct pl_rest {
	struct pl_cold cold;
	struct pl_costs costs; /* 0 if the row has none */
};

enum {
	PL_READ_FOUND = 0,
	PL_READ_ABSENT = 1, /* no such pid in the index; the link's row has another owner */
	PL_READ_BUSY = 2, /* changed during the copy, or being written: try again */
	PL_READ_OLD_HEAD = 3, /* a valid copy of an image that is just being replaced in the index */
};

/* Words are loaded one by one with relaxed atomics. A copy that overlaps a write is discarded, but its loads must not
 * be undefined behaviour; each is one mov or ldr. On x86-64 the loads are 16 bytes wide, which halves the instructions
 * of a copy: rows are aligned, and each half of such a load is as atomic as an 8-byte load. */
static inline void pl_copy_words(void *to, const void *from, size_t words)
{
	uint64_t *out = (uint64_t *)to;
	const uint64_t *in = (const uint64_t *)from;
	size_t i = 0;

#ifdef __SSE2__
#pragma GCC unroll 12
	for (; i + 1 < words; i += 2)
		_mm_storeu_si128((__m128i *)(out + i), *(const volatile __m128i_u *)(in + i));
#endif
#pragma GCC unroll 24
	for (; i < words; i++)
		out[i] = __atomic_load_n(in + i, __ATOMIC_RELAXED);
}

/* The same for bytes at an 8-byte boundary; `to` need not be aligned. */
static inline void pl_copy_bytes(char *to, const char *from, size_t n)
{
	size_t whole = n & ~(size_t)7;

	for (size_t i = 0; i < whole; i += 8) {
		uint64_t word = __atomic_load_n((const uint64_t *)(const void *)(from + i), __ATOMIC_RELAXED);
		memcpy(to + i, &word, 8);
	}
	for (size_t i = whole; i < n; i++)
		to[i] = __atomic_load_n(from + i, __ATOMIC_RELAXED);
}

/* Return whether `n` shared bytes, which may change meanwhile, are equal to the given ones. */
static inline int pl_same_bytes(const char *shared, const char *data, size_t n)
{
	uint64_t other = 0, differs = 0;
	size_t i = 0;

	for (; i + 8 <= n; i += 8) {
		memcpy(&other, data + i, 8);
		differs |= other ^ __atomic_load_n((const uint64_t *)(const void *)(shared + i), __ATOMIC_RELAXED);
	}
	for (; i < n; i++)
		differs |= (unsigned char)data[i] ^ (unsigned char)__atomic_load_n(shared + i, __ATOMIC_RELAXED);
	return differs == 0;
}

/* Begin a read section: return the sequence word, which is odd if the row must not be read now. Pairs with pl_row_end:
 * a reader that loads the even value sees every store before it. */
static inline uint32_t pl_read_begin(const struct pl_hot *row) { return pl_load_acquire32(&row->row_seq); }

/* Return whether nothing was written since pl_read_begin returned `seq`. The fence orders the copy's loads before this
 * load and pairs with the release fence of pl_row_begin: if the copy contains one newer word, this load returns the
 * odd value or a later one. On aarch64 the fence is dmb ishld; on x86-64, which keeps loads in order, it only restricts
 * the compiler. */
static inline int pl_read_valid(const struct pl_hot *row, uint32_t seq)
{
	pl_fence_acquire();
	return pl_load_relaxed32(&row->row_seq) == seq;
}

/* Copy a hot row; return 1 if `to` is consistent and its row_seq even. */
static inline int pl_copy_hot(const struct pl_hot *row, struct pl_hot *to)
{
	uint32_t seq = pl_read_begin(row);

	if (seq & 1)
		return 0;
	pl_copy_words(to, row, sizeof(*to) / 8);
	to->row_seq = seq;
	return pl_read_valid(row, seq);
}

/* Copy all parts of a row in one section. KNOWN_COST in a copy that will be discarded is one that the row has had, so
 * the memory of its costs exists. */
static inline int pl_copy_row(const struct pl_view *view, uint32_t row, struct pl_hot *hot, struct pl_rest *rest)
{
	uint32_t seq = pl_read_begin(&view->hot[row]);

	if (seq & 1)
		return 0;
	pl_copy_words(hot, &view->hot[row], sizeof(*hot) / 8);
	pl_copy_words(&rest->cold, &view->cold[row], sizeof(rest->cold) / 8);
	if (hot->known & PL_KNOWN_COST)
		pl_copy_words(&rest->costs, &view->costs[row], sizeof(rest->costs) / 8);
	else
		rest->costs = (struct pl_costs){ 0 };
	hot->row_seq = seq;
	return pl_read_valid(&view->hot[row], seq);
}

/* The end of the rows that exist in the file: from 1 to this number - 1. Reading another row would cause a SIGBUS. In a
 * damaged control file the number can be anything, so it is limited to what is mapped. */
static inline uint32_t pl_rows_end(const struct pl_view *view)
{
	uint32_t allocated = pl_load_acquire32(&view->control->rows_allocated);

	return allocated < view->row_capacity ? allocated : view->row_capacity;
}

/* The writer stores the number of rows (release) before the index names the first new row, so this rejects only rows
 * that were never inserted. */
static inline int pl_row_exists(const struct pl_view *view, uint32_t row)
{
	return row != 0 && row < pl_rows_end(view);
}

/* Try once to read the newest image of a pid. The first index load (acquire) pairs with the writer's release store,
 * which follows the row's pl_row_end. If the row has another tgid, it was freed and reused after that load; the index
 * names another row by now, so the result is "try again", never "absent". The second index load follows the fence of
 * pl_read_valid: a row can also return to the same pid, filled but not named yet, and a reader that accepted it could
 * see an older image in its next read. */
static inline int pl_lookup_below(const struct pl_view *view, uint32_t limit, uint32_t tgid, struct pl_hot *to,
				  uint32_t *row)
{
	uint32_t number;

	if (tgid >= limit)
		return PL_READ_ABSENT;
	number = pl_load_acquire32(&view->index[tgid]);
	if (number == 0)
		return PL_READ_ABSENT;
	if (!pl_row_exists(view, number) || !pl_copy_hot(&view->hot[number], to) || to->tgid != tgid ||
	    pl_load_relaxed32(&view->index[tgid]) != number)
		return PL_READ_BUSY;
	*row = number;
	return to->flags & PL_ROW_HEAD ? PL_READ_FOUND : PL_READ_OLD_HEAD;
}

/* The same for a pid of the root pid namespace, as callers pass it. */
static inline int pl_lookup_once(const struct pl_view *view, uint32_t tgid, struct pl_hot *to, uint32_t *row)
{
	return pl_lookup_below(view, view->pid_capacity, tgid, to, row);
}

/* The same for any entry of the index. */
static inline int pl_lookup_slot_once(const struct pl_view *view, uint32_t slot, struct pl_hot *to, uint32_t *row)
{
	return pl_lookup_below(view, view->slots, slot, to, row);
}

/* Try once to read the newest image of the process with a key. The row itself contains its key, because its slot may
 * have been assigned to another key between the search and the look-up. */
static inline int pl_lookup_key_once(const struct pl_view *view, uint32_t pid, uint32_t pid_ns, struct pl_hot *to,
				     struct pl_rest *rest, uint32_t *row)
{
	uint32_t slot;
	int found = pl_key_once(view->keys, view->key_capacity, pl_ns_key(pid, pid_ns), &slot), result;

	if (found <= 0)
		return found < 0 ? PL_READ_BUSY : PL_READ_ABSENT;
	result = pl_lookup_slot_once(view, view->pid_capacity + slot, to, row);
	if (result == PL_READ_ABSENT || result == PL_READ_BUSY)
		return result;
	if (!pl_copy_row(view, *row, to, rest) || rest->cold.ns_pid != pid || rest->cold.pid_ns != pid_ns)
		return PL_READ_BUSY;
	return to->flags & PL_ROW_HEAD ? PL_READ_FOUND : PL_READ_OLD_HEAD;
}

/* Return the pid behind a key's slot, as its own namespace numbers it; 0 if unknown. */
static inline uint32_t pl_number_of(const struct pl_view *view, uint32_t slot)
{
	if (slot < view->pid_capacity || slot >= view->slots)
		return 0;
	return (uint32_t)pl_load_relaxed64(&pl_key_names(view->keys)[slot - view->pid_capacity]);
}

/* Try once to read the image that a link names. The generation changes when a row is freed, while the row is odd. */
static inline int pl_follow_once(const struct pl_view *view, uint64_t link, struct pl_hot *to)
{
	uint32_t row = (uint32_t)link, generation = (uint32_t)(link >> 32);

	if (!pl_row_exists(view, row))
		return PL_READ_ABSENT;
	if (pl_copy_hot(&view->hot[row], to))
		return to->generation == generation ? PL_READ_FOUND : PL_READ_ABSENT;
	/* Free rows stay odd: do not wait for a row that already belongs to another process. */
	return pl_load_relaxed32(&view->hot[row].generation) == generation ? PL_READ_BUSY : PL_READ_ABSENT;
}

/* Find the bytes of an arena record; return 0 if they are not within the allocated part (the reference was read before
 * its row changed). Use the bytes only after pl_read_valid of the row that holds the reference. As in pl_rows_end, the
 * number in `control` is limited to what is mapped. */
static inline int pl_arena_span(const struct pl_strings *arena, uint32_t ref, const char **data, uint32_t *length)
{
	uint64_t allocated = pl_load_acquire64(arena->allocated);
	uint64_t offset = (uint64_t)ref * PL_ARENA_UNIT_BYTES;
	const char *base = arena->bytes;

	if (allocated > arena->mapped)
		allocated = arena->mapped;
	if (offset + sizeof(struct pl_arena) > allocated)
		return 0;
	*length = pl_load_relaxed32(&((const struct pl_arena *)(const void *)(base + offset))->length);
	*data = base + offset + sizeof(struct pl_arena);
	return offset + sizeof(struct pl_arena) + *length <= allocated;
}

static inline void pl_pause(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("isb" ::: "memory");
#endif
}

static inline void pl_sleep_ns(long ns)
{
	struct timespec time = {0, ns};

	nanosleep(&time, NULL);
}

#endif
