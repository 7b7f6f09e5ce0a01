"""How an ssh session was authenticated, from the file that sshd writes with ``ExposeAuthInfo yes``.

sshd writes the methods that succeeded to ``/tmp/sshauth.XXXXXXXXXXXXXXX`` as the user, passes the name of the file to
the session in SSH_USER_AUTH, and removes the file at the end. Each line has a method and its credential: ``publickey
ssh-ed25519 AAAA…``, ``keyboard-interactive/pam``, ``password``. Without that setting, which is off by default, there is
no file and the result is unknown.

The user controls the environment and the file, so neither is more trustworthy than what the session itself claims:

1. Only a file name as sshd creates it is opened, in ``tmp`` of the root directory of the process. The path must not
   contain a link or, from the directory to the file, cross a mount (`rooted`), and it must not be on a file system with
   a server that could block.
2. It must be a regular file of at most 16 KiB that belongs to the session's user or to root and is writable by its
   owner only.
3. A line that sshd would not write makes the whole result unknown, so no other file can be disclosed.

Source: OpenSSH session.c (prepare_auth_info_file) and auth2.c (auth2_update_session_info).
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import ExitStack, suppress
from typing import NamedTuple

from pipeline import proc_text
from pipeline.procfs import rooted
from pipeline.trust import WRITABLE_BY_OTHERS

FILE_BYTES = 16 << 10
#: Maximum size of the mountinfo of a process; if it is larger, nothing is read.
MOUNTS_BYTES = 512 << 10
#: Maximum number of methods of one session (AuthenticationMethods), and of characters of a key.
METHODS_MAX = 16
KEY_CHARS = 4096

_NAME = re.compile(rb"/tmp/(sshauth\.[0-9A-Za-z]{1,64})")
_LINE = re.compile(
    r"((?:none|password|hostbased|publickey|keyboard-interactive|gssapi-with-mic|gssapi-keyex)(?:/[0-9a-z-]{1,32})?)"
    r"(?: ([!-~][ -~]*))?"
)
_KEY = re.compile(r"([0-9A-Za-z@.-]+ [0-9A-Za-z+/]+={0,2})(?: .*)?")


class SshAuth(NamedTuple):
    """How a session was authenticated; None: unknown."""

    auth_method: str | None = None  #: sshd's names, separated by commas, in the order in which they succeeded
    public_key: str | None = None  #: type and base64; the first one if there are several


UNKNOWN = SshAuth()


def read_auth(process: int, name: bytes) -> SshAuth:
    """Read the file of a session.

    Args:
        process: descriptor of ``/proc/PID``, which pins the process.
        name: value of SSH_USER_AUTH in its environment.

    Returns:
        The authentication; `UNKNOWN` if the file cannot be read safely.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return UNKNOWN
    with suppress(OSError, ValueError):
        return parse_auth(_read(process, match[1].decode("ascii")))
    return UNKNOWN


def parse_auth(text: bytes) -> SshAuth:
    """Parse the content of the file.

    Raises:
        ValueError: sshd would not have written this content.
    """
    methods: list[str] = []
    keys: list[str] = []
    for line in text.decode("ascii").rstrip("\n").split("\n"):
        match = _LINE.fullmatch(line)
        if match is None or len(methods) == METHODS_MAX:
            raise ValueError("not a file that sshd wrote")
        methods.append(match[1])
        if match[1] == "publickey":
            key = _KEY.fullmatch(match[2] or "")
            if key is None:
                raise ValueError("not a public key")
            keys.append(key[1])
    return SshAuth(",".join(methods), keys[0] if keys and len(keys[0]) <= KEY_CHARS else None)


def _read(process: int, name: str) -> bytes:
    flags = os.O_PATH | os.O_CLOEXEC
    with ExitStack() as opened:

        def held(fd: int) -> int:
            opened.callback(os.close, fd)
            return fd

        root = held(os.open("root", flags | os.O_DIRECTORY, dir_fd=process))
        mounts = _mounts(process)
        if not rooted.is_root_local(root, mounts):
            raise OSError(f"{name}: the root directory is on a file system that could block")
        inside = rooted.RESOLVE_IN_ROOT | rooted.RESOLVE_NO_MAGICLINKS | rooted.RESOLVE_NO_SYMLINKS
        directory = held(rooted.openat2(root, "tmp", flags | os.O_DIRECTORY, inside))
        # Check again: this covers mounts that were added since, which have been opened but not accessed.
        if not rooted.is_root_local(directory, _mounts(process)):
            raise OSError(f"{name}: its directory is on a file system that could block")
        file = held(rooted.openat2(directory, name, flags, inside | rooted.RESOLVE_NO_XDEV))
        status = os.fstat(file)
        owners = {0, _user(process)}
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in owners or status.st_mode & WRITABLE_BY_OTHERS:
            raise OSError(f"{name}: not a regular file that only the session's user can write")
        if status.st_size > FILE_BYTES:
            raise ValueError(f"{name}: larger than {FILE_BYTES} bytes")
        # O_NONBLOCK: otherwise open() waits if another process holds a lease on the file.
        handle = os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return rooted.read_all(handle, FILE_BYTES)


def _mounts(process: int) -> bytes:
    return rooted.read_mounts(process, MOUNTS_BYTES)


def _user(process: int) -> int:
    """Return the real user id, as seen from this process's user namespace."""
    status = rooted.read_all(os.open("status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process), 1 << 16)
    return int(proc_text.status_value(status, b"Uid").split()[0])
