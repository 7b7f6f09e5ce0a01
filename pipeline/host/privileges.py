"""Drop privileges at the start of a process.

Covers capabilities, the user, gaining privileges by exec, core dumps, and outliving the parent. The caller decides
which process keeps which capabilities. The module uses the standard library only.

Capabilities, user and no_new_privs are properties of a thread (capabilities(7)). Therefore all of this must happen
before the first other thread exists: before a ZeroMQ context is created, and before numpy is imported, as its BLAS
starts a thread pool.

Source: prctl(2), capabilities(7), linux/capability.h, linux/prctl.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import resource
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.errors import ConfigError, UnsupportedError
from pipeline.records.capabilities import CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE

#: Needed to read other users' processes in /proc (capabilities(7)).
READ_PROC = (CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE)

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4

_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63

_libc = ctypes.CDLL(None, use_errno=True)


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _prctl(option: int, argument: int = 0) -> int:
    result = _libc.prctl(option, *(ctypes.c_ulong(value) for value in (argument, 0, 0, 0)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def _check_single_thread() -> None:
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise RuntimeError(f"only one of {threads} threads would lose its privileges: drop them before threads start")


def permitted_capabilities() -> frozenset[int]:
    """Return the numbers of the capabilities in this thread's permitted set."""
    data = _capget()
    mask = data[0].permitted | data[1].permitted << 32
    return frozenset(n for n in range(_LAST_CAPABILITY + 1) if mask >> n & 1)


def _capget() -> ctypes.Array[_CapData]:
    header, data = _CapHeader(_CAPABILITY_VERSION_3, 0), (_CapData * 2)()
    if _libc.capget(ctypes.byref(header), data) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return data


def drop_capabilities(keep: Iterable[int] = ()) -> frozenset[int]:
    """Drop every capability except `keep`, for this process and all programs that it executes.

    The effective and permitted sets become the part of `keep` that is permitted now. The inheritable and ambient sets
    become empty. With CAP_SETPCAP the bounding set is reduced to `keep` too.

    Args:
        keep: numbers of the capabilities to keep.

    Returns:
        The capabilities that remain: the part of `keep` that was permitted.

    Raises:
        RuntimeError: there are other threads, which would keep their capabilities.
    """
    _check_single_thread()
    kept = frozenset(keep) & permitted_capabilities()
    # Before Linux 4.3 there is no ambient set to clear.
    with contextlib.suppress(OSError):
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(_LAST_CAPABILITY + 1):
        try:
            if number not in kept and _prctl(_PR_CAPBSET_READ, number):
                _prctl(_PR_CAPBSET_DROP, number)
        except PermissionError:
            break  # without CAP_SETPCAP the bounding set stays; with no_new_privs it has no effect
        except OSError:
            break  # EINVAL: beyond the last capability of this kernel
    mask = sum(1 << number for number in kept)
    data = (_CapData * 2)()
    for word in range(2):
        data[word].effective = data[word].permitted = mask >> 32 * word & 0xFFFF_FFFF
    _capset(_CapHeader(_CAPABILITY_VERSION_3, 0), data)
    return kept


@contextlib.contextmanager
def lowered(capabilities: Iterable[int]) -> Iterator[None]:
    """Take capabilities out of this thread's effective set while the context lasts."""
    header, before, lower = _CapHeader(_CAPABILITY_VERSION_3, 0), _capget(), _capget()
    for number in capabilities:
        lower[number // 32].effective &= ~(1 << number % 32)
    _capset(header, lower)
    try:
        yield
    finally:
        _capset(header, before)


def _capset(header: _CapHeader, data: ctypes.Array[_CapData]) -> None:
    if _libc.capset(ctypes.byref(header), data) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def set_no_new_privs() -> None:
    """Prevent this process and its descendants from gaining privileges by exec (set-user-id, file capabilities)."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def disable_core_dumps() -> None:
    """Prevent core files, which would contain arguments, environments and keys from the memory of this process.

    The limit does not apply to a core_pattern that pipes to a program, hence PR_SET_DUMPABLE. This also prevents other
    processes of the same user from attaching to this one, and changes the owner of its /proc files to root.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)


def pdeathsig(parent_tgid: int, signum: int = signal.SIGTERM) -> bool:
    """Request a signal from the kernel when the parent ends.

    The kernel drops the request when the process changes its user or capabilities, so change those first. The signal is
    sent when the thread that started this process ends, even if the parent process continues.

    Args:
        parent_tgid: the expected parent.
        signum: the signal.

    Returns:
        Whether the parent is still `parent_tgid`. If not, it ended before the request, and the caller should exit.
    """
    _prctl(_PR_SET_PDEATHSIG, signum)
    return os.getppid() == parent_tgid


def become(user: str, *, keep: Iterable[int] = ()) -> None:
    """Change permanently to a user and that user's groups; the capabilities `keep` remain permitted.

    The effective set is empty afterwards until `drop_capabilities` fills it again. If the process already runs as that
    user, nothing changes.

    Args:
        user: name of the user.
        keep: numbers of the capabilities to keep.

    Raises:
        ConfigError: the user does not exist.
        UnsupportedError: this process has no permission to change its user.
        RuntimeError: there are other threads.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ConfigError(f"there is no user {user!r}: create it or choose another", key="user", value=user) from None
    if os.getresuid() == (entry.pw_uid,) * 3:
        return
    _check_single_thread()
    try:
        _prctl(_PR_SET_KEEPCAPS, 1 if frozenset(keep) else 0)
        os.initgroups(user, entry.pw_gid)
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
        _prctl(_PR_SET_KEEPCAPS, 0)
    except PermissionError:
        raise UnsupportedError(
            f"this process has no permission to change its user to {user!r}",
            feature="user",
            needs="CAP_SETUID and CAP_SETGID",
            hint="start it as root or as that user",
        ) from None


def confine(
    *, parent_tgid: int | None = None, user: str | None = None, keep: Iterable[int] = ()
) -> tuple[frozenset[int], bool]:
    """Drop all privileges, in an order in which no step undoes an earlier one.

    Args:
        parent_tgid: the parent with which this process must end; None: it may outlive its parent.
        user: name of the user to change to; None: keep the user.
        keep: capabilities to keep.

    Returns:
        The capabilities that remain, and whether the parent still exists (True if `parent_tgid` is None).

    Raises:
        ConfigError: the user does not exist.
        UnsupportedError: this process has no permission to change its user.
        RuntimeError: there are other threads already.
    """
    keep = frozenset(keep)
    if user is not None:
        become(user, keep=keep)
    left = drop_capabilities(keep)
    set_no_new_privs()
    # Changing the user resets both of the following.
    disable_core_dumps()
    alive = pdeathsig(parent_tgid) if parent_tgid is not None else True
    return left, alive
