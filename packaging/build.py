"""Build the packages of Procline into a directory: sdist, wheels, offline wheelhouses, a Debian package.

Everything is built from a copy of the checkout's tracked files, in new virtual environments with locked tools, so that
nothing of the developer's environment gets into a package. The wheels are built from the sdist, which proves that the
sdist is complete; the wheelhouses and the Debian package are made of the wheels. The version is in pipeline/version.py
and nowhere else; --version replaces it in the copy.

Standard library only. What is built in the environments needs a C compiler and the packages' index; the Debian package
needs dpkg-dev.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from zipfile import ZipFile

# deb.py imports this module too. It must not get a copy, with errors that nothing here handles.
sys.modules.setdefault("build", sys.modules[__name__])
import deb  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("sdist", "wheel", "wheelhouse", "deb")

#: Versions of Python for which wheels are built if the host has them.
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
#: The interpreter of the Debian package: that of the distribution.
SYSTEM_PYTHON = Path("/usr/bin/python3")
#: Dependencies without a wheel in the index. Their source is plain Python, and a wheel is built of it.
SOURCE_ONLY = ("nkeys",)

_PROBE = """
import ensurepip, os, sys, sysconfig, venv
assert os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
print(os.path.realpath(sys._base_executable), "%d.%d" % sys.version_info[:2])
"""

#: Variables that a build may see: how to reach the index, and the compiler. Everything else differs between hosts.
_KEPT = re.compile(r"PIP_.*|CC|CCACHE_.*|CYTHON_CACHE_DIR|TMPDIR|SSL_CERT_.*|(https?|no|HTTPS?|NO)_(proxy|PROXY)")


class PackageError(Exception):
    """A package cannot be built; the message says why."""


@dataclass(frozen=True, slots=True)
class Python:
    """An interpreter of this host."""

    executable: Path
    version: str

    @property
    def tag(self) -> str:
        """Return its tag in names of wheels, such as cp313."""
        return "cp" + self.version.replace(".", "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what is asked for; 0 done, 1 something could not be built."""
    parser = argparse.ArgumentParser(prog="script/package", description=__doc__.split("\n\n")[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(KINDS)}; default: all")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="DIR", help="default: dist/")
    parser.add_argument(
        "--python", action="append", default=[], metavar="EXE",
        help="build for this interpreter; may be repeated; default: each supported Python of this host",
    )  # fmt: skip
    parser.add_argument("--version", help="build as this version, to test an upgrade; default: that of the checkout")
    parser.add_argument(
        "--maintainer", default="", metavar="'NAME <ADDRESS>'",
        help="maintainer of the Debian package; default: a placeholder",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"unknown kind: {', '.join(sorted(unknown))}")
    kinds = set(options.kinds or KINDS)
    try:
        maintainer = deb.maintainer_of(options.maintainer)
        found = [probe(name) for name in options.python] if options.python else supported()
        build(kinds, options.output.absolute(), found, maintainer, options.version)
    except PackageError as error:
        print(f"package: {error}", file=sys.stderr)
        return 1
    return 0


def build(
    kinds: set[str], output: Path, pythons: Sequence[Python], maintainer: str, version: str | None = None
) -> None:
    """Build packages, of the checkout's version by default; each one replaces an older one of the same name."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="procline-package-") as directory:
        work = Path(directory)
        source = work / "source"
        copy_tracked(source)
        environment = build_environment(work)
        stated = source / "pipeline" / "version.py"
        if version is not None:
            write_version(stated, version)
        version = read_version(stated)
        first = Environment(work, pythons[0], environment)
        sdist = first.sdist(source)
        if "sdist" in kinds:
            keep(sdist, output)
        if kinds == {"sdist"}:
            return
        unpacked = unpack(sdist, work)
        system = probe(str(SYSTEM_PYTHON)) if "deb" in kinds else None
        if system is not None and system not in pythons:
            pythons = [*pythons, system]
        for python in pythons:
            made = first if python is pythons[0] else Environment(work, python, environment)
            if not kinds & {"wheel", "wheelhouse"} and python != system:
                continue
            wheel = made.wheel(unpacked)
            if "wheel" in kinds:
                keep(wheel, output)
            if not kinds & {"wheelhouse", "deb"}:
                continue
            house = made.wheelhouse(source, wheel, version)
            if "wheelhouse" in kinds:
                keep(archive(house, int(environment["SOURCE_DATE_EPOCH"])), output)
            if python == system:
                made_deb = deb.package(work, house, python.executable, python.version, version, maintainer, environment)
                keep(made_deb, output)


class Environment:
    """A virtual environment with the locked tools, and what is built with it.

    Args:
        work: directory for everything that is temporary.
        python: its interpreter.
        variables: environment variables of all commands.
    """

    def __init__(self, work: Path, python: Python, variables: Mapping[str, str]) -> None:
        self._work = work / python.tag
        self._work.mkdir()
        self._variables = variables
        self._tag = python.tag
        self._version = python.version
        self.python = self._work / "venv/bin/python"
        say(f"an environment with Python {python.version}")
        run([python.executable, "-m", "venv", self._work / "venv"], variables)
        lock = ["--no-deps", "--require-hashes"]
        for name in ("requirements/build.txt", "packaging/tools.txt"):
            lock += ["-r", str(ROOT / name)]
        self.pip("install", *lock)

    def pip(self, *arguments: str | Path) -> None:
        """Run pip."""
        run([self.python, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments], self._variables)

    def sdist(self, source: Path) -> Path:
        """Build the sdist."""
        directory = self._work / "sdist"
        directory.mkdir()
        say("the sdist")
        call = f"from setuptools import build_meta; build_meta.build_sdist({str(directory)!r})"
        run([self.python, "-c", call], self._variables, source)
        return one(directory.glob("*.tar.gz"))

    def wheel(self, source: Path) -> Path:
        """Build the wheel, without symbols, and name it after the oldest systems on which it runs."""
        raw, repaired = self._work / "raw", self._work / "wheel"
        say(f"the wheel for {self._tag}")
        # Code and constants share pages: with pages of their own, all modules together are half a megabyte larger.
        options = "-Wl,--strip-all -Wl,-z,noseparate-code -Wl,--gc-sections -Wl,--build-id=none"
        self._variables = {**self._variables, "LDFLAGS": options}
        self.pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", raw, source)
        wheel = one(raw.glob("*.whl"))
        environment = {**self._variables, "PATH": f"{self.python.parent}:{self._variables['PATH']}"}
        command: list[str | Path] = [self.python.parent / "auditwheel", "repair", "--wheel-dir", repaired, wheel]
        done = run(command, environment, may_fail=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            say(f"auditwheel does not call it manylinux, so it is for systems like this one only: {reason}")
            return wheel
        return one(repaired.glob("*.whl"))

    def wheelhouse(self, source: Path, wheel: Path, version: str) -> Path:
        """Collect the wheel, its dependencies by hash, and the files of the service; test that they can be installed.

        Returns:
            The directory.
        """
        say(f"the wheelhouse for {self._tag}")
        house = self._work / f"procline-{version}-{self._tag}-{platform.machine()}"
        wheels = house / "wheels"
        wheels.mkdir(parents=True)
        lock = source / "requirements/host.txt"
        kinds = ["--only-binary", ":all:", "--no-binary", ",".join(SOURCE_ONLY), "--no-build-isolation"]
        self.pip("wheel", "--no-deps", *kinds, "--require-hashes", "-r", lock, "--wheel-dir", wheels)
        shutil.copy2(wheel, wheels)
        members = [describe(path) for path in sorted(wheels.iterdir())]
        (house / "requirements.txt").write_text(
            "".join(f"{each['name']}=={each['version']} --hash=sha256:{each['sha256']}\n" for each in members)
        )
        trial = self._work / "trial"
        run([self.python, "-m", "venv", "--without-pip", trial], self._variables)
        self.pip("--python", trial / "bin/python", *offline(house))
        run([trial / "bin/procline", "version"], self._variables)
        share(source, house, trial / "bin/python", self._variables)
        (house / "README.txt").write_text(README.format(version=version, python=self._version))
        manifest = {
            "name": "procline", "version": version, "python": self._tag, "machine": platform.machine(),
            "wheels": members,
        }  # fmt: skip
        (house / "MANIFEST.json").write_text(json.dumps(manifest, indent=1) + "\n")
        files = sorted(path for path in house.rglob("*") if path.is_file())
        sums = "".join(f"{sha256(path)}  {path.relative_to(house)}\n" for path in files)
        (house / "SHA256SUMS").write_text(sums)
        return house


README = """\
Procline {version} for Python {python}, with everything that it needs. Nothing is downloaded:

    sha256sum --check --quiet SHA256SUMS
    python{python} -m venv /opt/procline
    /opt/procline/bin/pip install --no-index --no-deps --require-hashes --find-links wheels -r requirements.txt

The service (share/ has its files):

    install -D -m 644 share/systemd/procline.service /etc/systemd/system/procline.service
    install -D -m 644 share/systemd/procline-forward.service /etc/systemd/system/procline-forward.service
    install -D -m 644 share/sysusers.d/procline.conf /usr/lib/sysusers.d/procline.conf
    install -D -m 644 share/tmpfiles.d/procline.conf /usr/lib/tmpfiles.d/procline.conf
    install -D -m 644 share/procline.toml /etc/procline/procline.toml
    ln -s /opt/procline/bin/procline /usr/local/bin/procline
    systemd-sysusers && systemd-tmpfiles --create procline.conf
    systemctl daemon-reload && systemctl enable --now procline

procline-forward.service sends the events to a NATS server: set forward.to in procline.toml, and enable the service.
share/systemd/procline-fleet-ingest.service stores the events of many hosts, with the extra `fleet`, which is not here.

An upgrade: the first three commands in the newer wheelhouse, then

    systemctl restart procline

Removal of everything:

    systemctl disable --now procline procline-forward
    rm -rf /etc/systemd/system/procline.service /etc/systemd/system/procline.service.d /usr/lib/sysusers.d/procline.conf
    rm -rf /etc/systemd/system/procline-forward.service /etc/systemd/system/procline-forward.service.d
    rm -rf /var/lib/procline-forward /var/lib/private/procline-forward /etc/credstore/procline-forward.*
    rm -rf /usr/lib/tmpfiles.d/procline.conf /etc/procline /usr/local/bin/procline /opt/procline /run/procline
    systemctl daemon-reload
    userdel procline && (! getent group procline > /dev/null || groupdel procline)
"""


def offline(house: Path) -> list[str | Path]:
    """Return pip's arguments that install a wheelhouse."""
    return [
        "install", "--no-index", "--no-deps", "--require-hashes", "--no-compile", "--find-links", house / "wheels",
        "-r", house / "requirements.txt",
    ]  # fmt: skip


def share(source: Path, house: Path, python: Path, variables: Mapping[str, str]) -> None:
    """Add the files of the service, the settings, man pages and completions."""
    target = house / "share"
    for name in ("systemd", "sysusers.d", "tmpfiles.d", "monitoring"):
        shutil.copytree(source / "packaging" / name, target / name)
    shutil.copy2(source / "docs/procline.toml", target)
    run([python, source / "packaging/manual.py", house], variables)


def copy_tracked(target: Path) -> None:
    """Copy the tracked files of the checkout, as they are in it now."""
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        raise PackageError("packages are built from a checkout: git ls-files fails here")
    for name in filter(None, listed.stdout.split(b"\0")):
        source, copy = ROOT / os.fsdecode(name), target / os.fsdecode(name)
        if source.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)


