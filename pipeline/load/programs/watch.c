/* SPDX-License-Identifier: Apache-2.0 */
/* Forks children one at a time, and reads an instance's tables until they show the fork and the exit of each child.
 *
 *   watch DIRECTORY SAMPLES GAP_MS REREAD_US SEED [idle]
 *
 * With 0 SAMPLES it ends when its standard input ends, and prints "lost 1" for an event that does not appear; otherwise
 * such an event is an error.
 *
 * The program waits a random time before each fork and before each exit (exponential, mean GAP_MS), and reads the
 * tables every REREAD_US microseconds. It prints "fork US" and "exit US" for each child: the time from the event to the
 * first read that shows it. The time of the event is the kernel's, which is in the row. Unless SAMPLES is 0, it prints
 * "turn US" for each sleep between two reads: the delay of its timer. It reads the tables like any reader (reader.h).
 * It is written in C, because a Python process needs 100 us to wake up on an idle host and would displace the caches of
 * the measured processes.
 *
 * With "idle" it runs only if its CPU has nothing else to do (SCHED_IDLE, sched(7)). It does not sleep between two
 * reads then, because a sleep would take up to 65 us instead of REREAD_US: waking up costs more than reading. Its CPU
 * is then always busy between an event and its row, so the daemon's workers must run on another CPU. Another process
 * with ordinary priority forks the children on the same CPU. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "watch.h"

#define NEVER_NS 60000000000u
/* Where losses are counted, each of them takes this long. */
#define LOST_NS 5000000000u

void die(const char *what)
{
	perror(what);
	exit(1);
}

static const void *mapped(const char *directory, const char *name, size_t bytes)
{
	char path[4096];
	int fd;
	void *at;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	/* The mapping is longer than the file, which can grow; nothing beyond its end is read. */
	at = fd < 0 ? MAP_FAILED : mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		die(path);
	close(fd);
	return at;
}

static void wait_at_random(double mean_ms)
{
	double s = -log(1 - drand48()) * mean_ms / 1000;
	struct timespec gap = { (time_t)s, (long)((s - (double)(time_t)s) * 1e9) };

	nanosleep(&gap, NULL);
}

static int sleeps = 1, is_endless;

static void reread_later(uint64_t reread_ns)
{
	uint64_t due = pl_now_boot_ns() + reread_ns;

	if (!sleeps) {
		while (pl_now_boot_ns() < due)
			pl_pause();
		return;
	}
	pl_sleep_ns((long)reread_ns);
	if (!is_endless)
		printf("turn %.1f\n", (double)(int64_t)(pl_now_boot_ns() - due) / 1000);
}

/* Read until the child's row has the time of its fork, or with `ended` of its exit; returns that time, 0: lost. */
static uint64_t seen(const struct pl_view *view, uint32_t pid, uint64_t called_ns, int ended, uint64_t reread_ns)
{
	uint64_t begun_ns = pl_now_boot_ns();
	struct pl_hot hot;
	struct pl_rest rest;
	uint32_t row;

	while (pl_now_boot_ns() - begun_ns < (is_endless ? LOST_NS : NEVER_NS)) {
		/* An earlier process with the same pid may still be in the table; its start is before the call. */
		if (pl_lookup_once(view, pid, &hot, &row) == PL_READ_FOUND && hot.start_boot_ns >= called_ns &&
		    pl_copy_row(view, row, &hot, &rest) && hot.tgid == pid && (!ended || hot.exit_boot_ns))
			return ended ? hot.exit_boot_ns : rest.cold.fork_boot_ns;
		reread_later(reread_ns);
	}
	if (is_endless) {
		printf("lost 1\n");
		return 0;
	}
	fprintf(stderr, "watch: an event did not appear within 60 s: is the instance running?\n");
	exit(1);
}

/* Fork a sleeping child for each byte on `commands`, and store its pid. */
static void fork_children(int commands, uint32_t *pid)
{
	char byte;

	while (read(commands, &byte, 1) > 0) {
		pid_t child = fork();

		if (!child) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;)
				pause();
		}
		/* The store makes only this number visible, so it needs no order with other stores. */
		__atomic_store_n(pid, child < 0 ? UINT32_MAX : (uint32_t)child, __ATOMIC_RELAXED);
	}
	_exit(0);
}

/* Whether another child is to be watched. */
static int goes_on(long i, long samples)
{
	struct pollfd input = { 0, POLLIN, 0 };

	return is_endless ? poll(&input, 1, 0) == 0 : i < samples;
}

int watch(int argc, char **argv)
{
	struct pl_view view = { 0 };
	uint64_t reread_ns;
	uint32_t *pid;
	int commands[2];

	if (argc != 6 && !(argc == 7 && !strcmp(argv[6], "idle")))
		return fprintf(stderr, "usage: procline-load watch DIRECTORY SAMPLES GAP_MS REREAD_US SEED [idle]\n"),
		       2;
	view.control = mapped(argv[1], "control", sizeof(*view.control));
	view.pid_capacity = view.control->pid_capacity;
	view.row_capacity = view.control->row_capacity;
	view.index = mapped(argv[1], "index", 4 * (size_t)view.pid_capacity);
	view.hot = mapped(argv[1], "hot", sizeof(*view.hot) * (size_t)view.row_capacity);
	view.cold = mapped(argv[1], "cold", sizeof(*view.cold) * (size_t)view.row_capacity);
	view.costs = mapped(argv[1], "costs", sizeof(*view.costs) * (size_t)view.row_capacity);
	reread_ns = (uint64_t)(atof(argv[4]) * 1000);
	srand48(atol(argv[5]));
	signal(SIGCHLD, SIG_IGN); /* the kernel reaps the children */
	pid = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (pid == MAP_FAILED || pipe(commands))
		die("mmap or pipe");
	if (!fork()) {
		close(commands[1]); /* so that the forker ends with the watcher */
		fork_children(commands[0], pid);
	}
	prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0); /* by default timers can be up to 50 us late */
	sleeps = argc != 7;
	is_endless = !atol(argv[2]);
	if (!sleeps && sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){ 0 }))
		die("sched_setscheduler");
	for (long i = 0; goes_on(i, atol(argv[2])); i++) {
		uint64_t called_ns, at_ns;
		uint32_t child;

		wait_at_random(atof(argv[3]));
		*pid = 0;
		called_ns = pl_now_boot_ns();
		if (write(commands[1], "f", 1) != 1)
			die("write to the forking process");
		while (!(child = __atomic_load_n(pid, __ATOMIC_RELAXED)))
			reread_later(reread_ns);
		if (child == UINT32_MAX)
			die("fork");
		at_ns = seen(&view, child, called_ns, 0, reread_ns);
		if (at_ns)
			printf("fork %.1f\n", (double)(pl_now_boot_ns() - at_ns) / 1000);
		/* Events appear at the end of a turn; without a gap the exit would always have to wait for a whole
		 * turn. */
		wait_at_random(atof(argv[3]));
		kill((pid_t)child, SIGKILL);
		at_ns = seen(&view, child, called_ns, 1, reread_ns);
		if (at_ns)
			printf("exit %.1f\n", (double)(pl_now_boot_ns() - at_ns) / 1000);
	}
	return 0;
}
