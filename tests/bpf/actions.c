/* SPDX-License-Identifier: Apache-2.0 */
/* Single acts of processes for the tests of the BPF programs. Each act prints numbers, one a line:
 *
 *   forks N               N children one after another, child i exits with i; prints each pid
 *   ends PID...           children with these pids, one after another, that end at once; prints each pid
 *   lives PID...          children with these pids that live until stdin ends; prints each pid
 *   threads N             N threads one after another
 *   run FILE [ARG...]     a child runs FILE; prints its pid
 *   wait [ARG...]         until stdin ends
 *   thread-exec FILE      a thread runs FILE; prints the thread's tid
 *   leader-leaves         the leader ends with 5, a thread 50 ms later with 7, by plain SYS_exit
 *   own-facts HOW [FILE]  a thread gets its own name ("own-name"), ids (65534) and network namespace; then
 *                         HOW "last": the leader ends with 5 and the thread with 7 after it, by plain SYS_exit;
 *                         "child": the same, and in between the thread forks a process; prints its pid;
 *                         "group": the thread ends the group with 9; "exec": the thread runs FILE
 *   group-exit N          N threads wait; one of them ends the group with 9
 *   empty-argv FILE       FILE with no arguments and no environment, by NULL
 *   newpid                a child in a new pid namespace forks one of its own and exits with 3, killing it; prints the
 *                         child's pid
 *   orphan [subreaper]    a child forks a grandchild and ends; prints pid of child, of grandchild, and the grandchild's
 *                         ppid afterwards; with an argument this process is a subreaper
 *   signal N              a child dies of signal N; prints its pid
 *   rename NAME           a thread names itself "thread", the leader itself NAME, a thread the leader "by-thread";
 *                         prints the pid after each change of the leader's name; waits until stdin ends
 *   clone-parent          a child made with CLONE_PARENT from a child; prints pid of the child, of its sibling
 *   chroot DIR FILE       runs FILE below DIR
 *   jail-fd DIR FD        runs the open file FD, which is outside DIR, below DIR
 *   memfd                 runs itself from a memfd with argument "nothing"
 *   storm FORKS EXECS     FORKS children that end at once, EXECS that run "nothing"; prints nothing
 *   tree SEED             a random tree of up to 40 waiting processes, some subreapers, some in pid namespaces of their
 *                         own, some with an ended leader; prints the root's pid when the tree is complete
 *   nothing
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static char *self = "/proc/self/exe";
static char **rest;

static void say(long number)
{
	char line[32];
	int n = snprintf(line, sizeof(line), "%ld\n", number);

	if (write(1, line, n) != n)
		_exit(98);
}

static void die(const char *what)
{
	perror(what);
	_exit(99);
}

static void until_stdin_ends(void)
{
	char byte;

	while (read(0, &byte, 1) > 0)
		;
}

static pid_t must_fork(void)
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	return pid;
}

static void *just_end(void *arg)
{
	return arg;
}

static void *exec_it(void *arg)
{
	say(gettid());
	execv(rest[0], rest);
	die("execv");
	return arg;
}

static void *leave_later(void *arg)
{
	usleep(50000);
	syscall(SYS_exit, 7);
	return arg;
}

static const char *how;

static void *have_own_facts(void *arg)
{
	pid_t pid;

	prctl(PR_SET_NAME, "own-name");
	/* Plain system calls, because the C library's functions change every thread. */
	if (unshare(CLONE_NEWNET) || syscall(SYS_setresgid, 65534, 65534, 65534) ||
	    syscall(SYS_setresuid, 65534, 65534, 65534))
		die("own facts");
	if (!strcmp(how, "exec"))
		return exec_it(arg);
	usleep(50000);
	if (!strcmp(how, "group"))
		syscall(SYS_exit_group, 9);
	if (!strcmp(how, "child")) {
		pid = must_fork();
		if (!pid)
			_exit(3);
		say(pid);
		waitpid(pid, NULL, 0);
	}
	syscall(SYS_exit, 7);
	return arg;
}

static void *wait_for_ever(void *arg)
{
	pause();
	return arg;
}

static void *end_all(void *arg)
{
	usleep(20000);
	syscall(SYS_exit_group, 9);
	return arg;
}

static void *rename_me(void *arg)
{
	prctl(PR_SET_NAME, "thread");
	return arg;
}

static void *rename_leader(void *arg)
{
	int fd = open("/proc/self/comm", O_WRONLY);

	if (write(fd, "by-thread", 9) != 9)
		die("comm");
	return arg;
}

static pid_t clone_with(uint64_t flags, int exit_signal)
{
	struct clone_args args = { .flags = flags, .exit_signal = exit_signal };

	return syscall(SYS_clone3, &args, sizeof(args));
}

