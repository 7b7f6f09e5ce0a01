/* SPDX-License-Identifier: Apache-2.0 */
/* A process workload that says exactly what it did: one line for each process made, "KIND PID [PPID]".
 *
 *   storm FORKS EXECS WIDTH [N]  FORKS children that end at once, EXECS children that run "nop" and end; WIDTH at a
 *                                time. N: the forks have N more threads, and all end at the same moment
 *   crowd N MS                   N children live at the same time; says "crowd N PID", sleeps MS and ends, and they
 *                                with it
 *   threads N                    N threads, one after another, then ends
 *   nest DEPTH MS                DEPTH nested forks; the leaf prints its pid and sleeps MS milliseconds
 *   execs N MS                   N execs in one pid, then sleeps MS
 *   doublefork MS                the middle process ends; the orphan prints "orphan PID CREATOR" and sleeps MS
 *   threadexec MS                a thread that is not the leader runs "sleep MS"
 *   leaderexit MS                the leader thread ends at once, another thread lives MS
 *   vfork MS                     a vfork child that runs "sleep MS"
 *   reuse N                      N processes with one pid, one after another (clone3 set_tid); each runs "nop"
 *   pidns MS                     a child in a new pid namespace runs "sleep MS"
 *   emptyargv MS                 runs "sleep" with an empty argument list (MS from the environment)
 *   sleep MS | nop
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char self[4096];

static void nap(long ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };
	while (nanosleep(&t, &t) && errno == EINTR)
		;
}

static void die(const char *what)
{
	perror(what);
	_exit(99);
}

static void say(const char *kind, int pid, int ppid)
{
	char line[64];
	int n = snprintf(line, sizeof(line), "%s %d %d\n", kind, pid, ppid);
	if (write(1, line, n) != n)
		_exit(98);
}

static void run(const char *mode, const char *arg)
{
	execl(self, "workload", mode, arg, NULL);
	die("exec");
}

static atomic_int ready;
static int all_ready;

static void *end_together(void *status)
{
	atomic_fetch_add(&ready, 1);
	for (int turns = 1; atomic_load(&ready) < all_ready; turns++)
		if (turns % 1024 == 0) /* rarely, as a thread that waits for a CPU ends later */
			sched_yield();
	syscall(SYS_exit, (int)(intptr_t)status);
	return NULL;
}

static void end_with_threads(int count, intptr_t status)
{
	pthread_t t;

	all_ready = count + 1;
	for (int i = 0; i < count; i++)
		if (pthread_create(&t, NULL, end_together, (void *)status))
			die("pthread_create");
	end_together((void *)status);
}

static int storm(int forks, int execs, int width, int threads)
{
	int running = 0, total = forks + execs, made_execs = 0, made_forks = 0;
	/* One write a child would make the log the workload: collect, print at the end. */
	int *pids = calloc(total, sizeof(int));
	char *kinds = calloc(total, 1);
	for (int i = 0; i < total; i++) {
		/* Spread the execs evenly over the forks. */
		int exec = (long)made_execs * forks < (long)made_forks * execs || made_forks == forks;
		if (made_execs == execs)
			exec = 0;
		pid_t pid = fork();
		if (pid < 0)
			die("fork");
		if (!pid) {
			if (exec)
				run("nop", NULL);
			if (threads)
				end_with_threads(threads, i & 63);
			_exit(i & 63);
		}
		pids[i] = pid;
		kinds[i] = exec;
		*(exec ? &made_execs : &made_forks) += 1;
		if (++running >= width) {
			wait(NULL);
			running--;
		}
	}
	while (wait(NULL) > 0)
		;
	FILE *out = stdout;
	for (int i = 0; i < total; i++)
		fprintf(out, "%s %d %d\n", kinds[i] ? "exec" : "fork", pids[i], getpid());
	fflush(out);
	return 0;
}

static int crowd(int count, long ms)
{
	pid_t parent = getpid();

	for (int i = 0; i < count; i++) {
		pid_t pid = fork();
		if (pid < 0)
			die("fork");
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			if (getppid() != parent) /* it was killed before, so no signal comes */
				_exit(0);
			for (;;)
				pause();
		}
	}
	say("crowd", count, getpid());
	nap(ms);
	return 0;
}

static void *nothing(void *arg)
{
	return arg;
}

static void *exec_sleep(void *ms)
{
	run("sleep", ms);
	return NULL;
}

static void *just_sleep(void *ms)
{
	nap(atol(ms));
	_exit(7);
}

/* The modes. Each gets the number of its arguments and the arguments themselves; those that are missing are "0". */

static int do_nop(int count, char **arguments)
{
	return 0;
}

static int do_sleep(int count, char **arguments)
{
	nap(atol(arguments[0]));
	return 0;
}

static int do_storm(int count, char **arguments)
{
	return storm(atoi(arguments[0]), atoi(arguments[1]), count > 2 ? atoi(arguments[2]) : 8,
		     count > 3 ? atoi(arguments[3]) : 0);
}

static int do_crowd(int count, char **arguments)
{
	return crowd(atoi(arguments[0]), atol(arguments[1]));
}

static int do_threads(int count, char **arguments)
{
	for (int i = 0; i < atoi(arguments[0]); i++) {
		pthread_t t;
		if (pthread_create(&t, NULL, nothing, NULL))
			die("pthread_create");
		pthread_join(t, NULL);
	}
	return 0;
}

