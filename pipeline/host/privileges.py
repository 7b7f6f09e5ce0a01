"""What a process gives up when it starts: capabilities, its user, gaining privileges by exec, core dumps, outliving
its parent. Standard library only; which process keeps what is decided by the caller.

Capabilities, user and no_new_privs belong to a thread (capabilities(7)), so all of this comes before the first thread:
before a ZeroMQ context is made, and before numpy is imported, whose BLAS starts a pool.

Source: prctl(2), capabilities(7), linux/capability.h, linux/prctl.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import resource
import signal
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import ConfigError, UnsupportedError

CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAP_SETGID = 6
CAP_SETUID = 7
CAP_SETPCAP = 8
CAP_NET_ADMIN = 12
CAP_SYS_PTRACE = 19
CAP_SYS_ADMIN = 21
CAP_SYS_RESOURCE = 24
CAP_PERFMON = 38
CAP_BPF = 39

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
        raise RuntimeError(f"{threads} threads: privileges are dropped for one only; drop them before starting threads")


def permitted_capabilities() -> frozenset[int]:
    """Return the numbers of the capabilities that this thread may use."""
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
    """Give up every capability but `keep`, for this process and all that it will execute.

    Effective and permitted become what is both kept and permitted now; inheritable and ambient become empty, and so
    does the bounding set but for `keep` where CAP_SETPCAP allows it.

    Returns:
        The capabilities that are left: `keep`, without those that were not there.

    Raises:
        RuntimeError: there are other threads, which would keep theirs.
    """
    _check_single_thread()
    kept = frozenset(keep) & permitted_capabilities()
    # Not before Linux 4.3, where there is nothing to clear.
    with contextlib.suppress(OSError):
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(_LAST_CAPABILITY + 1):
        try:
            if number not in kept and _prctl(_PR_CAPBSET_READ, number):
                _prctl(_PR_CAPBSET_DROP, number)
        except PermissionError:
            break  # without CAP_SETPCAP the bounding set stays; no_new_privs makes it meaningless
        except OSError:
            break  # EINVAL: past the last capability of this kernel
    mask = sum(1 << number for number in kept)
    data = (_CapData * 2)()
    for word in range(2):
        data[word].effective = data[word].permitted = mask >> 32 * word & 0xFFFF_FFFF
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    if _libc.capset(ctypes.byref(header), data) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return kept


def set_no_new_privs() -> None:
    """Make sure that no exec of this process or a descendant gains privileges (set-user-id, file capabilities)."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def disable_core_dumps() -> None:
    """Make sure that what this process has in memory (arguments, environments, keys) ends in no core file.

    The limit alone does not hold for a core_pattern that pipes to a program, hence PR_SET_DUMPABLE. That also keeps
    other processes of the same user from attaching to this one, and makes its /proc files root's.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)


def pdeathsig(parent_tgid: int, signum: int = signal.SIGTERM) -> bool:
    """Ask the kernel for a signal when the parent ends.

    The kernel forgets this when the process changes its user or capabilities, so do those first. It counts the end
    of the thread that started this process as the parent's.

    Returns:
        Whether the parent is still `parent_tgid`; if not it ended before it could be noticed, and the caller should
        end too.
    """
    _prctl(_PR_SET_PDEATHSIG, signum)
    return os.getppid() == parent_tgid


def become(user: str, *, keep: Iterable[int] = ()) -> None:
    """Change to a user for good, with that user's groups, keeping the capabilities `keep` permitted.

    The effective set is empty afterwards until `drop_capabilities` fills it again. Nothing is done when the process
    already runs as that user.

    Raises:
        ConfigError: there is no such user.
        UnsupportedError: this process may not change its user.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ConfigError(f"there is no user {user!r}", key="user", value=user) from None
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
            f"this process may not become {user!r}",
            feature="user",
            needs="CAP_SETUID and CAP_SETGID",
            hint="start it as root or as that user",
        ) from None


def confine(
    *, parent_tgid: int | None = None, user: str | None = None, keep: Iterable[int] = ()
) -> tuple[frozenset[int], bool]:
    """Do all of this in the order in which one step does not undo another.

    Args:
        parent_tgid: whose end ends this process too; None for nobody's.
        user: whom to become; None to stay.
        keep: capabilities to keep.

    Returns:
        The capabilities that are left, and whether the parent is still there (True when there is none to watch).

    Raises:
        ConfigError, UnsupportedError: as `become`.
        RuntimeError: there are other threads already.
    """
    keep = frozenset(keep)
    if user is not None:
        become(user, keep=keep)
    left = drop_capabilities(keep)
    set_no_new_privs()
    # Changing the user resets both of these.
    disable_core_dumps()
    alive = pdeathsig(parent_tgid) if parent_tgid is not None else True
    return left, alive
