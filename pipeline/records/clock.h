/* SPDX-License-Identifier: Apache-2.0 */
/* The clocks. The times of records and tables are those of the boot clock. */
#ifndef PROCLINE_CLOCK_H
#define PROCLINE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t pl_clock_ns(int clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint64_t pl_now_boot_ns(void) { return pl_clock_ns(CLOCK_BOOTTIME); }

/* Costs a few ns; up to a few ms behind. */
static inline uint64_t pl_now_coarse_ns(void) { return pl_clock_ns(CLOCK_MONOTONIC_COARSE); }

#endif
