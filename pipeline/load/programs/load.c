/* SPDX-License-Identifier: Apache-2.0 */
/* procline-load: makes processes at a rate and records exactly what it made. It does not know whether Procline runs.
 *
 *   run FD SCENARIO WORKERS EVENTS_PER_S SECONDS   make processes; FD is the log, a shared memory file (log.h)
 *   watch DIRECTORY SAMPLES GAP_MS POLL_US SEED [idle]   how long an event takes to the tables, see watch.h
 *   guard COMMAND...                               run a command, and end it when standard input ends
 *
 * `run` waits for a byte on standard input, then starts WORKERS workers, and ends after SECONDS. EVENTS_PER_S is the
 * sum of all workers; 0 is as fast as possible. A worker makes one unit after another; a unit is the smallest part of a
 * scenario.
 *
 * Nothing is left behind: all modes end when their standard input ends, which the kernel closes when the caller is
 * killed. `run` adopts the orphans of its workers (PR_SET_CHILD_SUBREAPER) and kills what does not end by itself. If
 * `run` itself is killed, the kernel kills its workers (PR_SET_PDEATHSIG), and their children end by themselves within
 * milliseconds.
 *
 * The log has one record for each process and each kind of event. Each begins before the system call that caused the
 * event and ends after its effect was seen, so the kernel's time of the event is between the two, also if pids are
 * reused. An exec is proved by the wait status, because a process that fails to exec ends with the status FAILED. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "watch.h"

enum { FAILED = 127, DEPTH = 16, EXECS = 2, THREADS = 8, CHANGES = 8, DAEMON_US = 1000 };
enum { SPARE_RECORDS = 8192 };

/* A worker that is behind makes up for at most this time, so that a pause does not become a storm. */
#define DEBT_NS 100000000ull
#define STOP_S 2
#define NOBODY 65534

static struct pl_log_header *header;
static struct pl_log_record *records;
static const char *self;
static char log_fd[16];
static pid_t root;

static void fail(void)
{
	__atomic_store_n(&header->error, (uint32_t)errno, __ATOMIC_RELAXED);
	__atomic_fetch_add(&header->failed, 1, __ATOMIC_RELAXED);
	/* An unprivileged or limited host would otherwise fail again at full speed. */
	__atomic_store_n(&header->stop, 1, __ATOMIC_RELAXED);
}

static void note(int kind, pid_t pid, uint32_t about, uint32_t count, uint64_t begin_ns)
{
	uint64_t at = __atomic_fetch_add(&header->used, 1, __ATOMIC_RELAXED);

	if (at >= header->capacity)
		return;
	records[at] = (struct pl_log_record){ begin_ns, pl_now_boot_ns(), (uint32_t)pid, about, count, (uint32_t)kind };
}

/* Map the log. The program runs again after an exec, so it does so for each process that has children of its own. */
static void open_log(const char *fd)
{
	struct stat status;

	if (fstat(atoi(fd), &status))
		die("the log");
	header = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(fd), 0);
	if (header == MAP_FAILED)
		die("the log");
	records = (struct pl_log_record *)((char *)header + PL_LOG_HEADER_BYTES);
	snprintf(log_fd, sizeof(log_fd), "%s", fd);
}

static void run_again(const char *mode, const char *first, const char *second)
{
	execl(self, mode, mode, first, second, (char *)NULL);
	_exit(FAILED);
}

/* Wait for a child, and record its execs and its exit. Returns its wait status. */
static int finish(pid_t pid, uint32_t execs, uint64_t begin_ns)
{
	int status = 0;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR) {
			fail();
			return -1;
		}
	if (execs && WIFEXITED(status) && WEXITSTATUS(status) == FAILED) {
		errno = ENOEXEC;
		fail();
	} else if (execs) {
		note(PL_KIND_EXEC, pid, (uint32_t)getpid(), execs, begin_ns);
	}
	note(PL_KIND_EXIT, pid, (uint32_t)status, 1, begin_ns);
	return status;
}

