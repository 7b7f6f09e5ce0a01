"""The client of an ssh session: what an environment, and the exec record, say about it.

Which process begins a session is decided in `sessions`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from pipeline.procfs.rooted import open_process, read_all

ENVIRON_BYTES = 1 << 16
#: Variables that name the client.
CLIENT_NAMES = frozenset({b"SSH_CONNECTION", b"SSH_CLIENT"})
_USER_AUTH = b"SSH_USER_AUTH="


def read_session(tgid: int) -> dict[str, Any] | None:
    """Read what sshd has put into the environment of a process, and the file that it left beside.

    Returns:
        As `session_of`, with the result of `read_auth`. Empty: there is no session. None: the process cannot be read.
    """
    try:
        process = open_process(tgid)
    except OSError:
        return None
    try:
        text = read_all(os.open("environ", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process), ENVIRON_BYTES)
        if not text:
            return None  # it has ended, or is in the middle of an exec; then a record follows
        environment = text.split(b"\0")
        session = session_of(environment) or {}
        if session:
            from pipeline.procfs.ssh_auth import read_auth  # deferred: see `session_of`

            names = [string for string in environment if string.startswith(_USER_AUTH)]
            session |= read_auth(process, names[-1][len(_USER_AUTH) :] if names else b"")._asdict()
        return session
    except OSError:
        return None
    finally:
        os.close(process)


def session_of(environment: Iterable[bytes]) -> dict[str, Any] | None:
    """Return the client that an environment names: client_ip and client_port; None: none, or not well-formed."""
    values = dict(string.split(b"=", 1) for string in environment if b"=" in string)
    fields = values.get(b"SSH_CONNECTION", values.get(b"SSH_CLIENT", b"")).split()
    if len(fields) < 3:
        return None
    import ipaddress  # deferred: most hosts have no ssh session at the start of the daemon

    try:
        address = ipaddress.ip_address(fields[0].decode("ascii").partition("%")[0])
        port = int(fields[1])
    except ValueError:
        return None
    if not 0 < port < 65536:
        return None
    return {"client_ip": str(address), "client_port": port}


def client_in(record: bytes | None) -> dict[str, Any] | None:
    """Return the client that the record of an exec names, as `session_of`; None: there is no record, or no client."""
    return None if record is None else session_of(record.split(b"\0"))


def confirmed(recorded: dict[str, Any] | None, found: dict[str, Any] | None) -> dict[str, Any]:
    """Return the recorded client, with the other facts that were found if they are about the same client."""
    if recorded is None:
        return {}
    is_same = found and all(found.get(name) == recorded[name] for name in ("client_ip", "client_port"))
    return (found if found and is_same else recorded) | {"client_source": "exec"}
