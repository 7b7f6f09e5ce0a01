"""The Debian package: a virtual environment in /opt/procline with every dependency, and the files of the service.

It is made of a wheelhouse, so both install the same files. `packaging/debian` has the control file and the maintainer
scripts. The interpreter is the distribution's, because its security updates are too: the package depends on that
version of Python.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import build

HERE = Path(__file__).resolve().parent
PREFIX = "opt/procline"

#: Files of the service, by where they are in the package.
FILES = {
    "usr/lib/systemd/system/procline.service": "systemd/procline.service",
    "usr/lib/systemd/system/procline-forward.service": "systemd/procline-forward.service",
    "usr/lib/systemd/system/procline-fleet-ingest.service": "systemd/procline-fleet-ingest.service",
    "usr/lib/sysusers.d/procline.conf": "sysusers.d/procline.conf",
    "usr/lib/tmpfiles.d/procline.conf": "tmpfiles.d/procline.conf",
    "usr/share/doc/procline/copyright": "debian/copyright",
    "usr/share/lintian/overrides/procline": "debian/lintian-overrides",
}

#: The maintainer if the builder names none. The project has no public address yet. Nothing below .invalid can exist
#: (RFC 2606), and lintian accepts it.
NO_MAINTAINER = "Procline maintainers <maintainers@procline.invalid>"

#: The command of the environment. -I: the user's PYTHON variables and packages do not matter to it.
COMMAND = f"""\
#!/{PREFIX}/bin/python3 -I
from pipeline.cli.main import run

