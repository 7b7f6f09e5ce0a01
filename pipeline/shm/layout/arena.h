/* SPDX-License-Identifier: Apache-2.0 */
/* Block sizes of an arena, in units of 16 bytes: 1 to 16, then four steps for each doubling, up to 65536 (1 MiB). The
 * length in a block's header determines its size, so the blocks of a segment can be walked without other records. */
#ifndef PROCLINE_ARENA_H
#define PROCLINE_ARENA_H

#include <stdint.h>

#define PL_ARENA_CLASSES 64
#define PL_ARENA_MAX_UNITS 65536u
/* Longest string: the largest block without its header. */
#define PL_ARENA_MAX_LENGTH (PL_ARENA_MAX_UNITS * 16u - 16u)

/* Units for a string of `length` bytes and its header, before rounding up to a class. */
static inline uint32_t pl_arena_units(uint32_t length) { return 1u + (length + 15u) / 16u; }

static inline uint32_t pl_arena_class_units(uint32_t class_index)
{
	uint32_t octave, step;

	if (class_index < 16)
		return class_index + 1;
	octave = (class_index - 16) / 4;
	step = (class_index - 16) % 4 + 1;
	return (16u << octave) + step * (4u << octave);
}

/* Smallest class that holds `units` (1 .. PL_ARENA_MAX_UNITS). */
static inline uint32_t pl_arena_class_up(uint32_t units)
{
	uint32_t octave, step;

	if (units <= 16)
		return units - 1;
	octave = 27u - (uint32_t)__builtin_clz(units - 1);
	step = (units - (16u << octave) + (4u << octave) - 1) / (4u << octave);
	return 16 + 4 * octave + step - 1;
}

/* Largest class that fits into `units` (at least 1). */
static inline uint32_t pl_arena_class_down(uint32_t units)
{
	uint32_t up;

	if (units >= PL_ARENA_MAX_UNITS)
		return PL_ARENA_CLASSES - 1;
	up = pl_arena_class_up(units);
	return pl_arena_class_units(up) == units ? up : up - 1;
}

/* Lowest set bit of `mask` (not 0). */
static inline uint32_t pl_arena_lowest(uint64_t mask) { return (uint32_t)__builtin_ctzll(mask); }

/* Prevents the compiler from moving stores across. A killed process has executed a prefix of its stores in program
 * order, and its successor sees exactly that prefix. So steps that a successor must find in order need only this, not a
 * fence of the processor. For concurrent readers see layout.h. */
static inline void pl_order(void) { __atomic_signal_fence(__ATOMIC_SEQ_CST); }

#endif
