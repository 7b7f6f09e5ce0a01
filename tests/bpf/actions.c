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
 *   change-user N TIMES   N children at the same time, each of which changes its fsuid so often; prints their pids
 *   change-mounts N TIMES the same; each gets a new mount namespace so often
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
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static char *self = "/proc/self/exe";

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

static void *exec_it(void *command)
{
	char **arguments = command;

	say(gettid());
	execv(arguments[0], arguments);
	die("execv");
	return NULL;
}

static void *leave_later(void *arg)
{
	usleep(50000);
	syscall(SYS_exit, 7);
	return arg;
}

static void *have_own_facts(void *arg)
{
	char **arguments = arg;
	const char *how = arguments[0];
	pid_t pid;

	prctl(PR_SET_NAME, "own-name");
	/* Plain system calls, because the C library's functions change every thread. */
	if (unshare(CLONE_NEWNET) || syscall(SYS_setresgid, 65534, 65534, 65534) ||
	    syscall(SYS_setresuid, 65534, 65534, 65534))
		die("own facts");
	if (!strcmp(how, "exec"))
		return exec_it(arguments + 1);
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

/* The acts. Each gets the number of its arguments and the arguments themselves, which end with NULL. */

static long number(int count, char **arguments, int which)
{
	return count > which ? atol(arguments[which]) : 0;
}

static void wait_for_all(void)
{
	while (wait(NULL) > 0)
		;
}

static void send_pid(int fd, pid_t pid)
{
	if (write(fd, &pid, sizeof(pid)) != sizeof(pid))
		_exit(97);
}

static void say_received(int fd)
{
	pid_t pid;

	if (read(fd, &pid, sizeof(pid)) != sizeof(pid))
		die("read");
	say(pid);
}

static void forks(int count, char **arguments)
{
	for (long i = 0; i < number(count, arguments, 0); i++) {
		pid_t pid = must_fork();

		if (!pid)
			_exit(i);
		say(pid);
		waitpid(pid, NULL, 0);
	}
}

/* Make a child with this pid; return 0 in it. */
static pid_t child_with(pid_t wanted)
{
	struct clone_args args = {
		.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&wanted, .set_tid_size = 1
	};
	pid_t pid = syscall(SYS_clone3, &args, sizeof(args));

	if (pid < 0)
		die("clone3");
	return pid;
}

static void ends(int count, char **arguments)
{
	for (int i = 0; i < count; i++) {
		pid_t pid = child_with(atoi(arguments[i]));

		if (!pid)
			_exit(0);
		say(pid);
		waitpid(pid, NULL, 0);
	}
}

static void lives(int count, char **arguments)
{
	for (int i = 0; i < count; i++) {
		pid_t pid = child_with(atoi(arguments[i]));

		if (!pid) {
			until_stdin_ends();
			_exit(0);
		}
		say(pid);
	}
	wait_for_all();
}

static void threads(int count, char **arguments)
{
	pthread_t thread;

	for (long i = 0; i < number(count, arguments, 0); i++) {
		pthread_create(&thread, NULL, just_end, NULL);
		pthread_join(thread, NULL);
	}
}

static void run(int count, char **arguments)
{
	pid_t pid = must_fork();

	if (!pid) {
		execv(arguments[0], arguments);
		die("execv");
	}
	say(pid);
	waitpid(pid, NULL, 0);
}

static void just_wait(int count, char **arguments)
{
	until_stdin_ends();
}

static void thread_exec(int count, char **arguments)
{
	pthread_t thread;

	pthread_create(&thread, NULL, exec_it, arguments);
	pause();
}

static void leader_leaves(int count, char **arguments)
{
	pthread_t thread;

	pthread_create(&thread, NULL, leave_later, NULL);
	syscall(SYS_exit, 5);
}

static void own_facts(int count, char **arguments)
{
	const char *how = arguments[0];
	pthread_t thread;

	pthread_create(&thread, NULL, have_own_facts, arguments);
	if (!strcmp(how, "last") || !strcmp(how, "child"))
		syscall(SYS_exit, 5);
	pause();
}

static void group_exit(int count, char **arguments)
{
	pthread_t thread;

	for (long i = 0; i < number(count, arguments, 0); i++)
		pthread_create(&thread, NULL, wait_for_ever, NULL);
	pthread_create(&thread, NULL, end_all, NULL);
	pause();
}

static void empty_argv(int count, char **arguments)
{
	syscall(SYS_execve, arguments[0], NULL, NULL);
	die("execve");
}

static void newpid(int count, char **arguments)
{
	pid_t pid = clone_with(CLONE_NEWPID, SIGCHLD);

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
}

/* Wait until the parent has ended, and send the pid of the next one. */
static void send_adopter(int fd, pid_t parent)
{
	pid_t adopter;

	while ((adopter = getppid()) == parent)
		usleep(1000);
	send_pid(fd, adopter);
	_exit(0);
}

static void orphan(int count, char **arguments)
{
	int fds[2], up[2];
	pid_t pid;

	if (pipe(fds) || pipe(up))
		die("pipe");
	if (count)
		prctl(PR_SET_CHILD_SUBREAPER, 1);
	pid = must_fork();
	if (!pid) {
		pid_t middle = getpid();

		pid = must_fork();
		if (!pid)
			send_adopter(up[1], middle);
		send_pid(fds[1], pid);
		_exit(0);
	}
	say(pid);
	say_received(fds[0]);
	say_received(up[0]);
	wait_for_all();
}

static void die_of_signal(int count, char **arguments)
{
	pid_t pid = must_fork();

	if (!pid) {
		raise(number(count, arguments, 0));
		_exit(0);
	}
	say(pid);
	waitpid(pid, NULL, 0);
}

static void rename_all(int count, char **arguments)
{
	pthread_t thread;

	pthread_create(&thread, NULL, rename_me, NULL);
	pthread_join(thread, NULL);
	prctl(PR_SET_NAME, arguments[0]);
	say(getpid());
	pthread_create(&thread, NULL, rename_leader, NULL);
	pthread_join(thread, NULL);
	say(getpid());
	until_stdin_ends();
}

static void clone_parent(int count, char **arguments)
{
	int fds[2];
	pid_t pid;

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
		send_pid(fds[1], pid);
		_exit(0);
	}
	say(pid);
	say_received(fds[0]);
	wait_for_all();
}