static uint32_t dice_state;

static uint32_t dice(uint32_t sides)
{
	dice_state = dice_state * 1664525 + 1013904223;
	return (dice_state >> 16) % sides;
}

/* Grow below the calling process. It cannot know pids in the root namespace; the test finds them in /proc. */
static void grow(int depth, int *left, int ready)
{
	int children = depth >= 6 ? 0 : depth < 3 ? 2 + dice(2) : dice(4);
	pthread_t thread;
	char byte = 1;

	if (dice(10) < 3)
		prctl(PR_SET_CHILD_SUBREAPER, 1);
	for (int i = 0; i < children && *left > 0; i++) {
		uint32_t seed = (dice_state ^ (depth << 8 | i)) * 2654435761u;
		int some = *left / 2;
		pid_t pid = clone_with(dice(100) < 15 ? CLONE_NEWPID : 0, SIGCHLD);

		if (pid < 0)
			die("clone3");
		if (!pid) {
			dice_state = seed;
			some -= 1;
			grow(depth + 1, &some, ready);
		}
		*left -= some + 1;
	}
	if (dice(10) < 2) {
		/* Children still have their parent after the parent's leader has ended. */
		pthread_create(&thread, NULL, wait_for_ever, NULL);
		if (write(ready, &byte, 1) != 1)
			_exit(97);
		syscall(SYS_exit, 0);
	}
	if (depth) {
		if (write(ready, &byte, 1) != 1)
			_exit(97);
		for (;;)
			pause();
	}
}

