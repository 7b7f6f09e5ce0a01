"""What the runtimes' files say about containers, which the resolver writes to files and readers look up.

Rows store only the id of a container. The resolver reads the files of the runtimes, which only root can read, and keeps
one file for each container, below ``containers`` in the instance's directory. Each file is replaced as a whole:

    ID.json          {"name": …, "image": …, "pod": …, "namespace": …, "labels": {…}}

Readers import this module.
"""

from __future__ import annotations

import json
import os
import time
from collections import OrderedDict
from typing import Any

from pipeline import trust

DIRECTORY = "containers"
#: The keys of a container's details, in this order. Each is None, or empty, if the files do not say it.
KEYS = ("name", "image", "pod", "namespace", "labels")

#: How long a reader uses a file's contents without checking whether it was replaced.
BELIEVED_NS = 1_000_000_000
#: Maximum number of files that a reader remembers.
FILES_MAX = 1024

_Details = dict[str, Any]

_read: OrderedDict[tuple[str, str], tuple[_Details | None, tuple[int, int], int]] = OrderedDict()


def file_name(container_id: str) -> str:
    """Return the name of the file of a container, whose id is 64 hexadecimal digits."""
    return f"{container_id}.json"


def details(directory: str, container_id: str) -> _Details | None:
    """Return what is known about a container; None: nothing, or not yet.

    Args:
        directory: the instance's runtime directory.
        container_id: 64 hexadecimal digits.
    """
    key = directory, container_id
    now = time.monotonic_ns()
    known = _read.get(key)
    if known is not None and now - known[2] < BELIEVED_NS:
        return None if known[0] is None else known[0] | {"labels": dict(known[0]["labels"])}
    content: _Details | None = None
    version = (0, 0)
    try:
        path = os.path.join(directory, DIRECTORY, file_name(container_id))  # noqa: PTH118 - no pathlib in readers
        with open(trust.open_file(path), encoding="ascii") as file:  # noqa: PTH123
            status = os.fstat(file.fileno())
            version = (status.st_ino, status.st_mtime_ns)
            content = known[0] if known is not None and known[1] == version else json.load(file)
    except (OSError, ValueError):
        version = (0, 0)
    _read[key] = (content, version, now)
    _read.move_to_end(key)
    if len(_read) > FILES_MAX:
        _read.popitem(last=False)
    return None if content is None else content | {"labels": dict(content["labels"])}
