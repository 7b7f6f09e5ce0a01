/* SPDX-License-Identifier: Apache-2.0 */
/* Forks one sleeping child for each byte on standard input, and stores its pid as the u32 at the beginning of FILE.
 *
 * A small program comes back from fork() in a few microseconds; a Python process takes hundreds, which would hide what
 * bench/live_latency.py looks for. Whoever watches FILE has the pid without a system call. Children are reaped by the
 * kernel; all end with this program.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char byte;
	int fd = argc > 1 ? open(argv[1], O_RDWR) : -1;
	uint32_t *pid = fd < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (pid == MAP_FAILED) {
		perror("forker FILE");
		return 2;
	}
	signal(SIGCHLD, SIG_IGN);
	while (read(0, &byte, 1) > 0) {
		pid_t child = fork();
		if (!child) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;)
				pause();
		}
		/* Publishes a number and nothing else, so no order is needed with other stores. */
		__atomic_store_n(pid, child < 0 ? UINT32_MAX : (uint32_t)child, __ATOMIC_RELAXED);
	}
	return 0;
}
