/* SPDX-License-Identifier: Apache-2.0 */
/* The cost of waking up: wake up HZ times a second, and do nothing else, until the process is killed.
 *
 *   wake HZ */
#include <stdlib.h>
#include <time.h>

int main(int argc, char **argv)
{
	double hz = argc > 1 ? atof(argv[1]) : 0;
	struct timespec next;

	if (hz <= 0)
		return 2;
	clock_gettime(CLOCK_MONOTONIC, &next);
	for (;;) {
		next.tv_nsec += (long)(1e9 / hz) % 1000000000;
		next.tv_sec += (time_t)(1 / hz) + next.tv_nsec / 1000000000;
		next.tv_nsec %= 1000000000;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
	}
}
