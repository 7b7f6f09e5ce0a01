"""Load, attach and run the BPF objects under Debian's kernel for aarch64, emulated: see README.md here.

Everything that the guest needs is in its initramfs: Debian's Python and libbpf for arm64, the package's Python files
and objects, and aarch64_init.py. Nothing of Debian's packages is installed on this machine. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import debian
import guest
from debian import NotPossibleError

#: Debian's packages of what the loader needs in user space.
PACKAGES = (
    "libc6", "zlib1g", "libexpat1", "libffi8", "libelf1t64", "libzstd1", "libbpf1", "libgcc-s1",
    "libpython3.13-minimal", "libpython3.13-stdlib", "python3.13-minimal",
)  # fmt: skip
#: What only makes the initramfs larger.
UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/lintian", "usr/lib/aarch64-linux-gnu/gconv")


def main() -> int:
    """Start the guest; return its exit code."""
    parser = argparse.ArgumentParser(prog="tests/vm/aarch64", description="Run the BPF programs on aarch64, in QEMU.")
    parser.add_argument("--suite", default="trixie", metavar="NAME[=SERIES]", help="of the kernel; default: trixie")
    parser.add_argument(
        "--cpu", default="max,pauth-impdef=on", help="of the emulator; cortex-a72 has no atomic instructions"
    )
    parser.add_argument("--timeout", type=float, default=600, help="seconds; default: %(default)g")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(guest.NO_CODE))
    began = time.monotonic()
    try:
        emulator = guest.find("qemu-system-aarch64", package="qemu-system-arm")
        kernel, packages = fetch(*debian.parse_suite(options.suite))
        code = run(emulator, kernel, packages, options.cpu, options.timeout)
    except NotPossibleError as error:
        print(f"vm: NO GUEST: {error}", file=sys.stderr)
        return guest.NOT_POSSIBLE
    print(f"vm: aarch64: exit code {code} after {time.monotonic() - began:.0f} s", flush=True)
    return code


def fetch(suite: str, series: str) -> tuple[Path, Path]:
    """Return the kernel's image, and the directory with the unpacked packages; both from the cache if they are there.

    Raises:
        NotPossibleError: they cannot be had.
    """
    cache = guest.CACHE / "arm64"
    cache.mkdir(parents=True, exist_ok=True)
    image = debian.kernel(cache, debian.ARM64, suite, series) / "vmlinuz"
    packages = cache / "packages"
    if not packages.exists():
        apt = debian.Apt(cache, "trixie", "arm64")
        with tempfile.TemporaryDirectory(dir=cache, prefix="new-") as name:
            work = Path(name)
            work.chmod(0o755)  # apt downloads as another user
            for path in apt.download_all(PACKAGES, work):
                subprocess.run(["dpkg-deb", "-x", path, work / "root"], check=True)
            for place in UNUSED:
                shutil.rmtree(work / "root" / place, ignore_errors=True)
            (work / "root").rename(packages)
    return image, packages


def initramfs(packages: Path) -> bytes:
    """Return the archive: the packages, and of this checkout what the loader needs."""
    entries = {"lib": ("usr/lib", 0o120777), "lib64": ("usr/lib", 0o120777)}
    archive = [debian.newc(name, mode, target.encode()) for name, (target, mode) in entries.items()]
    archive += [debian.newc("tmp", 0o041777, b""), debian.newc("opt", 0o040755, b"")]
    archive += tree(packages, "", lambda path: True)
    archive += tree(guest.ROOT / "pipeline", "opt/pipeline/", lambda path: path.name.endswith((".py", ".bpf.o")))
    init = (guest.HERE / "aarch64_init.py").read_bytes()
    return b"".join([*archive, debian.newc("init", 0o100755, init), debian.newc("TRAILER!!!", 0, b"")])


def tree(directory: Path, prefix: str, wanted: Callable[[Path], bool]) -> Iterator[bytes]:
    """Yield the archive's entries for a directory: its directories, links, and those files that are wanted."""
    if prefix:
        yield debian.newc(prefix.rstrip("/"), 0o040755, b"")
    for path in sorted(directory.rglob("*")):
        name = prefix + str(path.relative_to(directory))
        if path.is_symlink():
            yield debian.newc(name, 0o120777, os.fsencode(path.readlink()))
        elif path.is_dir():
            yield debian.newc(name, 0o040755, b"")
        elif wanted(path):
            yield debian.newc(name, path.stat().st_mode, path.read_bytes())


def run(emulator: str, kernel: Path, packages: Path, cpu: str, timeout_s: float) -> int:
    """Run the guest with its console on stdout; return its exit code, NO_CODE if none came back."""
    with tempfile.TemporaryDirectory(dir=guest.CACHE, prefix="run-") as name:
        archive = Path(name, "initramfs")
        archive.write_bytes(initramfs(packages))
        command = [
            emulator, "-accel", "tcg,thread=multi", "-machine", "virt", "-cpu", cpu, "-smp", "2",
            "-m", "1024", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", str(kernel),
            "-initrd", str(archive), "-append", "console=ttyAMA0 quiet panic=-1 rdinit=/init",
        ]  # fmt: skip
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace"
        )
        timer = threading.Timer(timeout_s, process.kill)
        timer.start()
        code = guest.NO_CODE
        try:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                if found := re.fullmatch(r"aarch64: exit code (\d+)\s*", line):
                    code = int(found[1])
        finally:
            timer.cancel()
            process.kill()
            process.wait()
    return code


if __name__ == "__main__":
    sys.exit(main())
