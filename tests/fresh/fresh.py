"""Try the checkout as a newcomer does: in a root directory that debootstrap has just made, or with another Python.

A developer's host hides what is missing: it has another compiler, and the packages are installed already. So this
copies the checkout into a Debian root that has only git and ca-certificates, and runs the README's first command there,
with that release's own compiler and Python. The tests that need no kernel follow. `--python` does the same with an
interpreter of this host, without a root.

Mounts are made in a mount namespace that ends with the command, so none can be left behind. This process never sees
them, which makes it safe to delete the root. The standard library only. Needs: root, debootstrap, and a Debian whose
apt sources are set up.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent / "vm")]

import arm64  # noqa: E402
from debian import Apt, NotPossibleError  # noqa: E402

#: Outside the checkout, which is another one for each run of a CI.
CACHE = Path("/var/cache/procline-fresh")
PACKAGES = "git,ca-certificates"
CHECKOUT = "root/procline"

#: Something that a fresh root needs is not on this host.
NOT_POSSIBLE = 77
#: What was started was ended from outside, or did not end in time.
NO_CODE = 99

#: Seconds that a step may take on a very busy host; a quiet one needs a tenth.
BOOTSTRAP_S, RUN_S, TESTS_S = 900, 1800, 1200
#: For tests in an emulator.
EMULATED_S = 7200

#: The environment of each program that runs in a root.
ENVIRONMENT = {"HOME": "/root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

#: Tests of what can differ between compilers, versions of Python and packages, and that need neither a kernel nor the
#: machine to themselves: each module is imported and each command started, compiled modules read and write tables,
#: frames, events and rings, and libraries are called (libzmq, libbpf, the parser of settings). Code in Python alone is
#: left to script/test, which runs every test: that it uses nothing newer than Python 3.11 is checked by mypy.
TESTS = (
    "tests/test_imports.py", "tests/cli/test_main.py", "tests/shm/layout", "tests/shm/reader", "tests/shm/writer",
    "tests/bus/frames", "tests/bus/stream/test_messages.py", "tests/bus/test_push.py", "tests/bus/test_relay.py",
    "tests/sources/ring", "tests/sources/shard", "tests/export/test_prometheus.py", "tests/bpf/test_libbpf.py",
    "tests/config/test_loading.py",
)  # fmt: skip
SELECTION = "not live and not alone and not vm and not slow"
#: Few examples for each property: script/test tries all of them, and their number shows nothing about an environment.
#: What `script/run` gets, else it would end when somebody ends it.
SECONDS = " --seconds 5"

#: How long a process may take to end itself.
PATIENCE_S = 5
#: A newcomer who has set it up wants an answer within this time, the start of the instance included.
ANSWER_S = 60
ANSWER = """
began=$(date +%s)
.venv/bin/procline run --name fresh-$$ > answer.log 2>&1 &
daemon=$!
trap 'kill $daemon; wait $daemon' EXIT
{
    .venv/bin/procline wait --name fresh-$$ --timeout {seconds} && .venv/bin/procline why --name fresh-$$ $$
} || { cat answer.log; exit 1; }
took=$(($(date +%s) - began))
echo "fresh: the first answer came after $took s"
[ $took -le {seconds} ]
"""
TESTING = {"OPENBLAS_NUM_THREADS": "1", "PROCLINE_TEST_LEVEL": "quick"}

MOUNTS = """
set -e
root=$1
runtime=$2
shift 2
mount --bind "$root" "$root" # tests that need a mount namespace of their own need a root that is a mount point
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
if [ -n "$runtime" ]; then
    mkdir "$root/run/procline"
    mount --bind "$runtime" "$root/run/procline"