int main(int argc, char **argv)
{
	const char *act = argc > 1 ? argv[1] : "nothing";
	long n = argc > 2 ? atol(argv[2]) : 0;
	pthread_t thread;
	pid_t pid;

	rest = argv + 2;
	if (!strcmp(act, "forks")) {
		for (long i = 0; i < n; i++) {
			pid = must_fork();
			if (!pid)
				_exit(i);
			say(pid);
			waitpid(pid, NULL, 0);
		}
	} else if (!strcmp(act, "ends") || !strcmp(act, "lives")) {
		for (int i = 2; i < argc; i++) {
			pid_t wanted = atoi(argv[i]);
			struct clone_args args = {
				.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&wanted, .set_tid_size = 1
			};

			pid = syscall(SYS_clone3, &args, sizeof(args));
			if (pid < 0)
				die("clone3");
			if (!pid) {
				if (!strcmp(act, "lives"))
					until_stdin_ends();
				_exit(0);
			}
			say(pid);
			if (!strcmp(act, "ends"))
				waitpid(pid, NULL, 0);
		}
		fflush(stdout);
		while (wait(NULL) > 0)
			;
	} else if (!strcmp(act, "threads")) {
		for (long i = 0; i < n; i++) {
			pthread_create(&thread, NULL, just_end, NULL);
			pthread_join(thread, NULL);
		}
	} else if (!strcmp(act, "run")) {
		pid = must_fork();
		if (!pid) {
			execv(rest[0], rest);
			die("execv");
		}
		say(pid);
		waitpid(pid, NULL, 0);
	} else if (!strcmp(act, "wait")) {
		until_stdin_ends();
	} else if (!strcmp(act, "thread-exec")) {
		pthread_create(&thread, NULL, exec_it, NULL);
		pause();
	} else if (!strcmp(act, "leader-leaves")) {
		pthread_create(&thread, NULL, leave_later, NULL);
		syscall(SYS_exit, 5);
	} else if (!strcmp(act, "own-facts")) {
		how = *rest++;
		pthread_create(&thread, NULL, have_own_facts, NULL);
		if (!strcmp(how, "last") || !strcmp(how, "child"))
			syscall(SYS_exit, 5);
		pause();
	} else if (!strcmp(act, "group-exit")) {
		for (long i = 0; i < n; i++)
			pthread_create(&thread, NULL, wait_for_ever, NULL);
		pthread_create(&thread, NULL, end_all, NULL);
		pause();
	} else if (!strcmp(act, "empty-argv")) {
		syscall(SYS_execve, rest[0], NULL, NULL);
		die("execve");
	} else if (!strcmp(act, "newpid")) {
		pid = clone_with(CLONE_NEWPID, SIGCHLD);
		if (pid < 0)
			die("clone3");
		if (!pid) {
			if (!must_fork())
				pause();
			usleep(10000);
			_exit(3);
		}
		say(pid);
		waitpid(pid, NULL, 0);
	} else if (!strcmp(act, "orphan")) {
		int fds[2], up[2];

		if (pipe(fds) || pipe(up))
			die("pipe");
		if (n || argc > 2)
			prctl(PR_SET_CHILD_SUBREAPER, 1);
		pid = must_fork();
		if (!pid) {
			pid_t middle = getpid();

			pid = must_fork();
			if (!pid) {
				pid_t parent;

				while ((parent = getppid()) == middle)
					usleep(1000);
				if (write(up[1], &parent, sizeof(parent)) != sizeof(parent))
					_exit(97);
				_exit(0);
			}
			if (write(fds[1], &pid, sizeof(pid)) != sizeof(pid))
				_exit(97);
			_exit(0);
		}
		say(pid);
		if (read(fds[0], &pid, sizeof(pid)) != sizeof(pid))
			die("read");
		say(pid);
		if (read(up[0], &pid, sizeof(pid)) != sizeof(pid))
			die("read");
		say(pid);
		while (wait(NULL) > 0)
			;
	} else if (!strcmp(act, "signal")) {
		pid = must_fork();
		if (!pid) {
			raise(n);
			_exit(0);
		}
		say(pid);
		waitpid(pid, NULL, 0);
	} else if (!strcmp(act, "rename")) {
		pthread_create(&thread, NULL, rename_me, NULL);
		pthread_join(thread, NULL);
		prctl(PR_SET_NAME, rest[0]);
		say(getpid());
		pthread_create(&thread, NULL, rename_leader, NULL);
		pthread_join(thread, NULL);
		say(getpid());
		until_stdin_ends();
	} else if (!strcmp(act, "clone-parent")) {
		int fds[2];

		if (pipe(fds))
			die("pipe");
		pid = must_fork();
		if (!pid) {
			/* The kernel rejects an exit signal with CLONE_PARENT: the sibling gets the caller's. */
			pid = clone_with(CLONE_PARENT, 0);
			if (pid < 0)
				die("clone3");
			if (!pid)
				_exit(0);
			if (write(fds[1], &pid, sizeof(pid)) != sizeof(pid))
				_exit(97);
			_exit(0);
		}
		say(pid);
		if (read(fds[0], &pid, sizeof(pid)) != sizeof(pid))
			die("read");
		say(pid);
		while (wait(NULL) > 0)
			;
	} else if (!strcmp(act, "chroot")) {
		if (chroot(rest[0]) || chdir("/"))
			die("chroot");
		execl(rest[1], rest[1], "wait", NULL);
		die("execl");
	} else if (!strcmp(act, "jail-fd")) {
		char *args[] = { "jailed", "nothing", NULL };

		if (chroot(rest[0]) || chdir("/"))
			die("chroot");
		syscall(SYS_execveat, atoi(rest[1]), "", args, environ, AT_EMPTY_PATH);
		die("execveat");
	} else if (!strcmp(act, "memfd")) {
		int from = open(self, O_RDONLY), to = memfd_create("action", 0);
		struct stat st;
		char *args[] = { "action", "nothing", NULL };

		if (from < 0 || to < 0 || fstat(from, &st))
			die("memfd");
		while (st.st_size > 0) {
			ssize_t some = sendfile(to, from, NULL, st.st_size);

			if (some <= 0)
				die("sendfile");
			st.st_size -= some;
		}
		fexecve(to, args, environ);
		die("fexecve");
	} else if (!strcmp(act, "storm")) {
		long execs = argc > 3 ? atol(argv[3]) : 0;
		char *args[] = { self, "nothing", NULL };

		for (long i = 0; i < n + execs; i++) {
			pid = must_fork();
			if (!pid) {
				if (i >= n)
					execv(self, args);
				_exit(0);
			}
			if (i % 16 == 15)
				while (wait(NULL) > 0)
					;
		}
		while (wait(NULL) > 0)
			;
	} else if (!strcmp(act, "tree")) {
		int left = 40, fds[2], waiters;
		char byte;

		if (pipe(fds))
			die("pipe");
		dice_state = n * 2654435761u;
		pid = must_fork();
		if (!pid) {
			close(fds[0]);
			prctl(PR_SET_CHILD_SUBREAPER, 1);
			grow(1, &left, fds[1]);
		}
		close(fds[1]);
		/* No process closes its end of the pipe: a quiet interval means that all processes are ready. */
		for (waiters = 0; waiters < 10;) {
			struct pollfd poller = { .fd = fds[0], .events = POLLIN };

			if (poll(&poller, 1, 20) <= 0)
				waiters++;
			else if (read(fds[0], &byte, 1) == 1)
				waiters = 0;
		}
		say(pid);
		until_stdin_ends();
		kill(pid, SIGKILL);
	} else if (strcmp(act, "nothing")) {
		fprintf(stderr, "unknown act: %s\n", act);
		return 2;
	}
	return 0;
}