/* Fork and record it; returns 0 in the child, -1 if it failed. */
static pid_t make(uint64_t *begin_ns)
{
	pid_t pid;

	*begin_ns = pl_now_boot_ns();
	pid = fork();
	if (pid < 0)
		fail();
	if (pid > 0)
		note(PL_KIND_FORK, pid, (uint32_t)getpid(), 1, *begin_ns);
	return pid;
}

/* The same with flags or a pid of choice. */
static pid_t make_with(struct clone_args *args, uint64_t *begin_ns)
{
	long pid;

	args->exit_signal = SIGCHLD;
	*begin_ns = pl_now_boot_ns();
	pid = syscall(SYS_clone3, args, sizeof(*args));
	if (pid > 0)
		note(PL_KIND_FORK, (pid_t)pid, (uint32_t)getpid(), 1, *begin_ns);
	return (pid_t)pid;
}

static void unit_forks(unsigned n)
{
	uint64_t begin_ns;
	pid_t pid = make(&begin_ns);

	if (!pid)
		_exit((int)(n & 63));
	if (pid > 0)
		finish(pid, 0, begin_ns);
}

static void unit_execs(unsigned n)
{
	char left[16], code[16];
	uint64_t begin_ns;
	pid_t pid = make(&begin_ns);

	if (!pid) {
		snprintf(left, sizeof(left), "%d", EXECS - 1);
		snprintf(code, sizeof(code), "%u", n & 63);
		run_again("chain", left, code);
	}
	if (pid > 0)
		finish(pid, EXECS, begin_ns);
}

/* A build: make runs two compilers at a time, each of which runs cc1 and as, and then the linker. */
static pid_t spawn(const char *mode, uint64_t *begin_ns)
{
	static char *const options[] = { "-O2", "-g", "-Wall", "-Wextra", "-Iinclude", "-Iinclude/generated",
					 "-Ithird_party/one/include", "-Ithird_party/two/include", "-DNDEBUG",
					 "-D_GNU_SOURCE", "-DVERSION=\"1.2.3\"", "-fno-omit-frame-pointer", "-MMD",
					 "-MF", "build/part/some_source_file.d", "-o", "build/part/some_source_file.o",
					 "src/part/some_source_file.c" };
	char *arguments[3 + sizeof(options) / sizeof(*options) + 1] = { (char *)mode, (char *)mode, log_fd };
	pid_t pid;

	memcpy(arguments + 3, options, sizeof(options));
	*begin_ns = pl_now_boot_ns();
	pid = vfork(); /* as posix_spawn does */
	if (!pid) {
		execv(self, arguments);
		_exit(FAILED);
	}
	if (pid < 0)
		fail();
	else
		note(PL_KIND_FORK, pid, (uint32_t)getpid(), 1, *begin_ns);
	return pid;
}

static void spawn_one(const char *mode)
{
	uint64_t begin_ns;
	pid_t pid = spawn(mode, &begin_ns);

	if (pid > 0)
		finish(pid, 1, begin_ns);
}

static int as_make(void)
{
	uint64_t begin_ns[2];
	pid_t pids[2];

	for (int i = 0; i < 2; i++)
		pids[i] = spawn("cc", &begin_ns[i]);
	for (int i = 0; i < 2; i++)
		if (pids[i] > 0)
			finish(pids[i], 1, begin_ns[i]);
	spawn_one("ld");
	return 0;
}

static int as_compiler(void)
{
	spawn_one("cc1");
	spawn_one("as");
	return 0;
}

static void unit_build(unsigned n)
{
	(void)n;
	spawn_one("make");
}

static void nest(int depth, unsigned n)
{
	uint64_t begin_ns;
	pid_t pid = make(&begin_ns);

	if (!pid) {
		if (depth > 1)
			nest(depth - 1, n);
		_exit((int)((n + (unsigned)depth) & 63));
	}
	if (pid > 0)
		finish(pid, 0, begin_ns);
}

static void unit_deep(unsigned n) { nest(DEPTH, n); }