static int nest(int depth, long ms)
{
	if (depth == 0) {
		say("leaf", getpid(), getppid());
		nap(ms);
		return 0;
	}
	pid_t pid = fork();
	if (!pid)
		return nest(depth - 1, ms);
	say("level", getpid(), getppid());
	waitpid(pid, NULL, 0);
	return 0;
}

static int do_nest(int count, char **arguments)
{
	return nest(atoi(arguments[0]), atol(arguments[1]));
}

static int do_execs(int count, char **arguments)
{
	int left = atoi(arguments[0]);
	char next[16];

	if (left == 0) {
		say("done", getpid(), getppid());
		nap(atol(arguments[1]));
		return 0;
	}
	snprintf(next, sizeof(next), "%d", left - 1);
	execl(self, "workload", "execs", next, arguments[1], NULL);
	die("exec");
	return 1;
}

static int do_doublefork(int count, char **arguments)
{
	pid_t middle = fork();
	if (!middle) {
		int creator = getpid();
		pid_t orphan = fork();
		if (!orphan) {
			while (getppid() == creator)
				nap(1);
			say("orphan", getpid(), creator);
			nap(atol(arguments[0]));
			_exit(0);
		}
		_exit(0);
	}
	waitpid(middle, NULL, 0);
	say("middle", middle, getpid());
	nap(atol(arguments[0]));
	return 0;
}

static int do_threadexec(int count, char **arguments)
{
	pthread_t t;
	say("threadexec", getpid(), getppid());
	pthread_create(&t, NULL, exec_sleep, arguments[0]);
	pthread_join(t, NULL);
	return 0;
}

static int do_leaderexit(int count, char **arguments)
{
	pthread_t t;
	say("leaderexit", getpid(), getppid());
	pthread_create(&t, NULL, just_sleep, arguments[0]);
	syscall(SYS_exit, 3);
	return 0;
}

static int do_vfork(int count, char **arguments)
{
	pid_t pid = vfork();
	if (!pid) {
		execl(self, "workload", "sleep", arguments[0], NULL);
		_exit(99);
	}
	say("vfork", pid, getpid());
	waitpid(pid, NULL, 0);
	return 0;
}

static int do_reuse(int count, char **arguments)
{
	pid_t first = 0;
	for (int i = 0; i < atoi(arguments[0]); i++) {
		struct clone_args args = { .exit_signal = SIGCHLD };
		if (first) {
			args.set_tid = (uint64_t)(uintptr_t)&first;
			args.set_tid_size = 1;
		}
		long pid = syscall(SYS_clone3, &args, sizeof(args));
		if (pid < 0)
			die("clone3");
		if (!pid) {
			char number[16];
			snprintf(number, sizeof(number), "%d", i);
			execl(self, "workload", "nop", number, NULL);
			_exit(99);
		}
		waitpid(pid, NULL, 0);
		first = pid;
		say("reuse", pid, getpid());
	}
	return 0;
}

static int do_pidns(int count, char **arguments)
{
	int begun[2];
	char nothing;
	if (unshare(CLONE_NEWPID) || pipe2(begun, O_CLOEXEC))
		die("unshare");
	pid_t pid = fork();
	if (!pid)
		run("sleep", arguments[0]);
	/* Its exec closes the other end. Without this, a busy machine would run it after the line is read. */
	close(begun[1]);
	if (read(begun[0], &nothing, 1))
		die("pidns");
	say("pidns", pid, getpid());
	waitpid(pid, NULL, 0);
	return 0;
}

static int do_emptyargv(int count, char **arguments)
{
	char *none[] = { NULL };
	setenv("WORKLOAD_MS", arguments[0], 1);
	say("emptyargv", getpid(), getppid());
	execve(self, none, environ);
	die("execve");
	return 1;
}

static const struct {
	const char *name;
	int (*run)(int count, char **arguments);
} MODES[] = {
	{ "crowd", do_crowd },
	{ "doublefork", do_doublefork },
	{ "emptyargv", do_emptyargv },
	{ "execs", do_execs },
	{ "leaderexit", do_leaderexit },
	{ "nest", do_nest },
	{ "nop", do_nop },
	{ "pidns", do_pidns },
	{ "reuse", do_reuse },
	{ "sleep", do_sleep },
	{ "storm", do_storm },
	{ "threadexec", do_threadexec },
	{ "threads", do_threads },
	{ "vfork", do_vfork },
};

int main(int argc, char **argv)
{
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n > 0)
		self[n] = 0;
	if (argc < 2) {
		const char *ms = getenv("WORKLOAD_MS");
		nap(ms ? atol(ms) : 0);
		return 0;
	}
	char *arguments[4] = { "0", "0", "0", "0" };
	int count = argc - 2 < 4 ? argc - 2 : 4;
	memcpy(arguments, argv + 2, count * sizeof(*arguments));
	for (size_t i = 0; i < sizeof(MODES) / sizeof(*MODES); i++)
		if (!strcmp(argv[1], MODES[i].name))
			return MODES[i].run(count, arguments);
	fprintf(stderr, "workload: unknown mode %s\n", argv[1]);
	return 2;
}