def build_environment(home: Path) -> dict[str, str]:
    """Return the variables of all commands; times in packages are that of the last commit."""
    kept = {name: value for name, value in os.environ.items() if _KEPT.fullmatch(name)}
    command = ["git", "-c", f"safe.directory={ROOT}", "log", "-1", "--format=%ct"]
    epoch = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    return {
        **kept, "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(home), "LANG": "C.UTF-8",
        "SOURCE_DATE_EPOCH": epoch or "0",
    }  # fmt: skip


def supported() -> list[Python]:
    """Return the supported interpreters that this host has, oldest first.

    Raises:
        PackageError: there is none.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found: dict[str, Python] = {}
    for version in PYTHONS:
        name = f"python{version}"
        for candidate in (f"/usr/bin/{name}", name, *sorted(pyenv.glob(f"{version}.*/bin/{name}"))):
            with contextlib.suppress(PackageError):
                python = probe(str(candidate))
                if python.version == version:
                    found.setdefault(version, python)
                    break
        else:
            say(f"no Python {version} with venv and headers: nothing is built for it")
    if not found:
        raise PackageError("no supported Python with venv and headers on this host (apt-get install python3-dev)")
    return list(found.values())


def probe(name: str) -> Python:
    """Return the interpreter that a name leads to.

    Raises:
        PackageError: it does not run, or cannot make environments and compile extensions.
    """
    try:
        done = subprocess.run([name, "-c", _PROBE], capture_output=True, text=True, check=False)
    except OSError as error:
        raise PackageError(f"{name}: {error.strerror}") from None
    if done.returncode:
        raise PackageError(f"{name} has no venv or no headers (python3-venv, python3-dev)")
    executable, version = done.stdout.split()
    return Python(Path(executable), version)


def read_version(path: Path) -> str:
    """Return the version that a module states, without importing it."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__version__":
            return str(ast.literal_eval(node.value))
    raise PackageError(f"{path} states no version")


