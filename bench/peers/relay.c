/* SPDX-License-Identifier: Apache-2.0 */
/* Passes the time on through a chain of sleeping processes: relay HOPS SAMPLES MEAN_MS SEED.
 *
 * At random moments a time is sent through the chain. For each the program prints a line with the ns that it took to
 * reach the end. bench/live_latency.py reports this as the time that the machine needs to wake HOPS processes in turn.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* One link of the chain: passes on the time that it reads; the last link writes how old it is. */
static void link_of_chain(int in, int out, int is_last)
{
	uint64_t at;

	while (read(in, &at, sizeof(at)) == sizeof(at)) {
		uint64_t took = now_ns() - at;

		if (is_last)
			at = took;
		if (write(out, &at, sizeof(at)) != sizeof(at))
			break;
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	int hops = argc > 4 ? atoi(argv[1]) : 0, samples = argc > 4 ? atoi(argv[2]) : 0, first[2], next[2], in;

	if (hops < 1 || samples < 1 || pipe(first)) {
		fprintf(stderr, "relay HOPS SAMPLES MEAN_MS SEED\n");
		return 2;
	}
	in = first[0];
	for (int hop = 0; hop < hops; hop++) {
		if (pipe(next))
			return 2;
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, 9);
			close(first[1]);
			link_of_chain(in, next[1], hop == hops - 1);
		}
		close(next[1]);
		in = next[0];
	}
	srand48(atol(argv[4]));
	for (int i = 0; i < samples; i++) {
		uint64_t at;

		usleep(drand48() * 2000 * atof(argv[3]));
		at = now_ns();
		if (write(first[1], &at, sizeof(at)) != sizeof(at) || read(in, &at, sizeof(at)) != sizeof(at))
			return 1;
		printf("%llu\n", (unsigned long long)at);
	}
	return 0;
}
