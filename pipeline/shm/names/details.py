"""Files of the instance with one JSON value each, which the resolver replaces as a whole and readers look up.

Readers import this module.
"""

from __future__ import annotations

import json
import os
import time
from collections import OrderedDict
from typing import Any

from pipeline import trust

#: How long a reader uses a file's contents without checking whether it was replaced.
BELIEVED_NS = 1_000_000_000
#: Maximum number of files that a reader remembers.
FILES_MAX = 1024

_read: OrderedDict[str, tuple[Any, tuple[int, int], int]] = OrderedDict()


def read(path: str) -> Any:
    """Return the value of a file, which the caller must not change; None: there is no such file, or nobody may read it.

    A directory or file that another user could have made is not used.
    """
    now = time.monotonic_ns()
    known = _read.get(path)
    if known is not None and now - known[2] < BELIEVED_NS:
        return known[0]
    content = None
    version = (0, 0)
    try:
        with open(trust.open_file(path), encoding="ascii") as file:  # noqa: PTH123 - no pathlib in readers
            status = os.fstat(file.fileno())
            version = (status.st_ino, status.st_mtime_ns)
            content = known[0] if known is not None and known[1] == version else json.load(file)
    except (OSError, ValueError):
        version = (0, 0)
    _read[path] = (content, version, now)
    _read.move_to_end(path)
    if len(_read) > FILES_MAX:
        _read.popitem(last=False)
    return content


def forget() -> None:
    """Forget all files; the next `read` of each opens it."""
    _read.clear()