def write_version(path: Path, version: str) -> None:
    """Replace the version that a module states.

    Raises:
        PackageError: it is no version, or the module states none.
    """
    if not re.fullmatch(r"\d+(\.\d+)*((a|b|rc|\.post|\.dev)\d+)*", version):
        raise PackageError(f"{version!r} is no version: write it like 1.2.3 or 1.2.3rc1")
    read_version(path)
    path.write_text(re.sub(r"(?m)^__version__ = .*$", f'__version__ = "{version}"', path.read_text()))


def describe(wheel: Path) -> dict[str, str | int]:
    """Return file, name, version, checksum and size of a wheel."""
    with ZipFile(wheel) as archived:
        name = next(name for name in archived.namelist() if name.endswith(".dist-info/METADATA"))
        fields = HeaderParser().parsestr(archived.read(name).decode())
    return {
        "file": wheel.name, "name": fields["Name"].lower().replace("_", "-"), "version": fields["Version"],
        "sha256": sha256(wheel), "size": wheel.stat().st_size,
    }  # fmt: skip


def archive(directory: Path, epoch: int) -> Path:
    """Write a directory as a tar; its bytes depend on its files only. Wheels are compressed already."""
    path = directory.with_name(f"{directory.name}-wheelhouse.tar")

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mtime = epoch
        member.mode = 0o755 if member.isdir() else 0o644
        return member

    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as made:
        for each in [directory, *sorted(directory.rglob("*"))]:
            made.add(each, each.relative_to(directory.parent), recursive=False, filter=plain)
    return path


