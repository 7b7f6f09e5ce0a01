"""Debian's kernel packages: which there are, and one of them unpacked in the cache directory, as a guest needs it.

From the machine's own apt sources, or from another suite of the same mirror. For the latter apt works on a state of
its own: one source with the machine's mirror and keyring, lists and downloads below the cache directory. Nothing of the
system is changed, and signatures are checked as ever.

Covers names, contents and file formats of the packages since Linux 6.1; what is done with a kernel is guest.py's. The
standard library only, and apt, dpkg-deb, for some packages zstd, gcc.
"""

from __future__ import annotations

import fcntl
import gzip
import itertools
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent

#: Debian's metapackages that name the newest kernel of each kind are linux-image-KIND.
FLAVOURS = {"cloud": "cloud-amd64", "amd64": "amd64", "rt": "rt-amd64"}
#: For aarch64.py.
ARM64 = "cloud-arm64"

#: For a command of apt. The download of a kernel takes some seconds; a mirror that does not answer must not take long.
_APT_S = 120

#: Modules that lead to the shared root directory and to the console, where a kernel has them not built in.
_ROOT_MODULES = ("virtio_pci", "virtiofs", "virtio_console")


class NotPossibleError(Exception):
    """There can be no guest here; the message says what is missing."""


class Apt:
    """apt with its state: the machine's own, or one of `suite` below `cache`, where `architecture` can be another."""

    def __init__(self, cache: Path, suite: str = "", architecture: str = "") -> None:
        """Get ready; for a suite the lists are downloaded.

        Raises:
            NotPossibleError: it has no mirror, or the suite cannot be had from it.
        """
        self._environment = {**os.environ, "LC_ALL": "C.UTF-8"}  # what apt says is read here
        self._known = "apt does not know {}: apt-get update"
        if not suite:
            return
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+_/-]*", suite):
            raise NotPossibleError(f"{suite!r} is no name of a suite")
        self._known = f"{suite} has no {{}}"
        mirror, keyring = self.mirror()
        directory = cache / "apt" / suite
        for name in ("lists/partial", "archives/partial"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        signed = f"Signed-By: {keyring}\n" if keyring else ""
        source = f"Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\n{signed}"
        (directory / "suite.sources").write_text(source)
        (directory / "apt.conf").write_text(self._settings(directory, architecture))
        self._environment["APT_CONFIG"] = str(directory / "apt.conf")
        done = self._run("apt-get", "update", "-o", "APT::Update::Error-Mode=any")
        if done.returncode:
            raise NotPossibleError(f"suite {suite} of {mirror} cannot be had: {_last(done.stderr)}")

    def package(self, flavour: str, series: str = "") -> str:
        """Return the name of the newest kernel package of that flavour, of Linux `series` (such as 6.18) if given.

        Raises:
            NotPossibleError: there is none.
        """
        kind = FLAVOURS.get(flavour, flavour)
        if not series:
            meta = f"linux-image-{kind}"
            found = re.search(r"Depends: (linux-image-\S+)", self._run("apt-cache", "depends", meta).stdout)
            if found is None:
                raise NotPossibleError(self._known.format(meta))
            return found[1]
        names = self._run("apt-cache", "pkgnames", f"linux-image-{series}").stdout.split()
        # linux-image-6.1.0-50-cloud-amd64, linux-image-6.18.15+deb13-cloud-amd64: not -unsigned, not -dbg.
        form = re.compile(rf"linux-image-({re.escape(series)}(?:\.\d+)*)(?:-(\d+)|\+\w+)?-{kind}")
        known = [found for name in names if (found := form.fullmatch(name))]
        if not known:
            raise NotPossibleError(self._known.format(f"linux-image-{series}*-{kind}"))
        newest = max(known, key=lambda found: ([int(part) for part in found[1].split(".")], int(found[2] or 0)))
        return newest[0]

    def download(self, package: str, directory: Path) -> list[Path]:
        """Download a kernel package and what it is made of (newer ones are split) into the directory.

        Raises:
            NotPossibleError: it cannot be downloaded.
        """
        release = package.removeprefix("linux-image-")
        depends = re.findall(r"Depends: (\S+)", self._run("apt-cache", "depends", package).stdout)
        return self.download_all([package, *(name for name in depends if name.endswith(f"-{release}"))], directory)

    def download_all(self, names: Sequence[str], directory: Path) -> list[Path]:
        """Download packages into the empty directory.

        Raises:
            NotPossibleError: one of them cannot be downloaded.
        """
        done = self._run("apt-get", "download", *names, directory=directory)
        packages = list(directory.glob("*.deb"))
        if done.returncode or len(packages) != len(names):
            raise NotPossibleError(f"{names[0]} cannot be downloaded: {_last(done.stderr)}")
        return packages

    def closure(self, names: Sequence[str]) -> list[str]:
        """Return the packages and everything that they depend on, for a system that has no package.

        Raises:
            NotPossibleError: apt does not know one of them.
        """
        # Simulated, so that apt takes no lock and changes nothing.
        done = self._run("apt-get", "install", "--simulate", "--no-install-recommends", *names)
        found = re.findall(r"^Inst (\S+) ", done.stdout, re.MULTILINE)
        if done.returncode or not found:
            raise NotPossibleError(f"apt cannot install {names[0]}: {_last(done.stderr)}")
        return [name.partition(":")[0] for name in found]

    def mirror(self) -> tuple[str, str]:
        """Return URI and keyring of Debian's own archive among the machine's sources."""
        form = "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)|$(SIGNED_BY)"
        listed = self._run("apt-get", "indextargets", "--format", form, "Created-By: Packages").stdout
        for line in listed.splitlines():
            origin, label, component, uri, keyring = line.split("|")
            if (origin, label, component) == ("Debian", "Debian", "main"):
                return uri, keyring if keyring.startswith("/") else ""
        raise NotPossibleError("apt has no source of Debian's archive: apt-get update")

    def _settings(self, directory: Path, architecture: str) -> str:
        """Return the machine's settings (proxies and the like) with a state of its own, and no commands to be run."""
        dump = self._run("apt-config", "dump").stdout.splitlines()
        kept = [line for line in dump if not re.match(r"(DPkg|APT::Update::(Pre|Post)-Invoke)", line)]
        paths = {
            "Dir::Etc::main": "/dev/null", "Dir::Etc::parts": "/dev/null", "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null", "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::Etc::sourcelist": directory / "suite.sources", "Dir::State": directory,
            "Dir::State::status": "/dev/null", "Dir::State::lists": directory / "lists", "Dir::Cache": directory,
            "Dir::Cache::archives": directory / "archives",
        }  # fmt: skip
        unsafe = (
            "APT::Get::AllowUnauthenticated", "Acquire::AllowInsecureRepositories", "Acquire::AllowWeakRepositories",
            "Acquire::AllowDowngradeToInsecureRepositories",
        )  # fmt: skip
        own = [f'{name} "{value}";' for name, value in {**paths, **dict.fromkeys(unsafe, "false")}.items()]
        if architecture:
            own += [f'APT::Architecture "{architecture}";', "#clear APT::Architectures;"]
            own += [f'APT::Architectures {{"{architecture}";}};']
        return "\n".join([*kept, *own, ""])

    def _run(self, *command: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                command,
                cwd=directory,
                env=self._environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=_APT_S,
            )
        except subprocess.TimeoutExpired:
            raise NotPossibleError(f"{' '.join(command)} has not ended after {_APT_S} s") from None
        except FileNotFoundError:
            raise NotPossibleError(f"{command[0]} is not installed: kernels come from Debian's packages") from None


def kernel(cache: Path, flavour: str, suite: str = "", series: str = "") -> Path:
    """Return the directory with a kernel; downloaded if it is not in the cache.

    In it: ``vmlinuz``, ``config``; ``overlay.ko`` where overlayfs is not built in; ``initramfs`` where the way to the
    root directory is not.

    Raises:
        NotPossibleError: it cannot be had.
    """
    cache.mkdir(parents=True, exist_ok=True)
    # apt does not wait for another one that uses its state, such as that of a guest with another flavour.
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _kernel(cache, flavour, suite, series)


def _kernel(cache: Path, flavour: str, suite: str, series: str) -> Path:
    apt = Apt(cache, suite, "arm64" if flavour == ARM64 else "")
    package = apt.package(flavour, series)
    directory = cache / package
    if (directory / "vmlinuz").exists():
        return directory
    with tempfile.TemporaryDirectory(dir=cache, prefix="new-") as name:
        work = Path(name)
        work.chmod(0o755)  # apt downloads as another user
        root, made = work / "root", work / "made"
        for path in apt.download(package, work):
            subprocess.run(["dpkg-deb", "-x", path, root], check=True)
        made.mkdir()
        release = package.removeprefix("linux-image-")
        _arrange(root, release, made)
        if directory.exists():
            shutil.rmtree(directory)
        made.rename(directory)
    return directory


def _arrange(root: Path, release: str, directory: Path) -> None:
    """Move what is needed of the unpacked packages into the directory."""
    for name in ("vmlinuz", "config"):
        # In /boot, or in newer packages beside the modules.
        places = root.glob(f"boot/{name}-{release}"), root.glob(f"**/modules/{release}/{name}")
        path = next(itertools.chain(*places), None)
        if path is None:
            raise NotPossibleError(f"the package of Linux {release} has no {name}")
        path.rename(directory / name)
    modules = {path.name.partition(".ko")[0].replace("-", "_"): path for path in root.glob("**/modules/**/*.ko*")}
    if overlay := modules.get("overlay"):
        (directory / "overlay.ko").write_bytes(_module(overlay))
    needed: dict[str, bytes] = {}
    for name in _ROOT_MODULES:
        _add_with_depends(name, modules, needed)
    if needed:
        (directory / "initramfs").write_bytes(gzip.compress(_initramfs(needed), 1))


def _module(path: Path) -> bytes:
    """Return a module in the form that the kernel loads."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    if path.suffix == ".zst":
        if shutil.which("zstd") is None:
            raise NotPossibleError("zstd is not installed: apt-get install --no-install-recommends zstd")
        return subprocess.run(["zstd", "-dcq", path], capture_output=True, check=True).stdout
    return path.read_bytes()


def _add_with_depends(name: str, modules: dict[str, Path], into: dict[str, bytes]) -> None:
    """Add a module behind those that it needs; nothing is done for what is built in."""
    if name in into or name not in modules:
        return
    data = _module(modules[name])
    depends = re.search(rb"\0depends=([^\0]*)\0", data)
    for other in depends[1].decode().split(",") if depends else []:
        _add_with_depends(other.replace("-", "_"), modules, into)
    into[name] = data


def _initramfs(modules: dict[str, bytes]) -> bytes:
    """Return an archive with an init that loads the modules in order and then runs the init of the shared root."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise NotPossibleError("gcc makes the initramfs that this kernel needs: apt-get install gcc libc6-dev")
    with tempfile.TemporaryDirectory() as name:
        program = Path(name, "init")
        source = HERE / "initramfs.c"
        done = subprocess.run(
            [compiler, "-static", "-O1", "-Wall", source, "-o", program], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise NotPossibleError(f"{source.name} cannot be compiled (libc6-dev?): {_last(done.stderr)}")
        files = {"init": program.read_bytes()}
    files |= {f"modules/{number:02}-{name}.ko": data for number, (name, data) in enumerate(modules.items())}
    directories = ("dev", "modules", "root")
    archive = b"".join(newc(name, 0o040755, b"") for name in directories)
    archive += b"".join(newc(name, 0o100755, data) for name, data in files.items())
    return archive + newc("TRAILER!!!", 0, b"")


def newc(name: str, mode: int, data: bytes) -> bytes:
    """Return an entry of a cpio archive. Source: kernel Documentation/driver-api/early-userspace/buffer-format.rst."""
    path = name.encode() + b"\0"
    #        ino mode uid gid nlink mtime size maj min rmaj rmin name's length, checksum
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return _padded(header) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _last(text: str) -> str:
    """Return the errors among what apt or a compiler said, in one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join([line for line in lines if line.startswith("E: ") or "error" in line] or lines[-1:])


def parse_suite(text: str) -> tuple[str, str]:
    """Return suite and series of ``NAME`` or ``NAME=SERIES``."""
    suite, _, series = text.partition("=")
    return suite, series