run()
"""


def package(
    work: Path,
    house: Path,
    python: Path,
    python_version: str,
    version: str,
    maintainer: str,
    variables: Mapping[str, str],
) -> Path:
    """Build the package.

    Args:
        work: directory for everything that is temporary.
        house: the wheelhouse for the interpreter.
        python: the distribution's interpreter.
        python_version: of the interpreter, such as 3.13.
        version: of Procline.
        maintainer: name and address that the package states; see `maintainer_of`.
        variables: environment variables of all commands.

    Returns:
        The package.
    """
    build.say("the Debian package")
    if shutil.which("dpkg-shlibdeps") is None:
        raise build.PackageError("the Debian package needs dpkg-dev: apt-get install --no-install-recommends dpkg-dev")
    root = work / "deb"
    environment(root / PREFIX, house, python, python_version, variables)
    if maintainer == NO_MAINTAINER:
        build.say(f"the maintainer of the package is the placeholder {maintainer}: set --maintainer")
    service(root, house, version, maintainer, int(variables["SOURCE_DATE_EPOCH"]))
    debian_version = re.sub(r"(?<=\d)(a|b|rc|\.dev)(?=\d)", r"~\1", version)  # 1.0rc1 is before 1.0
    architecture = build.run(["dpkg", "--print-architecture"], variables).stdout.strip()
    control = root / "DEBIAN"
    control.mkdir()
    major, minor = map(int, python_version.split("."))
    fields = {
        "VERSION": debian_version,
        "MAINTAINER": maintainer,
        "ARCHITECTURE": architecture,
        "SIZE": str(sum(path.lstat().st_size for path in root.rglob("*") if not path.is_dir()) // 1024),
        "DEPENDS": f"python3 (>= {python_version}~), python3 (<< {major}.{minor + 1}~), {libraries(root, variables)}",
    }
    template = (HERE / "debian/control").read_text()
    (control / "control").write_text(re.sub(r"@([A-Z]+)@", lambda found: fields[found[1]], template))
    (control / "conffiles").write_text("/etc/procline/procline.toml\n")
    for name in ("postinst", "prerm", "postrm"):
        shutil.copyfile(HERE / "debian" / name, control / name)
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    sums = [f"{md5(path)}  {path.relative_to(root)}\n" for path in files if control not in path.parents]
    (control / "md5sums").write_text("".join(sums))
    set_modes(root, control)
    made = work / f"procline_{debian_version}_{architecture}.deb"
    # -z3 takes twice the time, for a package that is a fifteenth smaller.
    build.run(["dpkg-deb", "--root-owner-group", "-Zxz", "-z1", "--build", root, made], variables)
    lint(made, variables)
    return made


def environment(target: Path, house: Path, python: Path, python_version: str, variables: Mapping[str, str]) -> None:
    """Make the virtual environment as it will be in /opt/procline: no other file names the directory of this build."""
    build.run([python, "-m", "venv", "--without-pip", target], variables)
    pip = house.parent / "venv/bin/python"
    arguments = ["--disable-pip-version-check", "--python", target / "bin/python3", *build.offline(house)]
    build.run([pip, "-m", "pip", *arguments], variables)
    interpreter = f"/usr/bin/python{python_version}"
    shutil.rmtree(target / "bin")
    (target / "bin").mkdir()
    (target / "bin/python3").symlink_to(interpreter)
    (target / "bin/procline").write_text(COMMAND)
    (target / "pyvenv.cfg").write_text(
        "home = /usr/bin\ninclude-system-site-packages = false\n"
        f"version = {python_version}\nexecutable = {interpreter}\n"
    )
    shutil.rmtree(target / "include", ignore_errors=True)
    shutil.rmtree(target / "share")  # files of the service: the package has them in the system's directories
    (target / "lib64").unlink(missing_ok=True)
    (target / ".gitignore").unlink(missing_ok=True)
    packages = target / f"lib/python{python_version}/site-packages"
    # Half of numpy is its tests and its tools for building extensions.
    for pattern in ("*/**/tests", "numpy/f2py", "numpy/_core/lib", "numpy/_core/include"):
        for directory in list(packages.glob(pattern)):
            shutil.rmtree(directory)
    for path in packages.glob("numpy/_core/*_tests.*.so"):
        path.unlink()
    for path in packages.glob("*.dist-info/RECORD"):
        path.unlink()  # it lists what was removed, and pip is not to change the environment
    # Compiled here: at run time nobody may write there. The code does not depend on times of files.
    build.run(
        [python, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash", "-s", target,
         "-p", f"/{PREFIX}", packages],
        variables,
    )  # fmt: skip


def service(root: Path, house: Path, version: str, maintainer: str, epoch: int) -> None:
    """Add what belongs to the service and the command: units, settings, man pages, completions, documents."""
    for place, source in FILES.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(HERE / source, root / place)
    share = house / "share"
    for name in ("man", "bash-completion", "zsh", "fish"):
        shutil.copytree(share / name, root / "usr/share" / name)
    documents = root / "usr/share/doc/procline"
    shutil.copytree(share / "systemd/drop-ins", documents / "drop-ins")
    shutil.copytree(share / "monitoring", documents / "monitoring")
    (documents / "CHANGELOG.md.gz").write_bytes(gzip.compress((HERE.parent / "CHANGELOG.md").read_bytes(), mtime=0))
    date = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(epoch))
    changelog = (
        f"procline ({version}) unstable; urgency=medium\n\n  * See CHANGELOG.md.gz.\n\n -- {maintainer}  {date}\n"
    )
    (documents / "changelog.gz").write_bytes(gzip.compress(changelog.encode(), mtime=0))
    (root / "etc/procline").mkdir(parents=True)
    shutil.copyfile(share / "procline.toml", root / "etc/procline/procline.toml")
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/procline").symlink_to(f"/{PREFIX}/bin/procline")


def maintainer_of(text: str) -> str:
    """Return the maintainer that --maintainer names; empty: `NO_MAINTAINER`.

    Raises:
        PackageError: it is not written as ``NAME <ADDRESS>``, as Debian's policy requires.
    """
    if text and not re.fullmatch(r"[^<>@\x00-\x1f\x7f]*[^<>@\s] <[^<>@\s]+@[^<>@\s.]+(\.[^<>@\s.]+)+>", text):
        raise build.PackageError(f"--maintainer {text!r} is not of the form 'NAME <ADDRESS>'")
    return text or NO_MAINTAINER


def libraries(root: Path, variables: Mapping[str, str]) -> str:
    """Return the system's packages that the compiled modules need, as dpkg-shlibdeps finds them."""
    (root.parent / "debian").mkdir(exist_ok=True)
    (root.parent / "debian/control").write_text("Source: procline\n\nPackage: procline\nArchitecture: any\n")
    modules = [path for path in root.rglob("*.so*") if path.is_file() and not path.is_symlink()]
    # Wheels bring libraries of their own, in directories NAME.libs.
    private = [
        f"-l{directory}" for directory in sorted({path.parent for path in modules if ".libs" in str(path.parent)})
    ]
    done = build.run(
        ["dpkg-shlibdeps", "-O", "--warnings=0", "--ignore-missing-info", *private, *(f"-e{path}" for path in modules)],
        variables, root.parent,
    )  # fmt: skip
    return done.stdout.strip().removeprefix("shlibs:Depends=")


def set_modes(root: Path, control: Path) -> None:
    """Give each file the mode that it has on a host, whatever the umask of the build."""
    for path in [root, *root.rglob("*")]:
        if path.is_symlink():
            continue
        is_program = path.parent == root / PREFIX / "bin" or (path.parent == control and path.name.startswith("p"))
        path.chmod(0o755 if path.is_dir() or is_program else 0o644)


def lint(made: Path, variables: Mapping[str, str]) -> None:
    """Check the package with lintian, if it is installed; packaging/debian/lintian-overrides has the exceptions."""
    if shutil.which("lintian") is None:
        build.say("lintian is not installed: the package was not checked")
        return
    done = build.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", made],
        variables,
        may_fail=True,
    )
    if done.returncode:
        raise build.PackageError(f"lintian rejects {made.name}:\n{done.stdout}{done.stderr}")
    build.say("lintian: no error and no warning")


def md5(path: Path) -> str:
    """Return the checksum that dpkg uses."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
