"""The command lines and the environment that the processes of a synthetic storm use: those of a build."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.records import declared, dtypes

_COMMANDS = (
    # path, invoked name, whether it is a script, arguments with {n} for the part that differs
    ("/usr/bin/make", "/usr/bin/make", False, "make -C build/{n} -j8 all"),
    ("/usr/bin/dash", "/bin/sh", False, "sh -c gcc -O2 -Wall -c -o build/obj/unit{n}.o src/module{n}/unit{n}.c"),
    ("/usr/bin/x86_64-linux-gnu-gcc-14", "/usr/bin/gcc", False,
     "gcc -O2 -g -Wall -Wextra -fstack-protector-strong -Iinclude -Ibuild/generated -DNDEBUG -DVERSION=\"{n}\" -MMD "
     "-MP -MF build/obj/unit{n}.d -c -o build/obj/unit{n}.o src/module{n}/unit{n}.c"),
    ("/usr/libexec/gcc/x86_64-linux-gnu/14/cc1", "/usr/libexec/gcc/x86_64-linux-gnu/14/cc1", False,
     "/usr/libexec/gcc/x86_64-linux-gnu/14/cc1 -quiet -I include -I build/generated -imultiarch x86_64-linux-gnu -MMD "
     "build/obj/unit{n}.d -MF build/obj/unit{n}.d -MP -D NDEBUG -D VERSION=\"{n}\" src/module{n}/unit{n}.c -quiet "
     "-dumpdir build/obj/ -dumpbase unit{n}.c -dumpbase-ext .c -mtune=generic -march=x86-64 -g -O2 -Wall -Wextra "
     "-fstack-protector-strong -o /tmp/cc{n}.s"),
    ("/usr/bin/x86_64-linux-gnu-as", "as", False, "as -I include --gdwarf-5 --64 -o build/obj/unit{n}.o /tmp/cc{n}.s"),
    ("/usr/bin/x86_64-linux-gnu-ld.bfd", "ld", False,
     "ld -plugin liblto_plugin.so --build-id --eh-frame-hdr -m elf_x86_64 -pie -o build/bin/tool{n} Scrt1.o crti.o "
     "build/obj/unit{n}.o -lgcc -lc crtn.o"),
    ("/usr/bin/python3.13", "./script/generate.py", True,
     "python3 ./script/generate.py --output build/generated/{n}.h"),
    ("/usr/bin/git", "/usr/bin/git", False, "git rev-parse --verify refs/tags/v{n}"),
    ("/usr/bin/sed", "/usr/bin/sed", False, "sed -e s/@VERSION@/{n}/g build/config{n}.h.in"),
    ("/usr/bin/rm", "/usr/bin/rm", False, "rm -f /tmp/cc{n}.s"),
)  # fmt: skip
_ENVIRONMENT = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/home/builder", "USER=builder",
    "LANG=C.UTF-8", "MAKEFLAGS= -j8 --jobserver-auth=fifo:/tmp/GMfifo", "MAKELEVEL=2", "PWD=/home/builder/project",
    "SHELL=/bin/sh", "TERM=xterm-256color", "CI=true", "CC=gcc", "CFLAGS=-O2 -g", "LOGNAME=builder",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its EXEC body without the tids (shape (1,)), its four strings in a row, and its comm."""

    row: npt.NDArray[np.void]
    strings: bytes
    comm: bytes


@functools.cache
def make_commands(variants: int, args_bytes: int | None, envs_bytes: int) -> tuple[Command, ...]:
    """Return `variants` different commands.

    Args:
        args_bytes: length of the arguments in bytes; None for their natural length.
        envs_bytes: length of the environment in bytes.
        envs_bytes: length of the environment.
    """
    envs = b"".join(text.encode() + b"\0" for text in _ENVIRONMENT)
    envs = (envs * (envs_bytes // len(envs) + 1))[:envs_bytes]
    if envs:
        envs = envs[:-1] + b"\0"
    made = []
    for number in range(variants):
        path, name, is_script, text = _COMMANDS[number % len(_COMMANDS)]
        args = text.format(n=number).encode().replace(b" ", b"\0") + b"\0"
        if args_bytes is not None:
            args = (args * (args_bytes // len(args) + 1))[:args_bytes]
        row = np.zeros(1, dtypes.EXEC)
        row["inode"] = 100_000 + number % len(_COMMANDS)
        row["ctime_ns"] = row["mtime_ns"] = 1_700_000_000_000_000_000 + number % len(_COMMANDS)
        row["device"] = 8 << 20 | 1
        row["mount_id"] = 29
        row["nlink"] = 1
        row["mode"] = 0o100755
        row["exec_flags"] = declared.EXEC_SCRIPT if is_script else 0
        row["fs_magic"] = 0xEF53
        row["path_bytes"] = len(path)
        row["name_bytes"] = len(name)
        row["args_bytes"] = row["args_full_bytes"] = len(args)
        row["envs_bytes"] = row["envs_full_bytes"] = len(envs)
        row["argc"] = args.count(b"\0")
        row["envc"] = envs.count(b"\0")
        strings = path.encode() + name.encode() + args + envs
        made.append(Command(row, strings, path.rpartition("/")[2].encode()[:15]))
    return tuple(made)