fi
exec chroot "$root" "$@"
"""


def main() -> int:
    """Make the root, run the commands in it, and delete it."""
    parser = argparse.ArgumentParser(prog="tests/fresh/run", description="Try the checkout on a fresh Debian.")
    parser.add_argument("--suite", default="trixie", help="release of Debian; default: %(default)s")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--python", metavar="EXE", help="no fresh root: this host's files, with this interpreter")
    instead.add_argument(
        "--arch", choices=["arm64"], help="compile the core for this architecture, and run its tests in an emulator"
    )
    parser.add_argument(
        "--max-age", type=float, default=7, metavar="DAYS", help="of the cached root; default: %(default)g"
    )
    parser.add_argument("--fetch", action="store_true", help="make the root that is cached, and run nothing")
    parser.add_argument("command", nargs="*", help="what to run in the checkout; default: script/run, then tests")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(NO_CODE))
    name = Path(options.python).name if options.python else options.suite
    try:
        if options.arch:
            name = f"{name} {options.arch}"
            code = with_arm64(options.suite, options.max_age, options.command, options.fetch)
        elif options.python:
            code = with_python(options.python, options.command)
        else:
            code = with_suite(options.suite, options.max_age, options.command, options.fetch)
    except NotPossibleError as error:
        print(f"fresh: NO ROOT: {error}", file=sys.stderr)
        return NOT_POSSIBLE
    print(f"fresh: {name}: exit code {code}", flush=True)
    return code


def with_suite(suite: str, max_age_days: float, command: Sequence[str], only_fetch: bool) -> int:
    """Run in a fresh root of that suite; return the exit code.

    Raises:
        NotPossibleError: there can be no such root on this host.
    """
    if os.geteuid() != 0:
        raise NotPossibleError("only root can make a root directory")
    for program, package in (("debootstrap", "debootstrap"), ("unshare", "util-linux"), ("chroot", "coreutils")):
        if shutil.which(program) is None:
            raise NotPossibleError(f"{program} is not installed: apt-get install --no-install-recommends {package}")
    if not re.fullmatch(r"[a-z][a-z0-9.-]*", suite):
        raise NotPossibleError(f"{suite!r} is no name of a suite")
    CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    remove_abandoned()
    archive = cached_root(suite, max_age_days)
    if only_fetch:
        return 0
    with working_directory(suite) as work:
        root = work / "root"
        with step(f"{suite}: unpacking the root"):
            unpack(archive, root)
        configure(root)
        copy_checkout(root / CHECKOUT)

        def run(line: str, timeout_s: float) -> int:
            return run_to_the_end(
                [*entering(root), "sh", "-c", f"cd /{CHECKOUT} && {line}"], ENVIRONMENT, timeout_s, root
            )

        return try_all(suite, run, command)


def with_arm64(suite: str, max_age_days: float, command: Sequence[str], only_fetch: bool) -> int:
    """Compile the core for arm64, and run its tests in an emulator; return the exit code.

    Raises:
        NotPossibleError: something that this needs is missing.
    """
    if only_fetch:
        arm64_archive(suite, max_age_days)
        return 0
    with compiled_for_arm64(suite, max_age_days) as root:
        if root is None:
            return 1
        if not command:
            for test, reason in arm64.LEFT_OUT_TESTS.items():
                print(f"fresh: NOT TESTED: {test}: {reason}", flush=True)
        line = shlex.join(command or arm64.TESTS)
        with step(f"{suite} arm64: {'command' if command else 'tests'}, emulated"):
            entered = [*arm64.entering(entering(root)), "sh", "-c", f"cd /{CHECKOUT} && {line}"]
            return run_to_the_end(entered, {**ENVIRONMENT, **arm64.ENVIRONMENT}, EMULATED_S, root)


def arm64_archive(suite: str, max_age_days: float) -> Path:
    """Return an archive of a root for arm64: the cached one, unless it is too old.

    Raises:
        NotPossibleError: it cannot be made.
    """
    if os.geteuid() != 0:
        raise NotPossibleError("only root can make a root directory")
    arm64.require()
    CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    remove_abandoned()
    archive = CACHE / f"arm64-{suite}-{arm64.key()}.tar"
    with (CACHE / "lock-arm64").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists() or time.time() - archive.stat().st_mtime >= max_age_days * 86400:
            with working_directory("arm64-new") as work, step(f"{suite} arm64: packages"):
                for old in CACHE.glob(f"arm64-{suite}*.tar"):
                    old.unlink()
                pack(arm64.make_root(CACHE, suite, work), archive)
    return archive


@contextlib.contextmanager
def compiled_for_arm64(suite: str, max_age_days: float) -> Iterator[Path | None]:
    """Give a root for arm64 that contains the checkout, compiled for it; None: it does not compile.

    Raises:
        NotPossibleError: something that this needs is missing.
    """
    archive = arm64_archive(suite, max_age_days)
    with working_directory("arm64") as work:
        root = work / "root"
        with step(f"{suite} arm64: unpacking the root"):
            unpack(archive, root)
            (root / "mnt").mkdir(exist_ok=True)  # dpkg has not configured base-files, which makes it
            copy_checkout(root / CHECKOUT)
        log = work / "build.log"
        with step(f"{suite} arm64: compiling the core"):
            code = arm64.build(root, root / CHECKOUT, log)
        if code:
            print(log.read_text(errors="replace")[-4000:])
        yield None if code else root


def entering(root: Path, runtime: Path | None = None) -> list[str]:
    """Return the beginning of a command that runs in the root, with its mounts.

    Args:
        root: becomes the root directory of the command.
        runtime: a runtime directory of this host that the command finds at /run/procline.
    """
    mounts = [MOUNTS, "sh", str(root), str(runtime or "")]
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", *mounts]


def with_python(python: str, command: Sequence[str]) -> int:
    """Run in a copy of the checkout, with an interpreter of this host; return the exit code.

    Raises:
        NotPossibleError: there is no such interpreter.
    """
    found = shutil.which(python)
    if found is None or subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode:
        raise NotPossibleError(f"{python} does not run on this host")
    with working_directory(Path(python).name, Path(tempfile.gettempdir())) as work:
        copy_checkout(work / "procline")
        environment = {**os.environ, "PROCLINE_PYTHON": found}
        environment.pop("PROCLINE_REQUIRE_LIVE", None)

        def run(line: str, timeout_s: float) -> int:
            return run_to_the_end(["sh", "-c", line], environment, timeout_s, None, work / "procline")

        return try_all(Path(python).name, run, command, f" --name fresh-{os.getpid()}")


def documented(page: str) -> list[str]:
    """Return the commands of a page that this program runs, without their comments."""
    found = re.search(r"<!-- run by tests/fresh/fresh.py -->\n```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert found is not None, f"{page} has no block for this program"
    return [line.partition("  #")[0].rstrip() for line in found[1].splitlines()]


def try_all(name: str, run: Callable[[str, float], int], command: Sequence[str], instance: str = "") -> int:
    """Run the command, or the tutorial's first ones and then the tests; return the first code that is not 0.

    The README's first command is the last one of the tutorial's. `.ci/run` runs its second one.
    """
    if command:
        return run(shlex.join(command), RUN_S + TESTS_S)
    can_load = os.geteuid() == 0 and Path("/sys/kernel/btf/vmlinux").exists()
    clone, start = documented("docs/tutorial.md")
    assert start == documented("README.md")[0]
    with step(f"{name}: {clone}"):
        # The checkout becomes the repository, and what is cloned of it the checkout.
        code = run(
            "here=$PWD && cd .. && mv $here source && cd source && git init -q && git add -A && "
            "git -c user.name=x -c user.email=x@example.org commit -q -m x && cd .. && "
            f"{clone.replace('REPOSITORY', 'source')}",
            RUN_S,
        )
    if code:
        return code
    if can_load:
        with step(f"{name}: {start}{SECONDS}"):
            # The view ends with 0 also where it saw nothing.
            code = run(
                f"log=$(mktemp); {start}{SECONDS}{instance} > $log 2>&1; code=$?\n"
                "[ $code != 0 ] || grep -Eq '^Seen: [1-9][0-9]* forks, [1-9][0-9]* execs, ' $log || code=98\n"
                "if [ $code = 0 ]; then tail -n 3 $log; else tail -n 50 $log; fi\n"
                "rm -f $log; exit $code",
                RUN_S,
            )
        if code:
            print(f"fresh: {name}: {start} FAILED with exit code {code}", flush=True)
            return code
        with step(f"{name}: the first answer"):
            code = run(ANSWER.replace("{seconds}", str(ANSWER_S)), RUN_S)
        if code:
            print(f"fresh: {name}: NO ANSWER within {ANSWER_S} s after the set-up", flush=True)
            return code
    else:
        print(f"fresh: {name}: NOT TESTED: script/run, which needs root and a kernel with BTF", flush=True)
    with step(f"{name}: script/setup, with what tests need"):
        code = run("script/setup", RUN_S)
    if code:
        return code
    with step(f"{name}: tests"):
        code = run(
            ".venv/bin/python -m pytest -p no:cacheprovider -q -n auto -r fE --no-header "
            f"-m '{SELECTION}' {' '.join(TESTS)}",
            TESTS_S,
        )
    return code


@contextlib.contextmanager
def step(what: str, program: str = "fresh") -> Iterator[None]:
    """Print how long the body took, and how much CPU time its processes used."""
    began, before = time.monotonic(), os.times()
    print(f"{program}: {what} ...", flush=True)
    yield
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"{program}: {what}: {time.monotonic() - began:.0f} s, {cpu_s:.0f} s of CPU", flush=True)


def run_to_the_end(
    command: Sequence[str],
    environment: Mapping[str, str],
    timeout_s: float,
    root: Path | None,
    directory: Path | None = None,
) -> int:
    """Run a command in a session of its own; end all that is left of it; return its exit code."""
    variables = {**environment, **network_variables(), "LANG": "C.UTF-8", **TESTING}
    process = subprocess.Popen(command, env=variables, cwd=directory, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        print(f"fresh: not ended after {timeout_s:g} s: {command[-1].splitlines()[0]}", flush=True)
        return NO_CODE
    finally:
        end_session(process.pid, root)
        process.wait()


def end_session(session: int, root: Path | None) -> None:
    """End every process of the session, and every process that has `root` as its root directory."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + PATIENCE_S
        while pids := [pid for pid in processes() if is_part(pid, session, root)]:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, session, os.WEXITED | os.WNOHANG | os.WNOWAIT)


def processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def is_part(pid: int, session: int, root: Path | None) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        if state[0] in "ZX":
            return False
        if int(state[3]) == session:
            return True
        return root is not None and Path(f"/proc/{pid}/root").samefile(root)
    except OSError:
        return False


@contextlib.contextmanager
def working_directory(name: str, parent: Path | None = None) -> Iterator[Path]:
    """Yield a directory that is deleted afterwards; it is locked, so that others know that it is in use."""
    work = Path(tempfile.mkdtemp(dir=parent or CACHE, prefix=f"run-{name}-"))
    descriptor = os.open(work, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield work
    finally:
        remove(work)
        os.close(descriptor)


def remove_abandoned() -> None:
    """Delete what a run left that was killed."""
    for work in CACHE.glob("run-*"):
        descriptor = os.open(work, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(work)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)


def remove(work: Path) -> None:
    """Delete a directory, unless something is mounted in it here: its files would be deleted, too."""
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    if below := [path for path in mounted if path.startswith(f"{work}/")]:
        print(f"fresh: {work} is not deleted: {', '.join(below)} is mounted", file=sys.stderr)
        return
    shutil.rmtree(work, ignore_errors=True)
    if work.exists():
        print(f"fresh: {work} could not be deleted", file=sys.stderr)


def cached_root(suite: str, max_age_days: float, packages: str = PACKAGES, purpose: str = "") -> Path:
    """Return an archive of the suite's root, as debootstrap makes it: the cached one, unless it is too old.

    Args:
        suite: release of Debian.
        max_age_days: an older root is made again.
        packages: what the root has beside the minimal variant, separated by commas.
        purpose: names the archive, so that roots with other packages are kept beside each other.

    Raises:
        NotPossibleError: it cannot be made.
    """
    mirror, keyring = Apt(CACHE).mirror()
    if not mirror.startswith(("http://", "https://")):
        raise NotPossibleError(f"debootstrap needs a mirror by HTTP, and apt's is {mirror}")
    arguments = ["--variant=minbase", f"--include={packages}", *([f"--keyring={keyring}"] if keyring else [])]
    key = hashlib.sha256("\0".join([*arguments, suite, mirror, os.uname().machine]).encode()).hexdigest()[:16]
    name = f"{purpose}-{suite}" if purpose else suite
    archive = CACHE / f"{name}-{key}.tar"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if archive.exists() and time.time() - archive.stat().st_mtime < max_age_days * 86400:
            print(f"fresh: {name}: the cached root, {(time.time() - archive.stat().st_mtime) / 86400:.1f} days old")
            return archive
        with working_directory(f"{name}-new") as work, step(f"{name}: debootstrap"):
            log = work / "log"
            with log.open("wb") as output:
                command = ["debootstrap", *arguments, suite, str(work / "root"), mirror]
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
                try:
                    code = process.wait(BOOTSTRAP_S)
                except subprocess.TimeoutExpired:
                    code = NO_CODE
                finally:
                    end_session(process.pid, work / "root" if (work / "root").exists() else None)
                    process.wait()
            if code:
                tail = "; ".join(log.read_text(errors="replace").splitlines()[-3:])
                raise NotPossibleError(f"debootstrap {suite} failed with exit code {code}: {tail}")
            for directory in ("proc", "sys"):
                subprocess.run(["umount", work / "root" / directory], capture_output=True, check=False)
            for old in CACHE.glob(f"{name}-*.tar"):
                old.unlink()
            pack(work / "root", archive)
    return archive


def pack(root: Path, archive: Path) -> None:
    """Make an archive of a root directory, which appears under its name when it is complete."""
    unfinished = root.parent / "root.tar"
    subprocess.run(["tar", "-cf", unfinished, "-C", root, "--one-file-system", "--numeric-owner", "."], check=True)
    unfinished.rename(archive)


def unpack(archive: Path, root: Path) -> None:
    """Make a root directory of an archive.

    Raises:
        NotPossibleError: it cannot be unpacked.
    """
    root.mkdir(mode=0o755)
    command = ["tar", "-xf", archive, "-C", root, "--numeric-owner"]
    if subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode:
        raise NotPossibleError(f"{archive} cannot be unpacked (disk full?); if it is damaged, delete it")


def configure(root: Path) -> None:
    """Copy this host's access to the network into the root: names, proxies, Python's package index. No package."""
    for name in ("resolv.conf", "hosts"):
        if (path := Path("/etc", name)).exists():
            (root / "etc" / name).write_bytes(path.read_bytes())
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    kept = re.findall(r"^Acquire::(?:https?::|Check-|Retries).*;$", dump, re.MULTILINE)
    (root / "etc/apt/apt.conf.d/99host").write_text("\n".join([*kept, ""]))
    settings = pip_settings()
    if certificates := settings.get("cert"):
        (root / "etc/procline-certificates.pem").write_bytes(Path(certificates).read_bytes())
        settings["cert"] = "/etc/procline-certificates.pem"
    (root / "etc/pip.conf").write_text("\n".join(["[global]", *(f"{k} = {v}" for k, v in settings.items()), ""]))


def pip_settings() -> dict[str, str]:
    """Return the settings of this host's pip for its index, from files or the environment."""
    names = {"index-url", "extra-index-url", "trusted-host", "proxy", "cert", "default-timeout", "timeout", "retries"}
    for python in (ROOT / ".venv" / "bin" / "python", "python3", "/usr/bin/python3"):
        command = [str(python), "-m", "pip", "config", "list"]
        with contextlib.suppress(OSError):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                found = re.findall(r"^(?:global|install|:env:)\.([a-z-]+)='(.*)'$", done.stdout, re.MULTILINE)
                return {name: value.replace("\\n", " ") for name, value in found if name in names}
    return {}


def network_variables() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name.lower() in {"http_proxy", "https_proxy", "no_proxy"}
    }


def copy_checkout(target: Path) -> None:
    """Copy the files of the checkout as they are, without those that Git ignores."""
    target.mkdir(parents=True)
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split(b"\0")):
        source = ROOT / os.fsdecode(name)
        if source.is_symlink() or source.exists():
            copy = target / os.fsdecode(name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy, follow_symlinks=False)


if __name__ == "__main__":
    sys.exit(main())
