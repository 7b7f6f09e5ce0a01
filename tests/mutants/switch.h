/* SPDX-License-Identifier: Apache-2.0 */
/* Asked at the begin of each function of an instrumented copy: is this the mutant to try? Notes that the function was
 * reached.
 *
 * Both are in a file that PROCLINE_MUTANT_SWITCH names: the number of the mutant, and a byte for each number. Processes
 * without it run the unchanged code. */
#ifndef PROCLINE_MUTANT_SWITCH_H
#define PROCLINE_MUTANT_SWITCH_H

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PL_MUTANT_BYTES (1u << 16) /* also in switch.py */

static uint8_t *pl_mutant_file;

static __attribute__((noinline, unused)) uint8_t *pl_mutant_open(void)
{
	static uint8_t none[PL_MUTANT_BYTES] __attribute__((aligned(8)));
	const char *name = getenv("PROCLINE_MUTANT_SWITCH");
	int fd = name != NULL ? open(name, O_RDWR | O_CLOEXEC) : -1;
	void *mapped = MAP_FAILED;

	if (fd >= 0) {
		mapped = mmap(NULL, PL_MUTANT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		close(fd);
	}
	pl_mutant_file = mapped == MAP_FAILED ? none : mapped;
	return pl_mutant_file;
}

static inline __attribute__((unused)) int pl_mutant(uint32_t number)
{
	uint8_t *file = pl_mutant_file != NULL ? pl_mutant_file : pl_mutant_open();

	file[4 + number] = 1;
	return *(volatile uint32_t *)(void *)file == number;
}

#endif