static void enter_root(const char *directory)
{
	if (chroot(directory) || chdir("/"))
		die("chroot");
}

static void in_chroot(int count, char **arguments)
{
	enter_root(arguments[0]);
	execl(arguments[1], arguments[1], "wait", NULL);
	die("execl");
}

static void jail_fd(int count, char **arguments)
{
	char *args[] = { "jailed", "nothing", NULL };

	enter_root(arguments[0]);
	syscall(SYS_execveat, atoi(arguments[1]), "", args, environ, AT_EMPTY_PATH);
	die("execveat");
}

static void in_memfd(int count, char **arguments)
{
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
}

static void storm(int count, char **arguments)
{
	long just_forks = number(count, arguments, 0), execs = number(count, arguments, 1);
	char *args[] = { self, "nothing", NULL };

	for (long i = 0; i < just_forks + execs; i++) {
		if (!must_fork()) {
			if (i >= just_forks)
				execv(self, args);
			_exit(0);
		}
		if (i % 16 == 15)
			wait_for_all();
	}
	wait_for_all();
}

static void change_all(int count, char **arguments, void (*change)(long))
{
	long children = number(count, arguments, 0), times = number(count, arguments, 1);

	for (long i = 0; i < children; i++) {
		pid_t pid = must_fork();

		if (!pid) {
			for (long n = 1; n <= times; n++)
				change(n);
			_exit(0);
		}
		say(pid);
	}
	wait_for_all();
}

static void to_user(long n)
{
	setfsuid(n);
}

static void change_user(int count, char **arguments)
{
	change_all(count, arguments, to_user);
}

static void to_new_mounts(long n)
{
	(void)n;
	if (unshare(CLONE_NEWNS))
		die("unshare");
}

static void change_mounts(int count, char **arguments)
{
	change_all(count, arguments, to_new_mounts);
}

static void tree(int count, char **arguments)
{
	int left = 40, fds[2], waiters;
	char byte;
	pid_t pid;

	if (pipe(fds))
		die("pipe");
	dice_state = number(count, arguments, 0) * 2654435761u;
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
}

static void nothing(int count, char **arguments)
{
}

static const struct {
	const char *name;
	void (*act)(int count, char **arguments);
} ACTS[] = {
	{ "change-mounts", change_mounts },
	{ "change-user", change_user },
	{ "chroot", in_chroot },
	{ "clone-parent", clone_parent },
	{ "empty-argv", empty_argv },
	{ "ends", ends },
	{ "forks", forks },
	{ "group-exit", group_exit },
	{ "jail-fd", jail_fd },
	{ "leader-leaves", leader_leaves },
	{ "lives", lives },
	{ "memfd", in_memfd },
	{ "newpid", newpid },
	{ "nothing", nothing },
	{ "orphan", orphan },
	{ "own-facts", own_facts },
	{ "rename", rename_all },
	{ "run", run },
	{ "signal", die_of_signal },
	{ "storm", storm },
	{ "thread-exec", thread_exec },
	{ "threads", threads },
	{ "tree", tree },
	{ "wait", just_wait },
};

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "nothing";

	for (size_t i = 0; i < sizeof(ACTS) / sizeof(*ACTS); i++) {
		if (!strcmp(name, ACTS[i].name)) {
			ACTS[i].act(argc > 2 ? argc - 2 : 0, argv + 2);
			return 0;
		}
	}
	fprintf(stderr, "unknown act: %s\n", name);
	return 2;
}
