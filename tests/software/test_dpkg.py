"""Which package installed a file, by dpkg's own files; and when that is not clear."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.errors import UntrustedError
from pipeline.software import dpkg
from pipeline.software.dpkg import Package, Packages, UnclearError

STATUS = """Package: tools
Status: install ok installed
Architecture: amd64
Version: 1.2-3
Description: x
 Version: 9

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: both
Status: install ok installed
Architecture: amd64
Multi-Arch: same
Version: 2

Package: both
Status: install ok installed
Architecture: i386
Multi-Arch: same
Version: 2
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "info").mkdir()
    (tmp_path / "status").write_text(STATUS)
    for name, paths in (
        ("tools", ("/.", "/usr", "/usr/bin/tool", "/bin/old", "/usr/bin/moved")), ("gone", ("/usr/bin/gone",)),
        ("both:amd64", ("/usr/share/same", "/usr/lib/a/one")), ("both:i386", ("/usr/share/same", "/usr/lib/i/one")),
    ):  # fmt: skip
        (tmp_path / f"info/{name}.list").write_text("".join(f"{path}\n" for path in paths))
    (tmp_path / "diversions").write_text("/usr/bin/moved\n/usr/bin/moved.distrib\nother\n")
    return tmp_path


def packages(directory: Path) -> Packages:
    root = directory / "root"
    root.mkdir(exist_ok=True)
    if not (root / "bin").is_symlink():
        (root / "bin").symlink_to("usr/bin")
    return Packages(str(directory), str(root))


TOOLS = Package("tools", "1.2-3", "amd64")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/usr/bin/tool", TOOLS),
        (b"/usr/bin/old", TOOLS),  # listed as /bin/old, before /usr was merged
        (b"/usr/sbin/old", Package()),
        (b"/usr/bin/nothing", Package()),
        (b"/usr/bin/gone", Package()),
        (b"/usr/lib/i/one", Package("both", "2", "i386")),
        (b"", Package()),
        (b"/usr/bin/tool\n/usr", Package()),
    ],
)
def test_a_path_has_the_package_that_lists_it(directory: Path, path: bytes, expected: Package) -> None:
    assert packages(directory).owner(path) == expected


@pytest.mark.parametrize("path", [b"/usr/share/same", b"/usr/bin/moved", b"/usr/bin/moved.distrib"])
def test_what_is_not_clear_is_an_error(directory: Path, path: bytes) -> None:
    with pytest.raises(UnclearError):
        packages(directory).owner(path)


def test_changes_are_noticed(directory: Path) -> None:
    known = packages(directory)
    assert known.owner(b"/usr/bin/tool") == TOOLS
    (directory / "status").write_text(STATUS.replace("1.2-3", "1.2-4"))
    os.utime(directory / "status", ns=(1, 1))
    assert known.owner(b"/usr/bin/tool") == Package("tools", "1.2-4", "amd64")


def test_equal_hashes_are_told_apart(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dpkg, "hash", lambda path: len(path), raising=False)
    known = packages(directory)
    assert known.owner(b"/usr/bin/tool") == TOOLS
    assert known.owner(b"/usr/bin/fool") == Package()


def test_without_dpkg_it_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        packages(tmp_path).owner(b"/usr/bin/tool")


def test_files_that_others_can_change_are_not_used(directory: Path) -> None:
    (directory / "info").chmod(0o777)
    with pytest.raises(UntrustedError):
        packages(directory).owner(b"/usr/bin/tool")


@pytest.mark.skipif(not shutil.which("dpkg-query"), reason="needs dpkg")
def test_it_agrees_with_dpkg_on_this_host() -> None:
    known = Packages()
    paths = [*map(os.path.realpath, ("/bin/sh", "/bin/ls", "/usr/bin/env", "/usr/bin/dpkg", "/bin/tar"))]
    # One call for all, because dpkg reads its whole database for each. It fails for those that are listed without /usr.
    command = ["dpkg-query", "-S", *paths, *(path.removeprefix("/usr") for path in paths)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    owners = {path: owner for owner, _, path in (line.rpartition(": ") for line in found.stdout.splitlines())}
    for path in paths:
        name = (owners.get(path) or owners[path.removeprefix("/usr")]).partition(":")[0]
        assert name and known.owner(os.fsencode(path)).name == name
