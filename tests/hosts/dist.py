"""Build what is installed on the hosts: packages and wheelhouses of two versions, kept for each state of the checkout.

Only files that get into a package count: a change of a test does not need a build.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fresh

#: Tracked files of the checkout that no package has.
_IGNORED = ("tests/", "bench/", "examples/", "ansible/", ".ci/")
_DOCUMENTS = "docs/"
_SETTINGS = "docs/procline.toml"

#: The version of the package that an upgrade installs; the first is that of the checkout.
NEXT_VERSION = "99.0"

#: States of the checkout of which packages are kept.
KEPT = 4


@contextlib.contextmanager
def packages(versions: int) -> Iterator[Path]:
    """Give the directory with the packages of the checkout; those that it lacks are built. It is kept for as long.

    Args:
        versions: 1 for the checkout's own version, 2 to have the same as `NEXT_VERSION` too.

    Raises:
        NotPossibleError: they cannot be built.
    """
    cache = fresh.CACHE / "hosts-packages"
    cache.mkdir(mode=0o755, exist_ok=True)
    directory = cache / state()
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for abandoned in cache.glob("new-*"):
            shutil.rmtree(abandoned)
        directory.mkdir(mode=0o755, exist_ok=True)
        os.utime(directory)
        for version in (None, NEXT_VERSION)[:versions]:
            complete = directory / f"complete-{version or 'own'}"
            if complete.exists():
                print(f"hosts: packages of this state of the checkout are in {directory}", flush=True)
                continue
            with tempfile.TemporaryDirectory(prefix="new-", dir=cache) as work:
                made = Path(work, "packages")
                made.mkdir(mode=0o755)
                try:
                    with fresh.step(f"building the packages{f' as version {version}' if version else ''}", "hosts"):
                        build(made, version)
                except BaseException:
                    # Otherwise an empty directory would count as one of the states that are kept.
                    with contextlib.suppress(OSError):
                        directory.rmdir()
                    raise
                for path in made.iterdir():
                    path.rename(directory / path.name)
            complete.touch()
        others = sorted((path for path in cache.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
        for old in others[:-KEPT]:
            remove_unused(old)
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        yield directory
    finally:
        os.close(descriptor)


def remove_unused(directory: Path) -> None:
    """Delete a directory unless a run uses it, which has a lock on it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fresh.remove(directory)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)


def build(target: Path, version: str | None) -> None:
    """Build the Debian package and the wheelhouse into the directory.

    Raises:
        NotPossibleError: it cannot be built.
    """
    script, *kinds = documented()
    command = [str(fresh.ROOT / script), "--output", str(target), "--python", "/usr/bin/python3", *kinds]
    if version is not None:
        command += ["--version", version]
    # The second version differs by one line. CI names the directories that its other builds have filled.
    environment = {
        "CYTHON_CACHE_DIR": str(fresh.CACHE / "cython"), "CCACHE_DIR": str(fresh.CACHE / "ccache"),
        "CCACHE_MAXSIZE": "500M", **os.environ, "TMPDIR": str(target.parent),
    }  # fmt: skip
    if shutil.which("ccache"):
        # The builds are in different directories. The names of these must not make a difference.
        environment.setdefault("CC", "ccache gcc")
        environment |= {"CCACHE_NOHASHDIR": "1", "CCACHE_BASEDIR": str(target.parent)}
    with (target.parent / "log").open("w+") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            code = process.wait()
        finally:
            fresh.end_session(process.pid, None)
            process.wait()
        if code:
            log.seek(0)
            print(log.read(), file=sys.stderr)
            raise fresh.NotPossibleError("script/package failed")


def documented() -> list[str]:
    """Return the words of the command in docs/operations.md that builds the packages for a fleet."""
    page = (fresh.ROOT / "docs/operations.md").read_text()
    found = re.search(r"<!-- run by tests/hosts/dist.py -->\n```sh\n(.*?) *#", page)
    assert found is not None, "docs/operations.md has no block for this program"
    return found[1].split()


def state() -> str:
    """Return a checksum of all files that packages are built from."""
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={fresh.ROOT}", "ls-files", "-z", "--cached"],
        cwd=fresh.ROOT, capture_output=True, check=True,
    )  # fmt: skip
    total = hashlib.sha256()
    for name in sorted(filter(None, os.fsdecode(listed.stdout).split("\0"))):
        if name.startswith(_IGNORED) or (name.startswith(_DOCUMENTS) and name != _SETTINGS):
            continue
        path = fresh.ROOT / name
        if path.is_file():
            total.update(f"{name}\0{path.stat().st_mode & 0o111}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]
