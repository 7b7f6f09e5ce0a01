/* SPDX-License-Identifier: Apache-2.0 */
/* A crowd of sleeping processes: "crowd COUNT [exec]".
 *
 * Prints the pid of each process, then a line with a dot. The processes end when standard input ends. With "exec", each
 * process executes this program again with distinct arguments, like different programs on a host.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void sleep_till_killed(void)
{
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	if (!strcmp(argv[1], "sleeper"))
		sleep_till_killed();

	int count = atoi(argv[1]), is_exec = argc > 2 && !strcmp(argv[2], "exec"), ready[2];
	pid_t *pids = calloc(count, sizeof(*pids));
	char number[32], byte;

	if (!pids || pipe2(ready, O_CLOEXEC))
		return 3;
	for (int i = 0; i < count; i++) {
		pids[i] = fork();
		if (pids[i] < 0) {
			perror("fork");
			count = i;
			break;
		}
		if (!pids[i]) {
			/* If the parent is killed, its children end too. */
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			close(0);
			close(1);
			if (is_exec) {
				/* The exec closes the pipe, which signals to the parent that it is done. */
				close(ready[0]);
				snprintf(number, sizeof(number), "--number=%d", i);
				execl("/proc/self/exe", "crowd", "sleeper", number, "--config=/etc/crowd/crowd.conf",
				      NULL);
				_exit(4);
			}
			close(ready[0]);
			close(ready[1]);
			sleep_till_killed();
		}
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 0)
		return 5;
	for (int i = 0; i < count; i++)
		printf("%d\n", pids[i]);
	printf(".\n");
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	for (int i = 0; i < count; i++)
		kill(pids[i], SIGKILL);
	while (wait(NULL) > 0)
		;
	return 0;
}