static void unit_daemons(unsigned n)
{
	uint64_t begin_ns;
	pid_t pid;

	/* The worker does not wait for its daemons, so their number needs a limit. */
	while (__atomic_load_n(&header->daemons, __ATOMIC_RELAXED) >= 4 * PL_WORKERS_MAX)
		usleep(1000);
	pid = make(&begin_ns);
	if (!pid) {
		pid_t middle = getpid();

		setsid();
		__atomic_fetch_add(&header->daemons, 1, __ATOMIC_RELAXED);
		if (!make(&begin_ns)) {
			while (getppid() == middle)
				usleep(100);
			usleep(DAEMON_US);
			_exit((int)(n & 63));
		}
		_exit((int)(n & 31));
	}
	if (pid > 0)
		finish(pid, 0, begin_ns);
}

static void *nothing(void *arg) { return arg; }

static void unit_threads(unsigned n)
{
	uint64_t begin_ns;
	pid_t pid = make(&begin_ns);

	if (!pid) {
		pthread_t thread;

		for (int i = 0; i < THREADS; i++) {
			if (pthread_create(&thread, NULL, nothing, NULL)) {
				fail();
				_exit(FAILED);
			}
			pthread_join(thread, NULL);
		}
		note(PL_KIND_THREAD, getpid(), 0, THREADS, begin_ns);
		_exit((int)(n & 63));
	}
	if (pid > 0)
		finish(pid, 0, begin_ns);
}

static void unit_namespaces(unsigned n)
{
	struct clone_args args = { .flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC };
	char code[16];
	uint64_t begin_ns;
	pid_t pid = make_with(&args, &begin_ns);

	if (!pid) {
		snprintf(code, sizeof(code), "%u", n & 63);
		run_again("chain", "0", code);
	}
	if (pid > 0)
		finish(pid, 1, begin_ns);
	else
		fail();
}

static void unit_pid_reuse(unsigned n)
{
	static pid_t reused; /* of this worker */
	struct clone_args args = { 0 };
	char code[16];
	uint64_t begin_ns;
	pid_t pid;

	if (reused) {
		args.set_tid = (uint64_t)(uintptr_t)&reused;
		args.set_tid_size = 1;
	}
	pid = make_with(&args, &begin_ns);
	if (!pid) {
		snprintf(code, sizeof(code), "%u", n & 63);
		run_again("chain", "0", code);
	}
	if (pid > 0) {
		finish(pid, 1, begin_ns);
		reused = pid;
	} else if (errno == EEXIST) {
		reused = 0; /* another process has that pid now: take the next one */
	} else {
		fail();
	}
}

static void unit_credentials(unsigned n)
{
	uint64_t begin_ns;
	pid_t pid = make(&begin_ns);

	if (!pid) {
		for (int i = 0; i < CHANGES / 2; i++)
			if (syscall(SYS_setresuid, -1, NOBODY, -1) || syscall(SYS_setresuid, -1, 0, -1)) {
				fail();
				_exit(FAILED);
			}
		_exit((int)(n & 63));
	}
	if (pid > 0 && finish(pid, 0, begin_ns) >= 0)
		note(PL_KIND_CRED, pid, NOBODY, CHANGES, begin_ns);
}

/* Events of a unit: forks, execs, exits, changes of credentials, threads; pipeline/load/scenarios.py has the same. */
static const struct scenario {
	const char *name;
	void (*unit)(unsigned n);
	unsigned events;
} scenarios[] = {
	{ "forks", unit_forks, 2 },
	{ "execs", unit_execs, 2 + EXECS },
	{ "build", unit_build, 24 },
	{ "deep", unit_deep, 2 * DEPTH },
	{ "daemons", unit_daemons, 4 },
	{ "threads", unit_threads, 2 + THREADS },
	{ "namespaces", unit_namespaces, 3 },
	{ "pid-reuse", unit_pid_reuse, 3 },
	{ "credentials", unit_credentials, 2 + CHANGES },
};

/* The scenarios of this run, in turn. `mix` is a list of names. */
static const struct scenario *chosen[16];
static unsigned chosen_count;

static void choose(char *names)
{
	for (char *name = strtok(names, ","); name && chosen_count < 16; name = strtok(NULL, ",")) {
		for (size_t i = 0; i < sizeof(scenarios) / sizeof(*scenarios); i++)
			if (!strcmp(scenarios[i].name, name))
				chosen[chosen_count++] = &scenarios[i];
	}
	if (!chosen_count) {
		fprintf(stderr, "procline-load: no such scenario\n");
		exit(2);
	}
}

