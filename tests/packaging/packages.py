"""Build the packages, and install and use each in a Debian root that has nothing of this host.

The roots are those of tests/fresh; its module makes, enters and deletes them. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "fresh"))

import fresh  # noqa: E402

#: What is copied to the root for each kind.
FILES = {"wheel": "*.whl", "sdist": "*.tar.gz", "wheelhouse": "*-wheelhouse.tar", "deb": "*.deb"}
TRY_S = 1800


def main() -> int:
    """Build, install and use; return the first exit code that is not 0."""
    parser = argparse.ArgumentParser(prog="tests/packaging/run", description=__doc__.split("\n\n")[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(FILES)}; default: all")
    parser.add_argument("--suite", default="trixie", help="release of Debian; default: %(default)s")
    parser.add_argument("--dist", type=Path, help="packages that exist already; default: build them")
    options = parser.parse_args()
    kinds = options.kinds or list(FILES)
    if unknown := set(kinds) - set(FILES):
        parser.error(f"unknown kind: {', '.join(sorted(unknown))}")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(fresh.NO_CODE))
    try:
        if os.geteuid() != 0 or not Path("/sys/kernel/btf/vmlinux").exists():
            raise fresh.NotPossibleError("a daemon needs root and a kernel with BTF")
        with tempfile.TemporaryDirectory(prefix="procline-packages-") as folder:
            dist = options.dist or Path(folder)
            if options.dist is None and (code := build(dist, kinds)):
                return code
            for kind in kinds:
                if code := use(kind, dist, options.suite):
                    print(f"packages: {kind}: FAILED with exit code {code}", flush=True)
                    return code
    except fresh.NotPossibleError as error:
        print(f"packages: NO ROOT: {error}", file=sys.stderr)
        return fresh.NOT_POSSIBLE
    return 0


def build(dist: Path, kinds: list[str]) -> int:
    """Build packages for the interpreter of the distribution."""
    with fresh.step("building"):
        command = [ROOT / "script/package", "--output", dist, "--python", "/usr/bin/python3", *kinds]
        return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode


def use(kind: str, dist: Path, suite: str) -> int:
    """Install a package in a fresh root, and use it; return the exit code."""
    fresh.CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh.remove_abandoned()
    archive = fresh.cached_root(suite, 7)
    found = sorted(dist.glob(FILES[kind]))
    if kind in {"wheel", "wheelhouse"}:
        found = [path for path in found if "cp313" in path.name]  # trixie's Python
    if len(found) != 1:
        raise fresh.NotPossibleError(f"{dist} has {len(found)} files {FILES[kind]}")
    with fresh.working_directory(f"{suite}-{kind}") as work, fresh.step(f"{kind} in a fresh {suite}"):
        root = work / "root"
        fresh.unpack(archive, root)
        fresh.configure(root)
        (root / "packages").mkdir()
        shutil.copy(found[0], root / "packages")
        shutil.copy(HERE / "inside.sh", root / "packages")
        environment = {"HOME": "/root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", fresh.MOUNTS, "sh", str(root)]
        return fresh.run_to_the_end([*enter, "/packages/inside.sh", kind], environment, TRY_S, root)


if __name__ == "__main__":
    sys.exit(main())
