"""Facts about executables, which the resolver writes to files and readers look up.

Rows store the identity of a file. The resolver finds its package and its hash, and keeps one file for each executable
in the instance's directory:

    packages/KEY.json    {"name": …, "version": …, "architecture": …}
    hashes/KEY.json      "64 hexadecimal digits"

Readers import this module.
"""

from __future__ import annotations

import os
from typing import Any

from pipeline.shm.names.details import read

#: The directory of each field.
DIRECTORIES = {"file_package": "packages", "file_sha256": "hashes"}
#: The keys of a package, in this order.
PACKAGE_KEYS = ("name", "version", "architecture")

#: Inode, mtime and ctime in ns, and device (in the kernel's encoding) of an executable.
Key = tuple[int, int, int, int]


def file_name(key: Key) -> str:
    """Return the name of the file about an executable."""
    return "-".join(f"{number:x}" for number in key) + ".json"


def key_of(name: str) -> Key:
    """Return the executable that a file name names.

    Raises:
        ValueError: it names none.
    """
    inode, mtime_ns, ctime_ns, device = (int(part, 16) for part in name.removesuffix(".json").split("-"))
    key = inode, mtime_ns, ctime_ns, device
    if file_name(key) != name or max(key) >= 1 << 64:
        raise ValueError(f"not the name of a file about an executable: {name!r}")
    return key


def found(directory: str, field: str, key: Key) -> Any:
    """Return what is known about an executable; None: nothing.

    Args:
        directory: the instance's runtime directory.
        field: a key of DIRECTORIES.
        key: the executable.
    """
    content = read(os.path.join(directory, DIRECTORIES[field], file_name(key)))  # noqa: PTH118 - no pathlib in readers
    return dict(content) if isinstance(content, dict) else content
