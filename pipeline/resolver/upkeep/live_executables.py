"""Packages and hashes of executables, for a running instance: in its events, and in files for its readers.

Both are off unless `contexts.file_packages` and `contexts.file_hashes` ask for them. An executable is read as soon as
one of its processes executes it, through that process or by its path, and once only: a changed file has another key.
`pipeline.procfs.executables` opens it safely, `pipeline.software.dpkg` knows the packages. `_file_cache` finds the
results for the stream, and `pipeline.shm.names.executable_facts` for readers. `details` says how the rest works, and
its bounds.

Each of the two has a thread of its own, so a file that takes long to read does not delay packages.
"""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgpack

from pipeline.host.boot import now_boot_ns
from pipeline.procfs.executables import ForbiddenFileError, open_executable, open_path, sha256
from pipeline.resolver.stream._file_cache import FILES_MAX, FILES_PER_USER, FileCache
from pipeline.resolver.upkeep.aside import Aside
from pipeline.resolver.upkeep.details import FORGET_NS, JOBS_MAX, REREAD_NS, LiveDetails, RefusedError
from pipeline.resolver.upkeep.namespaces import host_namespaces
from pipeline.shm.layout import layout
from pipeline.shm.names.executable_facts import DIRECTORIES, PACKAGE_KEYS, Key, file_name, key_of
from pipeline.software.dpkg import Package, Packages, UnclearError

if TYPE_CHECKING:
    from pipeline.resolver.stream._encoder import Encoder
    from pipeline.shm.writer._writer import TableWriter

#: Read of one executable in a second. The thread takes at most HASH_CPU_SHARE of a CPU, in any case.
HASH_BYTES_PER_S = 64 << 20
HASH_CPU_SHARE = 0.2
PAUSE_MAX_S = 30.0
_HASH = re.compile(r"[0-9a-f]{64}")

Found = TypeVar("Found")


class _LiveFiles(LiveDetails[Key, Found]):
    """The base class of both."""

    REFUSED = "files_refused"
    EVICTED = "files_evicted"

    #: The field of entries and events.
    FIELD = ""

    def __init__(
        self,
        tables: TableWriter,
        directory: Path,
        *,
        mode: int = 0o600,
        now: Callable[[], int] = now_boot_ns,
        forget_ns: int = FORGET_NS,
        reread_ns: int = REREAD_NS,
        cpu_share: float = 0.2,
    ) -> None:
        name = DIRECTORIES[self.FIELD]
        aside: Aside[Any] = Aside(name, jobs_max=JOBS_MAX, cpu_share=cpu_share, pause_max_s=PAUSE_MAX_S)
        super().__init__(
            tables, directory / name, aside, mode=mode, now=now, forget_ns=forget_ns, known_max=FILES_MAX,
            user_max=FILES_PER_USER, reread_ns=reread_ns,
        )  # fmt: skip
        self._cache = FileCache()

    @property
    def _keyed(self) -> FileCache:
        return self._cache

    def _noted(self) -> list[tuple[Key, int]]:
        return self._cache.take_wanted()

    def _living(self) -> list[tuple[Key, int]]:
        return self._cache.living(self._tables)

    def _user_of(self, row: int) -> int:
        return int(self._tables.hot_view()["uid"][row])

    def _file_name(self, key: Key) -> str:
        return file_name(key)

    def _key_of(self, file_name: str) -> Key:
        return key_of(file_name)

    def _set_all(self, known: dict[Key, tuple[bytes | None, int]]) -> None:
        self._cache.set_all(known)

    def _failed(self, error: Exception | None) -> None:
        self._tables.count("files_refused" if isinstance(error, RefusedError) else "files_unread")

    def _path_of(self, row: int) -> bytes:
        """Return the path of the executable of a row. The key shows whether it leads to the right file."""
        ref = int(self._tables.hot_view()["file_ref"][row])
        record = self._tables.names.py_bytes(ref) if ref else b""
        return record[layout.FILE.itemsize :]

    def _job(self, key: Key, row: int) -> Callable[[], Found]:
        tgid, path = int(self._tables.hot_view()["tgid"][row]), self._path_of(row)
        return partial(_refusing, partial(self._read, key, tgid, path))

    @abstractmethod
    def _read(self, key: Key, tgid: int, path: bytes) -> Found:
        """Read the file, in the thread."""


class LivePackages(_LiveFiles[Package]):
    """Keeps the packages of executables up to date.

    Args:
        tables, encoder: of this instance.
        directory: the instance's runtime directory.
        packages: of this host.
        options: see `LiveDetails`.
    """

    FIELD = "file_package"

    def __init__(
        self,
        tables: TableWriter,
        encoder: Encoder,
        directory: Path,
        *,
        packages: Packages | None = None,
        **options: Any,
    ) -> None:
        super().__init__(tables, directory, **options)
        self._encoder = encoder
        self._packages = packages or Packages()

    def begin(self) -> None:
        """Begin to show packages; raises OSError if the directory cannot be made."""
        super().begin()
        # In a container, the same path can be another file.
        self._cache.mnt_ns = host_namespaces(self._tables)[0]
        self._encoder.packages = self._cache

    def _read(self, key: Key, tgid: int, path: bytes) -> Package:
        os.close(open_path(key, path))
        try:
            return self._packages.owner(path)
        except UnclearError as error:
            raise RefusedError(str(error)) from error

    def _packed(self, found: Package) -> tuple[dict[str, Any], bytes]:
        value = {key: getattr(found, key) for key in PACKAGE_KEYS}
        return value, msgpack.packb(value)

    def _repacked(self, value: Any) -> bytes:
        return self._packed(Package(*(value[key] for key in PACKAGE_KEYS)))[1]


class LiveHashes(_LiveFiles[tuple[str, int]]):
    """Keeps the hashes of executables up to date.

    Args:
        tables, encoder: of this instance.
        directory: the instance's runtime directory.
        bytes_max: larger files are not read.
        bytes_per_s: of a file, no more is read in a second.
        options: see `LiveDetails`.
    """

    FIELD = "file_sha256"

    def __init__(
        self,
        tables: TableWriter,
        encoder: Encoder,
        directory: Path,
        *,
        bytes_max: int,
        bytes_per_s: int = HASH_BYTES_PER_S,
        **options: Any,
    ) -> None:
        super().__init__(tables, directory, reread_ns=0, cpu_share=HASH_CPU_SHARE, **options)
        self._encoder = encoder
        self._bytes_max, self._bytes_per_s = bytes_max, bytes_per_s

    def begin(self) -> None:
        """Begin to show hashes; raises OSError if the directory cannot be made."""
        super().begin()
        self._encoder.hashes = self._cache

    def _read(self, key: Key, tgid: int, path: bytes) -> tuple[str, int]:
        file = open_executable(key, tgid, path)
        try:
            return sha256(
                file, key, bytes_max=self._bytes_max, bytes_per_s=self._bytes_per_s, wait=self._aside.closing.wait
            )
        finally:
            os.close(file)

    def _packed(self, found: tuple[str, int]) -> tuple[str, bytes]:
        self._tables.count("files_hashed_bytes", found[1])
        return found[0], msgpack.packb(found[0])

    def _repacked(self, value: Any) -> bytes:
        if not _HASH.fullmatch(value):
            raise ValueError("no hash")
        return msgpack.packb(value)


def _refusing(read: Callable[[], Found]) -> Found:
    try:
        return read()
    except ForbiddenFileError as error:
        raise RefusedError(str(error)) from error
