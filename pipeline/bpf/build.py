"""Compile the BPF programs ahead of time, and check that the shipped objects match their source.

Users need no clang: the objects (``*.bpf.o``) are part of the package. Run this after a change of the C files. The same
clang produces the same bytes in any directory: file names are relative, no debug information remains except BTF, and
the only header of the build machine is libbpf's.
"""

from __future__ import annotations

import argparse
import functools
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"

#: The directory of records.h, which the programs share with user space.
RECORDS = PROGRAMS.parents[1] / "records"

#: Objects by their source.
SOURCES = (
    "procline.bpf.c", "context.bpf.c", "capability.bpf.c", "signal.bpf.c", "calls.bpf.c", "cred_fentry.bpf.c",
    "cred_kprobe.bpf.c", "cred_sampled.bpf.c", "cred_syscalls.bpf.c", "iter.bpf.c", "probe.bpf.c",
)  # fmt: skip

#: Sources that are also compiled into objects for older kernels (programs/sets.bpf.h).
OLD_SOURCES = (
    "procline.bpf.c", "context.bpf.c", "signal.bpf.c", "calls.bpf.c", "cred_fentry.bpf.c", "cred_kprobe.bpf.c",
    "cred_sampled.bpf.c", "cred_syscalls.bpf.c", "iter.bpf.c", "probe.bpf.c",
)  # fmt: skip

#: Suffixes of the objects' names, with what the compiler defines: the newer set, and the older set of each machine.
#: features.py selects one of them.
VARIANTS = {
    ".bpf.o": (),
    ".old.bpf.o": ("-DPL_OLD", "-DPL_NO_FETCH"),
    ".old.aarch64.bpf.o": ("-DPL_OLD",),
}
NEWER = ".bpf.o"

#: What is shipped: source and suffix.
OBJECTS = tuple((source, suffix) for suffix in VARIANTS for source in (SOURCES if suffix == NEWER else OLD_SOURCES))

#: The compiler of the committed objects. Another version produces different, equally good bytes.
CLANG_VERSION = 19

_FLAGS = (
    "-target", "bpf",
    # v3: 32-bit operations, and atomic ones that return a value. Kernels before v5.12 lack only the latter, which the
    # older set for x86-64 does not use (PL_NO_FETCH in programs/sets.bpf.h).
    "-mcpu=v3", "-O2", "-g", "-std=gnu11", "-nostdinc", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror",
)  # fmt: skip


#: Sections that libbpf does not read: it relocates code and maps only.
_UNREAD = (".rel.BTF", ".rel.BTF.ext", ".llvm_addrsig")


class BuildError(Exception):
    """A tool is missing or failed; the message says which one and what to do."""


@functools.cache  # each object needs both tools
def tool(name: str) -> str:
    """Return the path of a tool of the right version, such as ``clang``.

    Raises:
        BuildError: it is not installed.
    """
    for candidate in (f"{name}-{CLANG_VERSION}", name):
        path = shutil.which(candidate)
        if path is None:
            continue
        output = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"version (\d+)\.", output)
        if found and int(found[1]) == CLANG_VERSION:
            return path
    raise BuildError(
        f"{name} {CLANG_VERSION} is not installed; on Debian 13: "
        f"apt-get install clang-{CLANG_VERSION} llvm-{CLANG_VERSION}"
    )


def libbpf_include() -> Path:
    """Return the directory with ``bpf/bpf_helpers.h``.

    Raises:
        BuildError: it is not installed.
    """
    for directory in (Path("/usr/include"), Path("/usr/local/include")):
        if (directory / "bpf" / "bpf_helpers.h").is_file():
            return directory
    raise BuildError("bpf/bpf_helpers.h is not installed; on Debian 13: apt-get install libbpf-dev")


def compile_object(source: Path, output: Path, *, suffix: str = NEWER) -> None:
    """Compile one C file to a stripped object of the variant with this suffix (VARIANTS).

    Relocations of BTF, a quarter of an object, are removed too: libbpf takes those addresses from the symbols.

    Raises:
        BuildError: a tool is missing, or the compiler failed; its output is in the message.
    """
    clang, strip, include = tool("clang"), tool("llvm-strip"), libbpf_include()
    command = [
        clang, *_FLAGS, *VARIANTS[suffix],
        f"-ffile-prefix-map={source.parent}=.", f"-ffile-prefix-map={RECORDS}=records", "-I", str(RECORDS),
        f"-ffile-prefix-map={include}=include", "-idirafter", str(include),
        "-c", source.name, "-o", str(output),
    ]  # fmt: skip
    # In the source's directory and with a relative name, so that the object contains no path of this machine.
    stripping = [strip, "-g", *(f"--remove-section={name}" for name in _UNREAD), str(output)]
    for step in (command, stripping):
        result = subprocess.run(step, cwd=source.parent, capture_output=True, text=True, check=False)
        if result.returncode:
            raise BuildError(f"{source.name}: {result.stderr.strip()}")


def object_path(source: str, suffix: str = NEWER) -> Path:
    """Return the path of a shipped object; see OBJECTS."""
    return PROGRAMS / source.replace(".bpf.c", suffix)


def build() -> list[Path]:
    """Compile all sources into the package; return the objects."""
    for source, suffix in OBJECTS:
        compile_object(PROGRAMS / source, object_path(source, suffix), suffix=suffix)
    return [object_path(source, suffix) for source, suffix in OBJECTS]


def check() -> list[str]:
    """Return the names of shipped objects that differ from a fresh build."""
    stale = []
    with tempfile.TemporaryDirectory(prefix="procline-bpf-") as directory:
        for source, suffix in OBJECTS:
            shipped = object_path(source, suffix)
            fresh = Path(directory) / shipped.name
            compile_object(PROGRAMS / source, fresh, suffix=suffix)
            if not shipped.is_file() or shipped.read_bytes() != fresh.read_bytes():
                stale.append(shipped.name)
    return stale


def main(arguments: list[str] | None = None) -> int:
    """Build, or with ``--check`` compare; 0 done, 1 objects differ, 2 a tool is missing or failed."""
    parser = argparse.ArgumentParser(prog="script/bpf-build", description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="compare the shipped objects with their source")
    options = parser.parse_args(arguments)
    try:
        if not options.check:
            for path in build():
                print(f"{path.name}: {path.stat().st_size} bytes")
            return 0
        stale = check()
    except BuildError as error:
        print(f"bpf-build: {error}", file=sys.stderr)
        return 2
    if stale:
        print(f"bpf-build: objects differ from their source: {', '.join(stale)}; run script/bpf-build", file=sys.stderr)
        return 1
    print(f"{len(OBJECTS)} objects match their source")
    return 0


if __name__ == "__main__":
    sys.exit(main())
