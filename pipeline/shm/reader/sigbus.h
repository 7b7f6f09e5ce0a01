/* SPDX-License-Identifier: Apache-2.0 */
/* Keep a reader alive when a file is truncated under its mapping. Accessing a page beyond the end of a file causes a
 * SIGBUS; this handler replaces all segments of the affected view with zero pages, so that the access can be repeated.
 *
 * It replaces all segments, not only the page: a read section that copied zeros from one segment then finds 0 in place
 * of its row's sequence word, and never accepts its copy. So normal reads need no check. The slow paths, which a reader
 * enters when it finds no row and no writer, call pl_guard_is_hit.
 *
 * Only faults in guarded mappings are handled. Any other SIGBUS goes to the previous handler; without one it ends the
 * process as usual. A handler that the program installs later replaces this one.
 *
 * The handler may run in any thread between any two instructions: it calls only mmap, and reads guards through atomic
 * words. Guards are never freed, only reused, so their list can be walked at any time. */
#ifndef PROCLINE_SIGBUS_H
#define PROCLINE_SIGBUS_H

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PL_GUARDED 9

struct pl_guard {
	struct pl_guard *next;
	uintptr_t base[PL_GUARDED]; /* 0 if nothing is mapped */
	size_t length[PL_GUARDED];
	int in_use, hit;
};

static struct pl_guard *pl_guards; /* the list only grows, at its head */
static struct sigaction pl_sigbus_before;

/* Return 1 if `address` was in a guarded mapping, which now reads as zeros. */
static int pl_guard_catch(uintptr_t address)
{
	struct pl_guard *guard = __atomic_load_n(&pl_guards, __ATOMIC_ACQUIRE);
	uintptr_t base;
	int i;

	for (; guard; guard = guard->next) {
		for (i = 0; i < PL_GUARDED; i++) {
			/* Acquire: the length is stored before the base. */
			base = __atomic_load_n(&guard->base[i], __ATOMIC_ACQUIRE);
			if (base && address >= base && address - base < guard->length[i])
				break;
		}
		if (i == PL_GUARDED)
			continue;
		__atomic_store_n(&guard->hit, 1, __ATOMIC_RELAXED);
		for (i = 0; i < PL_GUARDED; i++) {
			base = __atomic_load_n(&guard->base[i], __ATOMIC_ACQUIRE);
			if (base && mmap((void *)base, guard->length[i], PROT_READ,
					 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
				return 0;
		}
		return 1;
	}
	return 0;
}

static void pl_on_sigbus(int number, siginfo_t *info, void *context)
{
	struct sigaction by_default;
	int error = errno;

	/* si_code above 0 means that the kernel sent the signal, so si_addr is an address. */
	if (info->si_code > 0 && pl_guard_catch((uintptr_t)info->si_addr)) {
		errno = error;
		return;
	}
	if (pl_sigbus_before.sa_flags & SA_SIGINFO) {
		pl_sigbus_before.sa_sigaction(number, info, context);
	} else if (pl_sigbus_before.sa_handler != SIG_DFL && pl_sigbus_before.sa_handler != SIG_IGN) {
		pl_sigbus_before.sa_handler(number);
	} else if (info->si_code > 0 || pl_sigbus_before.sa_handler == SIG_DFL) {
		/* Restore the default action: a fault repeats on return; a sent signal is sent again. */
		memset(&by_default, 0, sizeof(by_default));
		by_default.sa_handler = SIG_DFL;
		sigaction(SIGBUS, &by_default, NULL);
		if (info->si_code <= 0)
			raise(SIGBUS);
	}
	errno = error;
}

/* Install the handler once per process. Returns 0, or -1 with errno. */
static int pl_guard_install(void)
{
	static int installed;
	struct sigaction action;

	if (installed)
		return 0;
	memset(&action, 0, sizeof(action));
	action.sa_sigaction = pl_on_sigbus;
	action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
	sigemptyset(&action.sa_mask);
	/* Save the previous handler before the new one can run. */
	if (sigaction(SIGBUS, NULL, &pl_sigbus_before) != 0 || sigaction(SIGBUS, &action, NULL) != 0)
		return -1;
	installed = 1;
	return 0;
}

/* Return a guard that covers nothing yet; NULL without memory. The caller holds the interpreter lock. */
static struct pl_guard *pl_guard_acquire(void)
{
	struct pl_guard *guard;

	for (guard = pl_guards; guard; guard = guard->next)
		if (!guard->in_use)
			break;
	if (!guard) {
		guard = (struct pl_guard *)calloc(1, sizeof(*guard));
		if (!guard)
			return NULL;
		guard->next = pl_guards;
		__atomic_store_n(&pl_guards, guard, __ATOMIC_RELEASE);
	}
	guard->in_use = 1;
	guard->hit = 0;
	return guard;
}

/* Cover a mapping; base NULL ends it. Call before munmap, because another mapping may reuse the addresses. */
static void pl_guard_cover(struct pl_guard *guard, int number, void *base, size_t length)
{
	__atomic_store_n(&guard->base[number], 0, __ATOMIC_RELEASE);
	if (!base)
		return;
	guard->length[number] = length;
	__atomic_store_n(&guard->base[number], (uintptr_t)base, __ATOMIC_RELEASE);
}

static void pl_guard_release(struct pl_guard *guard)
{
	for (int i = 0; i < PL_GUARDED; i++)
		pl_guard_cover(guard, i, NULL, 0);
	guard->in_use = 0;
}

static int pl_guard_is_hit(const struct pl_guard *guard)
{
	return __atomic_load_n(&guard->hit, __ATOMIC_RELAXED);
}

#endif
