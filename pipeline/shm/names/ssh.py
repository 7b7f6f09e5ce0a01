"""Facts about ssh sessions, by the number in a row's `user_session`. The resolver writes them to a file.

    sessions         {"NUMBER": {"username": …, "client_ip": …, "client_port": …, "client_source": …, "auth_method": …,
                     "public_key": …, "uid": …}}

The file is replaced as a whole, at most four times a second. A row may contain a number that is not in the file,
because the file is older or had no room. Then nothing is known about the session. Readers import this module.
"""

from __future__ import annotations

import json
import os
from typing import Any

from pipeline import trust
from pipeline.shm.names.usernames import INSTANCES_MAX, names_of

FILE = "sessions"

_read: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {}


def session(directory: str, number: int) -> dict[str, Any] | None:
    """Return what is known about a session; None for 0 and for a session that is not (or no longer) known.

    Keys: `id`, `username`, `client_ip`, `client_port`, `client_source` ("exec": as sshd passed it; "environ": from the
    process's later environment, which the process can change), `auth_method` (sshd's name; several are separated by
    commas) and `public_key` (type and base64). Unknown values are None.
    """
    if not number:
        return None
    known = _sessions(directory).get(str(number))
    if known is None:
        return None
    username = known.get("username")
    if username is None and "uid" in known:  # the host's name service was slower than the login
        username = names_of(directory).host_name("user", known["uid"])
    return {
        "id": number, "username": username, "client_ip": known.get("client_ip"),
        "client_port": known.get("client_port"), "client_source": known.get("client_source"),
        "auth_method": known.get("auth_method"), "public_key": known.get("public_key"),
    }  # fmt: skip


def _sessions(directory: str) -> dict[str, Any]:
    known = _read.get(directory)
    path = os.path.join(directory, FILE)  # noqa: PTH118 - no pathlib in readers
    try:
        status = os.stat(path)  # noqa: PTH116
        # The content came from a trusted file, so it stays valid even if another file now has the same number.
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
