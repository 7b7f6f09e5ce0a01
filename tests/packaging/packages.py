"""Build the packages, and install and use each in a Debian root that has nothing of this host.

With --host-daemon, programs in the root read the tables of a daemon outside, as in a container that shares
/run/procline. The root then needs only what readers and subscribers need.

The roots are those of tests/fresh; its module makes, enters and deletes them. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "fresh"))

import fresh  # noqa: E402

#: What is copied to the root for each kind.
FILES = {"wheel": "*.whl", "sdist": "*.tar.gz", "wheelhouse": "*-wheelhouse.tar", "deb": "*.deb"}
TRY_S = 1800
#: What a wheel may occupy in an environment; docs/operations.md has the figure.
UNPACKED_MAX_BYTES = 10_200_000
#: The version of Python of each release of Debian. A wheel is for one version.
PYTHONS = {"bookworm": "3.11", "trixie": "3.13", "sid": "3.14"}


def main() -> int:
    """Build, install and use; return the first exit code that is not 0."""
    parser = argparse.ArgumentParser(prog="tests/packaging/run", description=__doc__.split("\n\n")[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(FILES)}; default: all")
    parser.add_argument("--suite", default="trixie", choices=PYTHONS, help="release of Debian; default: %(default)s")
    parser.add_argument(
        "--interpreter", type=Path, metavar="DIR",
        help="directory of another Python, with bin/python3, that is copied into the root: for wheelhouses",
    )  # fmt: skip
    parser.add_argument(
        "--host-daemon", action="store_true", help="only read, from a daemon of this checkout outside the root"
    )
    parser.add_argument("--dist", type=Path, help="packages that exist already; default: build them")
    options = parser.parse_args()
    default = ["wheel"] if options.host_daemon else ["wheelhouse"] if options.interpreter else list(FILES)
    kinds = options.kinds or default
    if unknown := set(kinds) - set(FILES):
        parser.error(f"unknown kind: {', '.join(sorted(unknown))}")
    if options.host_daemon and kinds != ["wheel"]:
        parser.error("--host-daemon is for wheels")
    if options.interpreter and kinds != ["wheelhouse"]:
        parser.error("--interpreter is for wheelhouses")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(fresh.NO_CODE))
    try:
        if os.geteuid() != 0 or not Path("/sys/kernel/btf/vmlinux").exists():
            raise fresh.NotPossibleError("a daemon needs root and a kernel with BTF")
        with tempfile.TemporaryDirectory(prefix="procline-packages-") as directory:
            dist = options.dist or Path(directory)
            if options.dist is None and (code := build(dist, kinds, options.suite, options.interpreter)):
                return code
            for kind in kinds:
                if code := use(kind, dist, options.suite, options.host_daemon, options.interpreter):
                    print(f"packages: {kind}: FAILED with exit code {code}", flush=True)
                    return code
    except fresh.NotPossibleError as error:
        print(f"packages: NO ROOT: {error}", file=sys.stderr)
        return fresh.NOT_POSSIBLE
    return 0


def build(dist: Path, kinds: list[str], suite: str, interpreter: Path | None) -> int:
    """Build packages for the version of Python that a suite has, with an interpreter of this host; or with this one."""
    python = f"python{PYTHONS[suite]}"
    found = shutil.which(python, path=f"/usr/bin:{os.environ['PATH']}")
    if interpreter is not None:
        found = str(interpreter / "bin/python3")
    if found is None:
        raise fresh.NotPossibleError(f"{python} is not on this host: build the packages elsewhere, and set --dist")
    with fresh.step("building"):
        command = [ROOT / "script/package", "--output", dist, "--python", found, *kinds]
        return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode


def version_of(interpreter: Path) -> str:
    """Return the version of an interpreter, such as 3.12."""
    command = [interpreter / "bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def put_interpreter(interpreter: Path, root: Path) -> str:
    """Copy an interpreter into a root, where every user can execute it; return the directory with its programs."""
    # A link to it in another directory would not find its standard library.
    place = Path(f"opt/python{version_of(interpreter)}")
    shutil.copytree(interpreter, root / place, symlinks=True, ignore=shutil.ignore_patterns("test", "__pycache__"))
    for library in (interpreter / "lib").glob("libpython*.so.*"):
        (root / "usr/lib" / library.name).symlink_to(f"/{place}/lib/{library.name}")
    return f"/{place}/bin"


def use(kind: str, dist: Path, suite: str, is_daemon_outside: bool, interpreter: Path | None) -> int:
    """Install a package in a fresh root, and use it; return the exit code."""
    fresh.CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh.remove_abandoned()
    archive = fresh.cached_root(suite, 7)
    found = sorted(dist.glob(FILES[kind]))
    if kind in {"wheel", "wheelhouse"}:
        version = PYTHONS[suite] if interpreter is None else version_of(interpreter)
        tag = f"cp{version.replace('.', '')}"
        found = [path for path in found if tag in path.name]
    if len(found) != 1:
        raise fresh.NotPossibleError(f"{dist} has {len(found)} files {FILES[kind]}")
    if kind == "wheel":
        check_size(found[0])
    with fresh.working_directory(f"{suite}-{kind}") as work, fresh.step(f"{kind} in a fresh {suite}"):
        root = work / "root"
        fresh.unpack(archive, root)
        fresh.configure(root)
        (root / "packages").mkdir()
        shutil.copy(found[0], root / "packages")
        shutil.copy(HERE / "inside.sh", root / "packages")
        environment = {"HOME": "/root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        if interpreter is not None:
            environment["PATH"] += ":" + put_interpreter(interpreter, root)
        with host_daemon() if is_daemon_outside else contextlib.nullcontext() as runtime:
            command = [*fresh.entering(root, runtime), "/packages/inside.sh", kind, *(["outside"] if runtime else [])]
            return fresh.run_to_the_end(command, environment, TRY_S, root)


def check_size(wheel: Path) -> None:
    """Print how large a wheel is; one that is larger than documented has something that nobody uses.

    Raises:
        AssertionError: it is.
    """
    with ZipFile(wheel) as archived:
        unpacked = sum(member.file_size for member in archived.infolist())
    print(f"packages: {wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, {unpacked / 1e6:.1f} MB unpacked", flush=True)
    assert unpacked <= UNPACKED_MAX_BYTES, f"{wheel.name} has {unpacked:,} bytes unpacked"


@contextlib.contextmanager
def host_daemon() -> Iterator[Path]:
    """Run the daemon of this checkout; yield its runtime directory.

    Raises:
        NotPossibleError: it does not become ready.
    """
    procline = ROOT / ".venv/bin/procline"
    with tempfile.TemporaryDirectory(prefix="procline-packages-", dir="/dev/shm") as directory:
        runtime, log = Path(directory), Path(directory, "log")
        runtime.chmod(0o755)
        variables = {**os.environ, "PROCLINE_RUNTIME_DIR": directory}
        with log.open("wb") as output:
            daemon = subprocess.Popen(
                [procline, "run", "--set", "access.group=users"],
                env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        try:
            if subprocess.run([procline, "wait", "--timeout", "120"], env=variables, check=False).returncode:
                raise fresh.NotPossibleError(f"the daemon of this checkout is not ready:\n{log.read_text()}")
            yield runtime
        finally:
            daemon.terminate()
            daemon.wait()


if __name__ == "__main__":
    sys.exit(main())