def unpack(sdist: Path, work: Path) -> Path:
    """Unpack an sdist; return its directory."""
    target = work / "unpacked"
    with tarfile.open(sdist) as made:
        # Python 3.11.2, which Debian 12 has, knows no filters. The archive is our own.
        made.extraction_filter = getattr(tarfile, "data_filter", None)
        made.extractall(target)
    return one(target.iterdir())


def keep(path: Path, output: Path) -> None:
    """Copy a package to the output, and print its size and checksum."""
    shutil.copy2(path, output)
    print(f"{path.stat().st_size / 1e6:8.1f} MB  {sha256(path)}  {output / path.name}", flush=True)


def sha256(path: Path) -> str:
    """Return the checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def one(paths: Iterator[Path]) -> Path:
    """Return the only path."""
    (path,) = paths
    return path


def run(
    command: Sequence[str | Path],
    variables: Mapping[str, str],
    directory: Path | None = None,
    *,
    may_fail: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a command.

    Raises:
        PackageError: it failed, and may not.
    """
    done = subprocess.run(
        command, env=variables, cwd=directory or "/", stdin=subprocess.DEVNULL, capture_output=True, text=True,
        errors="replace", check=False,
    )  # fmt: skip
    if done.returncode and not may_fail:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
        raise PackageError(f"{' '.join(map(str, command))} failed with exit code {done.returncode}:\n{tail}")
    return done


def say(text: str) -> None:
    """Print what is being done."""
    print(f"package: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
