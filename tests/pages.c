/* For LD_PRELOAD: a kernel whose pages have 64 KiB, as some for aarch64 have. Mappings are placed and checked as it
 * does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE_BYTES 65536ul

long sysconf(int name)
{
	static long (*real)(int);

	if (name == _SC_PAGESIZE)
		return PAGE_BYTES;
	if (!real)
		real = (long (*)(int))dlsym(RTLD_NEXT, "sysconf");
	return real(name);
}

int getpagesize(void) { return PAGE_BYTES; }

static void *mapped(void *at, size_t bytes, int access, int flags, int fd, off_t offset)
{
	return (void *)syscall(SYS_mmap, at, bytes, access, flags, fd, offset);
}

void *mmap(void *at, size_t bytes, int access, int flags, int fd, off_t offset)
{
	char *room;

	if (offset % PAGE_BYTES || (flags & MAP_FIXED && (uintptr_t)at % PAGE_BYTES)) {
		errno = EINVAL;
		return MAP_FAILED;
	}
	if (at || flags & MAP_FIXED)
		return mapped(at, bytes, access, flags, fd, offset);
	room = mapped(NULL, bytes + 2 * PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		return room;
	munmap(room, bytes + 2 * PAGE_BYTES);
	at = (void *)(((uintptr_t)room + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1));
	return mapped(at, bytes, access, flags | MAP_FIXED_NOREPLACE, fd, offset);
}

void *mmap64(void *at, size_t bytes, int access, int flags, int fd, off_t offset) __attribute__((alias("mmap")));

int madvise(void *at, size_t bytes, int advice)
{
	if ((uintptr_t)at % PAGE_BYTES) {
		errno = EINVAL;
		return -1;
	}
	return (int)syscall(SYS_madvise, at, bytes, advice);
}