static void work(unsigned index, unsigned workers, double rate, uint64_t end_ns)
{
	double event_ns = rate > 0 ? workers * 1e9 / rate : 0;
	/* The workers begin one after another, not all at the same moment. */
	double due_ns = (double)header->begin_ns + event_ns * chosen[0]->events * index / workers;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != root)
		_exit(1);
	prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);
	for (unsigned n = index;; n++) {
		const struct scenario *scenario = chosen[n % chosen_count];
		uint64_t now_ns = pl_now_boot_ns();

		if (event_ns > 0) {
			uint64_t at_ns = (uint64_t)due_ns < end_ns ? (uint64_t)due_ns : end_ns;

			while (now_ns < at_ns && !__atomic_load_n(&header->stop, __ATOMIC_RELAXED)) {
				/* In parts, so that a stop is noticed soon. */
				pl_sleep_ns((long)(at_ns - now_ns < 50000000 ? at_ns - now_ns : 50000000));
				now_ns = pl_now_boot_ns();
			}
			if (now_ns > at_ns && now_ns - at_ns > __atomic_load_n(&header->late_ns, __ATOMIC_RELAXED))
				__atomic_store_n(&header->late_ns, now_ns - at_ns, __ATOMIC_RELAXED);
			if ((double)now_ns - due_ns > DEBT_NS)
				due_ns = (double)(now_ns - DEBT_NS);
			due_ns += event_ns * scenario->events;
		}
		if (now_ns >= end_ns || __atomic_load_n(&header->stop, __ATOMIC_RELAXED))
			_exit(0);
		if (__atomic_load_n(&header->used, __ATOMIC_RELAXED) + SPARE_RECORDS > header->capacity) {
			header->is_full = 1;
			_exit(0);
		}
		scenario->unit(n);
		__atomic_fetch_add(&header->units, 1, __ATOMIC_RELAXED);
	}
}

/* Kill all children. Those of a killed child become ours, so the caller repeats this until there are none. */
static void kill_children(void)
{
	char path[64];
	FILE *file;
	int pid;

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
	file = fopen(path, "re");
	if (!file)
		return;
	while (fscanf(file, "%d", &pid) == 1)
		kill(pid, SIGKILL);
	fclose(file);
}

/* The children that make the load, by number; pid 0: it has ended. */
static struct {
	pid_t pid;
	uint64_t begin_ns;
} workers[PL_WORKERS_MAX];

/* Block the signals of the run, and return a descriptor that reports them. */
static int block_signals(sigset_t *signals)
{
	int fd;

	sigemptyset(signals);
	sigaddset(signals, SIGCHLD);
	sigaddset(signals, SIGTERM);
	sigaddset(signals, SIGINT);
	sigprocmask(SIG_BLOCK, signals, NULL);
	fd = signalfd(-1, signals, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		die("signalfd");
	return fd;
}

/* Wait for a moment; return whether the caller or a signal wants the run to stop. `stops`: it does already. */
static bool is_stop_wanted(int signal_fd, bool stops)
{
	struct pollfd polled[2] = { { stops ? -1 : 0, POLLIN, 0 }, { signal_fd, POLLIN, 0 } };
	struct signalfd_siginfo info;

	poll(polled, 2, stops ? 100 : 1000);
	stops = stops || polled[0].revents;
	while (read(signal_fd, &info, sizeof(info)) == sizeof(info))
		stops = stops || info.ssi_signo != SIGCHLD;
	return stops;
}

/* Record the children that have ended: workers, and daemons that became ours. Returns false if no child is left. */
static bool note_ended(unsigned count, unsigned *left)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		uint64_t begin_ns = 0;

		for (unsigned i = 0; i < count; i++)
			if (workers[i].pid == pid) {
				begin_ns = workers[i].begin_ns;
				workers[i].pid = 0;
				--*left;
			}
		if (!begin_ns)
			__atomic_fetch_sub(&header->daemons, 1, __ATOMIC_RELAXED);
		note(PL_KIND_EXIT, pid, (uint32_t)status, 1, begin_ns);
		if (!*left && !header->end_ns)
			header->end_ns = pl_now_boot_ns();
	}
	return !(pid < 0 && errno == ECHILD);
}

