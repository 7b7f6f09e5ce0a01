"""ssh sessions beside the tables: what the number in a row's `user_session` stands for, as the resolver has written it.

    sessions         {"NUMBER": {"username": …, "client_ip": …, "client_port": …, "auth_method": …, "public_key": …}}

The file is replaced whole at each new session. Readers import this module.
"""

from __future__ import annotations

import json
import os
from typing import Any

from pipeline import trust

FILE = "sessions"
INSTANCES_MAX = 64

_read: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {}


def session(directory: str, number: int) -> dict[str, Any] | None:
    """Return what is known of a session, None for 0, and for one that is not known (any more).

    Keys: `id`, `username`, `client_ip`, `client_port`, `auth_method` (as sshd calls it; several by commas) and
    `public_key` (type and base64); what is not known is None.
    """
    if not number:
        return None
    known = _sessions(directory).get(str(number))
    if known is None:
        return None
    return {
        "id": number, "username": known.get("username"), "client_ip": known.get("client_ip"),
        "client_port": known.get("client_port"), "auth_method": known.get("auth_method"),
        "public_key": known.get("public_key"),
    }  # fmt: skip


def _sessions(directory: str) -> dict[str, Any]:
    known = _read.get(directory)
    path = os.path.join(directory, FILE)  # noqa: PTH118 - no pathlib in readers
    try:
        status = os.stat(path)  # noqa: PTH116
        # Content that was read from a trusted file stays good, whoever owns what has its number now.
        if known is not None and known[0] == (status.st_ino, status.st_mtime_ns):
            return known[1]
        with open(trust.open_file(path), encoding="ascii") as file:  # noqa: PTH123
            status = os.fstat(file.fileno())
            version = (status.st_ino, status.st_mtime_ns)
            content: dict[str, Any] = json.load(file)
    except (OSError, ValueError):
        return {}
    if len(_read) >= INSTANCES_MAX:
        _read.clear()
    _read[directory] = (version, content)
    return content
