/* SPDX-License-Identifier: Apache-2.0 */
/* First program of a guest whose kernel has the way to its root directory in modules: loads them, in the order of their
 * names, mounts the directory, and executes the program there that the first argument names. It gets the other ones. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

static void say(const char *what, const char *name)
{
	fprintf(stderr, "initramfs: %s %s: %s\n", what, name, strerror(errno));
}

int main(int argc, char **argv)
{
	struct dirent **entries;
	int number = scandir("/modules", &entries, NULL, alphasort);
	char path[512];

	for (int i = 0; i < number; i++) {
		const char *name = entries[i]->d_name;

		if (name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/modules/%s", name);
		if (syscall(SYS_finit_module, open(path, O_RDONLY | O_CLOEXEC), "", 0))
			say("module", name);
	}
	/* The device is found a moment after its driver. */
	for (int i = 0; mount("rootfs", "/root", "virtiofs", MS_RDONLY, NULL); i++) {
		if (i == 50) {
			say("mount", "rootfs");
			return 1;
		}
		usleep(100000);
	}
	if (argc < 2 || chdir("/root") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		say("root", "");
	execv(argv[1], argv + 1);
	say("run", argv[1]);
	return 1;
}
