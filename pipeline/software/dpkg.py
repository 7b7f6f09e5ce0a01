"""Which Debian package installed a file of this host, by dpkg's own files below ``/var/lib/dpkg``.

A package's list says which paths it installed, not what their content is now. Only files that root alone can change are
used. Two things are not followed: a path that dpkg-divert has moved, or moved to, has no known package; and what a
maintainer script made (an alternative, a cache) belongs to no package.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline import trust

if TYPE_CHECKING:
    import numpy.typing as npt

DIRECTORY = "/var/lib/dpkg"
#: A list or status file of more bytes is not read.
FILE_BYTES_MAX = 64 << 20
#: Packages, and paths of all of them, beyond these are left out; a host has a few hundred thousand paths.
PACKAGES_MAX = 1 << 16
PATHS_MAX = 1 << 23
#: Directories that are links to those below /usr on a host with merged /usr. Older packages list their files here.
_MERGED = (b"bin", b"sbin", b"lib", b"lib32", b"lib64", b"libx32")
_INSTALLED = (b" installed", b" triggers-pending", b" triggers-awaited", b" half-configured", b" unpacked")


class Package(NamedTuple):
    """The package that installed a file; all None: none did."""

    name: str | None = None
    version: str | None = None
    architecture: str | None = None


class UnclearError(Exception):
    """It is not clear to which package a file belongs."""


class Packages:
    """The packages of this host. Paths are kept as 64-bit hashes: ten bytes each.

    Args:
        directory: of dpkg.
        root: where links of merged directories are looked for.
    """

    def __init__(self, directory: str = DIRECTORY, root: str = "/") -> None:
        self._directory = Path(directory)
        self._root = Path(root)
        self._version: object = None
        self._names: list[str] = []  # of the lists, without ".list"
        self._status: dict[str, Package] = {}
        self._diverted: frozenset[bytes] = frozenset()
        self._hashes: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._lists: npt.NDArray[np.uint16] = np.zeros(0, np.uint16)

    def owner(self, path: bytes) -> Package:
        """Return the package that installed a path.

        Args:
            path: absolute, without symbolic links.

        Raises:
            UnclearError: the path was diverted, or several packages have it.
            OSError: dpkg's files cannot be read.
            UntrustedError: another user than root could have changed them.
        """
        self._refresh()
        spellings = [path]
        top = path.split(b"/", 3)
        if len(top) == 4 and top[1] == b"usr" and top[2] in _MERGED and (self._root / top[2].decode()).is_symlink():
            spellings.append(path[4:])
        if not self._diverted.isdisjoint(spellings):
            raise UnclearError("diverted")
        found = {package for spelling in spellings for package in self._owners(spelling)}
        if len(found) > 1:
            raise UnclearError("several packages")
        return found.pop() if found else Package()

    def _owners(self, path: bytes) -> Iterator[Package]:
        number = hash(path)
        at, end = np.searchsorted(self._hashes, number, "left"), np.searchsorted(self._hashes, number, "right")
        for index in self._lists[at:end]:
            name = self._names[int(index)]
            # Different paths can have the same hash.
            if b"\n" + path + b"\n" in b"\n" + self._read(f"info/{name}.list") and name in self._status:
                yield self._status[name]

    def _refresh(self) -> None:
        """Read everything if dpkg has changed something."""
        version = [
            (status.st_ino, status.st_mtime_ns, status.st_size)
            for status in ((self._directory / name).stat() for name in ("status", "info"))
        ]
        if version == self._version:
            return
        self._status = _packages(self._read("status"))
        self._diverted = frozenset()
        if (self._directory / "diversions").exists():
            lines = self._read("diversions").split(b"\n")
            self._diverted = frozenset(line for line in lines if line.startswith(b"/"))
        names: list[str] = []
        hashes: list[npt.NDArray[np.int64]] = []
        lists: list[npt.NDArray[np.uint16]] = []
        room = PATHS_MAX
        for name in sorted(path.name for path in (self._directory / "info").glob("*.list")):
            if len(names) >= PACKAGES_MAX or room <= 0:
                continue
            paths = self._read(f"info/{name}").split(b"\n", room)
            room -= len(paths)
            hashes.append(np.fromiter(map(hash, paths), np.int64, len(paths)))
            lists.append(np.full(len(paths), len(names), np.uint16))
            names.append(name.removesuffix(".list"))
        if not names:
            raise FileNotFoundError(f"{self._directory}/info: no lists")
        every = np.concatenate(hashes)
        order = np.argsort(every, kind="stable")
        self._hashes, self._lists, self._names = every[order], np.concatenate(lists)[order], names
        self._version = version

    def _read(self, name: str) -> bytes:
        path = self._directory / name
        with trust.Directory(path.parent) as directory, open(directory.open(path.name), "rb") as file:  # noqa: PTH123
            return file.read(FILE_BYTES_MAX)


def _packages(status: bytes) -> dict[str, Package]:
    """Return the installed packages by the names that their lists can have: NAME, and NAME:ARCHITECTURE."""
    found: dict[str, Package] = {}
    for paragraph in status.split(b"\n\n"):
        fields: dict[bytes, bytes] = {}
        for line in paragraph.split(b"\n"):
            key, colon, value = line.partition(b": ")
            if colon and key in (b"Package", b"Status", b"Version", b"Architecture"):
                fields[key] = value
        if not fields.get(b"Status", b"").endswith(_INSTALLED) or len(fields) != 4:
            continue
        name, version, architecture = (
            fields[key].decode("utf-8", "replace") for key in (b"Package", b"Version", b"Architecture")
        )
        package = Package(name, version, architecture)
        found[f"{name}:{architecture}"] = package
        found.setdefault(name, package)
    return found
