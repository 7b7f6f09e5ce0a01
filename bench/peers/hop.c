/* SPDX-License-Identifier: Apache-2.0 */
/* The cost of ZeroMQ itself: one process sends BYTES every MS milliseconds, another waits for each message and reads
 * it.
 *
 *   hop LIBZMQ MS BYTES [MESSAGES [CPU]]
 *
 * The program ends when its standard input ends or MESSAGES were sent. It prints "MESSAGES CPU_NS" for both processes
 * together, and then for each of the first 65,536 messages the microseconds between sending and receiving.
 *
 * With CPU, a third process bound to that CPU signals the sender through a pipe when to send, every MS milliseconds on
 * average (exponential, fixed seed), and the microseconds count from there. This models an event on one CPU that must
 * reach a process on another CPU through a socket. The third process then polls for the arrival at the lowest priority,
 * as pipeline/load/programs/watch.c does.
 *
 * Both processes do nothing else, so their CPU time consists of two wake-ups and of libzmq with its two I/O threads.
 * libzmq is loaded at run time, because the daemon uses pyzmq's library, which has no header. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "reader.h"

enum { PULL = 7, PUSH = 8, FD = 14, DONTWAIT = 1 };

static void *(*ctx_new)(void);
static int (*ctx_term)(void *);
static void *(*socket_)(void *, int);
static int (*close_)(void *);
static int (*bind_)(void *, const char *);
static int (*connect_)(void *, const char *);
static int (*getopt_)(void *, int, void *, size_t *);
static int (*send_)(void *, const void *, size_t, int);
static int (*recv_)(void *, void *, size_t, int);

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void *found(void *library, const char *name)
{
	void *at = dlsym(library, name);

	if (!at)
		die(name); /* dlsym does not set errno; the name is sufficient */
	return at;
}

static double took_us[65536];
static uint64_t *arrived; /* number of messages; shared by the processes */

static int waits_on(int fd)
{
	int epoll = epoll_create1(0);
	struct epoll_event event = { .events = EPOLLIN };

	if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
		die("epoll");
	return epoll;
}

/* Start a process bound to `cpu` that writes `times` timestamps into a pipe; returns the pipe's read end. */
static int poker(int cpu, int ms, long times)
{
	cpu_set_t cpus;
	int told[2];

	if (pipe(told))
		die("pipe");
	if (fork()) {
		close(told[1]);
		return told[0];
	}
	prctl(PR_SET_PDEATHSIG, 9);
	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus) || sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){ 0 }))
		die("binding the poking process");
	srand48(1);
	for (long i = 0; i < times; i++) {
		uint64_t now;

		usleep((useconds_t)(-log(1 - drand48()) * ms * 1000));
		now = pl_clock_ns(CLOCK_MONOTONIC);
		if (write(told[1], &now, sizeof(now)) != sizeof(now))
			break;
		while (__atomic_load_n(arrived, __ATOMIC_RELAXED) <= (uint64_t)i)
			pl_pause();
	}
	_exit(0);
}

static uint64_t sender(const char *address, int ms, size_t bytes, long most, int cpu)
{
	int poked = cpu < 0 ? -1 : poker(cpu, ms, most), epoll = waits_on(cpu < 0 ? 0 : poked);
	void *context = ctx_new(), *socket = socket_(context, PUSH);
	char *data = calloc(1, bytes);
	struct epoll_event event;

	if (connect_(socket, address))
		die("connect");
	while (most-- && epoll_wait(epoll, &event, 1, cpu < 0 ? ms : -1) == (cpu >= 0)) {
		uint64_t now = pl_clock_ns(CLOCK_MONOTONIC);

		if (cpu >= 0 && read(poked, &now, sizeof(now)) != sizeof(now))
			break;
		memcpy(data, &now, sizeof(now));
		send_(socket, data, bytes, 0);
	}
	send_(socket, "", 0, 0);
	close_(socket);
	ctx_term(context);
	return pl_clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

static uint64_t receiver(void *socket, size_t bytes, uint64_t *messages)
{
	char *data = malloc(bytes);
	struct epoll_event event;
	int fd, epoll, n;
	size_t size = sizeof(fd);
	volatile uint64_t sum = 0;

	if (getopt_(socket, FD, &fd, &size))
		die("ZMQ_FD");
	epoll = waits_on(fd);
	for (;;) {
		while ((n = recv_(socket, data, bytes, DONTWAIT)) > 0) {
			uint64_t sent;

			memcpy(&sent, data, sizeof(sent));
			if (*messages < 65536)
				took_us[*messages] = (double)(pl_clock_ns(CLOCK_MONOTONIC) - sent) / 1000;
			for (int i = 0; i < n; i += 64)
				sum += data[i];
			__atomic_store_n(arrived, ++*messages, __ATOMIC_RELAXED);
		}
		if (n == 0)
			return pl_clock_ns(CLOCK_PROCESS_CPUTIME_ID);
		epoll_wait(epoll, &event, 1, -1);
	}
}

int main(int argc, char **argv)
{
	char address[64];
	uint64_t used, other, messages = 0;
	int told[2], bound[2];
	char byte = 0;
	void *library;

	if (argc < 4 || argc > 6 || atol(argv[3]) < 8 || !(library = dlopen(argv[1], RTLD_NOW)))
		return fprintf(stderr, "usage: hop LIBZMQ MS BYTES [MESSAGES [CPU]]\n"), 2;
	ctx_new = found(library, "zmq_ctx_new");
	ctx_term = found(library, "zmq_ctx_term");
	socket_ = found(library, "zmq_socket");
	close_ = found(library, "zmq_close");
	bind_ = found(library, "zmq_bind");
	connect_ = found(library, "zmq_connect");
	getopt_ = found(library, "zmq_getsockopt");
	send_ = found(library, "zmq_send");
	recv_ = found(library, "zmq_recv");
	snprintf(address, sizeof(address), "ipc://@procline-hop-%d", getpid());
	arrived = mmap(NULL, sizeof(*arrived), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (arrived == MAP_FAILED || pipe(told) || pipe(bound))
		die("mmap or pipe");
	if (fork() == 0) {
		/* A socket that connects before the bind retries after 100 ms, and its messages wait. */
		if (read(bound[0], &byte, 1) != 1)
			die("read from the receiver");
		used = sender(address, atoi(argv[2]), atol(argv[3]), argc > 4 ? atol(argv[4]) : -1,
			      argc > 5 ? atoi(argv[5]) : -1);
		return write(told[1], &used, sizeof(used)) != sizeof(used);
	}
	void *context = ctx_new(), *socket = socket_(context, PULL);
	if (bind_(socket, address) || write(bound[1], &byte, 1) != 1)
		die("bind");
	used = receiver(socket, atol(argv[3]), &messages);
	if (read(told[0], &other, sizeof(other)) != sizeof(other))
		die("the sender");
	printf("%lu %lu\n", messages, used + other);
	for (uint64_t i = 0; i < messages && i < 65536; i++)
		printf("%.1f\n", took_us[i]);
	wait(NULL);
	return 0;
}
