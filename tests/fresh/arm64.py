"""A root of Debian for arm64 with the checkout compiled for it, whose programs an emulator runs (qemu-user).

Only the tests run in the emulator, which makes Python ten times slower. Everything else is done natively: packages are
unpacked but not configured, pip installs wheels for aarch64, and Debian's cross compiler compiles the core. Nothing of
that changes the packages of this machine.

The kernel learns of the emulator in a user namespace of the command's own (Linux 6.7), so no other process of this
machine runs programs for arm64, and nothing has to be undone.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "vm"))

from debian import Apt, NotPossibleError  # noqa: E402

#: What the tests need of Debian; what these depend on comes with them. The headers are for both compilers, gcc is for
#: tests that compile a program, and for a build without the cross compiler.
PACKAGES = (
    "base-files", "base-passwd", "coreutils", "dash", "findutils", "gcc", "libbpf1", "libc6-dev", "libpython3.13-dev",
    "mount", "procps", "python3.13", "util-linux",
)  # fmt: skip

#: What only makes the root larger.
UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale")

#: The part of requirements/dev.txt that the tests and setup.py import; the rest would be 300 MB of tools.
TOOLS = (
    "attrs", "cython", "execnet", "hypothesis", "iniconfig", "jsonschema", "jsonschema-specifications", "packaging",
    "pluggy", "psutil", "pygments", "pytest", "pytest-timeout", "pytest-xdist", "referencing", "rpds-py", "setuptools",
    "sortedcontainers", "typing-extensions",
)  # fmt: skip

#: Runs Cython, setuptools and pip. It must have the version of the root's Python.
PYTHON = ROOT / ".venv/bin/python"
#: Has no wheel at all, and only `procline forward` uses it.
LEFT_OUT = ("nkeys",)

TRIPLET = "aarch64-linux-gnu"
EMULATOR, COMPILER = "qemu-aarch64", f"{TRIPLET}-gcc"
#: Only the first version of the instruction set, which Debian is compiled for. So an ordered access (ldar, stlr) that
#: is not aligned is a fault, and atomic operations are loops of ldxr and stxr.
ENVIRONMENT = {"QEMU_CPU": "cortex-a72"}
#: pip takes wheels for any of these.
PLATFORMS = ("manylinux_2_34_aarch64", "manylinux_2_28_aarch64", "manylinux_2_26_aarch64", "manylinux2014_aarch64")
SITE = "usr/local/lib/python3.13/dist-packages"

_EXE = "in qemu-user, /proc/PID/exe of another process is the emulator"
_OWNER = "qemu-user does not have NS_GET_USERNS, which names the owner of a namespace"
_THREADS = "qemu-user has several threads, and such a process cannot create a user namespace"
_WORKERS = "qemu-user has several threads, and a worker of the daemon ends if its process has more than one"

#: What shows that the compiled core works: the layout, the tables and their readers, each codec, and the resolver.
TESTED = ("tests/records", "tests/shm", "tests/bus", "tests/resolver")
#: What the emulator or the root cannot do, with the reason.
LEFT_OUT_TESTS = {
    "tests/bus/test_curve_server.py::test_a_client_that_only_answers_heartbeats_stays": (
        "qemu-user returns 4 bytes of TCP_INFO, so nobody knows how much a client has sent"
    ),
    "tests/bus/test_curve_server.py::test_an_allowed_client_that_sends_too_much_loses_its_connection": (
        "qemu-user returns 4 bytes of TCP_INFO, so nobody knows how much a client has sent"
    ),
    "tests/shm/reader/test_columns.py::test_a_missing_library_is_named_with_its_extra[polars-pyarrow]": (
        "it needs polars, which the root does not have"
    ),
    "tests/shm/reader/test_recorded.py::test_a_recording_answers_like_an_instance": _WORKERS,
    "tests/shm/reader/test_recorded.py::test_it_is_as_of_a_time": _WORKERS,
    "tests/shm/reader/test_table.py::test_statistics": "qemu-user reports no CPU time in /proc/self/stat",
    "tests/shm/writer/test_keys.py::test_a_reader_in_another_process_sees_whole_keys": (
        "qemu-user reports another start time in /proc/self/stat than the kernel does in /proc/PID/stat, so other "
        "processes take a writer that waits for a CPU for dead"
    ),
    "tests/resolver/api/test_scenarios.py::test_scenario[R4 ResolveFromProcfs, sanitize-inode]": _EXE,
    "tests/resolver/apply/test_create_tables.py::test_the_resolver_of_a_host_uses_them": _EXE,
    "tests/resolver/upkeep/test_live_executables.py::test_events_and_entries_have_them": _EXE,
    "tests/resolver/upkeep/test_live_executables.py::test_an_exec_is_enough_also_without_a_subscriber": _EXE,
    "tests/resolver/upkeep/test_live_executables.py::test_living_processes_need_no_event": _EXE,
    "tests/resolver/upkeep/test_live_executables.py::test_processes_with_other_files_have_no_package": _EXE,
    "tests/resolver/upkeep/test_live_executables.py::"
    "test_a_successor_continues_with_the_files_of_its_predecessor": _EXE,
    "tests/resolver/upkeep/test_name_reader.py::test_a_container_is_read_unless_its_root_is_the_hosts": _OWNER,
    "tests/resolver/upkeep/test_name_reader.py::test_a_process_that_has_left_its_namespaces_is_not_used": _OWNER,
    "tests/resolver/upkeep/test_names.py::test_a_container_has_names_of_its_own": _OWNER,
    "tests/resolver/upkeep/test_names.py::test_a_container_that_changes_its_root_late_is_read_then": _OWNER,
    "tests/resolver/upkeep/test_names.py::test_readers_learn_of_a_container_without_a_subscriber": _OWNER,
    "tests/resolver/upkeep/test_name_reader.py::test_a_user_namespace_of_a_user_has_the_hosts_names": _THREADS,
    "tests/resolver/upkeep/test_names.py::test_where_a_user_made_the_namespaces_the_hosts_names_count": _THREADS,
}
TESTS = (
    "/usr/bin/python3.13", "-m", "pytest", "-p", "no:cacheprovider", "-q", "-n", "2", "-r", "fE", "--no-header",
    "--timeout", "1800", "-m", "not live and not alone and not vm and not slow", *TESTED,
    *(f"--deselect={test}" for test in LEFT_OUT_TESTS),
)  # fmt: skip

#: Header of an ELF file for aarch64: EI_CLASS 2, EI_DATA 1, e_type 2 or 3, e_machine 183. The flags below: the emulator
#: gets the open file (O) with its credentials (C), and is opened now, because the root does not have it (F).
MAGIC = r"\x7fELF\x02\x01\x01" + r"\x00" * 9 + r"\x02\x00\xb7\x00"
MASK = r"\xff" * 7 + r"\x00" + r"\xff" * 8 + r"\xfe\xff\xff\xff"

REGISTER = """
set -e
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
printf '%s' "$1" > /proc/sys/fs/binfmt_misc/register
shift
exec "$@"
"""
#: Every id of this machine is the same id there. The process namespace is for /proc, and ends all that is left.
UNSHARE = (
    "unshare", "--user", "--map-users=0:0:4294967295", "--map-groups=0:0:4294967295", "--pid", "--fork", "--kill-child",
    "--mount", "--propagation", "private",
)  # fmt: skip


def entering(command: Sequence[str]) -> list[str]:
    """Return a command that runs `command` where programs for arm64 are emulated."""
    emulator = shutil.which(EMULATOR) or EMULATOR
    return [*UNSHARE, "sh", "-c", REGISTER, "sh", f":{EMULATOR}:M::{MAGIC}:{MASK}:{emulator}:OCF", *command]


def require() -> None:
    """Raise NotPossibleError with what is missing."""
    headers = f"/usr/{TRIPLET}/include/features.h"
    needs = (EMULATOR, "qemu-user"), (COMPILER, f"gcc-{TRIPLET}"), (headers, "libc6-dev-arm64-cross")
    for needed, package in needs:
        if shutil.which(needed) is None and not Path(needed).exists():
            raise NotPossibleError(f"{needed} is not installed: apt-get install --no-install-recommends {package}")
    done = subprocess.run(entering(["true"]), capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotPossibleError(
            f"no emulator can be registered in a user namespace, which needs Linux 6.7 with CONFIG_BINFMT_MISC: "
            f"{done.stderr.strip()}"
        )
    version = "import sys; sys.exit(sys.version_info[:2] != (3, 13))"
    if not PYTHON.exists() or subprocess.run([PYTHON, "-c", version], check=False).returncode:
        raise NotPossibleError("the checkout has no .venv with Python 3.13, which translates the modules: script/setup")


def key() -> str:
    """Return a checksum of what a root consists of."""
    parts = [repr((PACKAGES, UNUSED, LEFT_OUT)), *requirements("host.txt", None), *requirements("dev.txt", TOOLS)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def make_root(cache: Path, suite: str, work: Path) -> Path:
    """Make the root, with packages of Debian and of the lock files, but without the checkout; return its directory.

    Raises:
        NotPossibleError: a package cannot be had.
    """
    work.chmod(0o755)  # apt downloads as another user
    root = work / "root"
    unpack_packages(Apt(cache / "arm64", suite, "arm64"), work, root)
    install_wheels(root / SITE, work)
    return root


def unpack_packages(apt: Apt, work: Path, root: Path) -> None:
    for name in ("bin", "sbin", "lib"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    packages = work / "packages"
    packages.mkdir()
    for path in apt.download_all(apt.closure(PACKAGES), packages):
        # Unlike dpkg-deb -x, this keeps /bin and the like as links to directories.
        unpacked = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", path], stdout=subprocess.PIPE)
        subprocess.run(
            ["tar", "-xf", "-", "-C", root, "--keep-directory-symlink", *(f"--exclude=./{place}" for place in UNUSED)],
            stdin=unpacked.stdout, check=True,
        )  # fmt: skip
        if unpacked.wait():
            raise NotPossibleError(f"{path.name} cannot be unpacked")
    # What the packages' scripts would do.
    for name in ("passwd", "group"):
        shutil.copy(root / "usr/share/base-passwd" / f"{name}.master", root / "etc" / name)
    for name in ("proc", "sys", "dev", "run", "tmp", "root"):
        (root / name).mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "usr/bin/python3").unlink(missing_ok=True)
    (root / "usr/bin/python3").symlink_to("python3.13")


def install_wheels(site: Path, work: Path) -> None:
    """Install what running and testing need, as wheels for aarch64 by the hashes of the lock files."""
    chosen = [*requirements("host.txt", None), *requirements("dev.txt", TOOLS)]
    (work / "requirements.txt").write_text("".join(chosen))
    command = [
        str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-deps",
        "--no-compile", "--require-hashes", "--only-binary=:all:", "--implementation=cp", "--python-version=3.13",
        *(f"--platform={name}" for name in PLATFORMS), "--target", str(site), "-r", str(work / "requirements.txt"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotPossibleError(f"wheels for aarch64 cannot be had: {done.stderr.strip().splitlines()[-1]}")


def requirements(name: str, wanted: Sequence[str] | None) -> list[str]:
    """Return the entries of a lock file, with their hashes; without LEFT_OUT and those that only x86-64 gets."""
    text = (ROOT / "requirements" / name).read_text()
    entries = re.findall(r"^[A-Za-z0-9].*(?:\n +.*)*\n", text, re.MULTILINE)
    named = [(entry.partition("==")[0], entry) for entry in entries if "platform_machine == 'x86_64'" not in entry]
    return [entry for name, entry in named if name not in LEFT_OUT and (wanted is None or name in wanted)]


def build(root: Path, checkout: Path, log: Path) -> int:
    """Compile the core in the copied checkout, for the root, whose Python then imports it; return the exit code."""
    (root / SITE / "procline.pth").write_text(f"/{checkout.relative_to(root)}\n")
    # What is translated already need not be translated again. Cython compares the times.
    for source in [*ROOT.glob("pipeline/**/*.c"), *ROOT.glob("tests/**/*.c")]:
        target = checkout / source.relative_to(ROOT)
        if target.parent.is_dir() and not target.exists():
            shutil.copy2(source, target)
    described = log.parent / "python"
    described.mkdir()
    shutil.copy(root / f"usr/lib/python3.13/_sysconfigdata__{TRIPLET}.py", described)
    compiler = f"ccache {COMPILER}" if shutil.which("ccache") else COMPILER
    environment = {
        **os.environ,
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
        "_PYTHON_SYSCONFIGDATA_NAME": f"_sysconfigdata__{TRIPLET}",
        "PYTHONPATH": str(described),
        "CC": compiler,
        "LDSHARED": f"{compiler} -shared",
        # So that the next run, in a directory of another name, finds the results of this one.
        "CCACHE_BASEDIR": str(root),
        "CCACHE_NOHASHDIR": "1",
        # pyconfig.h includes that of the machine by its triplet.
        "CPPFLAGS": f"-I{root}/usr/include/python3.13 -idirafter {root}/usr/include",
    }
    with log.open("wb") as output:
        return subprocess.run(
            [PYTHON, "setup.py", "build_ext", "--inplace"],
            cwd=checkout, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False,
        ).returncode  # fmt: skip
