/* SPDX-License-Identifier: Apache-2.0 */
/* The atomic operations that write and read rows of the shared segments. The layouts are in segments.h. */
#ifndef PROCLINE_LAYOUT_H
#define PROCLINE_LAYOUT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "segments.h"

/* Atomics. GCC and clang builtins follow the C11 model: on aarch64 an acquire load is ldar, a release store stlr. */
static inline uint32_t pl_load_acquire32(const void *p)
{
	return __atomic_load_n((const uint32_t *)p, __ATOMIC_ACQUIRE);
}
static inline uint64_t pl_load_acquire64(const void *p)
{
	return __atomic_load_n((const uint64_t *)p, __ATOMIC_ACQUIRE);
}
static inline uint32_t pl_load_relaxed32(const void *p)
{
	return __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED);
}
static inline uint64_t pl_load_relaxed64(const void *p)
{
	return __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED);
}
static inline void pl_store_release32(void *p, uint32_t v) { __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELEASE); }
static inline void pl_store_release64(void *p, uint64_t v) { __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELEASE); }
static inline void pl_store_relaxed32(void *p, uint32_t v) { __atomic_store_n((uint32_t *)p, v, __ATOMIC_RELAXED); }
static inline void pl_store_relaxed64(void *p, uint64_t v) { __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELAXED); }
static inline void pl_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void pl_fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }
static inline void pl_prefetch(const void *p) { __builtin_prefetch(p); }
/* Prefetch for a write: readers' caches release the line before the store would have to wait for it. gcc emits this for
 * __builtin_prefetch(p, 1) only when it targets newer processors than the packages do; older ones execute it as a no-op
 * (Intel SDM, AMD APM: PREFETCHW). */
static inline void pl_prefetch_write(const void *p)
{
#if defined(__x86_64__)
	__asm__ volatile("prefetchw %0" : : "m"(*(const char *)p));
#else
	__builtin_prefetch(p, 1);
#endif
}

/* Zero a new row except row_seq and generation. The copy's source are zeros that the compiler cannot see: gcc turns a
 * memset of this size into `rep stos`, whose start takes as long as all of these stores. */
static inline void pl_row_clear(struct pl_hot *hot, struct pl_cold *cold)
{
	static const char zeros[sizeof(struct pl_cold)];
	const char *from = zeros;
	_Static_assert(sizeof(*hot) <= sizeof(zeros), "as many zeros as the larger of the two");
	__asm__("" : "+r"(from));
	memcpy((char *)hot + 8, from, sizeof(*hot) - 8);
	memcpy(cold, from, sizeof(zeros));
}

/* A row is written between pl_row_begin and pl_row_end. begin makes row_seq odd before any later store is visible; the
 * release fence orders the following stores after it (Boehm, "Can seqlocks get along with programming language memory
 * models?", 2012). end makes row_seq even after all of them. A reader pairs with both: acquire load of row_seq, copy,
 * acquire fence, second load of row_seq. */
static inline void pl_row_begin(struct pl_hot *row)
{
	pl_store_relaxed32(&row->row_seq, row->row_seq | 1);
	pl_fence_release();
}

static inline void pl_row_end(struct pl_hot *row)
{
	pl_store_release32(&row->row_seq, (row->row_seq | 1) + 1);
}

/* Note in the ring of changed rows that an open row will change: readers forget the words of it that they keep. It is
 * noted after pl_row_begin, whose fence orders the stores: a reader that finds the note finds the row odd or changed. A
 * reader that finds the row changed finds the note, because both precede pl_row_end. */
static inline void pl_row_note(struct pl_control *control, uint32_t *changes, uint32_t row)
{
	uint64_t count = control->changes;

	pl_store_relaxed32(&changes[count % PL_CHANGES_KEPT], row);
	pl_store_release64(&control->changes, count + 1);
}

static inline uint64_t pl_link(uint32_t row, uint32_t generation) { return row | (uint64_t)generation << 32; }

#endif
