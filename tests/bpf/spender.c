/* SPDX-License-Identifier: Apache-2.0 */
/* Uses CPU time, memory and storage for the tests of what a process has cost, and prints what it knows of that itself
 * right before it ends: CPU time of the process in ns, minor and major faults, voluntary and involuntary switches.
 *
 *   spender ACT...
 *   user MS        CPU time in user mode
 *   system MS      CPU time in the kernel
 *   threads N MS   N threads that each use MS in user mode, and have ended when the act ends
 *   left N MS      the same, but they run until the end of the process
 *   memory MB      touched
 *   write FILE MB  written and synchronised
 *   read FILE      read from storage
 *   first          from now on the first thread gets a CPU before the others, where this is permitted
 *   sleep N        N times
 *   exec           a thread runs this program again with the remaining acts
 *   kill           prints, and then kills itself with SIGKILL
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static char **acts;

static long long now(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void use_user(long ms)
{
	long long end = now(CLOCK_THREAD_CPUTIME_ID) + ms * 1000000LL;

	while (now(CLOCK_THREAD_CPUTIME_ID) < end)
		for (volatile int i = 0; i < 100000; i++)
			;
}

static void use_system(long ms)
{
	static char bytes[1 << 20];
	long long end = now(CLOCK_THREAD_CPUTIME_ID) + ms * 1000000LL;
	int fd = open("/dev/zero", O_RDONLY);

	while (now(CLOCK_THREAD_CPUTIME_ID) < end)
		if (read(fd, bytes, sizeof(bytes)) < 0)
			_exit(99);
	close(fd);
}

static void *thread_uses(void *ms)
{
	use_user((long)ms);
	return NULL;
}

static void *thread_execs(void *unused)
{
	(void)unused;
	execv("/proc/self/exe", acts);
	_exit(99);
}

static void report(void)
{
	struct rusage used;
	char line[160];
	long long cpu = now(CLOCK_PROCESS_CPUTIME_ID);
	int n;

	getrusage(RUSAGE_SELF, &used);
	n = snprintf(line, sizeof(line), "%lld %ld %ld %ld %ld\n", cpu, used.ru_minflt, used.ru_majflt, used.ru_nvcsw,
		     used.ru_nivcsw);
	if (write(1, line, n) != n)
		_exit(98);
}

static long number(void)
{
	return atol(*acts++);
}

static void start(pthread_t *threads, long count, long ms)
{
	for (long i = 0; i < count; i++)
		if (pthread_create(&threads[i], NULL, thread_uses, (void *)ms))
			_exit(99);
}

static void memory(long mb)
{
	char *bytes = mmap(NULL, mb << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	/* One fault for each small page, also where the kernel gives large ones to all. */
	madvise(bytes, mb << 20, MADV_NOHUGEPAGE);
	memset(bytes, 1, mb << 20);
	munmap(bytes, mb << 20);
}

static void store(const char *file, long mb)
{
	static char bytes[1 << 20];
	int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	memset(bytes, 1, sizeof(bytes));
	while (mb--)
		if (write(fd, bytes, sizeof(bytes)) != sizeof(bytes))
			_exit(99);
	if (fsync(fd))
		_exit(99);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	close(fd);
}

static void fetch(const char *file)
{
	static char bytes[1 << 20];
	int fd = open(file, O_RDONLY);

	while (read(fd, bytes, sizeof(bytes)) > 0)
		;
	close(fd);
}

int main(int argc, char **argv)
{
	static pthread_t threads[4096];
	pthread_t thread;

	(void)argc;
	acts = argv + 1;
	while (*acts) {
		const char *act = *acts++;

		if (!strcmp(act, "user")) {
			use_user(number());
		} else if (!strcmp(act, "system")) {
			use_system(number());
		} else if (!strcmp(act, "threads") || !strcmp(act, "left")) {
			long count = number();

			start(threads, count, number());
			for (long i = 0; act[0] == 't' && i < count; i++)
				pthread_join(threads[i], NULL);
		} else if (!strcmp(act, "memory")) {
			memory(number());
		} else if (!strcmp(act, "write")) {
			const char *file = *acts++;

			store(file, number());
		} else if (!strcmp(act, "read")) {
			fetch(*acts++);
		} else if (!strcmp(act, "first")) {
			struct sched_param least = { .sched_priority = 1 };

			sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &least);
		} else if (!strcmp(act, "sleep")) {
			for (long i = number(); i; i--)
				usleep(100);
		} else if (!strcmp(act, "exec")) {
			*--acts = argv[0];
			pthread_create(&thread, NULL, thread_execs, NULL);
			pthread_join(thread, NULL);
		} else if (!strcmp(act, "kill")) {
			report();
			kill(getpid(), SIGKILL);
		}
	}
	report();
	_exit(0);
}
