/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU time of calls: "host_tax ROUNDS [CGROUP_PROCS CGROUP_PROCS]".
 *
 * Each round makes a burst of every call. Prints a line for each burst: the name of the call, and its CPU time in ns,
 * that of children included. The two files are cgroup.procs of two cgroups; without them no process is moved.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static int null_fd, terminal_fd, cgroup_fds[2];
static pid_t other_group;
static char *self;

static void check(int is_good, const char *what)
{
	if (is_good)
		return;
	perror(what);
	exit(3);
}

static void empty_call(int i)
{
	(void)i;
	syscall(SYS_getppid);
}

static void one_byte_write(int i)
{
	(void)i;
	check(write(null_fd, "", 1) == 1, "write");
}

static void open_close(int i)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	(void)i;
	check(fd >= 0, "open");
	close(fd);
}

static void send_signal(int i)
{
	(void)i;
	check(!kill(getpid(), SIGUSR1), "kill");
}

/* Reads the settings, and changes nothing. */
static void terminal_ioctl(int i)
{
	struct termios settings;

	(void)i;
	check(!ioctl(terminal_fd, TCGETS, &settings), "ioctl");
}

static void rename_thread(int i)
{
	check(!prctl(PR_SET_NAME, i & 1 ? "tax-odd" : "tax-even"), "prctl");
}

/* To another user, and back with the next call. */
static void change_user(int i)
{
	check(!setresuid(-1, i & 1 ? 0 : 1, -1), "setresuid");
}

static void change_group(int i)
{
	check(!setpgid(0, i & 1 ? other_group : 0), "setpgid");
}

static void move_cgroup(int i)
{
	check(write(cgroup_fds[i & 1], "0", 1) == 1, "cgroup.procs");
}

static void fork_exit(int i)
{
	pid_t child = fork();

	(void)i;
	if (!child)
		_exit(0);
	check(child > 0 && waitpid(child, NULL, 0) == child, "fork");
}

static void fork_exec_exit(int i)
{
	char *argv[] = { self, NULL }, *envp[] = { NULL };
	pid_t child = vfork();

	(void)i;
	if (!child) {
		execve("/proc/self/exe", argv, envp);
		_exit(1);
	}
	check(child > 0 && waitpid(child, NULL, 0) == child, "vfork");
}

static const struct {
	const char *name;
	void (*make)(int);
	int burst;
} calls[] = {
	{ "empty call", empty_call, 8000 },   { "write of 1 byte", one_byte_write, 6000 },
	{ "open and close", open_close, 1200 }, { "signal", send_signal, 4000 },
	{ "ioctl on a terminal", terminal_ioctl, 4000 },
	{ "rename", rename_thread, 2000 },     { "change of user", change_user, 1000 },
	{ "change of group", change_group, 1000 }, { "cgroup move", move_cgroup, 50 },
	{ "fork and exit", fork_exit, 40 },    { "fork, exec, exit", fork_exec_exit, 12 },
};

/* A terminal that no process has as its controlling one. */
static int new_terminal(void)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	int fd;

	check(master >= 0 && !grantpt(master) && !unlockpt(master), "posix_openpt");
	fd = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
	check(fd >= 0, "terminal");
	return fd;
}

/* A process group of a child, which waits until this process ends. */
static pid_t new_group(void)
{
	pid_t child = fork();

	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	check(child > 0 && !setpgid(child, child), "process group");
	return child;
}

static double cpu_ns(void)
{
	struct timespec own;
	struct rusage children;

	getrusage(RUSAGE_CHILDREN, &children);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own);
	return own.tv_sec * 1e9 + own.tv_nsec + (children.ru_utime.tv_sec + children.ru_stime.tv_sec) * 1e9 +
	       (children.ru_utime.tv_usec + children.ru_stime.tv_usec) * 1e3;
}

int main(int argc, char **argv)
{
	int rounds, can_move = argc > 3;

	if (argc < 2)
		return 0; /* the program that fork_exec_exit() executes */
	self = argv[0];
	rounds = atoi(argv[1]);
	null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	check(null_fd >= 0, "/dev/null");
	terminal_fd = new_terminal();
	other_group = new_group();
	for (int i = 0; can_move && i < 2; i++) {
		cgroup_fds[i] = open(argv[2 + i], O_WRONLY | O_CLOEXEC);
		check(cgroup_fds[i] >= 0, argv[2 + i]);
	}
	signal(SIGUSR1, SIG_IGN);
	/* The first round warms caches and is not printed. */
	for (int round = 0; round <= rounds; round++) {
		for (unsigned call = 0; call < sizeof(calls) / sizeof(*calls); call++) {
			double begin;

			if (calls[call].make == move_cgroup && !can_move)
				continue;
			begin = cpu_ns();
			for (int i = 0; i < calls[call].burst; i++)
				calls[call].make(i);
			if (round)
				printf("%s: %.1f\n", calls[call].name, (cpu_ns() - begin) / calls[call].burst);
		}
	}
	return 0;
}
