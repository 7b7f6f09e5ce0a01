"""How an ssh session was authenticated: the file that sshd leaves with ``ExposeAuthInfo yes``.

sshd writes the methods that succeeded to ``/tmp/sshauth.XXXXXXXXXXXXXXX`` as the user, names the file to the session in
SSH_USER_AUTH and removes it at the end. A line is a method, with what stands for it: ``publickey ssh-ed25519 AAAA…``,
``keyboard-interactive/pam``, ``password``. Without that setting, which is the default, nothing tells, and both stay
unknown.

The environment and the file are the user's own, so neither is trusted further than what else the session says of
itself:

1. Only a name as sshd makes it is opened, in the ``tmp`` of the process' root, with no link and no other mount on the
   way to the file (`rooted`), and never on a file system whose server could let us wait.
2. It has to be a regular file of the session's user or of root that nobody else may write, of 16 KiB at most.
3. One line that sshd would not write makes all of it unknown, so that nobody gets another file shown.

Source: OpenSSH session.c (prepare_auth_info_file) and auth2.c (auth2_update_session_info).
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import ExitStack, suppress
from typing import NamedTuple

from pipeline.procfs import rooted

FILE_BYTES = 16 << 10
#: Of a process' mounts; with more, nothing is read.
MOUNTS_BYTES = 512 << 10
#: Methods of one session (AuthenticationMethods); and characters of a key that are kept.
METHODS_MAX = 16
KEY_CHARS = 4096

_NAME = re.compile(rb"/tmp/(sshauth\.[0-9A-Za-z]{1,64})")
_LINE = re.compile(
    r"((?:none|password|hostbased|publickey|keyboard-interactive|gssapi-with-mic|gssapi-keyex)(?:/[0-9a-z-]{1,32})?)"
    r"(?: ([!-~][ -~]*))?"
)
_KEY = re.compile(r"([0-9A-Za-z@.-]+ [0-9A-Za-z+/]+={0,2})(?: .*)?")


class SshAuth(NamedTuple):
    """How somebody was authenticated; None: not known."""

    auth_method: str | None = None  #: as sshd calls it; several by commas, in the order in which they succeeded
    public_key: str | None = None  #: type and base64; the first one, if there are several


UNKNOWN = SshAuth()


def read_auth(process: int, name: bytes) -> SshAuth:
    """Read the file of a session.

    Args:
        process: descriptor of ``/proc/PID``, which pins the process.
        name: SSH_USER_AUTH of its environment.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return UNKNOWN
    with suppress(OSError, ValueError):
        return parse_auth(_read(process, match[1].decode("ascii")))
    return UNKNOWN


def parse_auth(text: bytes) -> SshAuth:
    """What the file says; raises ValueError where sshd would not have written it."""
    methods: list[str] = []
    keys: list[str] = []
    for line in text.decode("ascii").rstrip("\n").split("\n"):
        match = _LINE.fullmatch(line)
        if match is None or len(methods) == METHODS_MAX:
            raise ValueError("not a file of sshd")
        methods.append(match[1])
        if match[1] == "publickey":
            key = _KEY.fullmatch(match[2] or "")
            if key is None:
                raise ValueError("not a key")
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
            raise OSError(f"root of {name}")
        inside = rooted.RESOLVE_IN_ROOT | rooted.RESOLVE_NO_MAGICLINKS | rooted.RESOLVE_NO_SYMLINKS
        directory = held(rooted.openat2(root, "tmp", flags | os.O_DIRECTORY, inside))
        # Asked again: what has been mounted since is opened by now, and has not been touched.
        if not rooted.is_root_local(directory, _mounts(process)):
            raise OSError(f"directory of {name}")
        file = held(rooted.openat2(directory, name, flags, inside | rooted.RESOLVE_NO_XDEV))
        status = os.fstat(file)
        owners = {0, _user(process)}
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in owners or status.st_mode & 0o022:
            raise OSError(f"{name} is not a session's")
        if status.st_size > FILE_BYTES:
            raise ValueError("too long")
        # O_NONBLOCK: an open waits for the holder of a lease otherwise.
        handle = os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return rooted.read_all(handle, FILE_BYTES)


def _mounts(process: int) -> bytes:
    text = rooted.read_all(os.open("mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process), MOUNTS_BYTES)
    if len(text) == MOUNTS_BYTES:
        raise OSError("too many mounts to go through them")  # a user can make 100,000 in a namespace of their own
    return text


def _user(process: int) -> int:
    """The real user id, as this process' user namespace has it."""
    status = rooted.read_all(os.open("status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process), 1 << 16)
    return int(status.partition(b"\nUid:\t")[2].split(None, 1)[0])
