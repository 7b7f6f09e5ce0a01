/* SPDX-License-Identifier: Apache-2.0 */
/* Kill a process just before its N-th store to the tables. Loaded with LD_PRELOAD; stores.py uses it.
 *
 * The signal SIGRTMIN + 7 with the value N begins the count. From then on the tables are mapped read-only, so each
 * instruction that stores to them faults. The handler makes the page writable, lets this one instruction run with the
 * trap flag, and makes the page read-only again. At the N-th fault the process is killed, so the tables have exactly
 * the first N - 1 stores. A string instruction (rep movs) faults at each of its iterations. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE 4096ul
#define TRAP_FLAG 0x100
#define MAPS_MAX 64
#define OPEN_MAX 8

static struct {
	uintptr_t begin, end;
} tables[MAPS_MAX];
static int table_count;
static volatile long left;
static __thread uintptr_t open_pages[OPEN_MAX];
static __thread int open_count;
static char text[1 << 20];

static int is_table(uintptr_t address)
{
	for (int i = 0; i < table_count; i++)
		if (address >= tables[i].begin && address < tables[i].end)
			return 1;
	return 0;
}

/* Find the writable shared mappings of files in the runtime directory. */
static void find_tables(const char *directory)
{
	ssize_t n;
	size_t length = 0;
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);

	while (fd >= 0 && (n = read(fd, text + length, sizeof(text) - 1 - length)) > 0)
		length += n;
	if (fd >= 0)
		close(fd);
	text[length] = 0;
	table_count = 0;
	for (char *line = text, *next; *line && table_count < MAPS_MAX; line = next) {
		char *rest, *path;
		uintptr_t begin, end;

		next = strchr(line, '\n');
		if (!next)
			break;
		*next++ = 0;
		begin = strtoul(line, &rest, 16);
		end = strtoul(rest + 1, &rest, 16);
		path = strchr(rest, '/');
		if (strncmp(rest, " rw-s", 5) == 0 && path && strncmp(path, directory, strlen(directory)) == 0) {
			tables[table_count].begin = begin;
			tables[table_count++].end = end;
		}
	}
}

static void on_begin(int number, siginfo_t *info, void *context)
{
	const char *directory = getenv("PROCLINE_RUNTIME_DIR");

	(void)number, (void)context;
	if (left || !directory)
		return;
	find_tables(directory);
	if (table_count == 0)
		return;
	left = info->si_value.sival_int;
	for (int i = 0; i < table_count; i++)
		mprotect((void *)tables[i].begin, tables[i].end - tables[i].begin, PROT_READ);
}

static void on_store(int number, siginfo_t *info, void *context)
{
	uintptr_t address = (uintptr_t)info->si_addr;
	ucontext_t *at = context;

	if (left == 0 || open_count == OPEN_MAX || info->si_code != SEGV_ACCERR || !is_table(address)) {
		signal(number, SIG_DFL); /* a fault of the program itself: it repeats, and ends the process */
		return;
	}
	/* An instruction that stores to two pages faults twice, and is one store. */
	if (open_count == 0 && --left == 0) {
		kill(getpid(), SIGKILL);
		for (;;)
			pause();
	}
	open_pages[open_count] = address & ~(PAGE - 1);
	mprotect((void *)open_pages[open_count++], PAGE, PROT_READ | PROT_WRITE);
	at->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
}

static void on_stored(int number, siginfo_t *info, void *context)
{
	ucontext_t *at = context;

	(void)number, (void)info;
	while (open_count > 0)
		mprotect((void *)open_pages[--open_count], PAGE, PROT_READ);
	at->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
}

__attribute__((constructor)) static void install(void)
{
	struct sigaction action = { .sa_flags = SA_SIGINFO | SA_RESTART };

	sigfillset(&action.sa_mask);
	sigdelset(&action.sa_mask, SIGSEGV);
	action.sa_sigaction = on_begin;
	sigaction(SIGRTMIN + 7, &action, NULL);
	action.sa_sigaction = on_store;
	sigaction(SIGSEGV, &action, NULL);
	action.sa_sigaction = on_stored;
	sigaction(SIGTRAP, &action, NULL);
}
