"""Read the numbers of kernel tracepoints from tracefs, even if it is not mounted.

If it is not mounted, this module creates a mount that is attached to no directory. Nothing on the host changes, and
nothing has to be undone. Source: fsopen(2), fsmount(2), perf_event_open(2), kernel Documentation/trace/ftrace.rst.
"""

from __future__ import annotations

import ctypes
import os
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self

MOUNT_POINTS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")

#: perf_event_open(2) by ``uname -m``; the other calls are newer and have the same number on every architecture.
_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "ppc64le": 319, "s390x": 331}
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_FSCONFIG_CMD_CREATE = 6
_PERF_TYPE_TRACEPOINT = 2
_PERF_FLAG_FD_CLOEXEC = 1 << 3

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Tracefs:
    """An open tracefs; a context manager.

    Raises:
        OSError: this process may not read it, or the kernel has none (ENODEV).
    """

    def __init__(self) -> None:
        self._fd = -1
        for mount_point in MOUNT_POINTS:
            with suppress(FileNotFoundError, NotADirectoryError):
                # The directory always exists; its contents show whether tracefs is mounted there.
                self._fd = os.open(f"{mount_point}/events", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                return
        root = _mount()
        try:
            self._fd = os.open("events", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        finally:
            os.close(root)

    def event_id(self, group: str, name: str) -> int:
        """Return the number that identifies a tracepoint in perf_event_open(2).

        Raises:
            FileNotFoundError: this kernel has no such tracepoint.
        """
        fd = os.open(f"{group}/{name}/id", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            return int(os.read(fd, 32))
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close it; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_event(number: int) -> int:
    """Return a new descriptor of a tracepoint's perf event, to which a BPF program can be attached.

    The program then runs at that tracepoint in every process and on every CPU; the process and CPU in the arguments
    apply only to samples.

    Raises:
        OSError: the kernel did not permit it.
    """
    # struct perf_event_attr, PERF_ATTR_SIZE_VER0: type, size, config; the rest is 0.
    attributes = struct.pack("=IIQ48x", _PERF_TYPE_TRACEPOINT, 64, number)
    call = _PERF_EVENT_OPEN.get(os.uname().machine)
    if call is None:
        raise OSError(38, f"perf_event_open(2) has no known number on {os.uname().machine}")
    return _syscall(call, attributes, -1, 0, -1, _PERF_FLAG_FD_CLOEXEC)


def _mount() -> int:
    context = _syscall(_FSOPEN, b"tracefs", _FSOPEN_CLOEXEC)
    try:
        _syscall(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _syscall(_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    result = _libc.syscall(
        ctypes.c_long(number),
        *(ctypes.c_long(value) if isinstance(value, int) else ctypes.c_char_p(value) for value in arguments),
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)