static void store_cpu_time(void)
{
	struct rusage usage;

	getrusage(RUSAGE_CHILDREN, &usage);
	header->cpu_ns = (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000ull +
		       (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000;
}

static int run(int argc, char **argv)
{
	uint64_t stop_ns = 0;
	unsigned count, left;
	double rate, seconds;
	sigset_t signals;
	int fd;
	char byte;

	if (argc != 7)
		return 2;
	open_log(argv[2]);
	choose(argv[3]);
	count = left = (unsigned)atoi(argv[4]);
	rate = atof(argv[5]);
	seconds = atof(argv[6]);
	if (count < 1 || count > PL_WORKERS_MAX)
		return 2;
	root = getpid();
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	fd = block_signals(&signals);
	if (read(0, &byte, 1) != 1)
		return 0; /* the caller is gone */
	header->begin_ns = pl_now_boot_ns();
	for (unsigned i = 0; i < count; i++) {
		workers[i].pid = make(&workers[i].begin_ns);
		if (!workers[i].pid) {
			sigprocmask(SIG_UNBLOCK, &signals, NULL);
			work(i, count, rate, header->begin_ns + (uint64_t)(seconds * 1e9));
		}
	}
	do {
		if (is_stop_wanted(fd, stop_ns) && !stop_ns)
			stop_ns = pl_now_boot_ns();
		if (stop_ns) {
			__atomic_store_n(&header->stop, 1, __ATOMIC_RELAXED);
			if (pl_now_boot_ns() - stop_ns > STOP_S * 1000000000ull)
				kill_children();
		}
	} while (note_ended(count, &left));
	store_cpu_time();
	return 0;
}

static int guard(char **command)
{
	struct pollfd polled[2] = { { 0, POLLIN, 0 }, { -1, POLLIN, 0 } };
	int status = 0;
	pid_t pid;

	signal(SIGINT, SIG_IGN); /* the caller decides when to stop */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid) {
		int none = open("/dev/null", O_RDONLY);

		dup2(none, 0);
		execvp(command[0], command);
		_exit(FAILED);
	}
	polled[1].fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (polled[1].fd < 0)
		die("pidfd_open");
	while (poll(polled, 2, -1) < 0)
		;
	if (!polled[1].revents) {
		kill(pid, SIGTERM);
		if (poll(polled + 1, 1, 20000) <= 0)
			kill(pid, SIGKILL);
	}
	waitpid(pid, &status, 0);
	while (kill_children(), waitpid(-1, NULL, 0) > 0)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/* Remove the link by which this program was called and its directory: the caller may have been killed. */
static void remove_link(void)
{
	char *end, *directory = strdup(self);

	unlink(self);
	end = directory ? strrchr(directory, '/') : NULL;
	if (end) {
		*end = 0;
		rmdir(directory);
	}
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";

	/* The link by which the caller started this program; its name is that of all processes of the run. */
	self = getenv("PROCLINE_LOAD");
	if (!strcmp(mode, "chain") && argc == 4) {
		int left = atoi(argv[2]);
		char next[16];

		if (!left)
			return atoi(argv[3]);
		snprintf(next, sizeof(next), "%d", left - 1);
		run_again("chain", next, argv[3]);
	}
	if (!strcmp(mode, "cc1") || !strcmp(mode, "as") || !strcmp(mode, "ld"))
		return 0;
	if (!strcmp(mode, "make") || !strcmp(mode, "cc")) {
		open_log(argv[2]);
		return mode[0] == 'm' ? as_make() : as_compiler();
	}
	if (!strcmp(mode, "run") && self) {
		int code = run(argc, argv);

		remove_link();
		return code;
	}
	if (!strcmp(mode, "watch"))
		return watch(argc - 1, argv + 1);
	if (!strcmp(mode, "guard") && argc > 2)
		return guard(argv + 2);
	fprintf(stderr, "usage: procline-load run|watch|guard ... (see load.c; `procline load` runs it)\n");
	return 2;
}
